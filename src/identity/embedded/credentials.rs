//! Application credentials as their users make them.

use crate::config::Secret;
use crate::db::standalone::{credentials, identity};
use crate::db::{self, DbConnection};
use crate::identity::embedded::session::token_now;
use crate::identity::embedded::{Embedded, IssuedToken, NewCredential, random_text};
use crate::model::column::Json;
use crate::model::error::Error;
use crate::model::id::{UserId, keystone_id};
use crate::model::role::Role;
use crate::model::standalone::identity::ApplicationCredential;
use std::collections::BTreeSet;

/// Keystone's words for a time of expiry that is over.
const EXPIRED: &str = "The 'expires_at' must not be before now. The server could not comply with the request since it is either malformed or otherwise incorrect. The client is assumed to be in error.";
/// Keystone's words for a role that the user does not have.
const UNASSIGNED: &str =
    "Invalid application credential: Cannot create an application credential with unassigned role";

/// Most application credentials of a user.
const CREDENTIALS_MAX: i64 = 1000;

impl Embedded {
    /// Makes an application credential for the session's user and project. The secret is in the
    /// answer and nowhere else.
    pub fn create_credential(
        &self,
        session: &IssuedToken,
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
            // A role that is taken away at this moment must not come back with the credential.
            identity::lock_roles(c)?;
            let now = token_now(c, &session.row.hash, row.created_at)?;
            let roles = now.ok_or(Error::Unauthenticated)?.roles;
            if row.roles.iter().any(|role| !roles.contains(role)) {
                return Err(Error::Invalid(UNASSIGNED.to_owned()));
            }
            check_credential(c, &row.user_id, &row.name)?;
            Ok(credentials::insert(c, &row)?)
        })?;
        Ok((row, secret))
    }
}

/// Whether a user may have one more application credential, and of this name.
fn check_credential(connection: &mut DbConnection, user: &UserId, name: &str) -> Result<(), Error> {
    if credentials::count(connection, user)? >= CREDENTIALS_MAX {
        let message = format!(
            "Unable to create additional application credentials, maximum of {CREDENTIALS_MAX} already exceeded for user."
        );
        return Err(Error::OverQuota {
            class: None,
            message,
        });
    }
    if credentials::find_by_name(connection, user, name)?.is_some() {
        return Err(Error::Conflict(format!(
            "Conflict occurred attempting to store application_credential - Duplicate entry found with name {name}."
        )));
    }
    Ok(())
}
