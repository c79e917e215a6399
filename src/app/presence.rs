//! The row by which other processes on the database see this one. It is there from before the first use of the database
//! to the end of the last job, so that no newer program changes the tables meanwhile (`db::versions`).

use crate::app::{Role, StartError, locks};
use crate::clock::Clock;
use crate::db::processes::{HEARTBEAT, ProcessRow};
use crate::db::{Db, DbError, processes};
use crate::model::error::chain;
use crate::model::time::Timestamp;
use crate::model::version::VERSION;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Rows of processes that were not seen for so long are removed.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 3600);

/// This process, as the others see it.
#[derive(Clone)]
pub(super) struct Presence {
    db: Db,
    row: ProcessRow,
    /// Processes of other versions that were logged.
    noted: BTreeSet<String>,
}

impl Presence {
    /// Writes the row for the first time.
    pub(super) fn begin(db: &Db, role: Role) -> Result<Self, StartError> {
        let now = Clock::System.now();
        let mut presence = Self {
            db: db.clone(),
            row: ProcessRow {
                id: Uuid::new_v4().to_string(),
                role: role.as_str().to_owned(),
                host: locks::host_name(),
                version: VERSION.to_owned(),
                started_at: now,
                seen_at: now,
            },
            noted: BTreeSet::new(),
        };
        presence.beat()?;
        Ok(presence)
    }

    /// Writes heartbeats until it is stopped, and then removes the row. Ends early when a newer program has changed the
    /// tables: this process must not use them any more.
    pub(super) async fn keep(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(HEARTBEAT) => {}
            }
            let mut beating = self.clone();
            let beat = tokio::task::spawn_blocking(move || beating.beat().map(|()| beating));
            match beat.await.unwrap_or(Err(DbError::Panicked)) {
                Ok(presence) => self = presence,
                Err(error @ DbError::Newer { .. }) => {
                    tracing::error!(error = %chain(&error), "this process has become too old for the database");
                    return;
                }
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "this process could not say that it is alive");
                }
            }
        }
        let end = move || self.db.renew(|c| processes::remove(c, &self.row.id));
        if let Ok(Err(error)) = tokio::task::spawn_blocking(end).await {
            tracing::warn!(error = %chain(&error), "this process could not say that it ends");
        }
    }

    fn beat(&mut self) -> Result<(), DbError> {
        self.db.check_version()?;
        let now = Clock::System.now();
        self.row.seen_at = now;
        let oldest = Timestamp(now.0 - Timestamp(0).after(FORGET_AFTER).0);
        let all = self.db.renew(|c| {
            processes::put(c, &self.row)?;
            processes::prune(c, oldest)?;
            processes::all(c)
        })?;
        for other in all {
            let is_unlike = other.version != self.row.version && other.is_up(now);
            if is_unlike && self.noted.insert(other.id) {
                tracing::warn!(
                    version = self.row.version,
                    other.version = other.version,
                    other.role = other.role,
                    other.host = other.host,
                    "a process of another version uses the same database"
                );
            }
        }
        Ok(())
    }
}
