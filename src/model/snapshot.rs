//! Volume snapshots, as backups see them, and their states.

use crate::model::column::text_enum;
use crate::model::id::{JobId, ProjectId, SnapshotId, VolumeId};
use crate::model::time::Timestamp;

text_enum! {
    /// Cinder's snapshot states, in its order, as far as a standalone catalogue reaches them.
    SnapshotStatus {
        Error => "error",
        Available => "available",
        Creating => "creating",
        Deleting => "deleting",
        ErrorDeleting => "error_deleting",
        BackingUp => "backing-up",
    }
}

/// A snapshot as backups see it, whichever service keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSnapshot {
    pub id: SnapshotId,
    pub volume_id: VolumeId,
    pub project_id: ProjectId,
    pub status: SnapshotStatus,
    /// The moment of its data: all that was written before is in it.
    pub data_timestamp: Timestamp,
}

/// A snapshot in a state that only a job can end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeldSnapshot {
    pub id: SnapshotId,
    pub volume_id: VolumeId,
    pub status: SnapshotStatus,
    /// The job that holds it. `None`: one that works on the snapshot itself.
    pub job: Option<JobId>,
}
