//! Quotas: how much of each resource a project may have (Cinder reference, 6.2). Minus one is no
//! limit.

use std::collections::BTreeMap;

/// No limit.
pub const UNLIMITED: i64 = -1;

/// Resources with a limit of their own, whatever volume types there are.
pub const RESOURCES: [&str; 7] = [
    "volumes",
    "per_volume_gigabytes",
    "snapshots",
    "gigabytes",
    "backups",
    "backup_gigabytes",
    "groups",
];

/// Resources that are also counted by volume type, as `volumes_<type>` and so on.
pub const BY_TYPE: [&str; 3] = ["volumes", "gigabytes", "snapshots"];

/// Limits or amounts by resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amounts(pub BTreeMap<String, i64>);

impl Amounts {
    /// The limit of a resource; none if nothing is said of it.
    pub fn limit(&self, resource: &str) -> i64 {
        self.0.get(resource).copied().unwrap_or(UNLIMITED)
    }

    /// How much there is of a resource.
    pub fn used(&self, resource: &str) -> i64 {
        self.0.get(resource).copied().unwrap_or(0)
    }

    /// Whether a total is within the limit of a resource.
    pub fn allows(&self, resource: &str, total: i64) -> bool {
        let limit = self.limit(resource);
        limit < 0 || total <= limit
    }
}
