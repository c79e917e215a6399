//! The same work on many items, several at once.

use crate::engine::{Error, Result, check};
use crate::model::progress::Progress;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The first failure among the threads of one job. It is kept apart from the request to stop: a job that was asked to
/// stop is resumed at once, a job that failed is not.
#[derive(Debug, Default)]
pub(crate) struct Failure {
    is_set: AtomicBool,
    first: Mutex<Option<Error>>,
}

impl Failure {
    /// Records a failure, unless there is an earlier one.
    pub(crate) fn record(&self, error: Error) {
        let mut first = self.first.lock().expect("nothing panics under it");
        first.get_or_insert(error);
        self.is_set.store(true, Ordering::SeqCst);
    }

    /// An error once the job was asked to stop, may not go on, or one of its threads has failed.
    pub(crate) fn check(&self, progress: &Progress) -> Result<()> {
        if self.is_set.load(Ordering::SeqCst) {
            return Err(Error::Cancelled);
        }
        check(progress)
    }

    /// The first failure, if there was one.
    pub(crate) fn take(&self) -> Option<Error> {
        self.first.lock().expect("nothing panics under it").take()
    }
}

/// Works on all items with this many threads. After the first failure no further item is begun.
pub(crate) fn each<T: Sync>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    let (next, failure) = (AtomicUsize::new(0), Failure::default());
    let run = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = work(item) {
                next.store(items.len(), Ordering::Relaxed);
                failure.record(error);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.min(items.len()) {
            scope.spawn(run);
        }
    });
    failure.take().map_or(Ok(()), Err)
}
