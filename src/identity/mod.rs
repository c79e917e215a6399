//! The door to identity: who asks, in which project, with which roles; and what these roles allow.

mod context;
pub mod embedded;
mod expression;
pub mod keystone;
pub mod policy;

pub use crate::identity::context::{Caller, RequestContext};
use crate::identity::embedded::Embedded;
use crate::identity::keystone::{Keystone, Presented};
use crate::model::error::Error;

/// Where callers are validated.
pub enum Identity {
    /// Our own users and projects.
    Embedded(Embedded),
    /// A Keystone.
    Keystone(Keystone),
}

impl Identity {
    /// The embedded identity, if it is that.
    pub fn embedded(&self) -> Option<&Embedded> {
        match self {
            Identity::Embedded(embedded) => Some(embedded),
            Identity::Keystone(_) => None,
        }
    }

    /// Where clients get tokens; named in answers to requests without a valid one.
    pub fn public_url(&self, base: &str) -> String {
        match self {
            Identity::Embedded(_) => format!("{base}/identity"),
            Identity::Keystone(keystone) => keystone.public_url().to_owned(),
        }
    }

    /// The user and scope that the presented token stands for; `None` if it is not valid.
    pub fn caller(&self, presented: &Presented<'_>) -> Result<Option<Caller>, Error> {
        match self {
            Identity::Keystone(keystone) => keystone.caller(presented),
            Identity::Embedded(embedded) => {
                let session = embedded.validate(presented.token)?;
                Ok(session.map(|session| Caller {
                    project_id: session.project.map(|project| project.id),
                    roles: session
                        .roles
                        .iter()
                        .map(|role| role.as_str().to_owned())
                        .collect(),
                    user_id: session.user.id,
                }))
            }
        }
    }
}
