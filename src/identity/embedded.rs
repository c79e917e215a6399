//! The embedded identity: users with a password, projects, one role each, tokens and application
//! credentials, all in our own database. One domain, `default`.

use crate::clock::Clock;
use crate::config::{self, ConfiguredUser, Secret};
use crate::db::{self, Db, DbError};
use crate::model::column::Json;
use crate::model::error::Error;
use crate::model::id::{ProjectId, UserId, configured_project, keystone_id};
use crate::model::identity::{ApplicationCredential, Assignment, Project, Role, TokenRow, User};
use crate::model::time::Timestamp;
use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use std::collections::HashSet;
use std::sync::Mutex;

/// How many recently verified passwords are remembered.
const VERIFIED_MAX: usize = 256;

/// A user or project as a client names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    Id(String),
    Name(String),
}

/// What a client presents to log in.
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

/// What a token stands for.
#[derive(Debug, Clone)]
pub struct Session {
    pub row: TokenRow,
    pub user: User,
    pub project: Option<Project>,
    pub application_credential: Option<ApplicationCredential>,
}

/// What an application credential is to be made with.
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
    /// Keyed BLAKE3 of hash and password of recent log-ins: argon2 takes tens of milliseconds and
    /// 19 MiB, and clients log in for every command. Holds no password.
    verified: Mutex<HashSet<[u8; 32]>>,
    verified_key: [u8; 32],
}

impl Embedded {
    /// Opens the identity and brings the configured users into it.
    pub fn open(db: Db, clock: Clock, settings: config::Identity) -> Result<Self, DbError> {
        let mut verified_key = [0; 32];
        getrandom::fill(&mut verified_key).expect("the system gives random bytes");
        let identity = Self {
            db,
            clock,
            settings,
            verified: Mutex::default(),
            verified_key,
        };
        for user in &identity.settings.users {
            identity.put(user)?;
        }
        Ok(identity)
    }

    fn put(&self, user: &ConfiguredUser) -> Result<(), DbError> {
        let known = self
            .db
            .read(|c| db::identity::user_by_name(c, &user.name).map_err(DbError::from))?;
        // An unchanged password keeps its hash, so that a start costs no hashing and no write.
        let password_hash = match known {
            Some(known) if self.verifies(&known.password_hash, &user.password) => {
                known.password_hash
            }
            _ => hash_password(&user.password),
        };
        let row = User {
            id: UserId::new(keystone_id()),
            name: user.name.clone(),
            password_hash,
        };
        let project = Project {
            id: configured_project(&user.project),
            name: user.project.clone(),
        };
        self.db.write(|c| {
            let assignment = Assignment {
                user_id: db::identity::put_user(c, &row)?,
                project_id: db::identity::put_project(c, &project)?,
                role: user.role,
            };
            db::identity::put_assignment(c, &assignment).map_err(DbError::from)
        })
    }

    /// Logs in. Without a scope the token is unscoped; an application credential brings its own.
    pub fn authenticate(
        &self,
        methods: Vec<String>,
        credentials: &Credentials,
        scope: Option<&Named>,
    ) -> Result<(Secret, Session), Error> {
        let (user, credential) = self.verify(credentials)?;
        let (project, roles) = match (&credential, scope) {
            (Some(_), Some(_)) => {
                return Err(Error::Invalid(
                    "Application credentials cannot request a scope.".to_owned(),
                ));
            }
            (Some(credential), None) => {
                let project = self.project(&credential.project_id)?;
                let held = self.roles(&user.id, &credential.project_id)?;
                let roles = credential
                    .roles
                    .iter()
                    .copied()
                    .filter(|role| held.contains(role));
                (project, roles.collect())
            }
            (None, Some(named)) => {
                let project = self.project_named(named)?.ok_or(Error::Unauthenticated)?;
                let roles = self.roles(&user.id, &project.id)?;
                (Some(project), roles)
            }
            (None, None) => (None, Vec::new()),
        };
        if project.is_some() && roles.is_empty() {
            return Err(Error::Unauthenticated);
        }
        self.issue(methods, user, project, roles, credential)
    }

