//! Cinder's descriptions of volumes and snapshots, as far as backups and restores need them.

use serde::Deserialize;
use std::collections::BTreeMap;

/// A volume as an administrator sees it.
#[derive(Debug, Clone, Deserialize)]
pub struct CinderVolume {
    pub id: String,
    /// `None`: the asking user is no administrator.
    #[serde(rename = "os-vol-tenant-attr:tenant_id")]
    pub project_id: Option<String>,
    pub name: Option<String>,
    pub description: Option<String>,
    /// GiB.
    pub size: i64,
    pub status: String,
    /// `host@backend#pool`, for an administrator.
    #[serde(rename = "os-vol-host-attr:host")]
    pub host: Option<String>,
    /// The id under which the backend knows the volume after a migration.
    #[serde(rename = "os-vol-mig-status-attr:name_id")]
    pub name_id: Option<String>,
    #[serde(default)]
    pub encrypted: bool,
    /// `true` or `false`, as a text.
    #[serde(default)]
    pub bootable: String,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// The name of its type.
    pub volume_type: Option<String>,
    pub availability_zone: Option<String>,
    #[serde(default, rename = "volume_image_metadata")]
    pub image_metadata: BTreeMap<String, String>,
}

impl CinderVolume {
    /// The backend that keeps it: the part of `host@backend#pool` in the middle.
    pub fn backend(&self) -> Option<&str> {
        let (_, rest) = self.host.as_deref()?.split_once('@')?;
        Some(rest.split_once('#').map_or(rest, |(backend, _)| backend))
    }

    /// Its RBD image.
    pub fn image(&self) -> String {
        format!("volume-{}", self.name_id.as_deref().unwrap_or(&self.id))
    }
}

/// A snapshot as an administrator sees it.
#[derive(Debug, Clone, Deserialize)]
pub struct CinderSnapshot {
    pub id: String,
    pub volume_id: String,
    #[serde(rename = "os-extended-snapshot-attributes:project_id")]
    pub project_id: Option<String>,
    pub status: String,
    pub created_at: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_volume_names_its_backend_and_image() {
        let volume = |host: &str, name_id: Option<&str>| -> CinderVolume {
            serde_json::from_value(json!({
                "id": "v", "size": 1, "status": "available",
                "os-vol-host-attr:host": host, "os-vol-mig-status-attr:name_id": name_id,
            }))
            .unwrap()
        };
        let plain = volume("host@ceph#volumes", None);
        assert_eq!(plain.backend(), Some("ceph"));
        assert_eq!(plain.image(), "volume-v");
        let migrated = volume("host@ceph", Some("w"));
        assert_eq!(migrated.backend(), Some("ceph"));
        assert_eq!(migrated.image(), "volume-w");
        assert_eq!(volume("host", None).backend(), None);
    }
}
