//! Rows of the embedded identity.

use crate::model::column::{Json, text_enum};
use crate::model::id::{ProjectId, UserId};
use crate::model::role::Role;
use crate::model::schema::{application_credentials, assignments, projects, tokens, users};
use crate::model::time::Timestamp;
use diesel::prelude::*;

text_enum! {
    /// Who has made a user.
    Origin {
        /// The configuration names the user.
        Configured => "configured",
        /// An administrator made it, through the API.
        Made => "made",
        /// The configuration named the user, and does so no longer.
        Dropped => "dropped",
    }
}

/// One row of `users`.
#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = users)]
pub struct User {
    pub id: UserId,
    pub name: String,
    /// PHC string, argon2id.
    pub password_hash: String,
    /// Raised by whatever ends the user's tokens, such as another password.
    pub generation: i64,
    pub origin: Origin,
    /// Set by an administrator.
    pub is_enabled: bool,
    pub description: Option<String>,
    pub email: Option<String>,
    /// Where the user logs in who names no project.
    pub default_project_id: Option<ProjectId>,
}

impl User {
    /// A new user, of whom no more is known.
    pub fn new(id: UserId, name: &str, password_hash: String, origin: Origin) -> Self {
        Self {
            id,
            name: name.to_owned(),
            password_hash,
            generation: 0,
            origin,
            is_enabled: true,
            description: None,
            email: None,
            default_project_id: None,
        }
    }

    /// Whether the user may log in, and its tokens are good.
    pub fn may_log_in(&self) -> bool {
        self.is_enabled && self.origin != Origin::Dropped
    }
}

/// One row of `projects`.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = projects)]
pub struct Project {
    pub id: ProjectId,
    pub name: String,
    /// Set by an administrator: no user can log in to a disabled project.
    pub is_enabled: bool,
    pub description: String,
    pub tags: Json<Vec<String>>,
    /// Raised when the project is disabled, which ends the tokens in it.
    pub generation: i64,
}

impl Project {
    /// A new one, of which no more is known.
    pub fn new(id: ProjectId, name: &str) -> Self {
        Self {
            id,
            name: name.to_owned(),
            is_enabled: true,
            description: String::new(),
            tags: Json::default(),
            generation: 0,
        }
    }
}

/// One row of `assignments`: the highest role of a user in a project.
#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = assignments)]
pub struct Assignment {
    pub user_id: UserId,
    pub project_id: ProjectId,
    pub role: Role,
    /// Whether the configuration gives the role: it goes once the configuration no longer does.
    pub is_configured: bool,
}

/// An assignment, with the names of user and project.
#[derive(Debug, Clone, Queryable)]
pub struct NamedAssignment {
    pub user_id: UserId,
    pub user_name: String,
    pub project_id: ProjectId,
    pub project_name: String,
    pub role: Role,
}

/// One row of `tokens`. The token itself is not kept, only its BLAKE3 hash; and no role, as roles are what
/// the user has when the token is used.
#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = tokens)]
pub struct TokenRow {
    pub hash: Vec<u8>,
    pub audit_id: String,
    /// Of the token that this one was got with.
    pub parent_audit_id: Option<String>,
    /// Audit id of the first token of the line: that of the log-in.
    pub chain_id: String,
    pub user_id: UserId,
    /// The user's when the token was issued: the token is good as long as they are the same.
    pub generation: i64,
    /// `None` for an unscoped token.
    pub project_id: Option<ProjectId>,
    /// The project's when the token was issued, likewise.
    pub project_generation: i64,
    pub methods: Json<Vec<String>>,
    pub application_credential_id: Option<String>,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
}

/// A token as it is found, with what it names: the user, the project and the user's role in it, and the
/// application credential that it was got with.
pub type FoundToken = (
    TokenRow,
    User,
    Option<Project>,
    Option<Role>,
    Option<ApplicationCredential>,
);

/// One row of `application_credentials`.
#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = application_credentials)]
pub struct ApplicationCredential {
    pub id: String,
    pub name: String,
    pub description: Option<String>,
    pub user_id: UserId,
    pub project_id: ProjectId,
    pub roles: Json<Vec<Role>>,
    /// BLAKE3 of a random secret, for which a slow hash would protect nothing. Of a secret that the user has chosen, a
    /// PHC string, argon2id.
    pub secret_hash: Vec<u8>,
    pub expires_at: Option<Timestamp>,
    pub created_at: Timestamp,
}

impl ApplicationCredential {
    /// The PHC string of a secret that the user has chosen.
    pub fn chosen_secret_hash(&self) -> Option<&str> {
        let text = std::str::from_utf8(&self.secret_hash).ok();
        text.filter(|text| text.starts_with("$argon2"))
    }

    /// Whether its end has come.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}