    fn issue(
        &self,
        methods: Vec<String>,
        user: User,
        project: Option<Project>,
        roles: Vec<Role>,
        credential: Option<ApplicationCredential>,
    ) -> Result<(Secret, Session), Error> {
        let token = random_text(32);
        let now = self.clock.now();
        let row = TokenRow {
            hash: blake3::hash(token.as_bytes()).as_bytes().to_vec(),
            user_id: user.id.clone(),
            project_id: project.as_ref().map(|project| project.id.clone()),
            methods: Json::new(methods),
            roles: Json::new(roles),
            application_credential_id: credential.as_ref().map(|row| row.id.clone()),
            audit_id: random_text(16),
            issued_at: now,
            expires_at: now.after(self.settings.token_lifetime),
        };
        self.db
            .write(|c| db::identity::insert_token(c, &row, now).map_err(DbError::from))?;
        let session = Session {
            row,
            user,
            project,
            application_credential: credential,
        };
        Ok((Secret::from(token.as_str()), session))
    }

    /// What a token stands for; `None` if it is unknown or has expired.
    pub fn validate(&self, token: &str) -> Result<Option<Session>, Error> {
        let hash = blake3::hash(token.as_bytes());
        let now = self.clock.now();
        self.db.read(|c| {
            let Some(row) = db::identity::find_token(c, hash.as_bytes(), now)? else {
                return Ok(None);
            };
            let Some(user) = db::identity::user(c, &row.user_id)? else {
                return Ok(None);
            };
            let project = match &row.project_id {
                Some(id) => db::identity::project(c, id)?,
                None => None,
            };
            let application_credential = match &row.application_credential_id {
                Some(id) => db::identity::credential(c, id)?,
                None => None,
            };
            Ok(Some(Session {
                row,
                user,
                project,
                application_credential,
            }))
        })
    }

    /// Revokes a token.
    pub fn revoke(&self, token: &str) -> Result<(), Error> {
        let hash = blake3::hash(token.as_bytes());
        Ok(self
            .db
            .write(|c| db::identity::remove_token(c, hash.as_bytes()).map_err(DbError::from))?)
    }

    fn verify(
        &self,
        credentials: &Credentials,
    ) -> Result<(User, Option<ApplicationCredential>), Error> {
        match credentials {
            Credentials::Password { user, password } => {
                let user = self.user_named(user)?.ok_or(Error::Unauthenticated)?;
                match self.verifies(&user.password_hash, password) {
                    true => Ok((user, None)),
                    false => Err(Error::Unauthenticated),
                }
            }
            Credentials::Token(token) => {
                let session = self
                    .validate(token.expose())?
                    .ok_or(Error::Unauthenticated)?;
                // A token of an application credential must not widen what it may do.
                match session.application_credential {
                    None => Ok((session.user, None)),
                    Some(_) => Err(Error::Unauthenticated),
                }
            }
            Credentials::ApplicationCredential { id, secret } => {
                let row = self.credential_named(id)?.ok_or(Error::Unauthenticated)?;
                let hash = blake3::hash(secret.expose().as_bytes());
                let expired = row
                    .expires_at
                    .is_some_and(|moment| moment <= self.clock.now());
                // Comparison of BLAKE3 hashes takes the same time whatever the bytes.
                let matches =
                    blake3::Hash::from_slice(&row.secret_hash).is_ok_and(|known| known == hash);
                if expired || !matches {
                    return Err(Error::Unauthenticated);
                }
                let user = self.user_named(&Named::Id(row.user_id.to_string()))?;
                Ok((user.ok_or(Error::Unauthenticated)?, Some(row)))
            }
        }
    }

