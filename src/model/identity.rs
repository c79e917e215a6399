//! Who asks: roles, and the rows of the embedded identity.

use crate::model::column::{Json, text_enum};
use crate::model::id::{ProjectId, UserId};
use crate::model::schema::{application_credentials, assignments, projects, tokens, users};
use crate::model::time::Timestamp;
use diesel::prelude::*;
use serde::{Deserialize, Serialize};

text_enum! {
    /// The roles the service knows; each implies those after it.
    #[derive(Serialize, Deserialize, PartialOrd, Ord)]
    #[serde(rename_all = "lowercase")]
    Role {
        Admin => "admin",
        Member => "member",
        Reader => "reader",
    }
}

impl Role {
    /// The role and all that it implies, as Keystone lists them in a token.
    pub fn implied(self) -> &'static [Role] {
        match self {
            Role::Admin => &[Role::Admin, Role::Member, Role::Reader],
            Role::Member => &[Role::Member, Role::Reader],
            Role::Reader => &[Role::Reader],
        }
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
}

/// One row of `projects`.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = projects)]
pub struct Project {
    pub id: ProjectId,
    pub name: String,
}

/// One row of `assignments`: the highest role of a user in a project.
#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = assignments)]
pub struct Assignment {
    pub user_id: UserId,
    pub project_id: ProjectId,
    pub role: Role,
}

/// One row of `tokens`. The token itself is not kept, only its BLAKE3 hash.
#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = tokens)]
pub struct TokenRow {
    pub hash: Vec<u8>,
    pub user_id: UserId,
    /// `None` for an unscoped token.
    pub project_id: Option<ProjectId>,
    pub methods: Json<Vec<String>>,
    pub roles: Json<Vec<Role>>,
    pub application_credential_id: Option<String>,
    pub audit_id: String,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
}

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
    /// BLAKE3 of the secret: the secret is random, so a slow hash would protect nothing.
    pub secret_hash: Vec<u8>,
    pub expires_at: Option<Timestamp>,
    pub created_at: Timestamp,
}
