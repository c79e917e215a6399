//! Rows of `snapshots`.

use crate::db::page::{load_page, matching};
use crate::db::{self, DbConnection, DbResult};
use crate::model::column::Json;
use crate::model::id::{ProjectId, SnapshotId, VolumeId};
use crate::model::job::Lease;
use crate::model::page::{Filter, Listed, Page};
use crate::model::schema::snapshots;
use crate::model::snapshot::{HeldSnapshot, SnapshotStatus};
use crate::model::standalone::snapshot::Snapshot;
use crate::model::time::Timestamp;
use diesel::dsl::{count_star, sql};
use diesel::prelude::*;
use diesel::sql_types::Bool;
use std::collections::BTreeMap;

/// States that only a job can end, in the words of the index `snapshots_busy`.
const IS_BUSY: &str = "status IN ('creating', 'deleting', 'backing-up')";

/// One page of the snapshots that match.
pub fn list(
    connection: &mut DbConnection,
    filter: &Filter,
    page: &Page,
) -> DbResult<Listed<Snapshot>> {
    Ok(load_page!(
        snapshots,
        Snapshot,
        "OCTET_LENGTH(metadata)",
        matching!(snapshots, filter),
        page,
        connection
    ))
}

/// How many snapshots match.
pub fn count(connection: &mut DbConnection, filter: &Filter) -> DbResult<i64> {
    Ok(matching!(snapshots, filter)
        .count()
        .get_result(connection)?)
}

/// The snapshot, whosever it is.
pub fn find(connection: &mut DbConnection, id: &SnapshotId) -> DbResult<Option<Snapshot>> {
    Ok(snapshots::table
        .find(id)
        .select(Snapshot::as_select())
        .first(connection)
        .optional()?)
}

/// Adds a snapshot.
pub fn insert(connection: &mut DbConnection, snapshot: &Snapshot) -> DbResult<()> {
    diesel::insert_into(snapshots::table)
        .values(snapshot)
        .execute(connection)?;
    Ok(())
}

/// Removes a snapshot.
pub fn remove(connection: &mut DbConnection, id: &SnapshotId) -> DbResult<()> {
    diesel::delete(snapshots::table.find(id)).execute(connection)?;
    Ok(())
}

/// Moves a snapshot from one of some states to another. `false`: it is in none of them.
pub fn transition(
    connection: &mut DbConnection,
    id: &SnapshotId,
    from: &[SnapshotStatus],
    to: SnapshotStatus,
    holder: Option<&str>,
    now: Timestamp,
) -> DbResult<bool> {
    let count = diesel::update(snapshots::table.find(id))
        .filter(snapshots::status.eq_any(from.to_vec()))
        .set((
            snapshots::status.eq(to),
            snapshots::reserved_by.eq(holder),
            snapshots::updated_at.eq(now),
        ))
        .execute(connection)?;
    Ok(count == 1)
}

/// Snapshots in a state that only a job can end, with the job that holds them.
pub fn busy(connection: &mut DbConnection) -> DbResult<Vec<HeldSnapshot>> {
    let found: Vec<(SnapshotId, VolumeId, SnapshotStatus, Option<String>)> = snapshots::table
        .filter(sql::<Bool>(IS_BUSY))
        .select((
            snapshots::id,
            snapshots::volume_id,
            snapshots::status,
            snapshots::reserved_by,
        ))
        .load(connection)?;
    let held = found
        .into_iter()
        .map(|(id, volume_id, status, holder)| HeldSnapshot {
            id,
            volume_id,
            status,
            job: holder.and_then(|holder| Lease::job_of(&holder)),
        });
    Ok(held.collect())
}

/// Ends the hold of a lease, or of an earlier run of its job, on a snapshot.
pub fn release(
    connection: &mut DbConnection,
    id: &SnapshotId,
    lease: &Lease,
    now: Timestamp,
) -> DbResult<()> {
    let held: Option<Option<String>> = snapshots::table
        .find(id)
        .select(snapshots::reserved_by)
        .first(connection)
        .optional()?;
    let Some(holder) = held.flatten().filter(|holder| lease.follows(holder)) else {
        return Ok(());
    };
    diesel::update(snapshots::table.find(id))
        .filter(snapshots::reserved_by.eq(holder))
        .set((
            snapshots::status.eq(SnapshotStatus::Available),
            snapshots::reserved_by.eq(None::<String>),
            snapshots::released_by.eq(&lease.job_id),
            snapshots::updated_at.eq(now),
        ))
        .execute(connection)?;
    Ok(())
}

/// Changes name, description or metadata; `None` leaves a field as it is.
pub fn update(
    connection: &mut DbConnection,
    id: &SnapshotId,
    name: Option<&Option<String>>,
    description: Option<&Option<String>>,
    metadata: Option<BTreeMap<String, String>>,
    now: Timestamp,
) -> DbResult<()> {
    let metadata = metadata.map(Json::new);
    diesel::update(snapshots::table.find(id))
        .set((
            name.map(|name| snapshots::name.eq(name)),
            description.map(|text| snapshots::description.eq(text)),
            metadata
                .as_ref()
                .map(|metadata| snapshots::metadata.eq(metadata)),
            Some(snapshots::updated_at.eq(now)),
        ))
        .execute(connection)?;
    Ok(())
}

/// Whether a volume has snapshots.
pub fn any_of(connection: &mut DbConnection, volume: &VolumeId) -> DbResult<bool> {
    Ok(diesel::select(diesel::dsl::exists(
        snapshots::table.filter(snapshots::volume_id.eq(volume)),
    ))
    .get_result(connection)?)
}

/// Snapshots of a project, and the sum of their sizes in GiB.
pub fn usage(connection: &mut DbConnection, project: &ProjectId) -> DbResult<(i64, i64)> {
    Ok(snapshots::table
        .filter(snapshots::project_id.eq(project))
        .select((count_star(), db::sum("size_gib")))
        .first(connection)?)
}

/// Snapshots of each project that has any, and the sum of their sizes in GiB.
pub fn usage_by_project(connection: &mut DbConnection) -> DbResult<Vec<(ProjectId, i64, i64)>> {
    Ok(snapshots::table
        .group_by(snapshots::project_id)
        .select((snapshots::project_id, count_star(), db::sum("size_gib")))
        .load(connection)?)
}

/// Notes how far a snapshot is.
pub fn set_progress(
    connection: &mut DbConnection,
    id: &SnapshotId,
    progress: &str,
) -> DbResult<()> {
    diesel::update(snapshots::table.find(id))
        .set(snapshots::progress.eq(progress))
        .execute(connection)?;
    Ok(())
}

/// Notes when the copy of a snapshot was begun.
pub fn set_taken_at(
    connection: &mut DbConnection,
    id: &SnapshotId,
    moment: Timestamp,
) -> DbResult<()> {
    diesel::update(snapshots::table.find(id))
        .set(snapshots::taken_at.eq(moment))
        .execute(connection)?;
    Ok(())
}

/// The snapshots of a volume, oldest first.
pub fn of_volume(connection: &mut DbConnection, volume: &VolumeId) -> DbResult<Vec<Snapshot>> {
    Ok(snapshots::table
        .filter(snapshots::volume_id.eq(volume))
        .order((snapshots::created_at, snapshots::id))
        .select(Snapshot::as_select())
        .load(connection)?)
}
