//! The durable job runner. It knows jobs, leases and time. What a job does it leaves to the function that it is
//! given; it names no kind of job. Every ten minutes it also removes old rows: of ended jobs, the sessions of
//! forgotten jobs, workers that were not seen for a week, and messages that have expired.
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
//! and abandoned. New jobs, retries and the orphans of a crash take the same path. A claim increments `attempt`,
//! and every write of a worker names job and attempt, so a worker that was presumed dead changes nothing.
//!
//! No wall clock decides who owns a job. A worker renews its lease by incrementing `heartbeats`. Another worker may
//! take the job when it has seen `heartbeats` unchanged for the length of a lease, by its own monotonic clock. The
//! owner stops writing when its own monotonic clock shows that its last renewal is a lease ago. So wall clocks
//! may jump, and processes may be halted and woken: one whose lease is over sees that before its next step.
//!
//! A process that starts need not wait so long for the jobs that its predecessor left. It recognises them by its
//! place (`holder`), which only one process has at a time (`app::locks`), and takes them at once.
//!
//! Each queue has a number of places of its own on each worker. The project with the fewest running jobs gets
//! the next free place. Unless `jobs.reserve` is off, no project gets the last free place of all workers: a
//! running job cannot be suspended, so other projects would wait until it ends. Only workers that are alive count,
//! judged by their heartbeats as leases are ([`Peers`]): a worker that died or hangs counts for a lease at most.
//! One that is stopping has no places, and the jobs that it still runs take none.

mod heartbeat;
mod peers;
mod runner;
mod watch;

pub use heartbeat::send_heartbeats;
pub use peers::Peers;
pub use runner::{Claimed, Runner, Worker};

use crate::model::job::Queue;
use tokio::sync::Notify;

/// A hint that there is work. A lost hint costs a poll, not a job.
#[derive(Debug, Default)]
pub struct Wake {
    backup: Notify,
    copy: Notify,
    quick: Notify,
}

impl Wake {
    /// Something was added to a queue.
    pub fn wake(&self, queue: Queue) {
        self.notify(queue).notify_one();
    }

    fn notify(&self, queue: Queue) -> &Notify {
        match queue {
            Queue::Backup => &self.backup,
            Queue::Copy => &self.copy,
            Queue::Quick => &self.quick,
        }
    }
}
