//! Users and projects as an administrator makes and changes them.

use crate::config::Secret;
use crate::db::standalone::identity::{ProjectChanges, UserChanges};
use crate::db::standalone::{credentials, identity, records, snapshots, volumes};
use crate::db::{self, DbConnection, DbResult};
use crate::identity::embedded::Embedded;
use crate::identity::embedded::configured::CONFIGURED;
use crate::model::column::Json;
use crate::model::error::Error;
use crate::model::id::{ProjectId, UserId, configured_project, keystone_id};
use crate::model::standalone::group::Group;
use crate::model::standalone::identity::{Origin, Project, User};

/// Those who share the time for making hashes of passwords of others.
const ADMINISTRATORS: &str = "administrators";

/// New values for a user's fields. `None` leaves a field as it is, and an inner `None` removes its value.
#[derive(Default)]
pub struct UserFields {
    pub name: Option<String>,
    pub password: Option<Option<Secret>>,
    pub is_enabled: Option<bool>,
    pub description: Option<Option<String>>,
    pub email: Option<Option<String>>,
    pub default_project: Option<Option<ProjectId>>,
}

/// New values for a project's fields, likewise.
#[derive(Default)]
pub struct ProjectFields {
    pub name: Option<String>,
    pub is_enabled: Option<bool>,
    pub description: Option<String>,
    pub tags: Option<Vec<String>>,
}

impl Embedded {
    /// Adds a user without a role. A user without a password cannot log in.
    pub fn create_user(&self, name: &str, fields: UserFields) -> Result<User, Error> {
        let changes = self.user_changes(fields)?;
        let hash = changes.password_hash.clone();
        let hash = hash.unwrap_or_else(|| self.passwords.of_nobody());
        let row = User::new(UserId::new(keystone_id()), name, hash, Origin::Made);
        self.db.write(|c| {
            let inserted = identity::insert_user(c, &row);
            unless_taken(inserted, || {
                format!("user - Duplicate entry found with name {name} at domain ID default.")
            })?;
            identity::update_user(c, &row.id, &changes)?;
            identity::user(c, &row.id)?.ok_or_else(gone)
        })
    }

    /// Changes a user; `None` if there is none of this id. Another password ends the user's tokens, and so
    /// does disabling, which also removes its application credentials.
    pub fn update_user(&self, id: &UserId, fields: UserFields) -> Result<Option<User>, Error> {
        let changes = self.user_changes(fields)?;
        let ends_tokens = changes.password_hash.is_some() || changes.is_enabled == Some(false);
        self.db.write(|c| {
            db::lock(c, id.as_str())?;
            let Some(known) = identity::user(c, id)? else {
                return Ok(None);
            };
            check_configured(&known, &changes)?;
            let updated = identity::update_user(c, id, &changes);
            unless_taken(updated, || {
                let name = changes.name.as_deref().unwrap_or(&known.name);
                format!("user - Duplicate entry found with name {name}.")
            })?;
            if ends_tokens {
                identity::end_tokens(c, id)?;
            }
            if changes.is_enabled == Some(false) {
                credentials::remove_of_user(c, id, None)?;
            }
            Ok(identity::user(c, id)?)
        })
    }

    fn user_changes(&self, fields: UserFields) -> Result<UserChanges, Error> {
        let password_hash = match fields.password {
            Some(Some(password)) => Some(self.passwords.hash(&password, ADMINISTRATORS)?),
            Some(None) => Some(self.passwords.of_nobody()),
            None => None,
        };
        Ok(UserChanges {
            name: fields.name,
            password_hash,
            is_enabled: fields.is_enabled,
            description: fields.description,
            email: fields.email,
            default_project_id: fields.default_project,
        })
    }

    /// Adds a project.
    pub fn create_project(&self, name: &str, fields: ProjectFields) -> Result<Project, Error> {
        let changes = ProjectChanges::from(fields);
        let row = Project::new(ProjectId::new(keystone_id()), name);
        self.db.write(|c| {
            let inserted = identity::insert_project(c, &row);
            unless_taken(inserted, || taken_project(name, &row.id))?;
            identity::update_project(c, &row.id, &changes)?;
            identity::project(c, &row.id)?.ok_or_else(gone)
        })
    }

