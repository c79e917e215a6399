//! Users that the configuration names: at every start they become what it says.

use crate::config::ConfiguredUser;
use crate::db::standalone::identity;
use crate::db::{self, DbConnection, DbError};
use crate::identity::embedded::{Embedded, passwords};
use crate::model::id::{ProjectId, UserId, configured_project, keystone_id};
use crate::model::standalone::identity::{Assignment, Origin, Project, User};
use std::collections::{BTreeMap, BTreeSet};

/// A lock: a start that brings the users in holds it.
pub(super) const CONFIGURED: &str = "configured users";

/// Hashes of passwords, by the users' names.
type Hashes<'a> = BTreeMap<&'a str, String>;

impl Embedded {
    /// Brings these users and their roles in. Roles that the configuration gave before and does not give now are
    /// gone, and users that it does not name any more cannot log in.
    pub fn bring_in(&self, users: &[ConfiguredUser]) -> Result<(), DbError> {
        let mut hashes = Hashes::new();
        for user in users {
            if !hashes.contains_key(user.name.as_str()) {
                hashes.insert(&user.name, self.hash_of(user)?);
            }
        }
        let (dropped, unnamed) = self.db.write(|c| -> Result<_, DbError> {
            // Several processes may start at once.
            db::lock(c, CONFIGURED)?;
            let is_first = identity::configured_users(c)?.is_empty();
            let mut given = BTreeSet::new();
            for user in users {
                given.insert(put(c, user, &hashes[user.name.as_str()])?);
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
            Ok((dropped, unnamed))
        })?;
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
        Ok(())
    }

    /// An unchanged password keeps its hash, and with it the user's tokens.
    fn hash_of(&self, user: &ConfiguredUser) -> Result<String, DbError> {
        let known = self.db.read(|c| identity::user_by_name(c, &user.name))?;
        let known = known.map(|known| known.password_hash);
        let kept = known.filter(|hash| passwords::matches(hash, &user.password));
        Ok(kept.unwrap_or_else(|| passwords::hash(&user.password)))
    }
}

fn put(
    connection: &mut DbConnection,
    user: &ConfiguredUser,
    password_hash: &str,
) -> Result<(UserId, ProjectId), DbError> {
    let id = UserId::new(keystone_id());
    let row = User::new(id, &user.name, password_hash.to_owned(), Origin::Configured);
    let project = Project::new(configured_project(&user.project), &user.project);
    let assignment = Assignment {
        user_id: identity::put_configured_user(connection, &row)?,
        project_id: identity::put_project(connection, &project)?,
        role: user.role,
        is_configured: true,
    };
    identity::put_assignment(connection, &assignment)?;
    Ok((assignment.user_id, assignment.project_id))
}

/// Roles in the projects of these that are not among these, as `user in project`.
fn others_in(
    connection: &mut DbConnection,
    given: &BTreeSet<(UserId, ProjectId)>,
) -> Result<Vec<String>, DbError> {
    let projects: BTreeSet<&ProjectId> = given.iter().map(|(_, project)| project).collect();
    let mut others = Vec::new();
    for project in projects {
        for row in identity::named_assignments(connection, None, Some(project))? {
            let place = (row.user_id, row.project_id);
            if !given.contains(&place) {
                others.push(format!("{} in {}", row.user_name, row.project_name));
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
