//! Rows of `volumes` and `snapshots`, as members of groups and of group snapshots.

use crate::db::{DbConnection, DbResult};
use crate::model::id::{RecordId, VolumeId};
use crate::model::schema::{snapshots, volumes};
use crate::model::standalone::snapshot::Snapshot;
use crate::model::standalone::volume::Volume;
use crate::model::time::Timestamp;
use diesel::prelude::*;

/// The volumes of a group, oldest first.
pub fn volumes(connection: &mut DbConnection, group: &RecordId) -> DbResult<Vec<Volume>> {
    Ok(volumes::table
        .filter(volumes::group_id.eq(group.as_str()))
        .order((volumes::created_at, volumes::id))
        .select(Volume::as_select())
        .load(connection)?)
}

/// Their ids.
pub fn volume_ids(connection: &mut DbConnection, group: &RecordId) -> DbResult<Vec<VolumeId>> {
    Ok(volumes::table
        .filter(volumes::group_id.eq(group.as_str()))
        .order((volumes::created_at, volumes::id))
        .select(volumes::id)
        .load(connection)?)
}

/// The snapshots of a group snapshot, oldest first.
pub fn snapshots(
    connection: &mut DbConnection,
    group_snapshot: &RecordId,
) -> DbResult<Vec<Snapshot>> {
    Ok(snapshots::table
        .filter(snapshots::group_snapshot_id.eq(group_snapshot.as_str()))
        .order((snapshots::created_at, snapshots::id))
        .select(Snapshot::as_select())
        .load(connection)?)
}

/// Puts a volume into a group, or takes it out of its own.
pub fn set_group(
    connection: &mut DbConnection,
    id: &VolumeId,
    group: Option<&RecordId>,
    now: Timestamp,
) -> DbResult<()> {
    diesel::update(volumes::table.find(id))
        .set((
            volumes::group_id.eq(group.map(RecordId::as_str)),
            volumes::updated_at.eq(now),
        ))
        .execute(connection)?;
    Ok(())
}