    /// Changes a project; `None` if there is none of this id. Disabling it ends the tokens in it.
    pub fn update_project(
        &self,
        id: &ProjectId,
        fields: ProjectFields,
    ) -> Result<Option<Project>, Error> {
        let changes = ProjectChanges::from(fields);
        let changed = self.db.write(|c| {
            let Some(known) = identity::project(c, id)? else {
                return Ok(None);
            };
            let renamed = changes.name.as_ref().filter(|to| **to != known.name);
            // Its id is made of its name, and the next start looks for both.
            let is_made_of_name = configured_project(&known.name) == known.id;
            if renamed.is_some() && (is_made_of_name || is_configured(c, id)?) {
                return Err(configured("project", "name", "change it"));
            }
            // Before the row is written: a removal has the lock of tokens when it takes the row.
            if changes.is_enabled == Some(false) {
                identity::end_project_tokens(c, id)?;
            }
            let updated = identity::update_project(c, id, &changes);
            unless_taken(updated, || {
                taken_project(renamed.map_or("", String::as_str), id)
            })?;
            Ok(identity::project(c, id)?)
        })?;
        if changes.is_enabled == Some(false) {
            self.remove_ended_tokens(id)?;
        }
        Ok(changed)
    }

    /// Removes all ended tokens, a batch at a time. If the process ends meanwhile, the rest is removed when the
    /// administrator asks again, or expires.
    fn remove_ended_tokens(&self, id: &ProjectId) -> Result<(), Error> {
        while self.db.write(|c| identity::remove_ended_tokens(c, id))? {}
        Ok(())
    }

    /// Removes a user with tokens and credentials; `false` if there is none of this id.
    pub fn delete_user(&self, id: &UserId) -> Result<bool, Error> {
        let check = |c: &mut DbConnection| {
            db::lock(c, id.as_str())?;
            let known = identity::user(c, id)?;
            if known.is_some_and(|known| known.origin == Origin::Configured) {
                Err(configured("user", "account", "remove the user"))
            } else {
                Ok(())
            }
        };
        // Nothing is valid from now on, and the tokens go first: there may be many.
        let disabled = UserChanges {
            is_enabled: Some(false),
            ..UserChanges::default()
        };
        self.db.write(|c| -> Result<(), Error> {
            check(c)?;
            identity::update_user(c, id, &disabled)?;
            Ok(identity::end_tokens(c, id)?)
        })?;
        while self.db.write(|c| identity::remove_some_tokens(c, id))? {}
        self.db.write(|c| {
            check(c)?;
            Ok(identity::remove_user(c, id)?)
        })
    }

    /// Removes a project with its tokens and roles, if it has nothing in block storage. `false` if there is none of this
    /// id.
    pub fn delete_project(&self, id: &ProjectId) -> Result<bool, Error> {
        let check = |c: &mut DbConnection| {
            // A start may be giving users roles in it.
            db::lock(c, CONFIGURED)?;
            if is_configured(c, id)? {
                return Err(configured("project", "users", "remove them"));
            }
            // The configuration may name the project again, under the same id: what is left would be the next one's.
            db::lock_project(c, id)?;
            if has_data(c, id)? {
                return Err(Error::Conflict(format!(
                    "Project {id} has volumes, snapshots, backups or groups: delete them first."
                )));
            }
            Ok(())
        };
        // No new tokens from now on, and the old ones go first: there may be many.
        let disabled = ProjectChanges {
            is_enabled: Some(false),
            ..ProjectChanges::default()
        };
        self.db.write(|c| -> Result<(), Error> {
            check(c)?;
            // Before the row is written, as elsewhere.
            identity::end_project_tokens(c, id)?;
            Ok(identity::update_project(c, id, &disabled)?)
        })?;
        self.remove_ended_tokens(id)?;
        self.db.write(|c| {
            check(c)?;
            Ok(identity::remove_project(c, id)?)
        })
    }
}

/// Whether the configuration gives any user a role in a project: then the next start makes sure that it exists.
fn is_configured(connection: &mut DbConnection, id: &ProjectId) -> DbResult<bool> {
    let given = identity::configured_assignments(connection)?;
    Ok(given.iter().any(|given| given.project_id == *id))
}

/// Whether a project owns anything in block storage.
fn has_data(connection: &mut DbConnection, id: &ProjectId) -> DbResult<bool> {
    Ok(db::backups::usage(connection, id)?.0 > 0
        || volumes::usage(connection, id)?.0 > 0
        || snapshots::usage(connection, id)?.0 > 0
        || records::count::<Group>(connection, id)? > 0)
}

