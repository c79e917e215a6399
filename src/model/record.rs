//! The record of a backup, as an export gives it and an import takes it: Cinder's fields in Cinder's
//! order (Cinder reference, 3.8), so that tools which edit records keep working.

use crate::model::backup::Backup;
use crate::model::description::Description;
use crate::model::error::MALFORMED;
use crate::model::id::{BackupId, SnapshotId, StorageId, VaultId, VolumeId};
use crate::model::time::Timestamp;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

const TEXT_CHARS_MAX: usize = 255;
/// Cinder's largest integer.
const SIZE_GIB_MAX: i64 = 2_147_483_647;

/// The name of our driver in records and lists.
pub const SERVICE: &str = "cinder.backup.drivers.embervault.EmbervaultBackupDriver";

/// A backup's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupRecord {
    #[serde(default)]
    pub driver_info: Map<String, Value>,
    pub id: String,
    #[serde(default)]
    pub user_id: Option<String>,
    #[serde(default)]
    pub project_id: Option<String>,
    #[serde(default)]
    pub volume_id: Option<String>,
    #[serde(default)]
    pub host: Option<String>,
    #[serde(default)]
    pub availability_zone: Option<String>,
    #[serde(default)]
    pub container: Option<String>,
    #[serde(default)]
    pub parent_id: Option<String>,
    #[serde(default)]
    pub status: Option<String>,
    #[serde(default)]
    pub fail_reason: Option<String>,
    pub size: i64,
    #[serde(default)]
    pub display_name: Option<String>,
    #[serde(default)]
    pub display_description: Option<String>,
    /// Where the data is; see [`Locator`].
    #[serde(default)]
    pub service_metadata: Option<String>,
    #[serde(default)]
    pub service: Option<String>,
    #[serde(default)]
    pub object_count: Option<i64>,
    #[serde(default)]
    pub temp_volume_id: Option<String>,
    #[serde(default)]
    pub temp_snapshot_id: Option<String>,
    #[serde(default)]
    pub num_dependent_backups: Option<i64>,
    #[serde(default)]
    pub snapshot_id: Option<String>,
    #[serde(default)]
    pub data_timestamp: Option<String>,
    #[serde(default)]
    pub restore_volume_id: Option<String>,
    #[serde(default)]
    pub metadata: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub encryption_key_id: Option<String>,
    #[serde(default)]
    pub created_at: Option<String>,
    #[serde(default)]
    pub updated_at: Option<String>,
    #[serde(default)]
    pub deleted_at: Option<String>,
    #[serde(default)]
    pub deleted: Option<bool>,
}

/// Where a backup's data is: storage, vault, and the backup whose root it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locator {
    pub storage: StorageId,
    pub vault: VaultId,
    pub root: BackupId,
}

impl Locator {
    /// The locator in a record's `service_metadata`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("embervault:1:")?.split(':');
        let locator = Self {
            storage: StorageId::new(parts.next()?),
            vault: VaultId::new(parts.next()?),
            root: BackupId::new(parts.next()?),
        };
        let is_uuid = |text: &str| uuid::Uuid::parse_str(text).is_ok();
        let is_sound = is_uuid(locator.vault.as_str()) && is_uuid(locator.root.as_str());
        (parts.next().is_none() && is_sound).then_some(locator)
    }
}

impl std::fmt::Display for Locator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            storage,
            vault,
            root,
        } = self;
        write!(f, "embervault:1:{storage}:{vault}:{root}")
    }
}

