//! Claims jobs, runs them, renews their leases meanwhile, settles them, and stops cleanly.

use crate::clock::Clock;
use crate::config;
use crate::db::jobs::{Claimer, Renewal};
use crate::db::workers::WorkerRow;
use crate::db::{self, Db, DbError};
use crate::jobs::watch::Watch;
use crate::jobs::{Peers, Wake};
use crate::metrics::Metrics;
use crate::model::error::chain;
use crate::model::id::JobId;
use crate::model::job::{Job, JobState, Lease, Outcome, Queue};
use crate::model::progress::Progress;
use crate::model::time::Timestamp;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often old rows are removed.
const PRUNE_SECONDS: i64 = 600;
/// How long a job that ended is kept for the operator.
const KEPT_SECONDS: i64 = 7 * 24 * 3600;
/// How long a job waits after a panic of its worker.
const FAILURE_DELAY: Duration = Duration::from_secs(5);

/// A job that is this worker's for now.
pub struct Claimed {
    pub job: Job,
    pub lease: Lease,
    pub progress: Arc<Progress>,
}

/// State that all queues of a worker share.
#[derive(Clone)]
pub struct Worker {
    pub db: Db,
    pub clock: Clock,
    pub settings: config::Jobs,
    /// Its name, for the operator.
    pub name: String,
    /// Its place, which only one process has at a time. Jobs that run there when it starts were left by its predecessor.
    pub place: String,
    pub wake: Arc<Wake>,
    pub metrics: Arc<Metrics>,
    /// The other workers, as far as we hear them.
    pub peers: Arc<Peers>,
}

impl Worker {
    /// The names of the other workers that are alive.
    pub(super) fn alive(&self, rows: Vec<WorkerRow>) -> Vec<String> {
        let now = (std::time::Instant::now(), self.clock.now());
        let mut alive = self.peers.look(rows, now, self.settings.lease);
        alive.retain(|name| *name != self.name);
        alive
    }
}

/// Runs the jobs of one queue with one function, on blocking threads.
pub struct Runner<F> {
    worker: Worker,
    queue: Queue,
    run: Arc<F>,
    /// Jobs that run in this process now.
    running: Mutex<HashSet<JobId>>,
    /// Jobs that other processes run.
    watch: Mutex<Watch>,
    /// Jobs that the process which had our place before has left running.
    inherited: OnceLock<Vec<(JobId, i64)>>,
}

