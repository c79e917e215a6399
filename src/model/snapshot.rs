//! Volume snapshots of the standalone catalogue.

use crate::model::column::{Json, text_enum};
use crate::model::id::{JobId, ProjectId, SnapshotId, UserId, VolumeId};
use crate::model::schema::snapshots;
use crate::model::time::Timestamp;
use diesel::prelude::*;
use std::collections::BTreeMap;

text_enum! {
    /// Cinder's snapshot states.
    SnapshotStatus {
        Creating => "creating",
        Available => "available",
        BackingUp => "backing-up",
        Deleting => "deleting",
        Error => "error",
        ErrorDeleting => "error_deleting",
    }
}

/// One row of `snapshots`.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = snapshots)]
pub struct Snapshot {
    pub id: SnapshotId,
    pub volume_id: VolumeId,
    pub project_id: ProjectId,
    pub user_id: UserId,
    pub name: Option<String>,
    pub description: Option<String>,
    /// Size of the volume when the snapshot was taken, GiB.
    pub size_gib: i64,
    pub status: SnapshotStatus,
    pub metadata: Json<BTreeMap<String, String>>,
    /// Who holds the snapshot now: a lease, as text.
    pub reserved_by: Option<String>,
    /// The last job that ended on the snapshot.
    pub released_by: Option<JobId>,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
}
