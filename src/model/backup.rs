//! The backup: Cinder's resource as we store it, its states and their legal moves.

use crate::model::column::{Json, text_enum};
use crate::model::description::Description;
use crate::model::id::{BackupId, ProjectId, SnapshotId, StorageId, UserId, VaultId, VolumeId};
use crate::model::page::{Column, Kind, NO_NUMBER, NO_TEXT};
use crate::model::schema::backups;
use crate::model::time::Timestamp;
use crate::model::volume::SavedVolume;
use diesel::prelude::*;
use std::collections::BTreeMap;

/// Longest `fail_reason` in characters (Cinder reference, 2.2).
pub const FAIL_REASON_CHARS_MAX: usize = 255;

text_enum! {
    /// Cinder's backup states (reference, 5.1).
    BackupStatus {
        Creating => "creating",
        Available => "available",
        Restoring => "restoring",
        Deleting => "deleting",
        Error => "error",
        ErrorDeleting => "error_deleting",
    }
}

/// Events that change the status of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupEvent {
    Finished,
    Failed,
    RestoreRequested,
    DeleteRequested,
    /// By an administrator, whatever the state.
    ForceDeleteRequested,
    /// An administrator declares it failed, whatever the state.
    DeclaredFailed,
    /// An administrator declares it sound; its data was looked for.
    DeclaredAvailable,
}

impl BackupStatus {
    /// The state after an event; `None` where the move is refused.
    pub fn after(self, event: BackupEvent) -> Option<BackupStatus> {
        use BackupEvent::{
            DeclaredAvailable, DeclaredFailed, DeleteRequested, Failed, Finished,
            ForceDeleteRequested, RestoreRequested,
        };
        use BackupStatus::{Available, Creating, Deleting, Error, ErrorDeleting, Restoring};
        match (self, event) {
            (Creating, Finished) => Some(Available),
            (Creating, Failed) => Some(Error),
            (Available, RestoreRequested) => Some(Restoring),
            // A failed restore does not spoil the backup.
            (Restoring, Finished | Failed) => Some(Available),
            (Available | Error, DeleteRequested) => Some(Deleting),
            // As Cinder's drivers do: the owner can try again.
            (Deleting, Failed) => Some(Error),
            (_, ForceDeleteRequested) => Some(Deleting),
            (_, DeclaredFailed) => Some(Error),
            (Available | Restoring | Error | ErrorDeleting, DeclaredAvailable) => Some(Available),
            (Creating | Deleting, DeclaredAvailable) => None,
            (Creating, RestoreRequested | DeleteRequested)
            | (Restoring, RestoreRequested | DeleteRequested)
            | (Available, Finished | Failed)
            | (Error, Finished | Failed | RestoreRequested)
            | (Deleting, Finished | RestoreRequested | DeleteRequested)
            | (ErrorDeleting, Finished | Failed | RestoreRequested | DeleteRequested) => None,
        }
    }

    /// The states in which an event is legal: the `IN (…)` list of its compare-and-set.
    pub fn before(event: BackupEvent) -> Vec<BackupStatus> {
        Self::ALL
            .iter()
            .copied()
            .filter(|status| status.after(event).is_some())
            .collect()
    }
}

/// One row of `backups`.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = backups)]
pub struct Backup {
    pub id: BackupId,
    pub project_id: ProjectId,
    pub user_id: UserId,
    pub storage_id: StorageId,
    /// Known once the first byte was stored.
    pub vault_id: Option<VaultId>,
    pub volume_id: VolumeId,
    pub snapshot_id: Option<SnapshotId>,
    /// The backup this one was made against; kept for display after that backup is gone.
    pub parent_id: Option<BackupId>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub status: BackupStatus,
    /// Size of the volume when the backup was made, GiB.
    pub size_gib: i64,
    /// Packs this backup wrote.
    pub object_count: i64,
    pub fail_reason: Option<String>,
    pub availability_zone: Option<String>,
    pub container: Option<String>,
    pub metadata: Json<BTreeMap<String, String>>,
    pub data_timestamp: Option<Timestamp>,
    pub restore_volume_id: Option<VolumeId>,
    /// The backup whose root holds the data, where it is another: imported records may share data.
    pub root_id: Option<BackupId>,
    /// Serialized bitmap of the pack numbers this backup needs; set when it becomes available.
    pub pack_set: Option<Vec<u8>>,
    /// Bytes of the volume that are not holes.
    pub logical_bytes: i64,
    /// Bytes read from the source.
    pub read_bytes: i64,
    /// Bytes added to the store.
    pub stored_bytes: i64,
    /// Plain bytes found already stored.
    pub deduplicated_bytes: i64,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
    /// The type and the zone of the volume that was backed up, for a volume that a restore makes. Known once the backup
    /// is available.
    pub volume_type: Option<String>,
    pub volume_zone: Option<String>,
}

