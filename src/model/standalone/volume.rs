//! Volumes, as the standalone catalogue keeps them.

use crate::model::column::Json;
use crate::model::id::{JobId, ProjectId, SnapshotId, UserId, VolumeId, VolumeTypeId};
use crate::model::page::{ALWAYS, Column, Kind, NO_TEXT};
use crate::model::schema::volumes;
use crate::model::time::Timestamp;
use crate::model::volume::{SourceVolume, VolumeStatus};
use diesel::prelude::*;
use std::collections::BTreeMap;

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
    /// `None` until it was set.
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
    /// Metadata of the image that the volume was made from.
    pub image_metadata: Json<BTreeMap<String, String>>,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
}

impl Volume {
    /// Whether it is filled from a snapshot or another volume when it is made.
    pub fn is_copy(&self) -> bool {
        self.snapshot_id.is_some() || self.source_volume_id.is_some()
    }
}

impl From<Volume> for SourceVolume {
    fn from(row: Volume) -> Self {
        Self {
            id: row.id,
            project_id: row.project_id,
            name: row.name,
            size_gib: row.size_gib,
            status: row.status,
            unsupported: None,
        }
    }
}

/// The columns by which lists of volumes are filtered and sorted. Columns that only Cinder has are empty here.
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
