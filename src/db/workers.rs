//! Rows of `workers`: processes that run jobs, and when they were last seen.

use crate::db::{DbConnection, services};
use crate::model::schema::workers;
use crate::model::service::BACKUP_SERVICE;
use crate::model::time::Timestamp;
use diesel::prelude::*;
use std::time::Duration;

/// A worker that was not seen for so long is taken to be down, as Cinder's `service_down_time`.
const DOWN_AFTER: Duration = Duration::from_secs(60);

/// A process that runs jobs.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = workers)]
pub struct WorkerRow {
    pub name: String,
    pub started_at: Timestamp,
    pub seen_at: Timestamp,
}

/// A sign of life.
pub fn put(connection: &mut DbConnection, row: &WorkerRow) -> QueryResult<()> {
    let updated = diesel::update(workers::table.find(&row.name))
        .set(row)
        .execute(connection)?;
    if updated == 0 {
        diesel::insert_into(workers::table)
            .values(row)
            .execute(connection)?;
    }
    Ok(())
}

/// All of them, by name.
pub fn all(connection: &mut DbConnection) -> QueryResult<Vec<WorkerRow>> {
    workers::table
        .order(workers::name)
        .select(WorkerRow::as_select())
        .load(connection)
}

/// Whether a worker was seen of late.
pub fn is_up(row: &WorkerRow, now: Timestamp) -> bool {
    row.seen_at.after(DOWN_AFTER) >= now
}

/// Whether an administrator has disabled this worker and another one is there to do the work.
pub fn is_resting(connection: &mut DbConnection, name: &str, now: Timestamp) -> QueryResult<bool> {
    if !services::is_disabled(connection, &service_name(name))? {
        return Ok(false);
    }
    for row in all(connection)? {
        if is_up(&row, now) && !services::is_disabled(connection, &service_name(&row.name))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether there are workers, and an administrator has disabled all of them.
pub fn are_disabled(connection: &mut DbConnection) -> QueryResult<bool> {
    let rows = all(connection)?;
    for row in &rows {
        if !services::is_disabled(connection, &service_name(&row.name))? {
            return Ok(false);
        }
    }
    Ok(!rows.is_empty())
}

/// The name under which administrators' wishes for a worker are kept.
pub fn service_name(worker: &str) -> String {
    format!("{BACKUP_SERVICE}@{worker}")
}

/// Forgets those that were not seen since.
pub fn prune(connection: &mut DbConnection, before: Timestamp) -> QueryResult<usize> {
    diesel::delete(workers::table)
        .filter(workers::seen_at.lt(before))
        .execute(connection)
}
