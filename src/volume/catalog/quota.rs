//! Quotas of volumes and snapshots (Cinder reference, 1.4, 3.6 and 6.2).

use crate::db::{self, DbConnection, DbError};
use crate::model::error::Error;
use crate::model::id::{ProjectId, VolumeTypeId};
use crate::volume::catalog::Catalog;

/// What a request would add to a project.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    volumes: i64,
    snapshots: i64,
    gigabytes: i64,
    /// Size of the one volume it is about, GiB.
    volume_gib: Option<i64>,
    type_id: &'a VolumeTypeId,
}

impl<'a> Demand<'a> {
    /// One more volume.
    pub fn volume(size_gib: i64, type_id: &'a VolumeTypeId) -> Self {
        Self {
            volumes: 1,
            snapshots: 0,
            gigabytes: size_gib,
            volume_gib: Some(size_gib),
            type_id,
        }
    }

    /// One more snapshot.
    pub fn snapshot(size_gib: i64, type_id: &'a VolumeTypeId) -> Self {
        Self {
            volumes: 0,
            snapshots: 1,
            gigabytes: size_gib,
            volume_gib: None,
            type_id,
        }
    }

    /// A volume that grows.
    pub fn growth(from_gib: i64, to_gib: i64, type_id: &'a VolumeTypeId) -> Self {
        Self {
            volumes: 0,
            snapshots: 0,
            gigabytes: to_gib - from_gib,
            volume_gib: Some(to_gib),
            type_id,
        }
    }
}

impl Catalog {
    /// Whether a demand is within the project's quotas. The caller holds the project's lock. The
    /// error bears Cinder's class name if asked for.
    pub fn check_quota(
        &self,
        c: &mut DbConnection,
        project: &ProjectId,
        demand: &Demand<'_>,
        with_class: bool,
    ) -> Result<(), Error> {
        let quota = db::quotas::limits(c, Some(project), &self.quota)?;
        let mut used = db::volumes::usage_by_type(c, project)?;
        let (volumes, volume_gib) = db::volumes::usage(c, project)?;
        let (snapshots, snapshot_gib) = db::snapshots::usage(c, project)?;
        used.insert("volumes".to_owned(), volumes);
        used.insert("snapshots".to_owned(), snapshots);
        used.insert("gigabytes".to_owned(), volume_gib + snapshot_gib);
        let type_name = type_name(c, demand.type_id)?;
        let refuse = |class: &'static str, message: String| {
            let class = with_class.then_some(class);
            Err(Error::OverQuota { class, message })
        };
        // Of several that are over, the gigabytes are named: Cinder goes through the names in order.
        for (kind, added) in [
            ("gigabytes", demand.gigabytes),
            ("volumes", demand.volumes),
            ("snapshots", demand.snapshots),
        ] {
            for name in [kind.to_owned(), format!("{kind}_{type_name}")] {
                let consumed = used.get(&name).copied().unwrap_or(0);
                if added == 0 || quota.allows(&name, consumed.saturating_add(added)) {
                    continue;
                }
                let limit = quota.limit(&name);
                return match kind {
                    "gigabytes" => refuse(
                        "VolumeSizeExceedsAvailableQuota",
                        format!(
                            "Requested volume or snapshot exceeds allowed {name} quota. Requested \
                             {added}G, quota is {limit}G and {consumed}G has been consumed."
                        ),
                    ),
                    "volumes" => refuse(
                        "VolumeLimitExceeded",
                        format!(
                            "Maximum number of volumes allowed ({limit}) exceeded for quota '{name}'."
                        ),
                    ),
                    _ => refuse(
                        "SnapshotLimitExceeded",
                        format!("Maximum number of snapshots allowed ({limit}) exceeded"),
                    ),
                };
            }
        }
        match demand.volume_gib {
            Some(size) if !quota.allows("per_volume_gigabytes", size) => refuse(
                "VolumeSizeExceedsLimit",
                format!(
                    "Requested volume size {size}G is larger than maximum allowed limit {}G.",
                    quota.limit("per_volume_gigabytes")
                ),
            ),
            _ => Ok(()),
        }
    }
}

fn type_name(c: &mut DbConnection, id: &VolumeTypeId) -> Result<String, DbError> {
    let types = db::volumes::list_types(c)?;
    let found = types.into_iter().find(|row| row.id == *id);
    Ok(found.map_or_else(String::new, |row| row.name))
}