impl<F> Runner<F>
where
    F: Fn(Claimed) -> Outcome + Send + Sync + 'static,
{
    /// A runner that runs nothing yet.
    pub fn new(worker: Worker, queue: Queue, run: Arc<F>) -> Self {
        Self {
            worker,
            queue,
            run,
            running: Mutex::default(),
            watch: Mutex::default(),
            inherited: OnceLock::new(),
        }
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().expect("no panic while it is locked")
    }

    fn running(&self) -> MutexGuard<'_, HashSet<JobId>> {
        self.running
            .lock()
            .expect("no panic while the set is locked")
    }

    /// Works until `stop`, and then until all its jobs have ended. With `give_back` the running jobs are asked to stop,
    /// and go back to the queue.
    pub async fn work(self, stop: CancellationToken, give_back: CancellationToken) {
        let places = self.worker.settings.places(self.queue);
        let places = Arc::new(Semaphore::new(places));
        let tracker = TaskTracker::new();
        let runner = Arc::new(self);
        loop {
            let place = tokio::select! {
                () = stop.cancelled() => break,
                place = places.clone().acquire_owned() => place.expect("the semaphore is never closed"),
            };
            match runner.claim().await {
                Ok(Some((job, since))) => {
                    let (runner, stop) = (runner.clone(), give_back.clone());
                    tracker.spawn(async move {
                        let _here = Here::new(&runner.running, job.id.clone());
                        runner.run_one(job, since, stop).await;
                        drop(place);
                        // Another job of its project may be due that could not use the last free place.
                        runner.worker.wake.wake(runner.queue);
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
            () = self.worker.wake.notify(self.queue).notified() => {}
            () = tokio::time::sleep(self.worker.settings.poll) => {}
        }
    }

    /// Forgets jobs that ended long ago, now and then.
    async fn prune(&self) {
        let now = self.worker.clock.now();
        let seconds = now.0 / 1_000_000;
        let poll_seconds = self.worker.settings.poll.as_secs().max(1) as i64;
        if self.queue != Queue::Quick || seconds % PRUNE_SECONDS >= poll_seconds {
            return;
        }
        let before = Timestamp((seconds - KEPT_SECONDS) * 1_000_000);
        // In batches, so that others can write between them.
        loop {
            let pruned = self.write(move |c| {
                db::workers::prune(c, before)?;
                let counts = [
                    db::messages::prune(c, now)?,
                    db::jobs::prune(c, before)?,
                    db::sessions::prune(c)?,
                ];
                Ok(counts.into_iter().sum::<usize>())
            });
            match pruned.await {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "old jobs and messages were not pruned");
                    return;
                }
            }
        }
    }

    /// A job, and a moment before it was claimed: its lease counts from there.
    async fn claim(&self) -> Result<Option<(Job, Instant)>, DbError> {
        let queue = self.queue;
        let us = Claimer {
            worker: self.worker.name.clone(),
            place: self.worker.place.clone(),
            // A limit: more than can be counted are as good as unlimited.
            places: i64::try_from(self.worker.settings.places(queue)).unwrap_or(i64::MAX),
            reserves: self.worker.settings.reserve,
            others: Vec::new(),
        };
        let (worker, lease) = (self.worker.clone(), self.worker.settings.lease);
        let running = self.running().iter().cloned().collect();
        let elsewhere = self
            .read(move |c| db::jobs::running_elsewhere(c, queue, running))
            .await?;
        // Before this process has claimed its first job, all jobs that run in its place were left by its predecessor.
        let inherited = self.inherited.get_or_init(|| {
            let left = elsewhere
                .iter()
                .filter(|(.., holder)| holder.as_ref() == Some(&us.place));
            left.map(|(job, heartbeats, _)| (job.clone(), *heartbeats))
                .collect()
        });
        let elsewhere = elsewhere
            .into_iter()
            .map(|(job, heartbeats, _)| (job, heartbeats))
            .collect();
        let mut abandoned = self
            .watch()
            .look(elsewhere, std::time::Instant::now(), lease);
        let quiet: HashSet<JobId> = abandoned.iter().map(|(job, _)| job.clone()).collect();
        abandoned.extend(inherited.iter().cloned());
        let started = Instant::now();
        let claimed = self
            .write(move |c| {
                // Only now, as waiting for the connection may have taken a while.
                let now = worker.clock.now();
                let us = Claimer {
                    others: worker.alive(db::workers::all(c)?),
                    ..us.clone()
                };
                if queue == Queue::Backup && db::workers::is_resting(c, &us.worker, &us.others)? {
                    return Ok(None);
                }
                db::jobs::claim(c, queue, &us, now, now.after(lease), &abandoned)
            })
            .await?;
        if let Some(job) = &claimed {
            if quiet.contains(&job.id) {
                tracing::warn!(job.id = %job.id, "the job is taken over: its worker sent no heartbeat for a whole lease");
            }
            self.running().insert(job.id.clone());
        }
        Ok(claimed.map(|job| (job, started)))
    }

    async fn run_one(&self, job: Job, since: Instant, stop: CancellationToken) {
        let lease = Lease {
            job_id: job.id.clone(),
            attempt: job.attempt,
        };
        let progress = Arc::new(Progress::default());
        let length = self.worker.settings.lease;
        progress.allow_until((since + length).into_std());
        let (kind, subject) = (job.kind.clone(), job.subject.clone());
        let request_id = job.request_id.clone().unwrap_or_default();
        let span = tracing::info_span!("job", id = %job.id, kind, request_id);
        tracing::info!(job.id = %job.id, job.attempt, kind, subject, request_id, "job started");
        let waited = self.worker.clock.now().0.saturating_sub(job.run_at.0);
        let waited = Duration::from_micros(u64::try_from(waited).unwrap_or(0));
        self.worker.metrics.job_claimed(&kind, waited);
        let started = Instant::now();
        let claimed = Claimed {
            job,
            lease: lease.clone(),
            progress: progress.clone(),
        };
        let run = self.run.clone();
        let mut running = tokio::task::spawn_blocking(move || span.in_scope(|| run(claimed)));
        let mut renewals = tokio::time::interval(self.worker.settings.lease / 3);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        renewals.reset();
        let outcome = loop {
            tokio::select! {
                result = &mut running => {
                    break result.unwrap_or_else(|_| Outcome::Retry {
                        after: FAILURE_DELAY,
                        reason: "the worker panicked".to_owned(),
                    });
                }
                () = stop.cancelled(), if !progress.is_asked_to_stop() => progress.stop(),
                _ = renewals.tick() => {
                    let asked = Instant::now();
                    match self.renew(&lease, &progress).await {
                        Ok(Renewal::Held) => progress.allow_until((asked + length).into_std()),
                        Ok(Renewal::CancelRequested) => {
                            // What was begun is undone under the lease.
                            progress.allow_until((asked + length).into_std());
                            progress.stop();
                        }
                        Ok(Renewal::Lost) => {
                            tracing::warn!(job.id = %lease.job_id, "the lease was lost");
                            self.worker.metrics.lease_lost();
                            progress.stop();
                        }
                        // The work stops by itself when the lease is over.
                        Err(error) => {
                            tracing::warn!(job.id = %lease.job_id, error = %chain(&error), "the lease was not renewed");
                        }
                    }
                },
            }
        };
        let duration_ms = started.elapsed().as_millis() as u64;
        self.worker
            .metrics
            .job_ended(&kind, outcome.as_str(), started.elapsed());
        self.worker.metrics.moved(
            Progress::value(&progress.read),
            Progress::value(&progress.stored),
            Progress::value(&progress.deduplicated),
        );
        log_outcome(&lease, &kind, &subject, duration_ms, &outcome);
        if let Err(error) = self.settle(&lease, outcome).await {
            // The lease runs out, and the job is claimed again.
            tracing::error!(job.id = %lease.job_id, error = %chain(&error), "job could not be settled");
        }
    }

    async fn renew(&self, lease: &Lease, progress: &Progress) -> Result<Renewal, DbError> {
        let lease = lease.clone();
        let (clock, length) = (self.worker.clock.clone(), self.worker.settings.lease);
        // For display alone; a lease is not lost over it.
        let signed = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        let done = (
            signed(Progress::value(&progress.done)),
            signed(Progress::value(&progress.total)),
        );
        let db = self.worker.db.clone();
        let renew = move || {
            db.renew(|c| {
                let now = clock.now();
                db::jobs::renew(c, &lease, now.after(length), done, now)
            })
        };
        tokio::task::spawn_blocking(renew)
            .await
            .unwrap_or(Err(DbError::Panicked))
    }

    async fn settle(&self, lease: &Lease, outcome: Outcome) -> Result<bool, DbError> {
        let lease = lease.clone();
        let now = self.worker.clock.now();
        self.write(move |c| match &outcome {
            Outcome::Settled | Outcome::Cancelled => Ok(true),
            Outcome::Failed { reason } => {
                db::jobs::settle(c, &lease, JobState::Discarded, Some(reason), now)
            }
            Outcome::Released => db::jobs::put_back(c, &lease, now, None, now),
            Outcome::Retry { after, reason } => {
                db::jobs::put_back(c, &lease, now.after(*after), Some(reason), now)
            }
        })
        .await
    }

    async fn read<T: Send + 'static>(
        &self,
        queries: impl FnOnce(&mut db::DbConnection) -> db::DbResult<T> + Send + 'static,
    ) -> Result<T, DbError> {
        let db = self.worker.db.clone();
        tokio::task::spawn_blocking(move || db.read(queries))
            .await
            .unwrap_or(Err(DbError::Panicked))
    }

    async fn write<T: Send + 'static>(
        &self,
        queries: impl FnMut(&mut db::DbConnection) -> db::DbResult<T> + Send + 'static,
    ) -> Result<T, DbError> {
        let db = self.worker.db.clone();
        tokio::task::spawn_blocking(move || db.write(queries))
            .await
            .unwrap_or(Err(DbError::Panicked))
    }
}

