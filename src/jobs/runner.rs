//! Claim, run, settle; a sign of life meanwhile; a clean stop.

use crate::clock::Clock;
use crate::config;
use crate::db::jobs::Renewal;
use crate::db::{self, Db, DbError};
use crate::jobs::Wake;
use crate::model::error::chain;
use crate::model::id::JobId;
use crate::model::job::{Job, JobState, Lane, Lease, Outcome};
use crate::model::progress::Progress;
use crate::model::time::Timestamp;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Every so often old jobs are forgotten.
const PRUNE_SECONDS: i64 = 600;
/// How long a job that ended is kept for the operator.
const KEPT_SECONDS: i64 = 7 * 24 * 3600;
/// How long after a panic or a failed settlement a job waits.
const MISHAP_DELAY: Duration = Duration::from_secs(5);

/// A job that is this worker's for now.
pub struct Claimed {
    pub job: Job,
    pub lease: Lease,
    pub progress: Arc<Progress>,
}

/// Runs the jobs of one lane with one function, on blocking threads.
pub struct Runner<F> {
    pub db: Db,
    pub clock: Clock,
    pub settings: config::Jobs,
    pub lane: Lane,
    /// Name of this process, for the operator.
    pub worker: String,
    pub wake: Arc<Wake>,
    pub run: Arc<F>,
    /// Jobs that run in this process now.
    running: Mutex<HashSet<JobId>>,
}

