//! The heartbeat of this process: when it was last alive, and how many places it has. No lease depends on it. The
//! other workers count our places for as long as they hear it, and we count theirs. Once this worker is stopping it has
//! none, and its last jobs take none; for backups the same is so while an administrator has disabled it. A change of
//! the master key refuses to run while a worker sends heartbeats, so that they go on until the last job has ended.

use crate::db::workers::WorkerRow;
use crate::db::{self, DbError};
use crate::jobs::Worker;
use crate::model::error::chain;
use crate::model::job::Queue;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Writes a heartbeat three times a lease until the jobs have ended, and hears those of the others.
pub async fn send_heartbeats(worker: Worker, stop: CancellationToken, jobs: TaskTracker) {
    // The settings are refused long before a number is too large.
    let places = |queue| i32::try_from(worker.settings.places(queue)).unwrap_or(i32::MAX);
    let started_at = worker.clock.now();
    let mut row = WorkerRow {
        name: worker.name.clone(),
        started_at,
        seen_at: started_at,
        backups: places(Queue::Backup),
        copies: places(Queue::Copy),
        quick: places(Queue::Quick),
    };
    let mut is_stopping = false;
    loop {
        row.seen_at = worker.clock.now();
        put(&worker, row.clone()).await;
        tokio::select! {
            biased;
            () = stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                row = WorkerRow { backups: 0, copies: 0, quick: 0, ..row };
            }
            () = jobs.wait() => return,
            () = tokio::time::sleep(worker.settings.lease / 3) => {}
        }
    }
}

async fn put(worker: &Worker, row: WorkerRow) {
    let worker = worker.clone();
    let put = move || -> Result<(), DbError> {
        worker.db.renew(|c| {
            let others = worker.alive(db::workers::all(c)?);
            let mut row = row.clone();
            if db::workers::is_resting(c, &row.name, &others)? {
                row.backups = 0;
            }
            db::workers::put(c, &row)
        })
    };
    let put = tokio::task::spawn_blocking(put).await;
    if let Err(error) = put.unwrap_or(Err(DbError::Panicked)) {
        tracing::warn!(error = %chain(&error), "the heartbeat was not written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::config::Config;
    use crate::db::Db;
    use std::sync::Arc;
    use std::time::Duration;

    /// Waits until the heartbeat of the only worker is as expected.
    async fn wait(db: &Db, is_expected: impl Fn(&WorkerRow) -> bool) -> WorkerRow {
        for _ in 0..2000 {
            let rows = db.read(db::workers::all).unwrap();
            if let Some(row) = rows.into_iter().find(&is_expected) {
                return row;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no such heartbeat came");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_worker_that_stops_has_no_places_and_is_heard_until_its_last_job_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&format!("sqlite:{}", dir.path().join("db").display())).unwrap();
        let worker = Worker {
            db: db.clone(),
            clock: Clock::System,
            settings: crate::config::Jobs {
                lease: Duration::from_millis(60),
                ..Config::default().jobs
            },
            name: "w".to_owned(),
            place: "p".to_owned(),
            wake: Arc::default(),
            metrics: Arc::default(),
            peers: Arc::default(),
        };
        let (stop, jobs) = (CancellationToken::new(), TaskTracker::new());
        let job = jobs.token();
        jobs.close();
        let owner = TaskTracker::new();
        let heartbeat = owner.spawn(send_heartbeats(worker, stop.clone(), jobs));
        wait(&db, |row| row.quick > 0 && row.backups > 0).await;
        stop.cancel();
        let stopping = wait(&db, |row| row.quick == 0 && row.backups == 0).await;
        wait(&db, |row| row.seen_at > stopping.seen_at).await;
        drop(job);
        heartbeat.await.unwrap();
    }
}