impl BackupRecord {
    /// The record of a backup whose data is stored.
    pub fn of(backup: &Backup, vault: &VaultId, host: &str, children: i64) -> Self {
        let Backup {
            id,
            project_id,
            user_id,
            storage_id,
            vault_id: _,
            volume_id,
            snapshot_id,
            parent_id,
            name,
            description,
            status,
            size_gib,
            object_count,
            fail_reason,
            availability_zone,
            container,
            metadata,
            data_timestamp,
            restore_volume_id,
            root_id: _,
            pack_set: _,
            logical_bytes: _,
            read_bytes: _,
            stored_bytes: _,
            deduplicated_bytes: _,
            created_at,
            updated_at,
            volume_type: _,
            volume_zone: _,
        } = backup;
        let locator = Locator {
            storage: storage_id.clone(),
            vault: vault.clone(),
            root: backup.root_name().clone(),
        };
        Self {
            driver_info: Map::new(),
            id: id.to_string(),
            user_id: Some(user_id.to_string()),
            project_id: Some(project_id.to_string()),
            volume_id: Some(volume_id.to_string()),
            host: Some(host.to_owned()),
            availability_zone: availability_zone.clone(),
            container: container.clone(),
            parent_id: parent_id.as_ref().map(ToString::to_string),
            status: Some(status.to_string()),
            fail_reason: fail_reason.clone(),
            size: *size_gib,
            display_name: name.clone(),
            display_description: description.clone(),
            service_metadata: Some(locator.to_string()),
            service: Some(SERVICE.to_owned()),
            object_count: Some(*object_count),
            temp_volume_id: None,
            temp_snapshot_id: None,
            num_dependent_backups: Some(children),
            snapshot_id: snapshot_id.as_ref().map(ToString::to_string),
            data_timestamp: data_timestamp.map(Timestamp::zoned),
            restore_volume_id: restore_volume_id.as_ref().map(ToString::to_string),
            metadata: Some((**metadata).clone()),
            encryption_key_id: None,
            created_at: Some(created_at.zoned()),
            updated_at: updated_at.map(Timestamp::zoned),
            deleted_at: None,
            deleted: Some(false),
        }
    }

    /// The description of a backup that is imported as this row: what the record says for display, and what the root
    /// says of the data.
    pub fn describe(&self, row: &Backup, root: &Description) -> Description {
        let Self {
            driver_info: _,
            id: _,
            user_id: _,
            project_id: _,
            volume_id,
            host: _,
            availability_zone,
            container,
            parent_id,
            status: _,
            fail_reason: _,
            size: _,
            display_name,
            display_description,
            service_metadata: _,
            service: _,
            object_count: _,
            temp_volume_id: _,
            temp_snapshot_id: _,
            num_dependent_backups: _,
            snapshot_id,
            data_timestamp,
            restore_volume_id: _,
            metadata,
            encryption_key_id: _,
            created_at,
            updated_at: _,
            deleted_at: _,
            deleted: _,
        } = self;
        let time = |text: &Option<String>| text.as_deref().and_then(Timestamp::parse);
        Description {
            id: row.id.clone(),
            project_id: row.project_id.clone(),
            user_id: row.user_id.clone(),
            volume_id: volume_id
                .as_ref()
                .map_or_else(|| root.volume_id.clone(), VolumeId::new),
            snapshot_id: snapshot_id.as_ref().map(SnapshotId::new),
            parent_id: parent_id.as_ref().map(BackupId::new),
            name: display_name.clone(),
            description: display_description.clone(),
            metadata: metadata.clone().unwrap_or_default(),
            size_gib: root.size_gib,
            availability_zone: availability_zone.clone(),
            container: container.clone(),
            created_at: time(created_at).unwrap_or(root.created_at),
            data_timestamp: time(data_timestamp).or(root.data_timestamp),
            volume: root.volume.clone(),
        }
    }

    /// Whether this service could have made the record. Whether the ids exist is checked later.
    fn is_sound(&self) -> bool {
        let is_text = |text: &Option<String>| {
            text.as_deref()
                .is_none_or(|text| text.chars().count() <= TEXT_CHARS_MAX && !text.contains('\0'))
        };
        let is_id = |text: &Option<String>| {
            text.as_deref()
                .is_none_or(|text| uuid::Uuid::parse_str(text).is_ok())
        };
        let metadata = self.metadata.iter().flatten();
        (0..=SIZE_GIB_MAX).contains(&self.size)
            && [&self.display_name, &self.display_description].map(is_text) == [true, true]
            && [&self.availability_zone, &self.container].map(is_text) == [true, true]
            && [&self.volume_id, &self.parent_id, &self.snapshot_id].map(is_id) == [true; 3]
            && metadata
                .into_iter()
                .all(|(key, value)| is_text(&Some(key.clone())) && is_text(&Some(value.clone())))
    }

    /// The record as `backup_url`: base64 of its JSON.
    pub fn encode(&self) -> String {
        let json = serde_json::to_vec(self).expect("own types serialize to JSON");
        BASE64_STANDARD.encode(json)
    }

    /// Where the data of the backup is, if the record was made by this service.
    pub fn locator(&self) -> Option<Locator> {
        Locator::parse(self.service_metadata.as_deref()?)
    }
}

