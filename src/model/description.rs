//! The description of a backup.

use crate::model::id::{BackupId, ProjectId, SnapshotId, UserId, VolumeId};
use crate::model::metadata::Metadata;
use crate::model::time::Timestamp;
use crate::model::volume::SavedVolume;
use serde::{Deserialize, Serialize};

/// The fields of a backup that users see, carried whole from the request through row, root and exported record. It is
/// made and taken apart without `..`, so that the compiler names each place that must know a new field.
///
/// Roots hold it in this form: names and order of the fields are stored. A new field needs `#[serde(default)]`, as the
/// roots of older backups do not have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    pub id: BackupId,
    pub project_id: ProjectId,
    pub user_id: UserId,
    pub volume_id: VolumeId,
    pub snapshot_id: Option<SnapshotId>,
    /// For display: the backup does not depend on it.
    pub parent_id: Option<BackupId>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub metadata: Metadata,
    pub size_gib: i64,
    pub availability_zone: Option<String>,
    pub container: Option<String>,
    pub created_at: Timestamp,
    pub data_timestamp: Option<Timestamp>,
    /// Kept in the root alone: it is read from the volume while the volume is held.
    pub volume: SavedVolume,
}

impl Description {
    /// A backup of which no more is known than whose it is: of no volume, and empty.
    pub fn blank(
        id: BackupId,
        project_id: ProjectId,
        user_id: UserId,
        created_at: Timestamp,
    ) -> Self {
        Self {
            id,
            project_id,
            user_id,
            volume_id: VolumeId::unknown(),
            snapshot_id: None,
            parent_id: None,
            name: None,
            description: None,
            metadata: Metadata::new(),
            size_gib: 0,
            availability_zone: None,
            container: None,
            created_at,
            data_timestamp: None,
            volume: SavedVolume::default(),
        }
    }
}
