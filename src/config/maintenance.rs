//! Work on stored backups without a request.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Periodic work of workers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Maintenance {
    /// Time between two collections of a vault; zero is never. Deleted backups are removed by the second collection
    /// after the deletion.
    #[serde(with = "humantime_serde")]
    pub collect_every: Duration,
    /// Compact a pack once this percentage of it is unused; 100 is never.
    pub compact_percent: u8,
    /// Time between two verifications of a vault; zero is never.
    #[serde(with = "humantime_serde")]
    pub verify_every: Duration,
    /// Bytes that one verification reads, of the packs that were read the longest time ago. It also checks that
    /// everything is there.
    pub verify_bytes: bytesize::ByteSize,
}

impl Default for Maintenance {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Self {
            collect_every: DAY,
            compact_percent: 40,
            verify_every: DAY,
            verify_bytes: bytesize::ByteSize::gib(1),
        }
    }
}