/// Why a `backup_url` is no record. The texts are Cinder's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("Can't parse backup record.")]
    Unreadable,
    #[error("Provided backup record is missing an id")]
    NoId,
    #[error("Provided backup record is missing size attribute")]
    NoSize,
    /// JSON of another shape, over which Cinder stumbles.
    #[error("{MALFORMED}")]
    NotARecord,
}

/// Reads a `backup_url`. As Python does, characters outside base64's alphabet are passed over.
pub fn decode(url: &str) -> Result<BackupRecord, RecordError> {
    let text: String = url
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "+/=".contains(*c))
        .collect();
    let bytes = BASE64_STANDARD
        .decode(text)
        .map_err(|_| RecordError::Unreadable)?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|_| RecordError::Unreadable)?;
    // As Python asks whether something is in a text, a list or a map.
    let has = |key: &str| match &value {
        Value::Object(map) => Some(map.contains_key(key)),
        Value::Array(items) => Some(items.iter().any(|item| item == key)),
        Value::String(text) => Some(text.contains(key)),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    };
    match (has("id"), has("size")) {
        (Some(false), _) => Err(RecordError::NoId),
        (_, Some(false)) => Err(RecordError::NoSize),
        _ if !value.is_object() => Err(RecordError::NotARecord),
        _ => serde_json::from_value(value)
            .ok()
            .filter(BackupRecord::is_sound)
            .ok_or(RecordError::Unreadable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::{ProjectId, UserId};
    use crate::model::volume::SavedVolume;

    #[test]
    fn what_a_backup_says_of_itself_survives_row_and_record() {
        let text = |text: &str| Some(text.to_owned());
        let described = Description {
            id: BackupId::random(),
            project_id: ProjectId::new("p"),
            user_id: UserId::new("u"),
            volume_id: VolumeId::random(),
            snapshot_id: Some(SnapshotId::random()),
            parent_id: Some(BackupId::random()),
            name: text("name"),
            description: text("description"),
            metadata: BTreeMap::from([("key".to_owned(), "value".to_owned())]),
            size_gib: 3,
            availability_zone: text("zone"),
            container: text("container"),
            created_at: Timestamp(1_700_000_000_000_000),
            data_timestamp: Some(Timestamp(1_600_000_000_000_000)),
            volume: SavedVolume {
                name: text("volume"),
                description: text("of the volume"),
                bootable: true,
                metadata: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
                ..SavedVolume::default()
            },
        };
        let row = Backup::new(described.clone(), StorageId::random());
        assert_eq!(row.describe(described.volume.clone()), described);
        let record = BackupRecord::of(&row, &VaultId::random(), "host", 0);
        let record = decode(&record.encode()).unwrap();
        let (project, user) = (row.project_id.clone(), row.user_id.clone());
        let mut root = Description::blank(row.id.clone(), project, user, Timestamp(0));
        // What is not for display, the record cannot change.
        root.size_gib = described.size_gib;
        root.volume = described.volume.clone();
        assert_eq!(record.describe(&row, &root), described);
    }

    #[test]
    fn rubbish_is_told_apart() {
        let refused = |json: &str| decode(&BASE64_STANDARD.encode(json)).unwrap_err();
        assert_eq!(decode("!!!").unwrap_err(), RecordError::Unreadable);
        for no_id in ["[]", "[1]", r#""x""#] {
            assert_eq!(refused(no_id), RecordError::NoId, "{no_id}");
        }
        assert_eq!(refused(r#"["id"]"#), RecordError::NoSize);
        for other in ["1", "null", "true", r#"["id", "size"]"#] {
            assert_eq!(refused(other), RecordError::NotARecord, "{other}");
        }
        assert_eq!(refused("{}"), RecordError::NoId);
        assert_eq!(refused(r#"{"id":"x"}"#), RecordError::NoSize);
        assert_eq!(refused(r#"{"id":1,"size":1}"#), RecordError::Unreadable);
    }

    #[test]
    fn a_locator_is_read_as_it_was_written_and_nothing_else_is_one() {
        let locator = Locator {
            storage: StorageId::random(),
            vault: VaultId::random(),
            root: BackupId::random(),
        };
        assert_eq!(Locator::parse(&locator.to_string()), Some(locator));
        for text in [
            "",
            "volume_1/2026/az_nova",
            "embervault:1:a:b:c",
            "embervault:1:a",
        ] {
            assert_eq!(Locator::parse(text), None, "{text}");
        }
    }
}