/// The columns by which lists of backups are filtered and sorted (Cinder reference, 4.1). Columns that only
/// Cinder has are empty here.
pub static COLUMNS: &[Column] = &[
    Column::new("id", "id", Kind::Text),
    Column::new("created_at", "created_at", Kind::Time),
    Column::nullable("updated_at", "updated_at", Kind::Time),
    Column::new("user_id", "user_id", Kind::Text),
    Column::new("project_id", "project_id", Kind::Text),
    Column::new("volume_id", "volume_id", Kind::Text),
    Column::nullable("availability_zone", "availability_zone", Kind::Text),
    Column::nullable("display_name", "name", Kind::Text),
    Column::nullable("name", "name", Kind::Text),
    Column::nullable("display_description", "description", Kind::Text),
    Column::nullable("description", "description", Kind::Text),
    Column::nullable("container", "container", Kind::Text),
    Column::nullable("parent_id", "parent_id", Kind::Text),
    Column::new("status", "status", Kind::Text),
    Column::nullable("fail_reason", "fail_reason", Kind::Text),
    Column::new("size", "size_gib", Kind::Number),
    Column::new("object_count", "object_count", Kind::Number),
    Column::nullable("snapshot_id", "snapshot_id", Kind::Text),
    Column::nullable("data_timestamp", "data_timestamp", Kind::Time),
    Column::nullable("restore_volume_id", "restore_volume_id", Kind::Text),
    Column::new("num_dependent_backups", NO_NUMBER, Kind::Number),
    Column::new("host", NO_TEXT, Kind::Text),
    Column::new("service_metadata", NO_TEXT, Kind::Text),
    Column::new("service", NO_TEXT, Kind::Text),
    Column::new("temp_volume_id", NO_TEXT, Kind::Text),
    Column::new("temp_snapshot_id", NO_TEXT, Kind::Text),
    Column::new("encryption_key_id", NO_TEXT, Kind::Text),
];

impl Backup {
    /// The row of a backup that is being created in a storage, where nothing is stored yet.
    pub fn new(described: Description, storage_id: StorageId) -> Self {
        let Description {
            id,
            project_id,
            user_id,
            volume_id,
            snapshot_id,
            parent_id,
            name,
            description,
            metadata,
            size_gib,
            availability_zone,
            container,
            created_at,
            data_timestamp,
            volume,
        } = described;
        Self {
            id,
            project_id,
            user_id,
            storage_id,
            vault_id: None,
            volume_id,
            snapshot_id,
            parent_id,
            name,
            description,
            status: BackupStatus::Creating,
            size_gib,
            object_count: 0,
            fail_reason: None,
            availability_zone,
            container,
            metadata: Json::new(metadata),
            data_timestamp,
            restore_volume_id: None,
            root_id: None,
            pack_set: None,
            logical_bytes: 0,
            read_bytes: 0,
            stored_bytes: 0,
            deduplicated_bytes: 0,
            created_at,
            updated_at: None,
            volume_type: volume.volume_type,
            volume_zone: volume.availability_zone,
        }
    }

    /// The description for its root, with the data that a restored volume takes over.
    pub fn describe(&self, volume: SavedVolume) -> Description {
        let Self {
            id,
            project_id,
            user_id,
            storage_id: _,
            vault_id: _,
            volume_id,
            snapshot_id,
            parent_id,
            name,
            description,
            status: _,
            size_gib,
            object_count: _,
            fail_reason: _,
            availability_zone,
            container,
            metadata,
            data_timestamp,
            restore_volume_id: _,
            root_id: _,
            pack_set: _,
            logical_bytes: _,
            read_bytes: _,
            stored_bytes: _,
            deduplicated_bytes: _,
            created_at,
            updated_at: _,
            volume_type: _,
            volume_zone: _,
        } = self;
        Description {
            id: id.clone(),
            project_id: project_id.clone(),
            user_id: user_id.clone(),
            volume_id: volume_id.clone(),
            snapshot_id: snapshot_id.clone(),
            parent_id: parent_id.clone(),
            name: name.clone(),
            description: description.clone(),
            metadata: (**metadata).clone(),
            size_gib: *size_gib,
            availability_zone: availability_zone.clone(),
            container: container.clone(),
            created_at: *created_at,
            data_timestamp: *data_timestamp,
            volume,
        }
    }

    /// The name its root bears in the store.
    pub fn root_name(&self) -> &BackupId {
        self.root_id.as_ref().unwrap_or(&self.id)
    }

    /// Whether no more is known than that there is something that cannot be read.
    pub fn is_unreadable(&self) -> bool {
        self.status == BackupStatus::Error
            && self.pack_set.is_none()
            && self.volume_id == VolumeId::unknown()
    }

    /// Whether it is being made, or failed before it was complete. A root of it may be in the storage, and is nothing
    /// to rely upon.
    pub fn is_unfinished(&self) -> bool {
        self.pack_set.is_none() && self.root_id.is_none() && !self.is_unreadable()
    }

    /// Whether it was made against a parent.
    pub fn is_incremental(&self) -> bool {
        self.parent_id.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_can_be_deleted_when_available_or_failed_and_restored_only_when_available() {
        assert_eq!(
            BackupStatus::before(BackupEvent::DeleteRequested),
            [BackupStatus::Available, BackupStatus::Error]
        );
        assert_eq!(
            BackupStatus::before(BackupEvent::RestoreRequested),
            [BackupStatus::Available]
        );
    }

    #[test]
    fn every_word_of_a_state_parses_back() {
        for status in BackupStatus::ALL {
            assert_eq!(BackupStatus::parse(status.as_str()), Some(*status));
        }
        assert_eq!(BackupStatus::parse("AVAILABLE"), None);
    }
}