impl From<ProjectFields> for ProjectChanges {
    fn from(fields: ProjectFields) -> Self {
        Self {
            name: fields.name,
            is_enabled: fields.is_enabled,
            description: fields.description,
            tags: fields.tags.map(Json::new),
        }
    }
}

/// Refuses what the next start would undo, and what would not be so all the same.
fn check_configured(known: &User, changes: &UserChanges) -> Result<(), Error> {
    let renamed = changes.name.as_ref().is_some_and(|to| *to != known.name);
    let changes_own = changes.password_hash.is_some() || renamed;
    let is_dropped = known.origin == Origin::Dropped;
    if is_dropped && (changes_own || changes.is_enabled == Some(true)) {
        let message = "The configuration named this user and does so no longer, so it is disabled: name it there again, or delete it and make another.";
        return Err(Error::Conflict(message.to_owned()));
    }
    if changes_own && known.origin == Origin::Configured {
        Err(configured("user", "name and password", "change it"))
    } else {
        Ok(())
    }
}

/// Turns the violation of a unique index into a conflict. The index decides, as other requests write at the same time.
fn unless_taken<T>(result: DbResult<T>, what: impl FnOnce() -> String) -> Result<T, Error> {
    result.map_err(|error| {
        if db::is_duplicate(&error) {
            Error::Conflict(format!("Conflict occurred attempting to store {}", what()))
        } else {
            error.into()
        }
    })
}

fn taken_project(name: &str, id: &ProjectId) -> String {
    format!(
        "project - it is not permitted to have two projects with either the same name or same id in the same domain: name is {name}, project id {id}."
    )
}

fn gone() -> Error {
    Error::internal("a row is gone that was just written")
}

/// Refuses what the next start would undo.
pub(super) fn configured(kind: &str, what: &str, remedy: &str) -> Error {
    Error::Conflict(format!(
        "The configuration gives this {kind} its {what}: {remedy} there."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::config;
    use crate::db::Db;
    use crate::db::standalone::identity::TokensMax;
    use crate::model::standalone::identity::TokenRow;
    use crate::model::time::Timestamp;

    const TOKENS: i64 = 2 * db::BATCH + 100;

    fn token(user: &User, number: i64) -> TokenRow {
        TokenRow {
            hash: blake3::hash(&number.to_le_bytes()).as_bytes().to_vec(),
            audit_id: number.to_string(),
            parent_audit_id: None,
            chain_id: number.to_string(),
            user_id: user.id.clone(),
            generation: user.generation,
            project_id: None,
            project_generation: 0,
            methods: Json::default(),
            application_credential_id: None,
            issued_at: Timestamp(0),
            expires_at: Timestamp(i64::MAX),
        }
    }

    #[test]
    fn a_user_with_many_tokens_goes_in_pieces_and_none_is_good_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&format!("sqlite:{}", dir.path().join("db").display())).unwrap();
        let settings = config::Identity::default();
        let embedded = Embedded::new(db.clone(), Clock::System, settings);
        let user = embedded.create_user("u", UserFields::default()).unwrap();
        let most = TokensMax {
            chain: i64::MAX,
            user: i64::MAX,
        };
        db.write(|c| -> DbResult<()> {
            for number in 0..TOKENS {
                identity::insert_token(c, &token(&user, number), Timestamp(0), most)?;
            }
            Ok(())
        })
        .unwrap();
        let left = || {
            let tokens = (0..TOKENS).map(|number| token(&user, number).hash);
            db.read(|c| {
                tokens
                    .map(|hash| identity::find_token(c, &hash, Timestamp(0)))
                    .filter_map(Result::transpose)
                    .collect::<DbResult<Vec<_>>>()
            })
            .unwrap()
        };
        // Cut off in the last piece.
        db.batch_execute(
            "CREATE TRIGGER cut BEFORE DELETE ON tokens WHEN (SELECT COUNT(*) FROM tokens) <= 50 \
             BEGIN SELECT RAISE(ABORT, 'cut off'); END",
        );
        assert!(embedded.delete_user(&user.id).is_err());
        let found = left();
        assert_eq!(found.len() as i64, TOKENS - 2 * db::BATCH);
        for (token, now, ..) in found {
            assert!(!now.may_log_in() && token.generation < now.generation);
        }
        db.batch_execute("DROP TRIGGER cut");
        assert!(embedded.delete_user(&user.id).unwrap());
        assert!(left().is_empty() && !embedded.delete_user(&user.id).unwrap());
    }
}