    fn verifies(&self, hash: &str, password: &Secret) -> bool {
        let mut hasher = blake3::Hasher::new_keyed(&self.verified_key);
        hasher.update(&(hash.len() as u64).to_le_bytes());
        hasher
            .update(hash.as_bytes())
            .update(password.expose().as_bytes());
        let key = *hasher.finalize().as_bytes();
        let verified = || self.verified.lock().expect("no panic while it is locked");
        if verified().contains(&key) {
            return true;
        }
        let matches = PasswordHash::new(hash).is_ok_and(|parsed| {
            Argon2::default()
                .verify_password(password.expose().as_bytes(), &parsed)
                .is_ok()
        });
        if matches {
            let mut verified = verified();
            if verified.len() >= VERIFIED_MAX {
                verified.clear();
            }
            verified.insert(key);
        }
        matches
    }

    /// The user of this id or name.
    pub fn user_named(&self, named: &Named) -> Result<Option<User>, Error> {
        self.db.read(|c| match named {
            Named::Id(id) => db::identity::user(c, &UserId::new(id)).map_err(Error::from),
            Named::Name(name) => db::identity::user_by_name(c, name).map_err(Error::from),
        })
    }

    /// The project of this id or name.
    pub fn project_named(&self, named: &Named) -> Result<Option<Project>, Error> {
        self.db.read(|c| match named {
            Named::Id(id) => db::identity::project(c, &ProjectId::new(id)).map_err(Error::from),
            Named::Name(name) => db::identity::project_by_name(c, name).map_err(Error::from),
        })
    }

    fn project(&self, id: &ProjectId) -> Result<Option<Project>, Error> {
        self.db
            .read(|c| db::identity::project(c, id).map_err(Error::from))
    }

    fn credential_named(
        &self,
        named: &CredentialName,
    ) -> Result<Option<ApplicationCredential>, Error> {
        match named {
            CredentialName::Id(id) => self
                .db
                .read(|c| db::identity::credential(c, id).map_err(Error::from)),
            CredentialName::Name { name, user } => {
                let Some(user) = self.user_named(user)? else {
                    return Ok(None);
                };
                let rows = self.credentials_of(&user.id)?;
                Ok(rows.into_iter().find(|row| row.name == *name))
            }
        }
    }

    /// Roles of a user in a project, implied ones included.
    fn roles(&self, user: &UserId, project: &ProjectId) -> Result<Vec<Role>, Error> {
        let role = self
            .db
            .read(|c| db::identity::role_of(c, user, project).map_err(DbError::from))?;
        Ok(role.map_or_else(Vec::new, |role| role.implied().to_vec()))
    }

    /// Projects in which a user has a role.
    pub fn projects_of(&self, user: &UserId) -> Result<Vec<Project>, Error> {
        self.db
            .read(|c| db::identity::projects_of(c, user).map_err(Error::from))
    }

    /// All projects.
    pub fn projects(&self) -> Result<Vec<Project>, Error> {
        self.db
            .read(|c| db::identity::list_projects(c).map_err(Error::from))
    }

    /// All users.
    pub fn users(&self) -> Result<Vec<User>, Error> {
        self.db
            .read(|c| db::identity::list_users(c).map_err(Error::from))
    }

    /// Adds a user without a role.
    pub fn create_user(&self, name: &str, password: &Secret) -> Result<User, Error> {
        let row = User {
            id: UserId::new(keystone_id()),
            name: name.to_owned(),
            password_hash: hash_password(password),
        };
        self.db.write(|c| {
            if db::identity::user_by_name(c, name)?.is_some() {
                return Err(taken("user"));
            }
            db::identity::put_user(c, &row)?;
            Ok(())
        })?;
        Ok(row)
    }

    /// Removes a user with tokens and credentials; `false` if there is none of this id.
    pub fn delete_user(&self, id: &UserId) -> Result<bool, Error> {
        self.db
            .write(|c| db::identity::remove_user(c, id).map_err(Error::from))
    }

