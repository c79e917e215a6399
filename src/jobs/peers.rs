//! Which workers are alive: those whose heartbeat was seen to change within a lease, by our own monotonic clock, as
//! leases are judged. The clocks of two machines need not agree, and a worker that is halted sends none.

use crate::db::workers::WorkerRow;
use crate::model::time::Timestamp;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The last heartbeat of each worker, and when we heard it.
#[derive(Debug, Default)]
pub struct Peers {
    heard: Mutex<HashMap<String, (Timestamp, Option<Instant>)>>,
}

impl Peers {
    /// Notes the heartbeats of all workers, and returns the names of those that are alive. Of a worker that was never
    /// seen before, only the clocks can tell, until its next heartbeat.
    pub(super) fn look(
        &self,
        rows: Vec<WorkerRow>,
        (now, clock): (Instant, Timestamp),
        lease: Duration,
    ) -> Vec<String> {
        let mut heard = self.heard.lock().expect("no panic while it is locked");
        let mut alive = Vec::new();
        let mut next = HashMap::with_capacity(rows.len());
        for WorkerRow { name, seen_at, .. } in rows {
            let is_recent = seen_at <= clock.after(lease) && clock <= seen_at.after(lease);
            let since = match heard.get(&name) {
                Some((last, since)) if *last == seen_at => *since,
                Some(_) => Some(now),
                None => is_recent.then_some(now),
            };
            if since.is_some_and(|since| now.saturating_duration_since(since) <= lease) {
                alive.push(name.clone());
            }
            next.insert(name, (seen_at, since));
        }
        *heard = next;
        alive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);
    const SECOND: i64 = 1_000_000;

    fn row(name: &str, seen: i64) -> WorkerRow {
        WorkerRow {
            name: name.to_owned(),
            started_at: Timestamp(0),
            seen_at: Timestamp(seen * SECOND),
            backups: 2,
            copies: 2,
            quick: 2,
        }
    }

    #[test]
    fn a_worker_is_alive_for_a_lease_after_its_heartbeat_changed_whatever_its_clock_says() {
        let (peers, start) = (Peers::default(), Instant::now());
        // One goes on, one has died, one has died with a clock that was a day ahead, one is an hour behind.
        let look = |second: u64, beat: i64| {
            let rows = vec![
                row("well", 1000 + beat),
                row("dead", 1000),
                row("ahead", 90_000),
                row("behind", beat - 3600),
            ];
            let now = start + Duration::from_secs(second);
            let clock = Timestamp((1000 + i64::try_from(second).unwrap()) * SECOND);
            peers.look(rows, (now, clock), LEASE)
        };
        assert_eq!(look(0, 0), ["well", "dead"]);
        assert_eq!(look(5, 5), ["well", "dead", "behind"]);
        assert_eq!(look(16, 10), ["well", "behind"]);
        assert_eq!(look(31, 10), ["well", "behind"]);
        assert!(look(32, 10).is_empty(), "they were halted");
        assert_eq!(look(33, 15), ["well", "behind"]);
    }
}
