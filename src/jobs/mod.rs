//! The durable job runner. It knows jobs, leases and time; it has never heard of backups.
//!
//! ```text
//!              claim                      settle
//! available ----------> running ----------------------> completed | discarded | cancelled
//!     ^                    |
//!     |   put back, or the lease ran out
//!     +--------------------+
//! ```
//!
//! One rule recovers everything: the claim takes a job that is available and due, **or** running
//! and abandoned. New jobs, retries and the orphans of a crash go through the same line; there is no
//! recovery at start and no rescuer. A claim increments `attempt`, and every write of a worker names
//! job and attempt, so a worker that was presumed dead changes nothing.
//!
//! No wall clock decides who owns a job. A worker renews its lease by counting `beats` up; who sees
//! them stand still for the length of a lease, by its own monotonic clock, may take the job; and the
//! worker itself stops touching anything that long after its last renewal, by its own. So clocks may
//! jump, and processes may be halted and woken, without two of them working on one thing.

mod heartbeat;
mod runner;
mod watch;

pub use heartbeat::beat;
pub use runner::{Claimed, Runner, Worker};

use crate::model::job::Lane;
use tokio::sync::Notify;

/// A hint that there is work. A lost hint costs a poll, not a job.
#[derive(Debug, Default)]
pub struct Wake {
    backup: Notify,
    quick: Notify,
}

impl Wake {
    /// Something was added to a lane.
    pub fn wake(&self, lane: Lane) {
        self.notify(lane).notify_one();
    }

    fn notify(&self, lane: Lane) -> &Notify {
        match lane {
            Lane::Backup => &self.backup,
            Lane::Quick => &self.quick,
        }
    }
}
