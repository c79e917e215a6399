//! Volumes, as backups see them, and their states.

use crate::model::column::text_enum;
use crate::model::id::{BackupId, JobId, ProjectId, VolumeId};
use crate::model::number::ImpossibleNumber;
use std::collections::BTreeMap;

/// Bytes in a GiB, the unit of volume sizes.
pub const GIB: u64 = 1 << 30;

/// The bytes of a volume of this size.
pub fn bytes_of(size_gib: i64) -> Result<u64, ImpossibleNumber> {
    u64::try_from(size_gib)
        .ok()
        .and_then(|size| size.checked_mul(GIB))
        .ok_or_else(|| ImpossibleNumber::new(size_gib, "the size of a volume in GiB"))
}

text_enum! {
    /// Cinder's volume states, in its order.
    VolumeStatus {
        Creating => "creating",
        Available => "available",
        Deleting => "deleting",
        Error => "error",
        ErrorDeleting => "error_deleting",
        ErrorManaging => "error_managing",
        Managing => "managing",
        Attaching => "attaching",
        InUse => "in-use",
        Detaching => "detaching",
        Maintenance => "maintenance",
        RestoringBackup => "restoring-backup",
        ErrorRestoring => "error_restoring",
        Reserved => "reserved",
        AwaitingTransfer => "awaiting-transfer",
        BackingUp => "backing-up",
        ErrorBackingUp => "error_backing-up",
        ErrorExtending => "error_extending",
        Downloading => "downloading",
        Uploading => "uploading",
        Retyping => "retyping",
        Extending => "extending",
    }
}

/// A volume as backups see it, whichever service keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceVolume {
    pub id: VolumeId,
    pub project_id: ProjectId,
    pub name: Option<String>,
    pub size_gib: i64,
    pub status: VolumeStatus,
    /// Why it can neither be backed up nor restored to, if so.
    pub unsupported: Option<String>,
}

/// A volume in a state that only a job can end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeldVolume {
    pub id: VolumeId,
    pub status: VolumeStatus,
    /// The job that holds it. `None`: one that works on the volume itself.
    pub job: Option<JobId>,
}

/// A file that a job works in, until what it makes there is whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WorkFile {
    pub name: String,
    /// The id of the job, or of the volume or snapshot that it makes.
    pub of: String,
}

/// Properties that a restored volume takes over from the volume that was backed up.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct SavedVolume {
    pub name: Option<String>,
    pub description: Option<String>,
    pub bootable: bool,
    pub metadata: BTreeMap<String, String>,
    /// The name of its type, where a restore can ask for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub availability_zone: Option<String>,
    /// What is known of the image that it was made from.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub image_metadata: BTreeMap<String, String>,
}

/// The backup that a target was restored from, and the properties that it takes over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredFrom {
    pub backup_id: BackupId,
    pub source_volume_id: VolumeId,
    pub saved: SavedVolume,
}

/// The name of a volume that a restore makes begins so, unless the user gives another.
const RESTORE_NAME_PREFIX: &str = "restore_backup_";
/// Metadata of a volume that was restored: the backup.
const SOURCE_BACKUP_KEY: &str = "src_backup_id";

/// Changes of a target after its restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenOver {
    /// The saved name and description, where the target has no name of its own.
    pub naming: Option<(String, Option<String>)>,
    /// The whole metadata.
    pub metadata: BTreeMap<String, String>,
    /// It was not bootable, and now it is.
    pub becomes_bootable: bool,
    /// What is added to, or changed of, what is known of its image.
    pub image_metadata: BTreeMap<String, String>,
}

impl RestoredFrom {
    /// The changes of a target with this id and name (Cinder reference, 5.3).
    pub fn taken_over(&self, id: &VolumeId, name: Option<&str>, is_bootable: bool) -> TakenOver {
        let saved = &self.saved;
        let name = name.unwrap_or_default();
        let is_unnamed = name.is_empty() || name.starts_with(RESTORE_NAME_PREFIX);
        let saved_name = saved
            .name
            .clone()
            .filter(|name| is_unnamed && !name.is_empty());
        let mut metadata = saved.metadata.clone();
        if *id != self.source_volume_id || metadata.contains_key(SOURCE_BACKUP_KEY) {
            metadata.insert(SOURCE_BACKUP_KEY.to_owned(), self.backup_id.to_string());
        }
        TakenOver {
            naming: saved_name.map(|name| (name, saved.description.clone())),
            metadata,
            becomes_bootable: saved.bootable && !is_bootable,
            image_metadata: saved.image_metadata.clone(),
        }
    }
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
    /// Whether an attachment may write the volume's bytes.
    AttachMode {
        ReadWrite => "rw",
        ReadOnly => "ro",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_that_no_volume_has_is_an_error_and_not_another_size() {
        assert_eq!(bytes_of(3).unwrap(), 3 * GIB);
        for size in [-1, i64::MIN, 1 << 34, i64::MAX] {
            let error = bytes_of(size).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{size} cannot be")), "{error}");
        }
    }

    #[test]
    fn what_is_not_known_of_a_volume_is_not_stored() {
        let plain = r#"{"name":"n","description":null,"bootable":false,"metadata":{}}"#;
        let read: SavedVolume = serde_json::from_str(plain).unwrap();
        assert_eq!(read.volume_type, None);
        assert_eq!(serde_json::to_string(&read).unwrap(), plain);
        let more = SavedVolume {
            volume_type: Some("gold".to_owned()),
            availability_zone: Some("east".to_owned()),
            image_metadata: BTreeMap::from([("os".to_owned(), "linux".to_owned())]),
            ..read
        };
        let stored = serde_json::to_string(&more).unwrap();
        assert_eq!(serde_json::from_str::<SavedVolume>(&stored).unwrap(), more);
    }
}
