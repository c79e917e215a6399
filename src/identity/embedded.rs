//! The embedded identity: users with a password, projects, one role each, tokens and application
//! credentials, all in our own database. One domain, `default`.

mod accounts;
mod backoff;
mod configured;
mod credentials;
mod grants;
mod log_in;
mod passwords;
mod session;

use crate::clock::Clock;
use crate::config::{self, Secret};
use crate::db::Db;
use crate::db::standalone::{credentials as credential_rows, identity};
pub use crate::identity::embedded::accounts::{ProjectFields, UserFields};
use crate::identity::embedded::backoff::Backoff;
use crate::identity::embedded::passwords::Passwords;
pub use crate::identity::embedded::session::IssuedToken;
use crate::model::error::Error;
use crate::model::id::{ProjectId, UserId};
use crate::model::role::Role;
use crate::model::standalone::identity::{ApplicationCredential, NamedAssignment, Project, User};
use crate::model::time::Timestamp;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

/// A user or project as a client names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    Id(String),
    Name(String),
}

/// The scope that a client wants a token for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// It does not say: the user's default project, if it has one.
    Default,
    Unscoped,
    Project(Named),
}

/// The credentials that a client presents to log in.
pub enum Credentials {
    Password { user: Named, password: Secret },
    Token(Secret),
    ApplicationCredential { id: CredentialName, secret: Secret },
}

/// An application credential as a client names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialName {
    Id(String),
    Name { name: String, user: Named },
}

/// A request for an application credential.
#[derive(Debug, Clone)]
pub struct NewCredential {
    pub name: String,
    pub description: Option<String>,
    pub secret: Option<Secret>,
    pub roles: Option<Vec<Role>>,
    pub expires_at: Option<Timestamp>,
}

/// The embedded identity.
pub struct Embedded {
    db: Db,
    clock: Clock,
    settings: config::Identity,
    passwords: Passwords,
    backoff: Box<Backoff>,
}

impl Embedded {
    /// The identity that this database holds.
    pub fn new(db: Db, clock: Clock, settings: config::Identity) -> Self {
        Self {
            db,
            clock,
            settings,
            passwords: Passwords::new(),
            backoff: Box::new(Backoff::new()),
        }
    }

    /// The user of this id or name.
    pub fn user_named(&self, named: &Named) -> Result<Option<User>, Error> {
        Ok(self.db.read(|c| match named {
            Named::Id(id) => identity::user(c, &UserId::new(id)),
            Named::Name(name) => identity::user_by_name(c, name),
        })?)
    }

    /// The project of this id or name.
    pub fn project_named(&self, named: &Named) -> Result<Option<Project>, Error> {
        Ok(self.db.read(|c| match named {
            Named::Id(id) => identity::project(c, &ProjectId::new(id)),
            Named::Name(name) => identity::project_by_name(c, name),
        })?)
    }

    /// The next projects behind a name in which a user has a role.
    pub fn projects_of(&self, user: &UserId, behind: &str) -> Result<Vec<Project>, Error> {
        Ok(self.db.read(|c| identity::projects_of(c, user, behind))?)
    }

    /// A project, if a user has a role in it.
    pub fn project_of(&self, user: &UserId, id: &ProjectId) -> Result<Option<Project>, Error> {
        self.db.read(|c| match identity::role_of(c, user, id)? {
            Some(_) => Ok(identity::project(c, id)?),
            None => Ok(None),
        })
    }

    /// The next projects behind a name.
    pub fn projects(&self, behind: &str) -> Result<Vec<Project>, Error> {
        Ok(self.db.read(|c| identity::list_projects(c, behind))?)
    }

    /// The next users behind a name.
    pub fn users(&self, behind: &str) -> Result<Vec<User>, Error> {
        Ok(self.db.read(|c| identity::list_users(c, behind))?)
    }

    /// The next roles that users have in projects, behind the names of a user and a project; those of one user or in one
    /// project alone, if one is given.
    pub fn assignments(
        &self,
        user: Option<&UserId>,
        project: Option<&ProjectId>,
        behind: (&str, &str),
    ) -> Result<Vec<NamedAssignment>, Error> {
        Ok(self
            .db
            .read(|c| identity::named_assignments(c, user, project, behind))?)
    }

    /// Application credentials of a user.
    pub fn credentials_of(&self, user: &UserId) -> Result<Vec<ApplicationCredential>, Error> {
        Ok(self.db.read(|c| credential_rows::of_user(c, user))?)
    }

    /// An application credential of a user.
    pub fn credential_of(
        &self,
        user: &UserId,
        id: &str,
    ) -> Result<Option<ApplicationCredential>, Error> {
        let row = self.db.read(|c| credential_rows::find(c, id))?;
        Ok(row.filter(|row| row.user_id == *user))
    }

    /// Removes an application credential of a user; `false` if there is none of this id.
    pub fn remove_credential(&self, user: &UserId, id: &str) -> Result<bool, Error> {
        self.db.write(|c| {
            let row = credential_rows::find(c, id)?.filter(|row| row.user_id == *user);
            if row.is_some() {
                credential_rows::remove(c, id)?;
            }
            Ok(row.is_some())
        })
    }
}

/// Random text of so many bytes' strength, fit for headers, files and command lines: it does not
/// begin with `-`, which a client takes for an option (`--os-password -x…`).
pub fn random_text(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    loop {
        getrandom::fill(&mut random).expect("the system gives random bytes");
        let text = BASE64_URL_SAFE_NO_PAD.encode(&random);
        if !text.starts_with('-') {
            return text;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::random_text;

    #[test]
    fn random_text_is_never_taken_for_an_option() {
        let texts = || (0..2000).map(|_| random_text(18));
        assert!(texts().all(|text| text.len() == 24));
        assert_eq!(texts().find(|text| text.starts_with('-')), None);
    }
}
