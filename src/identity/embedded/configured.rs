//! Users that the configuration names: at every start they become what it says.

use crate::config::ConfiguredUser;
use crate::db::standalone::identity;
use crate::db::{self, DbConnection, DbError};
use crate::identity::embedded::{Embedded, passwords};
use crate::model::id::{ProjectId, UserId, configured_project, keystone_id};
use crate::model::role::Role;
use crate::model::standalone::identity::{Assignment, Origin, Project, User};
use std::collections::{BTreeMap, BTreeSet};

/// A lock: a start that brings the users in holds it.
pub(super) const CONFIGURED: &str = "configured users";

/// Hashes of passwords, by the users' names.
type Hashes<'a> = BTreeMap<&'a str, Hash>;

struct Hash {
    /// The hash that the user had when it was looked at.
    seen: Option<String>,
    hash: String,
}

impl Embedded {
    /// Brings these users and their roles in. Roles that the configuration gave before and does not give now are
    /// gone, and users that it does not name any more cannot log in.
    pub fn bring_in(&self, users: &[ConfiguredUser]) -> Result<(), DbError> {
        self.bring_in_if(users, |_| true).map(|_| ())
    }

    /// The same, unless a configuration has named users already; then `false`.
    pub fn bring_in_first(&self, users: &[ConfiguredUser]) -> Result<bool, DbError> {
        self.bring_in_if(users, |is_first| is_first)
    }

    /// Whether a configuration has named users.
    pub fn has_configured(&self) -> Result<bool, DbError> {
        Ok(!self.db.read(identity::configured_users)?.is_empty())
    }

    fn bring_in_if(
        &self,
        users: &[ConfiguredUser],
        may: impl Fn(bool) -> bool,
    ) -> Result<bool, DbError> {
        let mut hashes = Hashes::new();
        for user in users {
            if !hashes.contains_key(user.name.as_str()) {
                hashes.insert(&user.name, self.hash_of(user)?);
            }
        }
        let changed = self.db.write(|c| -> Result<_, DbError> {
            // Several processes may start at once.
            db::lock(c, CONFIGURED)?;
            let is_first = identity::configured_users(c)?.is_empty();
            if !may(is_first) {
                return Ok(None);
            }
            let (mut given, mut lowered) = (BTreeSet::new(), Vec::new());
            for user in users {
                let hash = hash_now(c, user, &hashes[user.name.as_str()])?;
                let (place, before) = put(c, user, &hash)?;
                // Roles are declared from the highest on.
                if before.is_some_and(|before| before < user.role) {
                    lowered.push(place.clone());
                }
                given.insert(place);
            }
            for (user, project) in lowered {
                identity::end_credentials(c, &user, &project)?;
            }
            for old in identity::configured_assignments(c)? {
                let place = (old.user_id, old.project_id);
                if !given.contains(&place) {
                    identity::remove_assignment(c, &place.0, &place.1)?;
                }
            }
            let dropped = drop_others(c, &hashes)?;
            let unnamed = if is_first {
                others_in(c, &given)?
            } else {
                Vec::new()
            };
            Ok(Some((dropped, unnamed)))
        })?;
        let Some((dropped, unnamed)) = changed else {
            return Ok(false);
        };
        for user in dropped {
            tracing::warn!(
                user,
                "the configuration no longer names this user; the user can no longer log in"
            );
        }
        // An earlier version did not note whom the configuration names, so that those it had ceased to name are
        // among these.
        if !unnamed.is_empty() {
            tracing::warn!(
                roles = unnamed.join(", "),
                "these users have roles in configured projects that the configuration does not give; take away those that \
                 you do not know"
            );
        }
        Ok(true)
    }

    /// An unchanged password keeps its hash, and with it the user's tokens.
    fn hash_of(&self, user: &ConfiguredUser) -> Result<Hash, DbError> {
        let known = self.db.read(|c| identity::user_by_name(c, &user.name))?;
        let seen = known.map(|known| known.password_hash);
        let kept = seen.clone();
        let kept = kept.filter(|hash| passwords::matches(hash, &user.password));
        let hash = kept.unwrap_or_else(|| passwords::hash(&user.password));
        Ok(Hash { seen, hash })
    }
}

