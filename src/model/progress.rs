//! Counters of one running backup or restore, and the wish to stop it. The only tally there is:
//! results, progress and logs all read it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters in bytes, and a flag. Shared by the threads of one job.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of the volume to go through.
    pub total: AtomicU64,
    /// Bytes of the volume gone through, holes included.
    pub done: AtomicU64,
    /// Bytes read from the source, or from the store in a restore.
    pub read: AtomicU64,
    /// Bytes added to the store.
    pub stored: AtomicU64,
    /// Plain bytes that were found already stored.
    pub deduplicated: AtomicU64,
    /// Packs added to the store.
    pub objects: AtomicU64,
    stop: AtomicBool,
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

    /// Whether somebody asked it to stop.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}
