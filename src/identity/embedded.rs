//! The embedded identity: users with a password, projects, one role each, tokens and application
//! credentials, all in our own database. One domain, `default`.

mod accounts;
mod backoff;
mod configured;
mod grants;
mod log_in;
mod passwords;
mod session;

use crate::clock::Clock;
use crate::config::{self, Secret};
use crate::db::standalone::identity;
use crate::db::{self, Db, DbConnection};
pub use crate::identity::embedded::accounts::{ProjectFields, UserFields};
use crate::identity::embedded::backoff::Backoff;
use crate::identity::embedded::passwords::Passwords;
pub use crate::identity::embedded::session::Session;
use crate::model::column::Json;
use crate::model::error::Error;
use crate::model::id::{ProjectId, UserId, keystone_id};
use crate::model::role::Role;
use crate::model::standalone::identity::{ApplicationCredential, NamedAssignment, Project, User};
use crate::model::time::Timestamp;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use std::collections::BTreeSet;

/// Keystone's words for a time of expiry that is over.
const EXPIRED: &str = "The 'expires_at' must not be before now. The server could not comply with the request since it is either malformed or otherwise incorrect. The client is assumed to be in error.";
/// Keystone's words for a role that the user does not have.
const UNASSIGNED: &str =
    "Invalid application credential: Cannot create an application credential with unassigned role";

/// Most application credentials of a user.
const CREDENTIALS_MAX: i64 = 1000;

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
        Ok(self.db.read(|c| identity::credentials_of(c, user))?)
    }

    /// An application credential of a user.
    pub fn credential_of(
        &self,
        user: &UserId,
        id: &str,
    ) -> Result<Option<ApplicationCredential>, Error> {
        let row = self.db.read(|c| identity::credential(c, id))?;
        Ok(row.filter(|row| row.user_id == *user))
    }

    /// Makes an application credential for the session's user and project. The secret is in the
    /// answer and nowhere else.
    pub fn create_credential(
        &self,
        session: &Session,
        wanted: NewCredential,
    ) -> Result<(ApplicationCredential, Secret), Error> {
        let project = session.project.as_ref().ok_or_else(|| {
            Error::Invalid(
                "An application credential needs a token scoped to a project.".to_owned(),
            )
        })?;
        // A role brings those it implies.
        let wanted_roles = wanted.roles.unwrap_or_else(|| session.roles.clone());
        let implied = wanted_roles.iter().flat_map(|role| role.implied()).copied();
        let roles: BTreeSet<Role> = implied.collect();
        if roles.iter().any(|role| !session.roles.contains(role)) {
            return Err(Error::Invalid(UNASSIGNED.to_owned()));
        }
        if wanted.expires_at.is_some_and(|end| end <= self.clock.now()) {
            return Err(Error::Invalid(EXPIRED.to_owned()));
        }
        let user = &session.user.id;
        // Before a hash is made, which costs much.
        self.db.read(|c| check_credential(c, user, &wanted.name))?;
        let (secret, secret_hash) = match wanted.secret {
            Some(chosen) => {
                let hash = self.passwords.hash(&chosen, user.as_str())?;
                (chosen, hash.into_bytes())
            }
            None => {
                let random = Secret::from(random_text(48).as_str());
                let hash = blake3::hash(random.expose().as_bytes());
                (random, hash.as_bytes().to_vec())
            }
        };
        let row = ApplicationCredential {
            id: keystone_id(),
            name: wanted.name,
            description: wanted.description,
            user_id: session.user.id.clone(),
            project_id: project.id.clone(),
            roles: Json::new(roles.into_iter().collect()),
            secret_hash,
            expires_at: wanted.expires_at,
            created_at: self.clock.now(),
        };
        self.db.write(|c| -> Result<(), Error> {
            db::lock(c, row.user_id.as_str())?;
            // The hash took its time.
            if identity::user(c, &row.user_id)?.is_none() {
                let message = format!("Could not find user: {}.", row.user_id);
                return Err(Error::NotFound(message));
            }
            // What was taken away meanwhile must not come back with the credential.
            identity::lock_roles(c)?;
            let now = session::session_now(c, &session.row.hash, row.created_at)?;
            let roles = now.ok_or(Error::Unauthenticated)?.roles;
            if row.roles.iter().any(|role| !roles.contains(role)) {
                return Err(Error::Invalid(UNASSIGNED.to_owned()));
            }
            check_credential(c, &row.user_id, &row.name)?;
            Ok(identity::insert_credential(c, &row)?)
        })?;
        Ok((row, secret))
    }

    /// Removes an application credential of a user; `false` if there is none of this id.
    pub fn remove_credential(&self, user: &UserId, id: &str) -> Result<bool, Error> {
        self.db.write(|c| {
            let row = identity::credential(c, id)?.filter(|row| row.user_id == *user);
            if row.is_some() {
                identity::remove_credential(c, id)?;
            }
            Ok(row.is_some())
        })
    }
}

/// Whether a user may have one more application credential, and of this name.
fn check_credential(connection: &mut DbConnection, user: &UserId, name: &str) -> Result<(), Error> {
    if identity::count_credentials(connection, user)? >= CREDENTIALS_MAX {
        let message = format!(
            "Unable to create additional application credentials, maximum of {CREDENTIALS_MAX} already exceeded for user."
        );
        return Err(Error::OverQuota {
            class: None,
            message,
        });
    }
    if identity::credential_by_name(connection, user, name)?.is_some() {
        return Err(Error::Conflict(format!(
            "Conflict occurred attempting to store application_credential - Duplicate entry found with name {name}."
        )));
    }
    Ok(())
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
