//! The door to identity: who asks, in which project, with which roles; and what roles may do.

pub mod embedded;
mod expression;
pub mod keystone;
pub mod policy;

use crate::identity::embedded::Embedded;
use crate::identity::keystone::{Keystone, Presented};
use crate::identity::policy::{Policy, Rule};
use crate::model::error::Error;
use crate::model::id::{ProjectId, UserId};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Who vouches for callers.
pub enum Identity {
    /// Our own users and projects.
    Embedded(Embedded),
    /// A Keystone.
    Keystone(Keystone),
}

/// Whom a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub user_id: UserId,
    /// `None` for tokens that are not scoped to a project.
    pub project_id: Option<ProjectId>,
    /// Names of all roles, in lower case.
    pub roles: BTreeSet<String>,
}

impl Identity {
    /// The embedded identity, if it is that.
    pub fn embedded(&self) -> Option<&Embedded> {
        match self {
            Identity::Embedded(embedded) => Some(embedded),
            Identity::Keystone(_) => None,
        }
    }

    /// Where clients get tokens, as a refusal tells them.
    pub fn public_url(&self, base: &str) -> String {
        match self {
            Identity::Embedded(_) => format!("{base}/identity"),
            Identity::Keystone(keystone) => keystone.public_url().to_owned(),
        }
    }

    /// Whom the presented token stands for; `None` if it is good for nothing.
    pub fn caller(&self, presented: &Presented<'_>) -> Result<Option<Caller>, Error> {
        match self {
            Identity::Keystone(keystone) => keystone.caller(presented),
            Identity::Embedded(embedded) => {
                let session = embedded.validate(presented.token)?;
                Ok(session.map(|session| Caller {
                    project_id: session.project.map(|project| project.id),
                    roles: session
                        .row
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

/// Who asks. Made by validating a token that is scoped to a project.
#[derive(Debug, Clone)]
pub struct RequestContext {
    pub user_id: UserId,
    pub project_id: ProjectId,
    /// Names of all roles, in lower case.
    pub roles: BTreeSet<String>,
    /// Id of the request, for logs.
    pub request_id: String,
    pub policy: Arc<Policy>,
}

impl RequestContext {
    /// Whether the caller is an administrator of the cloud.
    pub fn is_admin(&self) -> bool {
        self.policy.is_admin(self)
    }

    /// Refuses what the policy does not allow in a project.
    pub fn authorize(&self, rule: Rule, target: &ProjectId) -> Result<(), Error> {
        match self.policy.allows(self, rule, target) {
            true => Ok(()),
            false => Err(Error::Forbidden(rule.name())),
        }
    }

    /// Whether the caller may know of an object of this project at all.
    pub fn sees(&self, project: &ProjectId) -> bool {
        self.is_admin() || self.project_id == *project
    }
}
