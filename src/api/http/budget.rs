//! Memory for what is made for clients: documents while they are read, and answers until they are taken.
//!
//! A request takes its part before it is handled, and waits for it while it costs no more than its head and body. What its
//! answer needs is given back when the answer was taken or its client is gone. So clients that do not read hold no more
//! than the budget, and one caller alone cannot take all of it from the others: neither a project, nor a user with several.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a request may wait for its part. At most one waits per connection.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// The unit in which bytes are counted.
const UNIT_BYTES: u64 = 1024;

/// Bytes that may be held at once, by all callers and by one of them.
pub(crate) struct Budget {
    all: Arc<Semaphore>,
    share: u32,
    /// What is left of the share of each caller that holds or wants something.
    callers: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// A part of a budget, until it is dropped.
pub(crate) struct Hold {
    of_callers: Vec<OwnedSemaphorePermit>,
    of_all: OwnedSemaphorePermit,
}

impl Budget {
    pub(crate) fn new(bytes: u64, share_bytes: u64) -> Self {
        Self {
            all: semaphore(units(bytes)),
            share: units(share_bytes),
            callers: Mutex::default(),
        }
    }

    /// As many bytes, or all that one caller may hold if that is less, as soon as they are free. They count for each of
    /// these callers: a user, then the project. None if that takes too long.
    pub(crate) async fn take(&self, callers: &[String], bytes: u64) -> Option<Hold> {
        let wanted = units(bytes).min(self.share);
        let own: Vec<_> = callers.iter().map(|name| self.of_caller(name)).collect();
        let all = self.all.clone();
        let taking = async {
            let mut of_callers = Vec::new();
            for share in own {
                of_callers.push(share.acquire_many_owned(wanted).await.ok()?);
            }
            let of_all = all.acquire_many_owned(wanted).await.ok()?;
            Some(Hold { of_callers, of_all })
        };
        tokio::time::timeout(WAIT_MAX, taking).await.ok().flatten()
    }

    fn of_caller(&self, name: &str) -> Arc<Semaphore> {
        let mut callers = self.callers.lock().expect("no panic while it is locked");
        if let Some(known) = callers.get(name).and_then(Weak::upgrade) {
            return known;
        }
        callers.retain(|_, known| known.strong_count() > 0);
        let new = semaphore(self.share);
        callers.insert(name.to_owned(), Arc::downgrade(&new));
        new
    }
}

impl Hold {
    /// Gives back what is not needed for this many bytes.
    pub(crate) fn shrink(&mut self, bytes: u64) {
        let needed = units(bytes) as usize;
        for permit in self.of_callers.iter_mut().chain([&mut self.of_all]) {
            let spare = permit.num_permits().saturating_sub(needed);
            drop(permit.split(spare));
        }
    }
}

fn semaphore(units: u32) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(units as usize))
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn callers(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_takes_all_and_what_is_not_needed_goes_back() {
        let budget = Budget::new(4 * MIB, 3 * MIB);
        let mut first = budget.take(&callers(&["a"]), 2 * MIB).await.unwrap();
        let _second = budget.take(&callers(&["a"]), MIB).await.unwrap();
        assert!(budget.take(&callers(&["a"]), 1).await.is_none());
        // More than one caller may hold is all that it may hold, and there is less.
        assert!(budget.take(&callers(&["b"]), 9 * MIB).await.is_none());
        let other = budget.take(&callers(&["b"]), MIB).await.unwrap();
        assert!(budget.take(&callers(&["c"]), 1).await.is_none());
        first.shrink(MIB + 1);
        let third = budget.take(&callers(&["a"]), MIB - 1024).await.unwrap();
        drop((first, third, other));
        assert!(budget.take(&callers(&["a"]), 2 * MIB).await.is_some());
        // A caller that holds nothing is forgotten.
        assert!(budget.take(&callers(&["d"]), 1).await.is_some());
        assert_eq!(budget.callers.lock().unwrap().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_with_several_projects_has_one_share() {
        let budget = Budget::new(4 * MIB, MIB);
        let of = |user, project| callers(&[user, project]);
        let mut first = budget.take(&of("u", "p"), MIB / 2).await.unwrap();
        let second = budget.take(&of("u", "q"), MIB / 2).await.unwrap();
        for project in ["p", "q", "r"] {
            assert!(budget.take(&of("u", project), 1).await.is_none());
        }
        // What waited in vain holds nothing.
        let other = budget.take(&of("v", "p"), MIB / 2).await.unwrap();
        assert!(budget.take(&of("w", "p"), 1).await.is_none());
        assert!(budget.take(&of("w", "r"), MIB).await.is_some());
        first.shrink(MIB / 4);
        assert!(budget.take(&of("u", "p"), MIB / 4).await.is_some());
        drop((first, second, other));
        assert!(budget.take(&of("u", "r"), MIB).await.is_some());
    }
}
