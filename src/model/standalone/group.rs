//! Groups of volumes, their types and their snapshots.

use crate::model::column::text_enum;
use crate::model::error::Error;
use crate::model::id::{RecordId, UserId, VolumeTypeId};
use crate::model::page::{Column, Kind};
use crate::model::standalone::stored::Resource;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

text_enum! {
    /// States of groups and of group snapshots, in Cinder's order.
    GroupStatus {
        Error => "error",
        Available => "available",
        Creating => "creating",
        Deleting => "deleting",
        Deleted => "deleted",
        Updating => "updating",
        InUse => "in-use",
        ErrorDeleting => "error_deleting",
    }
}

text_enum! {
    /// Who may see a group type: the state of its record.
    Visibility {
        Public => "public",
        Private => "private",
    }
}

impl Visibility {
    /// Everybody, or administrators only.
    pub fn of(is_public: bool) -> Self {
        if is_public {
            Self::Public
        } else {
            Self::Private
        }
    }
}

/// Name of the group type that every Cinder has, for what were consistency groups.
pub const CONSISTENCY_GROUP_TYPE: &str = "default_cgsnapshot_type";

/// The body of a group type. Its name is unique.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupType {
    pub description: Option<String>,
    pub group_specs: BTreeMap<String, String>,
}

impl Resource for GroupType {
    const KIND: &'static str = "group_type";

    fn missing(id: &RecordId) -> Error {
        Error::not_found("Group type", id)
    }
}

/// The body of a group. Volumes name their group, a group does not name its volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub user_id: UserId,
    pub description: Option<String>,
    pub group_type_id: RecordId,
    /// Types its volumes may have.
    pub volume_type_ids: Vec<VolumeTypeId>,
    pub availability_zone: String,
    /// The source of the group.
    pub group_snapshot_id: Option<RecordId>,
    pub source_group_id: Option<RecordId>,
}

impl Resource for Group {
    const KIND: &'static str = "group";

    fn missing(id: &RecordId) -> Error {
        Error::not_found("Group", id)
    }
}

/// The body of a group snapshot. Snapshots name their group snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSnapshot {
    pub user_id: UserId,
    pub description: Option<String>,
    pub group_id: RecordId,
    pub group_type_id: RecordId,
    /// Whether an administrator set the state, which then no longer follows that of the snapshots.
    pub is_reset: bool,
}

impl Resource for GroupSnapshot {
    const KIND: &'static str = "group_snapshot";

    fn missing(id: &RecordId) -> Error {
        Error::not_found("GroupSnapshot", id)
    }
}

/// The columns by which lists of group types are filtered and sorted. `is_public` is a text for requests,
/// where it may be `None`; it is not given to the database.
pub static TYPE_COLUMNS: &[Column] = &[
    Column::new("id", "id", Kind::Text),
    Column::new("created_at", "created_at", Kind::Time),
    Column::nullable("updated_at", "updated_at", Kind::Time),
    Column::nullable("name", "name", Kind::Text),
    Column::new("is_public", "status", Kind::Text),
];

/// The columns by which lists of groups are filtered and sorted. `list_volume` only asks for more to be shown.
pub static COLUMNS: &[Column] = &[
    Column::new("id", "id", Kind::Text),
    Column::new("created_at", "created_at", Kind::Time),
    Column::nullable("updated_at", "updated_at", Kind::Time),
    Column::nullable("name", "name", Kind::Text),
    Column::new("status", "status", Kind::Text),
    Column::new("availability_zone", "body", Kind::Text),
    Column::new("group_type_id", "body", Kind::Text),
    Column::new("list_volume", "body", Kind::Text),
];

/// The columns by which lists of group snapshots are filtered and sorted.
pub static SNAPSHOT_COLUMNS: &[Column] = &[
    Column::new("id", "id", Kind::Text),
    Column::new("created_at", "created_at", Kind::Time),
    Column::nullable("updated_at", "updated_at", Kind::Time),
    Column::nullable("name", "name", Kind::Text),
    Column::new("status", "status", Kind::Text),
    Column::new("group_id", "body", Kind::Text),
    Column::new("group_type_id", "body", Kind::Text),
];