/// Keeps a job among those that run here, for as long as it does, however it ends.
struct Here<'r> {
    running: &'r Mutex<HashSet<JobId>>,
    job: JobId,
}

impl<'r> Here<'r> {
    fn new(running: &'r Mutex<HashSet<JobId>>, job: JobId) -> Self {
        Self { running, job }
    }
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        if let Ok(mut running) = self.running.lock() {
            running.remove(&self.job);
        }
    }
}

fn log_outcome(lease: &Lease, kind: &str, subject: &str, duration_ms: u64, outcome: &Outcome) {
    let id = &lease.job_id;
    match outcome {
        Outcome::Settled => {
            tracing::info!(job.id = %id, kind, subject, duration_ms, "job done");
        }
        Outcome::Cancelled => {
            tracing::info!(job.id = %id, kind, subject, duration_ms, "job cancelled");
        }
        Outcome::Released => {
            tracing::info!(job.id = %id, kind, subject, duration_ms, "job given back; it will be resumed");
        }
        Outcome::Retry { after, reason } => {
            let after_ms = after.as_millis() as u64;
            tracing::warn!(job.id = %id, kind, subject, duration_ms, after_ms, reason, "job will be tried again");
        }
        Outcome::Failed { reason } => {
            tracing::error!(job.id = %id, kind, subject, duration_ms, reason, "job failed");
        }
    }
}
