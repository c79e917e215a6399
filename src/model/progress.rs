//! Counters of one running backup or restore, the request to stop it, and its lease. Results, progress and logs all
//! read these counters.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counters in bytes, and a flag. Shared by the threads of one job.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of the volume to go through.
    pub total: AtomicU64,
    /// Bytes of the volume gone through, holes included.
    pub done: AtomicU64,
    /// Bytes read from the source, or from the store in a restore.
    pub read: AtomicU64,
    /// Bytes given to the target of a restore.
    pub written: AtomicU64,
    /// Bytes added to the store.
    pub stored: AtomicU64,
    /// Plain bytes that were found already stored.
    pub deduplicated: AtomicU64,
    /// Packs added to the store.
    pub objects: AtomicU64,
    stop: AtomicBool,
    lease: Lease,
}

/// Until when the work may continue, by the monotonic clock.
#[derive(Debug)]
struct Lease {
    counted_from: Instant,
    /// Milliseconds; the maximum means for ever.
    until: AtomicU64,
}

impl Default for Lease {
    fn default() -> Self {
        Self {
            counted_from: Instant::now(),
            until: AtomicU64::new(u64::MAX),
        }
    }
}

impl Progress {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, bytes: u64) {
        counter.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A counter's value.
    pub fn value(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    /// Asks the job to stop at the next safe moment.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// The work may continue until then. A process that was halted longer must not write anything when it wakes up.
    pub fn allow_until(&self, until: Instant) {
        let until = until.saturating_duration_since(self.lease.counted_from);
        let until = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
        self.lease.until.store(until, Ordering::SeqCst);
    }

    /// Whether it was asked to stop. A failure of its own never sets that.
    pub fn is_asked_to_stop(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Whether the lease is over.
    pub fn is_overdue(&self) -> bool {
        self.allowed_until()
            .is_some_and(|until| Instant::now() > until)
    }

    /// Until when it may continue, as far as is known now; `None` is for ever.
    pub fn allowed_until(&self) -> Option<Instant> {
        let until = self.lease.until.load(Ordering::SeqCst);
        (until != u64::MAX).then(|| self.lease.counted_from + Duration::from_millis(until))
    }
}
