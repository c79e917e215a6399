//! The heartbeat of this process: when it was last alive, and how many places it has. No lease depends on it. The
//! other workers count our places for as long as they hear it, and we count theirs. A change of the master key refuses
//! to run while a worker sends heartbeats.

use crate::db::workers::WorkerRow;
use crate::db::{self, DbError};
use crate::jobs::Worker;
use crate::model::error::chain;
use crate::model::job::Lane;
use tokio_util::sync::CancellationToken;

/// Writes a heartbeat three times a lease until the worker stops, and hears those of the others.
pub async fn beat(worker: Worker, stop: CancellationToken) {
    // The settings are refused long before a number is too large.
    let places = |lane| i32::try_from(worker.settings.places(lane)).unwrap_or(i32::MAX);
    let started_at = worker.clock.now();
    let mut row = WorkerRow {
        name: worker.name.clone(),
        started_at,
        seen_at: started_at,
        backups: places(Lane::Backup),
        copies: places(Lane::Copy),
        quick: places(Lane::Quick),
    };
    while !stop.is_cancelled() {
        row.seen_at = worker.clock.now();
        put(&worker, row.clone()).await;
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(worker.settings.lease / 3) => {}
        }
    }
    // Its places no longer count when places are shared among projects.
    let stopped = WorkerRow {
        backups: 0,
        copies: 0,
        quick: 0,
        ..row
    };
    put(&worker, stopped).await;
}

async fn put(worker: &Worker, row: WorkerRow) {
    let worker = worker.clone();
    let put = move || -> Result<(), DbError> {
        let rows = worker.db.renew(|c| -> Result<_, DbError> {
            db::workers::put(c, &row)?;
            db::workers::all(c)
        })?;
        worker.alive(rows);
        Ok(())
    };
    let put = tokio::task::spawn_blocking(put).await;
    if let Err(error) = put.unwrap_or(Err(DbError::Panicked)) {
        tracing::warn!(error = %chain(&error), "the heartbeat was not written");
    }
}
