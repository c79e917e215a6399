//! Volume snapshots of the standalone catalogue.

use crate::model::column::Json;
use crate::model::id::{JobId, ProjectId, SnapshotId, UserId, VolumeId};
use crate::model::page::{ALWAYS, Column, Kind, NO_TEXT};
use crate::model::schema::snapshots;
use crate::model::snapshot::{SnapshotStatus, SourceSnapshot};
use crate::model::time::Timestamp;
use diesel::prelude::*;
use std::collections::BTreeMap;

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
    pub group_snapshot_id: Option<String>,
    /// Set by those who make snapshots elsewhere, such as `50%`.
    pub progress: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
    /// When its copy was begun. A volume in use goes on changing until then.
    pub taken_at: Option<Timestamp>,
}

impl From<Snapshot> for SourceSnapshot {
    fn from(row: Snapshot) -> Self {
        Self {
            id: row.id,
            volume_id: row.volume_id,
            project_id: row.project_id,
            status: row.status,
            data_timestamp: row.taken_at.unwrap_or(row.created_at),
        }
    }
}

/// The columns by which lists of snapshots are filtered and sorted. Columns that only Cinder has are empty here.
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
    Column::new("volume_size", "size_gib", Kind::Number),
    Column::new("size", "size_gib", Kind::Number),
    Column::new("volume_id", "volume_id", Kind::Text),
    Column::new("consumes_quota", ALWAYS, Kind::Flag),
    Column::new("availability_zone", NO_TEXT, Kind::Text),
    Column::nullable("progress", "progress", Kind::Text),
];
