//! Memory that the threads of one job share. A thread waits until the others have written what they fetched.

use crate::engine::Result;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// How often a waiting thread checks whether the job was asked to stop.
const LOOK: Duration = Duration::from_millis(500);

/// A limit of bytes held at once.
pub(crate) struct Budget {
    limit: u64,
    held: Mutex<u64>,
    freed: Condvar,
    #[cfg(test)]
    peak: std::sync::atomic::AtomicU64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit,
            held: Mutex::new(0),
            freed: Condvar::new(),
            #[cfg(test)]
            peak: Default::default(),
        }
    }

    /// Waits until this many bytes may be held. A request beyond the limit is granted when nothing else is held. A thread
    /// must hold nothing while it waits, or two could wait for each other. An error of `check` ends the wait.
    pub(crate) fn take(&self, bytes: u64, check: impl Fn() -> Result<()>) -> Result<Held<'_>> {
        let mut held = self.held();
        while *held > 0 && held.saturating_add(bytes) > self.limit {
            check()?;
            (held, _) = self
                .freed
                .wait_timeout(held, LOOK)
                .expect("nothing panics under it");
        }
        *held += bytes;
        #[cfg(test)]
        self.peak
            .fetch_max(*held, std::sync::atomic::Ordering::SeqCst);
        Ok(Held {
            budget: self,
            bytes,
        })
    }

    fn held(&self) -> MutexGuard<'_, u64> {
        self.held.lock().expect("nothing panics under it")
    }

    /// The most that was held at once.
    #[cfg(test)]
    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(std::sync::atomic::Ordering::SeqCst)
    }
}

/// A part of a budget, until it is dropped.
pub(crate) struct Held<'b> {
    budget: &'b Budget,
    bytes: u64,
}

impl Held<'_> {
    /// Gives back all but this many bytes.
    pub(crate) fn shrink(&mut self, bytes: u64) {
        let freed = self.bytes.saturating_sub(bytes);
        self.bytes -= freed;
        *self.budget.held() -= freed;
        self.budget.freed.notify_all();
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Error;

    #[test]
    fn no_more_is_held_than_allowed_and_what_is_larger_goes_alone() {
        let budget = Budget::new(100);
        std::thread::scope(|scope| {
            for bytes in [30, 40, 50, 60, 70, 101, 250] {
                let budget = &budget;
                scope.spawn(move || {
                    for _ in 0..50 {
                        let mut held = budget.take(bytes, || Ok(())).unwrap();
                        assert!(*budget.held() <= bytes.max(100));
                        held.shrink(bytes / 2);
                        std::thread::yield_now();
                    }
                });
            }
        });
        assert_eq!((*budget.held(), budget.peak()), (0, 250));
    }

    #[test]
    fn who_waits_is_stopped() {
        let budget = Budget::new(10);
        let _held = budget.take(10, || Ok(())).unwrap();
        let waiting = budget.take(1, || Err(Error::Cancelled));
        assert!(matches!(waiting, Err(Error::Cancelled)));
    }
}
