//! Quotas of volumes and snapshots (Cinder reference, 1.4, 3.6 and 6.2).

use crate::db::standalone::{records, snapshots, types, volumes};
use crate::db::{self, DbConnection, DbError};
use crate::model::error::Error;
use crate::model::id::{ProjectId, VolumeTypeId};
use crate::model::quota::BY_TYPE;
use crate::model::standalone::group::Group;
use crate::volume::catalog::standalone::Standalone;
use crate::volume::catalog::standalone::demand::Demand;
use std::collections::BTreeMap;

impl Standalone {
    /// Whether a demand is within the project's quotas. The caller holds the project's lock. The
    /// error bears Cinder's class name if asked for. The type of a new volume stays until the transaction ends.
    pub fn check_quota(
        &self,
        c: &mut DbConnection,
        project: &ProjectId,
        demand: &Demand<'_>,
        with_class: bool,
    ) -> Result<(), Error> {
        let quota = db::quotas::limits(c, Some(project), &self.quota)?;
        let used = used(c, project)?;
        db::lock_shared(c, types::CHANGED)?;
        let type_name = type_name(c, demand.type_id)?;
        if demand.volumes > 0 && type_name.is_none() {
            let message = "The volume type has just been deleted.";
            return Err(Error::Conflict(message.to_owned()));
        }
        let type_name = type_name.unwrap_or_default();
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
            let by_type = format!("{kind}_{type_name}");
            let in_all = (!demand.only_by_type).then(|| kind.to_owned());
            for name in in_all.into_iter().chain([by_type]) {
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

/// Resources that are counted by volume type, beside those that every cloud has.
pub fn resources(c: &mut DbConnection) -> Result<Vec<String>, DbError> {
    let types = volumes::type_names(c)?;
    let of_type = |(_, name): &(VolumeTypeId, String)| BY_TYPE.map(|kind| format!("{kind}_{name}"));
    Ok(types.iter().flat_map(of_type).collect())
}

/// A project's usage, by resource.
pub fn usage(c: &mut DbConnection, project: &ProjectId) -> Result<BTreeMap<String, i64>, DbError> {
    let mut used = used(c, project)?;
    let groups = records::count::<Group>(c, project)?;
    used.insert("groups".to_owned(), groups);
    Ok(used)
}

fn used(c: &mut DbConnection, project: &ProjectId) -> Result<BTreeMap<String, i64>, DbError> {
    let mut used = volumes::usage_by_type(c, project)?;
    let (volumes, volume_gib) = volumes::usage(c, project)?;
    let (snapshots, snapshot_gib) = snapshots::usage(c, project)?;
    used.insert("volumes".to_owned(), volumes);
    used.insert("snapshots".to_owned(), snapshots);
    used.insert("gigabytes".to_owned(), volume_gib + snapshot_gib);
    Ok(used)
}

fn type_name(c: &mut DbConnection, id: &VolumeTypeId) -> Result<Option<String>, DbError> {
    let types = volumes::type_names(c)?;
    let found = types.into_iter().find(|(known, _)| known == id);
    Ok(found.map(|(_, name)| name))
}
