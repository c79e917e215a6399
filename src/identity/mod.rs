//! The door to identity: who asks, in which project, with which roles; and what roles may do.

pub mod embedded;
pub mod policy;

use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::{ProjectId, UserId};
use crate::model::identity::Role;

/// Who asks. Made by validating a token that is scoped to a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestContext {
    pub user_id: UserId,
    pub project_id: ProjectId,
    pub roles: Vec<Role>,
    /// Id of the request, for logs.
    pub request_id: String,
}

impl RequestContext {
    /// Whether the caller is an administrator of the cloud.
    pub fn is_admin(&self) -> bool {
        self.roles.contains(&Role::Admin)
    }

    /// Refuses what the caller's roles do not allow in a project.
    pub fn authorize(&self, rule: Rule, target: &ProjectId) -> Result<(), Error> {
        let is_own = self.project_id == *target;
        match rule.allows(&self.roles, is_own) {
            true => Ok(()),
            false => Err(Error::Forbidden(rule.name())),
        }
    }

    /// The project a query must be confined to; `None` for administrators.
    pub fn confined_to(&self) -> Option<&ProjectId> {
        (!self.is_admin()).then_some(&self.project_id)
    }

    /// Whether the caller may know of an object of this project at all.
    pub fn sees(&self, project: &ProjectId) -> bool {
        self.is_admin() || self.project_id == *project
    }
}
