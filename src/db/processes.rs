//! Rows of `processes`: every process of the service, its version, and when it was last seen.

use crate::db::{DbConnection, DbResult};
use crate::model::schema::processes;
use crate::model::time::Timestamp;
use diesel::prelude::*;
use std::time::Duration;

/// How often a process writes its row.
pub const HEARTBEAT: Duration = Duration::from_secs(3);
/// A process that was not seen for so long is taken to be down.
const DOWN_AFTER: Duration = Duration::from_secs(30);

/// A process of the service.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = processes)]
pub struct ProcessRow {
    /// A new one for each start.
    pub id: String,
    /// `serve`, `api` or `worker`.
    pub role: String,
    /// Name of its machine.
    pub host: String,
    pub version: String,
    pub started_at: Timestamp,
    pub seen_at: Timestamp,
}

impl ProcessRow {
    /// Whether it was seen of late, by its own clock: good enough for lists.
    pub fn is_up(&self, now: Timestamp) -> bool {
        self.seen_at.after(DOWN_AFTER) >= now
    }
}

/// Writes a heartbeat.
pub fn put(connection: &mut DbConnection, row: &ProcessRow) -> DbResult<()> {
    let updated = diesel::update(processes::table.find(&row.id))
        .set(row)
        .execute(connection)?;
    if updated == 0 {
        diesel::insert_into(processes::table)
            .values(row)
            .execute(connection)?;
    }
    Ok(())
}

/// All of them, by host and role.
pub fn all(connection: &mut DbConnection) -> DbResult<Vec<ProcessRow>> {
    Ok(processes::table
        .order((processes::host, processes::role, processes::started_at))
        .select(ProcessRow::as_select())
        .load(connection)?)
}

/// Forgets a process that has ended.
pub fn remove(connection: &mut DbConnection, id: &str) -> DbResult<usize> {
    Ok(diesel::delete(processes::table.find(id)).execute(connection)?)
}

/// Forgets those that were not seen since.
pub fn prune(connection: &mut DbConnection, before: Timestamp) -> DbResult<usize> {
    Ok(diesel::delete(processes::table)
        .filter(processes::seen_at.lt(before))
        .execute(connection)?)
}
