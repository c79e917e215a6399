//! The record of a backup, as an export gives it and an import takes it: Cinder's fields in Cinder's
//! order (Cinder reference, 3.8), so that tools which edit records keep working.

use crate::model::backup::Backup;
use crate::model::id::{BackupId, StorageId, VaultId};
use crate::model::time::Timestamp;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

const TEXT_CHARS_MAX: usize = 255;
/// Cinder's largest integer.
const SIZE_GIB_MAX: i64 = 2_147_483_647;

/// What stands for our driver in records and lists.
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
        let locator = Locator {
            storage: backup.storage_id.clone(),
            vault: vault.clone(),
            root: backup.root_name().clone(),
        };
        Self {
            driver_info: Map::new(),
            id: backup.id.to_string(),
            user_id: Some(backup.user_id.to_string()),
            project_id: Some(backup.project_id.to_string()),
            volume_id: Some(backup.volume_id.to_string()),
            host: Some(host.to_owned()),
            availability_zone: backup.availability_zone.clone(),
            container: backup.container.clone(),
            parent_id: backup.parent_id.as_ref().map(ToString::to_string),
            status: Some(backup.status.to_string()),
            fail_reason: backup.fail_reason.clone(),
            size: backup.size_gib,
            display_name: backup.name.clone(),
            display_description: backup.description.clone(),
            service_metadata: Some(locator.to_string()),
            service: Some(SERVICE.to_owned()),
            object_count: Some(backup.object_count),
            temp_volume_id: None,
            temp_snapshot_id: None,
            num_dependent_backups: Some(children),
            snapshot_id: backup.snapshot_id.as_ref().map(ToString::to_string),
            data_timestamp: backup.data_timestamp.map(Timestamp::zoned),
            restore_volume_id: backup.restore_volume_id.as_ref().map(ToString::to_string),
            metadata: Some((*backup.metadata).clone()),
            encryption_key_id: None,
            created_at: Some(backup.created_at.zoned()),
            updated_at: backup.updated_at.map(Timestamp::zoned),
            deleted_at: None,
            deleted: Some(false),
        }
    }

    /// Whether all it says could have been said by this service. Ids are told apart later.
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
    match &value {
        Value::Object(map) if !map.contains_key("id") => Err(RecordError::NoId),
        Value::Object(map) if !map.contains_key("size") => Err(RecordError::NoSize),
        _ => serde_json::from_value(value)
            .ok()
            .filter(BackupRecord::is_sound)
            .ok_or(RecordError::Unreadable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rubbish_is_told_apart() {
        let refused = |json: &str| decode(&BASE64_STANDARD.encode(json)).unwrap_err();
        assert_eq!(decode("!!!").unwrap_err(), RecordError::Unreadable);
        assert_eq!(refused("[]"), RecordError::Unreadable);
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