    /// Adds a project.
    pub fn create_project(&self, name: &str) -> Result<Project, Error> {
        let row = Project {
            id: ProjectId::new(keystone_id()),
            name: name.to_owned(),
        };
        self.db.write(|c| {
            if db::identity::project_by_name(c, name)?.is_some() {
                return Err(taken("project"));
            }
            db::identity::put_project(c, &row)?;
            Ok(())
        })?;
        Ok(row)
    }

    /// Removes a project with its tokens and roles; what it has in block storage stays. `false` if
    /// there is none of this id.
    pub fn delete_project(&self, id: &ProjectId) -> Result<bool, Error> {
        self.db
            .write(|c| db::identity::remove_project(c, id).map_err(Error::from))
    }

    /// Gives a user a role in a project, unless it has a higher one there. `false` if either does
    /// not exist.
    pub fn assign(&self, user: &UserId, project: &ProjectId, role: Role) -> Result<bool, Error> {
        self.db.write(|c| {
            let exist = db::identity::user(c, user)?.is_some()
                && db::identity::project(c, project)?.is_some();
            let known = db::identity::role_of(c, user, project)?;
            // Roles are declared from the highest on.
            if exist && known.is_none_or(|known| role < known) {
                let assignment = Assignment {
                    user_id: user.clone(),
                    project_id: project.clone(),
                    role,
                };
                db::identity::put_assignment(c, &assignment)?;
            }
            Ok(exist)
        })
    }

    /// Application credentials of a user.
    pub fn credentials_of(&self, user: &UserId) -> Result<Vec<ApplicationCredential>, Error> {
        self.db
            .read(|c| db::identity::credentials_of(c, user).map_err(Error::from))
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
        let roles = wanted.roles.unwrap_or_else(|| session.row.roles.to_vec());
        if roles.iter().any(|role| !session.row.roles.contains(role)) {
            return Err(Error::Invalid(
                "Could not find role assignment for the requested roles.".to_owned(),
            ));
        }
        let secret = wanted
            .secret
            .unwrap_or_else(|| Secret::from(random_text(48).as_str()));
        let row = ApplicationCredential {
            id: keystone_id(),
            name: wanted.name,
            description: wanted.description,
            user_id: session.user.id.clone(),
            project_id: project.id.clone(),
            roles: Json::new(roles),
            secret_hash: blake3::hash(secret.expose().as_bytes()).as_bytes().to_vec(),
            expires_at: wanted.expires_at,
            created_at: self.clock.now(),
        };
        let inserted = self
            .db
            .write(|c| db::identity::insert_credential(c, &row).map_err(DbError::from));
        match inserted {
            Ok(()) => Ok((row, secret)),
            Err(DbError::Query(error)) if db::is_duplicate(&error) => Err(Error::Conflict(
                "Conflict occurred attempting to store application_credential - Duplicate entry found with name.".to_owned(),
            )),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes an application credential of a user; `false` if there is none of this id.
    pub fn remove_credential(&self, user: &UserId, id: &str) -> Result<bool, Error> {
        self.db.write(|c| {
            let row = db::identity::credential(c, id)?.filter(|row| row.user_id == *user);
            if row.is_some() {
                db::identity::remove_credential(c, id)?;
            }
            Ok(row.is_some())
        })
    }
}

fn taken(kind: &str) -> Error {
    Error::Conflict(format!(
        "Conflict occurred attempting to store {kind} - Duplicate entry found with name."
    ))
}

fn hash_password(password: &Secret) -> String {
    Argon2::default()
        .hash_password(password.expose().as_bytes())
        .expect("argon2's own defaults are valid")
        .to_string()
}

/// Random text of so many bytes' strength, fit for headers and files.
pub fn random_text(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).expect("the system gives random bytes");
    BASE64_URL_SAFE_NO_PAD.encode(random)
}
