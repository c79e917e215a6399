//! Volumes, their types and attachments, as the standalone catalogue keeps them.

use crate::model::column::{Json, text_enum};
use crate::model::id::{
    AttachmentId, BackupId, JobId, ProjectId, SnapshotId, UserId, VolumeId, VolumeTypeId,
};
use crate::model::page::{ALWAYS, Column, Kind, NO_TEXT};
use crate::model::schema::{attachments, volume_types, volumes};
use crate::model::time::Timestamp;
use diesel::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes in a GiB, the unit of volume sizes.
pub const GIB: u64 = 1 << 30;

text_enum! {
    /// Cinder's volume states, as far as a standalone catalogue reaches them.
    VolumeStatus {
        Creating => "creating",
        Available => "available",
        Reserved => "reserved",
        Attaching => "attaching",
        Detaching => "detaching",
        InUse => "in-use",
        Maintenance => "maintenance",
        Deleting => "deleting",
        Extending => "extending",
        Retyping => "retyping",
        AwaitingTransfer => "awaiting-transfer",
        Managing => "managing",
        Downloading => "downloading",
        Uploading => "uploading",
        BackingUp => "backing-up",
        RestoringBackup => "restoring-backup",
        Error => "error",
        ErrorDeleting => "error_deleting",
        ErrorRestoring => "error_restoring",
        ErrorBackingUp => "error_backing-up",
        ErrorExtending => "error_extending",
    }
}

/// One row of `volumes`.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = volumes)]
pub struct Volume {
    pub id: VolumeId,
    pub project_id: ProjectId,
    pub user_id: UserId,
    pub name: Option<String>,
    pub description: Option<String>,
    pub size_gib: i64,
    pub status: VolumeStatus,
    /// The state to return to when the work that holds the volume ends.
    pub previous_status: Option<VolumeStatus>,
    pub volume_type_id: VolumeTypeId,
    pub bootable: bool,
    /// `None` until somebody said either.
    pub readonly: Option<bool>,
    pub snapshot_id: Option<SnapshotId>,
    pub source_volume_id: Option<VolumeId>,
    pub availability_zone: String,
    pub metadata: Json<BTreeMap<String, String>>,
    /// Who holds the volume now: a lease, as text.
    pub reserved_by: Option<String>,
    /// The last job that ended on the volume; lets a repeated job see that it is done.
    pub released_by: Option<JobId>,
    pub group_id: Option<String>,
    pub multiattach: bool,
    /// What is known of the image the volume was made from.
    pub image_metadata: Json<BTreeMap<String, String>>,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
}

impl Volume {
    /// Size in bytes.
    pub fn size_bytes(&self) -> u64 {
        u64::try_from(self.size_gib).unwrap_or(0) * GIB
    }
}

/// What a restored volume takes over from the volume that was backed up.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct SavedVolume {
    pub name: Option<String>,
    pub description: Option<String>,
    pub bootable: bool,
    pub metadata: BTreeMap<String, String>,
}

/// What becomes of the target when a restore succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredFrom {
    pub backup_id: BackupId,
    pub source_volume_id: VolumeId,
    pub saved: SavedVolume,
}

text_enum! {
    /// States of an attachment (Cinder reference, 8.6).
    AttachStatus {
        Reserved => "reserved",
        Attaching => "attaching",
        Attached => "attached",
        Detached => "detached",
    }
}

text_enum! {
    /// What an attachment may do with the volume's bytes.
    AttachMode {
        ReadWrite => "rw",
        ReadOnly => "ro",
    }
}

/// One row of `attachments`.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = attachments)]
pub struct Attachment {
    pub id: AttachmentId,
    pub volume_id: VolumeId,
    pub project_id: ProjectId,
    pub instance_id: Option<String>,
    pub host: Option<String>,
    pub mountpoint: Option<String>,
    pub mode: AttachMode,
    pub status: AttachStatus,
    /// What the attaching side said of itself; `None` while the attachment is only reserved.
    pub connector: Option<Json<serde_json::Value>>,
    pub attached_at: Option<Timestamp>,
    pub created_at: Timestamp,
}

/// One row of `volume_types`.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = volume_types)]
pub struct VolumeType {
    pub id: VolumeTypeId,
    pub name: String,
    pub description: Option<String>,
    pub is_public: bool,
    pub extra_specs: Json<BTreeMap<String, String>>,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
    pub qos_specs_id: Option<String>,
    pub encryption: Option<Json<TypeEncryption>>,
    /// Projects that may use the type although it is not public.
    pub projects: Json<BTreeSet<String>>,
}

/// How volumes of a type would be encrypted. Kept for clients; standalone volumes are not encrypted.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TypeEncryption {
    pub encryption_id: String,
    pub provider: String,
    pub control_location: String,
    pub cipher: Option<String>,
    pub key_size: Option<i64>,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
}

/// Name of the type every installation has.
pub const DEFAULT_TYPE_NAME: &str = "__DEFAULT__";

/// What lists of volumes can be filtered and sorted by. Columns that only Cinder has are empty here.
pub static COLUMNS: &[Column] = &[
    Column::new("id", "id", Kind::Text),
    Column::new("created_at", "created_at", Kind::Time),
    Column::nullable("updated_at", "updated_at", Kind::Time),
    Column::new("user_id", "user_id", Kind::Text),
    Column::new("project_id", "project_id", Kind::Text),
    Column::nullable("display_name", "name", Kind::Text),
    Column::nullable("name", "name", Kind::Text),
    Column::nullable("display_description", "description", Kind::Text),
    Column::nullable("description", "description", Kind::Text),
    Column::new("status", "status", Kind::Text),
    Column::new("metadata", "metadata", Kind::Map),
    Column::new("size", "size_gib", Kind::Number),
    Column::nullable("group_id", "group_id", Kind::Text),
    Column::new("volume_type_id", "volume_type_id", Kind::Text),
    Column::new("bootable", "bootable", Kind::Flag),
    Column::nullable("snapshot_id", "snapshot_id", Kind::Text),
    Column::nullable("source_volid", "source_volume_id", Kind::Text),
    Column::new("availability_zone", "availability_zone", Kind::Text),
    Column::new("consumes_quota", ALWAYS, Kind::Flag),
    Column::new("migration_status", NO_TEXT, Kind::Text),
    Column::new("host", NO_TEXT, Kind::Text),
    Column::new("launched_at", "created_at", Kind::Time),
];
