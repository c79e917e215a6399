//! How a storage is called: with a limit of calls at once and of bytes per second (`meter.rs`), and a time limit for each try. After a
//! temporary fault the call is tried again, with growing and random pauses, until the deadline.

use crate::config;
use crate::store::meter::{Meter, Party};
use backon::{BackoffBuilder, ExponentialBuilder};
use futures_util::TryStreamExt;
use opendal::{Entry, Error, ErrorKind, Lister};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The limits of one storage, shared by all who call it.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    timeout: Duration,
    retry_for: Duration,
    places: Arc<Semaphore>,
    up: Arc<Party>,
    down: Arc<Party>,
    /// Set when the process stops: then no call waits any longer for a storage that does not answer.
    stop: CancellationToken,
}

/// Until when a call may be made, as far as is known now; `None` is for ever.
pub(super) type Until<'u> = &'u dyn Fn() -> Option<std::time::Instant>;

/// The bytes that a call moves.
#[derive(Debug, Clone, Copy)]
pub(super) enum Load {
    Nothing,
    Up(u64),
    Down(u64),
    /// The length of a download that is known only afterwards: [`Caller::came_down`].
    Whole,
}

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    /// The object does not exist, or exists already: an answer, not a fault.
    Refused,
    /// A temporary fault.
    Passing,
    /// A permanent fault.
    Lasting,
    Timeout,
}

impl Outcome {
    /// The outcome in one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Refused => "refused",
            Outcome::Passing => "passing",
            Outcome::Lasting => "lasting",
            Outcome::Timeout => "timeout",
        }
    }
}

/// The result of a call, and whether an earlier try may have succeeded although it seemed to fail.
pub(super) struct Called<T> {
    pub(super) result: Result<T, Error>,
    pub(super) was_repeated: bool,
}

impl Caller {
    pub(super) fn new(settings: &config::Storage, stop: CancellationToken) -> Self {
        Self {
            timeout: settings.timeout,
            retry_for: settings.retry_for,
            places: Arc::new(Semaphore::new(settings.calls)),
            up: Arc::new(Party::new(Meter::new(settings.upload_limit.as_u64()))),
            down: Arc::new(Party::new(Meter::new(settings.download_limit.as_u64()))),
            stop,
        }
    }

    /// The same limits for another job, which has a share of its own of the bytes per second.
    pub(super) fn for_another_job(self) -> Self {
        Self {
            up: Arc::new(self.up.another()),
            down: Arc::new(self.down.another()),
            ..self
        }
    }

    /// The same limits, until this token is cancelled.
    pub(super) fn stopped_by(self, stop: CancellationToken) -> Self {
        Self { stop, ..self }
    }

