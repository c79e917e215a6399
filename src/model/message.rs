//! Messages: they tell a user why something that the user asked for has failed (Cinder reference,
//! 8.7).

use crate::model::id::{MessageId, ProjectId};
use crate::model::page::{Column, Kind};
use crate::model::schema::messages;
use crate::model::time::Timestamp;
use diesel::prelude::*;
use std::time::Duration;

/// How long a message is kept: 30 days, as Cinder's `message_ttl`.
pub const LIFETIME: Duration = Duration::from_secs(2_592_000);

/// The operation that failed: Cinder's number and text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    CreateBackup,
    DeleteBackup,
    RestoreBackup,
    CreateVolume,
    ExtendVolume,
}

impl Action {
    fn number_and_text(self) -> (&'static str, &'static str) {
        match self {
            Action::CreateBackup => ("013", "create backup"),
            Action::DeleteBackup => ("014", "delete backup"),
            Action::RestoreBackup => ("015", "restore backup"),
            Action::CreateVolume => ("001", "schedule allocate volume"),
            Action::ExtendVolume => ("007", "extend volume"),
        }
    }
}

/// Why: Cinder's number and text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    CreateFailed,
    DeleteFailed,
    RestoreFailed,
    NoService,
    NoHost,
    /// The volume's file could not be made, or not be made longer.
    ExtendFailed,
    VolumeFailed,
    /// The volume that a restore makes is another than the one that was backed up.
    TypeGone,
    ZoneGone,
    TypeAndZoneGone,
}

impl Detail {
    fn number_and_text(self) -> (&'static str, &'static str) {
        match self {
            Detail::CreateFailed => ("020", "Backup driver failed to create backup."),
            Detail::DeleteFailed => ("025", "Backup driver failed to delete backup."),
            Detail::RestoreFailed => ("026", "Backup driver failed to restore backup."),
            Detail::NoService => (
                "024",
                "Backup failed to schedule. Service not found for creating backup.",
            ),
            Detail::NoHost => ("003", "Could not find any available weighted backend."),
            Detail::ExtendFailed => ("010", "Driver failed to extend the volume."),
            Detail::VolumeFailed => (
                "012",
                "Driver failed to create the volume: it may be too large for the file system.",
            ),
            // Cinder has none of these; 001 is what it cannot tell.
            Detail::TypeGone => (
                "001",
                "The volume type of the backup is not there any more, or not for this project: the new volume has the default type.",
            ),
            Detail::ZoneGone => (
                "001",
                "The availability zone of the backup is not there any more: the new volume is in the default zone.",
            ),
            Detail::TypeAndZoneGone => (
                "001",
                "The volume type and the availability zone of the backup are not there any more, or not for this project: the new volume has the default ones.",
            ),
        }
    }
}

/// One row of `messages`.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = messages)]
pub struct Message {
    pub id: MessageId,
    pub project_id: ProjectId,
    pub request_id: Option<String>,
    pub action: String,
    pub detail: String,
    pub event_id: String,
    pub level: String,
    pub resource_type: Option<String>,
    pub resource_uuid: Option<String>,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
}

/// The columns by which lists of messages are filtered and sorted.
pub static COLUMNS: &[Column] = &[
    Column::new("id", "id", Kind::Text),
    Column::new("created_at", "created_at", Kind::Time),
    Column::new("guaranteed_until", "expires_at", Kind::Time),
    Column::new("event_id", "event_id", Kind::Text),
    Column::new("message_level", "level", Kind::Text),
    Column::nullable("request_id", "request_id", Kind::Text),
    Column::nullable("resource_type", "resource_type", Kind::Text),
    Column::nullable("resource_uuid", "resource_uuid", Kind::Text),
];

impl Message {
    /// A message about a resource.
    pub fn new(
        project_id: ProjectId,
        request_id: Option<String>,
        (action, detail): (Action, Detail),
        (resource_type, resource_uuid): (&str, &str),
        now: Timestamp,
    ) -> Self {
        let (action, action_text) = action.number_and_text();
        let (detail, detail_text) = detail.number_and_text();
        Self {
            id: MessageId::random(),
            project_id,
            request_id,
            action: action_text.to_owned(),
            detail: detail_text.to_owned(),
            event_id: format!("VOLUME_{resource_type}_{action}_{detail}"),
            level: "ERROR".to_owned(),
            resource_type: Some(resource_type.to_owned()),
            resource_uuid: Some(resource_uuid.to_owned()),
            created_at: now,
            expires_at: now.after(LIFETIME),
        }
    }

    /// The text for the user.
    pub fn text(&self) -> String {
        format!("{}:{}", self.action, self.detail)
    }
}
