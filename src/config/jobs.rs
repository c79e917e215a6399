//! The job runner's settings.

use crate::model::job::Queue;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The job runner.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jobs {
    /// Backups and restores at once.
    pub backups: usize,
    /// Snapshots and copies of volumes at once.
    pub copies: usize,
    /// Short jobs (new volumes, imports, deletions) and upkeep of vaults at once. Upkeep takes one at most, and not
    /// all of all workers.
    pub quick: usize,
    /// No single project may use the last free place of all workers, so that other projects need not wait until
    /// its jobs end. With two places for backups, one project alone then has one. If there is only one project,
    /// switch it off.
    pub reserve: bool,
    /// How long a job stays with a worker that sends no heartbeat.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// How often a worker looks for jobs. It sees jobs of its own process at once.
    #[serde(with = "humantime_serde")]
    pub poll: Duration,
    /// How long running jobs may continue when the process is asked to stop. A job that has not ended by then is
    /// resumed by another worker, or at the next start.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// Name of this worker in lists of services. Default: the name of the machine.
    pub worker: Option<String>,
    /// After how many deaths of its worker, by a crash or otherwise, a job is given up.
    pub attempts_max: i32,
}

impl Default for Jobs {
    fn default() -> Self {
        Self {
            backups: 2,
            copies: 4,
            quick: 4,
            reserve: true,
            lease: Duration::from_secs(15),
            poll: Duration::from_secs(1),
            drain: Duration::from_secs(10),
            worker: None,
            attempts_max: 25,
        }
    }
}

/// Most jobs of a queue at once.
const PLACES_MAX: usize = 1000;

impl Jobs {
    /// How many jobs of a queue this process runs at once.
    pub fn places(&self, queue: Queue) -> usize {
        match queue {
            Queue::Backup => self.backups,
            Queue::Copy => self.copies,
            Queue::Quick => self.quick,
        }
    }

    pub(super) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let places = [self.backups, self.copies, self.quick];
        if places.iter().any(|count| !(1..=PLACES_MAX).contains(count)) {
            return Err(("jobs", "backups, copies and quick must be from 1 to 1000"));
        }
        if self.attempts_max < 1 {
            return Err(("jobs.attempts_max", "must be at least 1"));
        }
        Ok(())
    }
}
