//! Rows of `workers`: processes that run jobs, when they were last seen, and their places.

use crate::db::{DbConnection, DbResult, services};
use crate::model::job::Queue;
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
    /// Jobs that it runs at once in each queue: none while it is stopping, and no backups while it is disabled.
    pub backups: i32,
    pub copies: i32,
    pub quick: i32,
}

impl WorkerRow {
    fn places(&self, queue: Queue) -> i64 {
        i64::from(match queue {
            Queue::Backup => self.backups,
            Queue::Copy => self.copies,
            Queue::Quick => self.quick,
        })
    }
}

/// Writes a heartbeat.
pub fn put(connection: &mut DbConnection, row: &WorkerRow) -> DbResult<()> {
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
pub fn all(connection: &mut DbConnection) -> DbResult<Vec<WorkerRow>> {
    Ok(workers::table
        .order(workers::name)
        .select(WorkerRow::as_select())
        .load(connection)?)
}

/// Whether a worker was seen of late, by its own clock: good enough for lists.
pub fn is_up(row: &WorkerRow, now: Timestamp) -> bool {
    row.seen_at.after(DOWN_AFTER) >= now
}

/// Whether an administrator has disabled this worker and one of the others is there to do the work.
pub fn is_resting(connection: &mut DbConnection, name: &str, others: &[String]) -> DbResult<bool> {
    if !services::is_disabled(connection, &service_name(name))? {
        return Ok(false);
    }
    for other in others {
        if !services::is_disabled(connection, &service_name(other))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How many jobs of a queue these workers run at once.
pub fn places(connection: &mut DbConnection, queue: Queue, names: &[&str]) -> DbResult<i64> {
    let counts = all(connection)?
        .into_iter()
        .filter(|row| names.contains(&row.name.as_str()))
        .map(|row| row.places(queue));
    Ok(counts.sum())
}

/// Whether there are workers, and an administrator has disabled all of them.
pub fn are_disabled(connection: &mut DbConnection) -> DbResult<bool> {
    let rows = all(connection)?;
    for row in &rows {
        if !services::is_disabled(connection, &service_name(&row.name))? {
            return Ok(false);
        }
    }
    Ok(!rows.is_empty())
}

/// The name under which an administrator's settings for a worker are kept.
pub fn service_name(worker: &str) -> String {
    format!("{BACKUP_SERVICE}@{worker}")
}

/// Forgets those that were not seen since.
pub fn prune(connection: &mut DbConnection, before: Timestamp) -> DbResult<usize> {
    Ok(diesel::delete(workers::table)
        .filter(workers::seen_at.lt(before))
        .execute(connection)?)
}
