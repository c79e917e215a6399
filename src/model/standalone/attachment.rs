//! Attachments, as the standalone catalogue keeps them.

use crate::model::column::Json;
use crate::model::id::{AttachmentId, ProjectId, VolumeId};
use crate::model::schema::attachments;
use crate::model::time::Timestamp;
use crate::model::volume::{AttachMode, AttachStatus};
use diesel::prelude::*;

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
    /// The connector that the attaching side sent; `None` while the attachment is only reserved.
    pub connector: Option<Json<serde_json::Value>>,
    pub attached_at: Option<Timestamp>,
    pub created_at: Timestamp,
}