/// The user's hash, under the lock. Another host may have brought the same new password in meanwhile: its hash stays, and
/// so do the tokens that it has given.
fn hash_now(c: &mut DbConnection, user: &ConfiguredUser, made: &Hash) -> Result<String, DbError> {
    let known = identity::user_by_name(c, &user.name)?.map(|known| known.password_hash);
    let new = known.filter(|hash| *hash != made.hash && made.seen.as_ref() != Some(hash));
    let same = new.filter(|hash| passwords::matches(hash, &user.password));
    Ok(same.unwrap_or_else(|| made.hash.clone()))
}

/// Brings one user in; gives its place, and the role that it had there.
fn put(
    connection: &mut DbConnection,
    user: &ConfiguredUser,
    password_hash: &str,
) -> Result<((UserId, ProjectId), Option<Role>), DbError> {
    let id = UserId::new(keystone_id());
    let row = User::new(id, &user.name, password_hash.to_owned(), Origin::Configured);
    let project = Project::new(configured_project(&user.project), &user.project);
    let assignment = Assignment {
        user_id: identity::put_configured_user(connection, &row)?,
        project_id: identity::put_project(connection, &project)?,
        role: user.role,
        is_configured: true,
    };
    let before = identity::role_of(connection, &assignment.user_id, &assignment.project_id)?;
    identity::put_assignment(connection, &assignment)?;
    Ok(((assignment.user_id, assignment.project_id), before))
}

/// Roles in the projects of these that are not among these, as `user in project`.
fn others_in(
    connection: &mut DbConnection,
    given: &BTreeSet<(UserId, ProjectId)>,
) -> Result<Vec<String>, DbError> {
    let projects: BTreeSet<&ProjectId> = given.iter().map(|(_, project)| project).collect();
    let mut others = Vec::new();
    for project in projects {
        let mut behind = (String::new(), String::new());
        loop {
            let names = (behind.0.as_str(), behind.1.as_str());
            let rows = identity::named_assignments(connection, None, Some(project), names)?;
            let Some(last) = rows.last() else { break };
            behind = (last.user_name.clone(), last.project_name.clone());
            for row in rows {
                let place = (row.user_id, row.project_id);
                if !given.contains(&place) {
                    others.push(format!("{} in {}", row.user_name, row.project_name));
                }
            }
        }
    }
    Ok(others)
}

/// Drops the users that are no longer named; gives their names.
fn drop_others(connection: &mut DbConnection, named: &Hashes<'_>) -> Result<Vec<String>, DbError> {
    let mut dropped = Vec::new();
    for user in identity::configured_users(connection)? {
        if !named.contains_key(user.name.as_str()) {
            identity::drop_user(connection, &user.id)?;
            dropped.push(user.name);
        }
    }
    Ok(dropped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use crate::db::Db;

    #[test]
    fn of_two_starts_with_the_same_new_password_the_second_keeps_the_hash_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("db").display());
        let db = Db::open(&url).unwrap();
        let user = |password: &str| ConfiguredUser {
            name: "alice".to_owned(),
            password: Secret::from(password),
            project: "alpha".to_owned(),
            role: Role::Member,
        };
        let new = user("new");
        let first = passwords::hash(&new.password);
        let row = User::new(
            UserId::new(keystone_id()),
            "alice",
            first.clone(),
            Origin::Configured,
        );
        let now = |user: &ConfiguredUser| {
            let made = Hash {
                seen: Some("what she had before".to_owned()),
                hash: passwords::hash(&user.password),
            };
            let hash = db.write(|c| hash_now(c, user, &made)).unwrap();
            (hash, made.hash)
        };
        db.write(|c| identity::insert_user(c, &row)).unwrap();
        assert_eq!(now(&new).0, first);
        let (hash, made) = now(&user("another"));
        assert_eq!(hash, made);
    }
}
