//! Work on stored backups that nobody asks for.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What workers do by themselves.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Maintenance {
    /// Time between two collections of a vault; zero is never. What was deleted is gone after two.
    #[serde(with = "humantime_serde")]
    pub collect_every: Duration,
    /// Packs of which at least so much is dead are written again without it; 100 is never.
    pub compact_percent: u8,
    /// Time between two verifications of a vault; zero is never.
    #[serde(with = "humantime_serde")]
    pub verify_every: Duration,
    /// Bytes that one verification reads of packs that were not read for the longest time; beyond
    /// them it looks whether everything is there.
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
