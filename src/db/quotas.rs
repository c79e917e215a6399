//! Rows of `quotas`: limits of projects and of classes.

use crate::config;
use crate::db::{DbConnection, DbResult};
use crate::model::id::ProjectId;
use crate::model::quota::Amounts;
use crate::model::schema::quotas;
use diesel::prelude::*;
use std::collections::BTreeMap;

/// Whose limit a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Project,
    Class,
}

impl Scope {
    fn as_str(self) -> &'static str {
        match self {
            Scope::Project => "project",
            Scope::Class => "class",
        }
    }
}

/// The limits set for a project or class, by resource.
pub fn of(
    connection: &mut DbConnection,
    scope: Scope,
    name: &str,
) -> DbResult<BTreeMap<String, i64>> {
    let rows: Vec<(String, i64)> = quotas::table
        .filter(quotas::scope.eq(scope.as_str()).and(quotas::name.eq(name)))
        .select((quotas::resource, quotas::hard_limit))
        .load(connection)?;
    Ok(rows.into_iter().collect())
}

/// The limits in force: the project's own, else those of the default class, else the configured.
pub fn limits(
    connection: &mut DbConnection,
    project: Option<&ProjectId>,
    configured: &config::Quota,
) -> DbResult<Amounts> {
    let config::Quota {
        volumes,
        per_volume_gigabytes,
        snapshots,
        gigabytes,
        backups,
        backup_gigabytes,
        groups,
    } = configured;
    let mut limits = BTreeMap::from(
        [
            ("volumes", volumes),
            ("per_volume_gigabytes", per_volume_gigabytes),
            ("snapshots", snapshots),
            ("gigabytes", gigabytes),
            ("backups", backups),
            ("backup_gigabytes", backup_gigabytes),
            ("groups", groups),
        ]
        .map(|(resource, limit)| (resource.to_owned(), *limit)),
    );
    limits.extend(of(connection, Scope::Class, "default")?);
    if let Some(project) = project {
        limits.extend(of(connection, Scope::Project, project.as_str())?);
    }
    Ok(Amounts(limits))
}

/// Sets one limit.
pub fn put(
    connection: &mut DbConnection,
    scope: Scope,
    name: &str,
    resource: &str,
    limit: i64,
) -> DbResult<()> {
    let row = (scope.as_str(), name, resource);
    let updated = diesel::update(quotas::table.find(row))
        .set(quotas::hard_limit.eq(limit))
        .execute(connection)?;
    if updated == 0 {
        diesel::insert_into(quotas::table)
            .values((
                quotas::scope.eq(row.0),
                quotas::name.eq(row.1),
                quotas::resource.eq(row.2),
                quotas::hard_limit.eq(limit),
            ))
            .execute(connection)?;
    }
    Ok(())
}

/// Forgets the limits of a project.
pub fn remove(connection: &mut DbConnection, scope: Scope, name: &str) -> DbResult<()> {
    diesel::delete(
        quotas::table.filter(quotas::scope.eq(scope.as_str()).and(quotas::name.eq(name))),
    )
    .execute(connection)?;
    Ok(())
}
