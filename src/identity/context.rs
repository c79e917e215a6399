//! Who asks, and what the policy lets them do.

use crate::config::Secret;
use crate::identity::expression::Expression;
use crate::identity::policy::{Policy, Rule};
use crate::model::error::Error;
use crate::model::id::{ProjectId, UserId};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The user and scope that a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub user_id: UserId,
    /// `None` for tokens that are not scoped to a project.
    pub project_id: Option<ProjectId>,
    /// Names of all roles, in lower case.
    pub roles: BTreeSet<String>,
}

impl Caller {
    /// By what callers share what there is for all of them: a user has one share in all projects, and a project one for all
    /// its users.
    pub fn names(&self) -> Vec<String> {
        names(&self.user_id, self.project_id.as_ref())
    }
}

fn names(user: &UserId, project: Option<&ProjectId>) -> Vec<String> {
    let project = project.map(|id| format!("project {id}"));
    [format!("user {user}")]
        .into_iter()
        .chain(project)
        .collect()
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
    /// The token, where another service is asked in the user's name.
    pub token: Option<Secret>,
    pub policy: Arc<Policy>,
}

impl RequestContext {
    /// By what callers share what there is for all of them, as [`Caller::names`].
    pub fn names(&self) -> Vec<String> {
        names(&self.user_id, Some(&self.project_id))
    }

    /// Whether the caller is an administrator of the cloud.
    pub fn is_admin(&self) -> bool {
        self.policy.is_admin(self)
    }

    /// Refuses what the policy does not allow in a project.
    pub fn authorize(&self, rule: Rule, target: &ProjectId) -> Result<(), Error> {
        if self.policy.allows(self, rule, target) {
            Ok(())
        } else {
            Err(Error::Forbidden(rule.name()))
        }
    }

    /// Whether the caller may know that an object of this project exists.
    pub fn sees(&self, project: &ProjectId) -> bool {
        self.is_admin() || self.project_id == *project
    }
}

impl Policy {
    /// Whether the caller may do something to a project's objects.
    pub fn allows(&self, ctx: &RequestContext, rule: Rule, target: &ProjectId) -> bool {
        self.holds(ctx, rule.name(), target)
    }

    /// Whether the caller is an administrator of the cloud.
    pub fn is_admin(&self, ctx: &RequestContext) -> bool {
        self.holds(ctx, "context_is_admin", &ctx.project_id)
    }

    fn holds(&self, ctx: &RequestContext, name: &str, target: &ProjectId) -> bool {
        // The loader has refused unknown names and circles.
        self.rules
            .get(name)
            .is_some_and(|expression| self.evaluate(ctx, expression, target))
    }

    fn evaluate(&self, ctx: &RequestContext, expression: &Expression, target: &ProjectId) -> bool {
        let holds = |part: &Expression| self.evaluate(ctx, part, target);
        match expression {
            Expression::Always => true,
            Expression::Never => false,
            Expression::Role(role) => ctx.roles.contains(role),
            Expression::Rule(name) => self.holds(ctx, name, target),
            Expression::OwnProject => ctx.project_id == *target,
            Expression::Admin(wanted) => self.is_admin(ctx) == *wanted,
            Expression::Not(inner) => !holds(inner),
            Expression::And(parts) => parts.iter().all(holds),
            Expression::Or(parts) => parts.iter().any(holds),
        }
    }
}
