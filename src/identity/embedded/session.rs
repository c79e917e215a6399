//! What a token stands for now.

use crate::db::standalone::identity;
use crate::db::{DbConnection, DbResult};
use crate::model::role::Role;
use crate::model::standalone::identity::{
    ApplicationCredential, FoundToken, Project, TokenRow, User,
};
use crate::model::time::Timestamp;

/// A valid token, and what it stands for.
#[derive(Debug, Clone)]
pub struct IssuedToken {
    pub row: TokenRow,
    pub user: User,
    pub project: Option<Project>,
    /// The user's roles in the project now, as far as the token may use them.
    pub roles: Vec<Role>,
    pub application_credential: Option<ApplicationCredential>,
}

/// The roles of a user who has this role: with all that it implies, as far as the application credential goes.
pub(super) fn granted(role: Option<Role>, credential: Option<&ApplicationCredential>) -> Vec<Role> {
    let held = role.map_or(&[][..], Role::implied).iter().copied();
    held.filter(|role| credential.is_none_or(|row| row.roles.contains(role)))
        .collect()
}

/// The token with this hash and what it stands for now.
pub(super) fn token_now(
    connection: &mut DbConnection,
    hash: &[u8],
    now: Timestamp,
) -> DbResult<Option<IssuedToken>> {
    let found = identity::find_token(connection, hash, now)?;
    Ok(found.and_then(|found| session(found, now)))
}

/// What a token stands for, if all that the token rests on is still as it must be.
fn session(found: FoundToken, now: Timestamp) -> Option<IssuedToken> {
    let (row, user, project, role, credential) = found;
    let roles = granted(role, credential.as_ref());
    let is_of_user = user.may_log_in() && row.generation == user.generation;
    let is_of_credential = match &credential {
        Some(credential) => !credential.is_expired(now),
        None => row.application_credential_id.is_none(),
    };
    let is_of_project = match &project {
        Some(project) => {
            project.is_enabled && row.project_generation == project.generation && !roles.is_empty()
        }
        None => row.project_id.is_none(),
    };
    (is_of_user && is_of_credential && is_of_project).then_some(IssuedToken {
        row,
        user,
        project,
        roles,
        application_credential: credential,
    })
}
