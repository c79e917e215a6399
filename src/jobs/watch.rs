//! Which jobs of other processes are abandoned: those whose `heartbeats` did not change for the length of a lease, by
//! our own monotonic clock. The clocks of two machines need not agree.

use crate::model::id::JobId;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Observations of jobs that run elsewhere.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: HashMap<JobId, (i64, Instant)>,
}

impl Watch {
    /// Notes the `heartbeats` of all jobs that run elsewhere now, and returns the abandoned jobs.
    pub(super) fn look(
        &mut self,
        running: Vec<(JobId, i64)>,
        now: Instant,
        lease: Duration,
    ) -> Vec<(JobId, i64)> {
        let mut abandoned = Vec::new();
        let mut seen = HashMap::with_capacity(running.len());
        for (job, heartbeats) in running {
            let since = match self.seen.get(&job) {
                Some((last, since)) if *last == heartbeats => *since,
                _ => now,
            };
            if now.duration_since(since) > lease {
                abandoned.push((job.clone(), heartbeats));
            }
            seen.insert(job, (heartbeats, since));
        }
        self.seen = seen;
        abandoned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_abandoned_once_its_beats_stand_still_for_a_lease() {
        let (mut watch, start, lease) = (Watch::default(), Instant::now(), Duration::from_secs(15));
        let (quiet, lively) = (JobId::random(), JobId::random());
        let mut look = |second: u64, heartbeats: i64| {
            let running = vec![(quiet.clone(), 7), (lively.clone(), heartbeats)];
            watch.look(running, start + Duration::from_secs(second), lease)
        };
        assert!(look(0, 1).is_empty());
        assert!(look(15, 2).is_empty());
        assert_eq!(look(16, 3), [(quiet.clone(), 7)]);
        assert_eq!(look(17, 3), [(quiet.clone(), 7)]);
        assert_eq!(look(32, 3).len(), 2);
    }

    #[test]
    fn a_job_that_was_away_is_looked_at_anew() {
        let (mut watch, start, lease) = (Watch::default(), Instant::now(), Duration::from_secs(15));
        let job = JobId::random();
        watch.look(vec![(job.clone(), 1)], start, lease);
        watch.look(Vec::new(), start + lease, lease);
        assert!(
            watch
                .look(vec![(job, 1)], start + lease * 2, lease)
                .is_empty()
        );
    }
}
