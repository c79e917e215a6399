//! A sign of life of this process, for administrators. No job depends on it; only the master key is not
//! changed beside somebody who gives one.

use crate::db::workers::WorkerRow;
use crate::db::{self, DbError};
use crate::jobs::Worker;
use crate::model::error::chain;
use tokio_util::sync::CancellationToken;

/// Tells every so often that this worker is there, until it stops.
pub async fn beat(worker: Worker, stop: CancellationToken) {
    let started_at = worker.clock.now();
    loop {
        let row = WorkerRow {
            name: worker.name.clone(),
            started_at,
            seen_at: worker.clock.now(),
        };
        let db = worker.db.clone();
        let put = move || db.renew(|c| db::workers::put(c, &row).map_err(DbError::from));
        match tokio::task::spawn_blocking(put).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = %chain(&error), "no sign of life was given"),
            Err(_) => return,
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(worker.settings.lease) => {}
        }
    }
}