impl<F> Runner<F>
where
    F: Fn(Claimed) -> Outcome + Send + Sync + 'static,
{
    /// A runner that runs nothing yet.
    pub fn new(
        db: Db,
        clock: Clock,
        settings: config::Jobs,
        lane: Lane,
        worker: String,
        wake: Arc<Wake>,
        run: Arc<F>,
    ) -> Self {
        Self {
            db,
            clock,
            settings,
            lane,
            worker,
            wake,
            run,
            running: Mutex::default(),
        }
    }

    fn running(&self) -> MutexGuard<'_, HashSet<JobId>> {
        self.running
            .lock()
            .expect("no panic while the set is locked")
    }

    /// Works until asked to stop, then until every job it holds has been given back.
    pub async fn work(self, stop: CancellationToken) {
        let places = match self.lane {
            Lane::Backup => self.settings.backups,
            Lane::Quick => self.settings.quick,
        };
        let places = Arc::new(Semaphore::new(places));
        let tracker = TaskTracker::new();
        let runner = Arc::new(self);
        loop {
            let place = tokio::select! {
                () = stop.cancelled() => break,
                place = places.clone().acquire_owned() => place.expect("the semaphore is never closed"),
            };
            match runner.claim().await {
                Ok(Some(job)) => {
                    let (runner, stop) = (runner.clone(), stop.clone());
                    tracker.spawn(async move {
                        let id = job.id.clone();
                        runner.run_one(job, stop).await;
                        runner.running().remove(&id);
                        drop(place);
                    });
                }
                Ok(None) => {
                    runner.prune().await;
                    runner.wait(&stop).await;
                }
                Err(error) => {
                    tracing::error!(error = %chain(&error), "no job could be claimed");
                    runner.wait(&stop).await;
                }
            }
        }
        tracker.close();
        tracker.wait().await;
    }

    async fn wait(&self, stop: &CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.wake.notify(self.lane).notified() => {}
            () = tokio::time::sleep(self.settings.poll) => {}
        }
    }

    /// Forgets jobs that ended long ago, now and then.
    async fn prune(&self) {
        let now = self.clock.now();
        let seconds = now.0 / 1_000_000;
        let poll_seconds = self.settings.poll.as_secs().max(1) as i64;
        if self.lane != Lane::Quick || seconds % PRUNE_SECONDS >= poll_seconds {
            return;
        }
        let before = Timestamp((seconds - KEPT_SECONDS) * 1_000_000);
        if let Err(error) = self
            .write(move |c| {
                db::messages::prune(c, now)?;
                db::jobs::prune(c, before)
            })
            .await
        {
            tracing::warn!(error = %chain(&error), "old jobs and messages were not pruned");
        }
    }

    async fn claim(&self) -> Result<Option<Job>, DbError> {
        let (lane, worker) = (self.lane, self.worker.clone());
        let (clock, lease) = (self.clock.clone(), self.settings.lease);
        let running = self.running().iter().cloned().collect();
        let claimed = self
            .write(move |c| {
                // Not before the writer is ours: waiting for it may take a while.
                let now = clock.now();
                db::jobs::claim(c, lane, &worker, now, now.after(lease), running)
            })
            .await?;
        if let Some(job) = &claimed {
            self.running().insert(job.id.clone());
        }
        Ok(claimed)
    }

    async fn run_one(&self, job: Job, stop: CancellationToken) {
        let lease = Lease {
            job_id: job.id.clone(),
            attempt: job.attempt,
        };
        let progress = Arc::new(Progress::default());
        let (kind, subject) = (job.kind.clone(), job.subject.clone());
        tracing::info!(job.id = %job.id, job.attempt, kind, subject, "job started");
        let started = Instant::now();
        let claimed = Claimed {
            job,
            lease: lease.clone(),
            progress: progress.clone(),
        };
        let run = self.run.clone();
        let mut running = tokio::task::spawn_blocking(move || run(claimed));
        let mut renewals = tokio::time::interval(self.settings.lease / 3);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        renewals.reset();
        let mut deadline = Instant::now() + self.settings.lease;
        let outcome = loop {
            tokio::select! {
                result = &mut running => {
                    break result.unwrap_or_else(|_| Outcome::Retry {
                        after: MISHAP_DELAY,
                        reason: "the worker panicked".to_owned(),
                    });
                }
                () = stop.cancelled(), if !progress.is_stopped() => progress.stop(),
                _ = renewals.tick() => match self.renew(&lease, &progress).await {
                    Ok(Renewal::Held) => deadline = Instant::now() + self.settings.lease,
                    Ok(Renewal::CancelRequested) => {
                        deadline = Instant::now() + self.settings.lease;
                        progress.stop();
                    }
                    Ok(Renewal::Lost) => {
                        tracing::warn!(job.id = %lease.job_id, "the lease was lost");
                        progress.stop();
                    }
                    Err(error) => {
                        tracing::warn!(job.id = %lease.job_id, error = %chain(&error), "the lease was not renewed");
                        if Instant::now() >= deadline {
                            progress.stop();
                        }
                    }
                },
            }
        };
        let duration_ms = started.elapsed().as_millis() as u64;
        log_outcome(&lease, &kind, &subject, duration_ms, &outcome);
        if let Err(error) = self.settle(&lease, outcome).await {
            // The lease runs out by itself; then the job is claimed again.
            tracing::error!(job.id = %lease.job_id, error = %chain(&error), "job could not be settled");
        }
    }

    async fn renew(&self, lease: &Lease, progress: &Progress) -> Result<Renewal, DbError> {
        let lease = lease.clone();
        let (clock, length) = (self.clock.clone(), self.settings.lease);
        let signed = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        let done = (
            signed(Progress::value(&progress.done)),
            signed(Progress::value(&progress.total)),
        );
        self.write(move |c| {
            let now = clock.now();
            db::jobs::renew(c, &lease, now.after(length), done, now)
        })
        .await
    }

    async fn settle(&self, lease: &Lease, outcome: Outcome) -> Result<bool, DbError> {
        let lease = lease.clone();
        let now = self.clock.now();
        self.write(move |c| match outcome {
            Outcome::Settled | Outcome::Cancelled => Ok(true),
            Outcome::Done => db::jobs::settle(c, &lease, JobState::Completed, None, now),
            Outcome::Failed { reason } => {
                db::jobs::settle(c, &lease, JobState::Discarded, Some(&reason), now)
            }
            Outcome::Released => db::jobs::put_back(c, &lease, now, None, now),
            Outcome::Retry { after, reason } => {
                db::jobs::put_back(c, &lease, now.after(after), Some(&reason), now)
            }
        })
        .await
    }

    async fn write<T: Send + 'static>(
        &self,
        queries: impl FnOnce(&mut db::DbConnection) -> crate::db::QueryResult<T> + Send + 'static,
    ) -> Result<T, DbError> {
        let db = self.db.clone();
        tokio::task::spawn_blocking(move || db.write(|c| queries(c).map_err(DbError::from)))
            .await
            .expect("queries do not panic")
    }
}

fn log_outcome(lease: &Lease, kind: &str, subject: &str, duration_ms: u64, outcome: &Outcome) {
    let id = &lease.job_id;
    match outcome {
        Outcome::Settled | Outcome::Done => {
            tracing::info!(job.id = %id, kind, subject, duration_ms, "job done");
        }
        Outcome::Cancelled => {
            tracing::info!(job.id = %id, kind, subject, duration_ms, "job cancelled");
        }
        Outcome::Released => {
            tracing::info!(job.id = %id, kind, subject, duration_ms, "job given back, to be resumed");
        }
        Outcome::Retry { after, reason } => {
            let after_ms = after.as_millis() as u64;
            tracing::warn!(job.id = %id, kind, subject, duration_ms, after_ms, reason, "job put off");
        }
        Outcome::Failed { reason } => {
            tracing::error!(job.id = %id, kind, subject, duration_ms, reason, "job failed");
        }
    }
}