    /// Makes a call until it succeeds, fails for good, or the time is up. `report` is called after each try. No try
    /// begins, and none is waited for, once `until` is over.
    pub(super) async fn call<T, F>(
        &self,
        (load, until): (Load, Until<'_>),
        make: impl Fn() -> F,
        report: impl Fn(Outcome, Duration),
    ) -> Called<T>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let deadline = Instant::now() + self.retry_for;
        let mut pauses = ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(PAUSE_MIN)
            .with_max_delay(PAUSE_MAX)
            .without_max_times()
            .build();
        let mut was_repeated = false;
        loop {
            let result = tokio::select! {
                () = self.stop.cancelled() => Err(stopped()),
                result = self.once((load, until), &make, &report) => result,
            };
            let again = result.as_ref().is_err_and(Error::is_temporary)
                && !self.stop.is_cancelled()
                && !is_overdue(until);
            let pause = pauses.next().unwrap_or(PAUSE_MAX);
            if !again || Instant::now() + pause > deadline {
                return Called {
                    result,
                    was_repeated,
                };
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
            was_repeated = true;
        }
    }

    /// Counts the bytes of a whole object that was downloaded: later calls wait for them.
    pub(super) fn came_down(&self, bytes: u64) {
        self.down.owe(bytes);
    }

    /// Lists entry by entry. Each page has the time limit of a call; all pages together have none. After a temporary fault
    /// the listing continues after the last entry if the storage can do that, else from the start. `open` begins a
    /// listing after a name.
    pub(super) async fn list<F>(
        &self,
        can_resume: bool,
        open: impl Fn(Option<String>) -> F,
        report: impl Fn(Outcome, Duration),
    ) -> Result<Vec<Entry>, Error>
    where
        F: Future<Output = Result<Lister, Error>>,
    {
        let mut listed: Vec<Entry> = Vec::new();
        let mut deadline = Instant::now() + self.retry_for;
        let mut pause = PAUSE_MIN;
        loop {
            let before = listed.len();
            let after = || listed.last().map(|entry| entry.path().to_owned());
            // The first page, with the limits of all calls.
            let first = || async {
                let mut lister = open(after()).await?;
                Ok((lister.try_next().await?, lister))
            };
            let called = self.call((Load::Nothing, &|| None), first, &report).await;
            let (mut next, mut lister) = called.result?;
            let interrupted = loop {
                let Some(entry) = next else { return Ok(listed) };
                listed.push(entry);
                let started = Instant::now();
                let page = tokio::select! {
                    () = self.stop.cancelled() => Err(stopped()),
                    page = tokio::time::timeout(self.timeout, lister.try_next()) => {
                        page.unwrap_or_else(|_| Err(timed_out(self.timeout)))
                    }
                };
                if page.is_err() {
                    report(outcome(&page), started.elapsed());
                }
                match page {
                    Ok(entry) => next = entry,
                    Err(error) => break error,
                }
            };
            if can_resume && listed.len() > before {
                // There was progress, so the deadline starts again.
                deadline = Instant::now() + self.retry_for;
            } else {
                listed.clear();
            }
            let is_over = self.stop.is_cancelled() || Instant::now() + pause > deadline;
            if is_over || !interrupted.is_temporary() {
                return Err(interrupted);
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn once<T, F>(
        &self,
        (load, until): (Load, Until<'_>),
        make: &impl Fn() -> F,
        report: &impl Fn(Outcome, Duration),
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let admitted = async {
            // First the bytes, as this may take long, and calls that move none need not wait for it.
            match load {
                Load::Nothing => {}
                Load::Up(bytes) => self.up.take(bytes).await,
                Load::Down(bytes) => self.down.take(bytes).await,
                Load::Whole => self.down.take(0).await,
            }
            self.places.acquire().await
        };
        let place = match until() {
            Some(until) => tokio::time::timeout_at(until.into(), admitted).await,
            None => Ok(admitted.await),
        };
        let _place = place.map_err(|_| overdue())?.expect("it is never closed");
        refuse_overdue(until)?;
        let started = Instant::now();
        let end = started + self.timeout;
        let end = until().map_or(end, |until| end.min(until.into()));
        let result = tokio::time::timeout_at(end, make()).await;
        let (result, outcome) = match result {
            Ok(result) => {
                let outcome = outcome(&result);
                (result, outcome)
            }
            Err(_) => (Err(timed_out(self.timeout)), Outcome::Timeout),
        };
        report(outcome, started.elapsed());
        result
    }
}

fn outcome<T>(result: &Result<T, Error>) -> Outcome {
    match result {
        Ok(_) => Outcome::Ok,
        Err(error) if error.is_temporary() => Outcome::Passing,
        Err(error) => match error.kind() {
            ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::ConditionNotMatch
            | ErrorKind::RangeNotSatisfied => Outcome::Refused,
            _ => Outcome::Lasting,
        },
    }
}

fn timed_out(timeout: Duration) -> Error {
    let text = format!("no answer within {} s", timeout.as_secs_f32());
    Error::new(ErrorKind::Unexpected, text).set_temporary()
}

fn is_overdue(until: Until<'_>) -> bool {
    until().is_some_and(|until| Instant::now() >= until.into())
}

fn refuse_overdue(until: Until<'_>) -> Result<(), Error> {
    if is_overdue(until) {
        Err(overdue())
    } else {
        Ok(())
    }
}

fn overdue() -> Error {
    Error::new(ErrorKind::Unexpected, "the time for it is over").set_temporary()
}

fn stopped() -> Error {
    Error::new(ErrorKind::Unexpected, "the service is stopping").set_temporary()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const ANY: (Load, Until<'static>) = (Load::Nothing, &|| None);

    fn caller(change: impl FnOnce(&mut config::Storage)) -> Caller {
        let mut settings = config::Storage::at("fs:x".to_owned());
        change(&mut settings);
        Caller::new(&settings, CancellationToken::new())
    }

    fn passing() -> Error {
        Error::new(ErrorKind::Unexpected, "busy").set_temporary()
    }

    #[tokio::test(start_paused = true)]
    async fn a_passing_fault_is_tried_again_until_the_deadline_and_a_lasting_one_is_not() {
        let caller = caller(|settings| settings.retry_for = Duration::from_secs(30));
        let tries = AtomicUsize::new(0);
        let called = caller
            .call(
                ANY,
                || async {
                    match tries.fetch_add(1, Ordering::SeqCst) {
                        0..3 => Err(passing()),
                        _ => Ok(7),
                    }
                },
                |_, _| {},
            )
            .await;
        assert!(called.was_repeated && called.result.is_ok_and(|n| n == 7));
        let started = Instant::now();
        let called: Called<()> = caller
            .call(ANY, || async { Err(passing()) }, |_, _| {})
            .await;
        assert!(called.result.is_err());
        let seconds = started.elapsed().as_secs();
        assert!((10..=30).contains(&seconds), "{seconds} s");
        let tries = AtomicUsize::new(0);
        let lasting = || async {
            tries.fetch_add(1, Ordering::SeqCst);
            Err(Error::new(ErrorKind::PermissionDenied, "no"))
        };
        let called: Called<()> = caller.call(ANY, lasting, |_, _| {}).await;
        assert!(called.result.is_err() && tries.into_inner() == 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_stalls_is_given_up_and_told_of() {
        let caller = caller(|settings| {
            settings.timeout = Duration::from_secs(2);
            settings.retry_for = Duration::from_secs(1);
        });
        let reports = AtomicUsize::new(0);
        let called: Called<()> = caller
            .call(ANY, std::future::pending, |outcome, _| {
                assert_eq!(outcome, Outcome::Timeout);
                reports.fetch_add(1, Ordering::SeqCst);
            })
            .await;
        assert!(called.result.is_err_and(|error| error.is_temporary()));
        assert_eq!(reports.into_inner(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn no_try_begins_or_lasts_beyond_the_time_that_is_allowed() {
        let caller = caller(|settings| settings.timeout = Duration::from_secs(10));
        let (started, tries) = (Instant::now(), AtomicUsize::new(0));
        let end = started + Duration::from_secs(3);
        let until = || Some(end.into_std());
        let stall = || {
            tries.fetch_add(1, Ordering::SeqCst);
            std::future::pending()
        };
        for _ in 0..2 {
            let called: Called<()> = caller.call((Load::Nothing, &until), stall, |_, _| {}).await;
            assert!(called.result.is_err_and(|error| error.is_temporary()));
        }
        assert_eq!((started.elapsed().as_secs(), tries.into_inner()), (3, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_spread_over_time() {
        let caller = caller(|settings| settings.upload_limit = bytesize::ByteSize(1000));
        let started = Instant::now();
        for _ in 0..11 {
            let called = caller.call((Load::Up(100), &|| None), || async { Ok(()) }, |_, _| {});
            called.await.result.unwrap();
        }
        assert_eq!(started.elapsed().as_millis(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn whole_objects_are_spread_over_time_as_ranges_are() {
        let caller = caller(|settings| settings.download_limit = bytesize::ByteSize(1000));
        let started = Instant::now();
        for load in [Load::Down(300), Load::Whole, Load::Whole, Load::Down(1)] {
            let called = caller.call((load, &|| None), || async { Ok(()) }, |_, _| {});
            called.await.result.unwrap();
            if let Load::Whole = load {
                caller.came_down(400);
            }
        }
        assert_eq!(started.elapsed().as_millis(), 300 + 400 + 400);
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_does_not_wait_for_a_storage() {
        let stop = CancellationToken::new();
        let caller = Caller::new(&config::Storage::at("fs:x".to_owned()), stop.clone());
        let started = Instant::now();
        let call = caller.call(ANY, std::future::pending::<Result<(), _>>, |_, _| {});
        let (called, ()) = tokio::join!(call, async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            stop.cancel();
        });
        assert!(called.result.is_err() && started.elapsed().as_secs() == 1);
    }
}
