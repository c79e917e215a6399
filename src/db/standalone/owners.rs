//! Rows of `volumes` and `snapshots` that go over to another project.

use crate::db::{DbConnection, DbResult};
use crate::model::id::{ProjectId, SnapshotId, UserId, VolumeId};
use crate::model::schema::{snapshots, volumes};
use crate::model::time::Timestamp;
use diesel::prelude::*;

/// Gives a volume to a user of a project.
pub fn give_volume(
    connection: &mut DbConnection,
    id: &VolumeId,
    (project, user): (&ProjectId, &UserId),
    now: Timestamp,
) -> DbResult<()> {
    diesel::update(volumes::table.find(id))
        .set((
            volumes::project_id.eq(project),
            volumes::user_id.eq(user),
            volumes::updated_at.eq(now),
        ))
        .execute(connection)?;
    Ok(())
}

/// Gives a snapshot to a user of a project.
pub fn give_snapshot(
    connection: &mut DbConnection,
    id: &SnapshotId,
    (project, user): (&ProjectId, &UserId),
    now: Timestamp,
) -> DbResult<()> {
    diesel::update(snapshots::table.find(id))
        .set((
            snapshots::project_id.eq(project),
            snapshots::user_id.eq(user),
            snapshots::updated_at.eq(now),
        ))
        .execute(connection)?;
    Ok(())
}
