//! Carries out jobs: `run` looks at the subject of a job and at the work on it; each kind of work has its own file.
//!
//! A task may run again from the start at any time, so every step can be repeated. Its last step is one transaction that
//! settles subject and job together, if the lease still holds.

mod cancelled;
mod create_backup;
mod delete_backup;
mod import_backup;
pub mod maintenance;
pub mod orphans;
pub mod rebuild;
mod restore_backup;
mod run;
mod standalone;
pub mod usage;

use crate::clock::Clock;
use crate::config;
use crate::db::backups::Finished;
use crate::db::{self, Db, DbConnection, DbError};
use crate::engine;
use crate::engine::format::keys::Keyring;
use crate::engine::format::manifest::{Root, decode_pack_set};
use crate::engine::vault::Vault;
use crate::engine::vault::options::{Options, Parameters};
use crate::jobs::Claimed;
use crate::model::backup::{Backup, FAIL_REASON_CHARS_MAX};
use crate::model::error::chain;
use crate::model::id::{BackupId, JobId, StorageId, VaultId};
use crate::model::job::{JobState, Lease};
use crate::model::message::{Action, Detail, Message};
use crate::model::number::PackNumber;
use crate::model::vault::VaultRow;
use crate::store::Store;
use crate::volume::catalog::{Catalog, CatalogError};
use std::collections::BTreeMap;
use std::time::Duration;

/// Delay of the first retry after a temporary fault of a job; doubled each time.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// A storage that is open.
pub struct OpenStorage {
    /// Its name in the configuration; the backups' `container` unless one was asked for.
    pub name: String,
    pub store: Store,
}

/// The result for each vault.
pub type OfVaults<T> = Vec<(VaultId, Result<T, TaskError>)>;

/// Everything a job can need.
pub struct Tasks {
    pub db: Db,
    pub clock: Clock,
    pub catalog: Catalog,
    pub storages: BTreeMap<StorageId, OpenStorage>,
    pub masters: Keyring,
    pub parameters: Parameters,
    pub options: Options,
    pub quota: config::Quota,
    pub attempts_max: i32,
    /// Bytes that one verification reads.
    pub verify_bytes: u64,
}

/// Why a task did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    #[error(transparent)]
    Engine(#[from] engine::Error),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Db(#[from] DbError),
    /// The row that the job is about has changed or was removed.
    #[error("{0}")]
    Subject(&'static str),
    #[error("gave up: the worker died {0} times during this job")]
    Attempts(i32),
    /// An administrator has disabled the service.
    #[error("Service not found for creating backup.")]
    NoService,
    /// A second check beside the rules that forbid it; see `db::packs::is_rewritten`.
    #[error("a pack that the backup uses was rewritten meanwhile, so the backup is made again")]
    Rewritten,
    /// The same, found after the volume was released, so that it cannot be read again.
    #[error("a pack that the backup uses was rewritten at its end; create the backup again")]
    Unsafe,
    /// The state that the task relied on has changed since.
    #[error("the state this job relied on has changed; it starts again")]
    Overtaken,
    /// A bug in this program.
    #[error("the job panicked")]
    Panicked,
    /// Another worker has the job.
    #[error("another worker has taken over")]
    Fenced,
}

impl TaskError {
    /// Whether the database failed in a way that may pass. A row that cannot be read stays so.
    fn is_of_database(&self) -> bool {
        match self {
            TaskError::Db(error)
            | TaskError::Catalog(CatalogError::Db(error))
            | TaskError::Engine(engine::Error::Db(error)) => !error.is_lasting(),
            _ => false,
        }
    }

    fn is_temporary(&self) -> bool {
        match self {
            TaskError::Engine(error) => error.is_temporary(),
            TaskError::Catalog(error) => error.is_temporary(),
            TaskError::Db(error) => !error.is_lasting(),
            TaskError::Panicked | TaskError::Rewritten => true,
            TaskError::Subject(_)
            | TaskError::Attempts(_)
            | TaskError::NoService
            | TaskError::Unsafe
            | TaskError::Overtaken
            | TaskError::Fenced => false,
        }
    }
}

impl Tasks {
    /// Changes rows and completes the job in one transaction. If the lease is lost, nothing changes.
    fn settle(
        &self,
        lease: &Lease,
        change: impl FnMut(&mut DbConnection) -> Result<(), TaskError>,
    ) -> Result<(), TaskError> {
        self.settle_as(lease, JobState::Completed, change)
    }

    fn settle_as(
        &self,
        lease: &Lease,
        end: JobState,
        mut change: impl FnMut(&mut DbConnection) -> Result<(), TaskError>,
    ) -> Result<(), TaskError> {
        let now = self.clock.now();
        self.db.write(|c| {
            change(c)?;
            if db::jobs::settle(c, lease, end, None, now)? {
                Ok(())
            } else {
                Err(TaskError::Fenced)
            }
        })
    }

    /// Changes the subject of a failed job and discards the job, in one transaction.
    fn discard(
        &self,
        claimed: &Claimed,
        reason: &str,
        change: impl FnMut(&mut DbConnection) -> db::DbResult<()>,
    ) -> Result<(), TaskError> {
        self.discard_as(claimed, JobState::Discarded, reason, change)
    }

    fn discard_as(
        &self,
        claimed: &Claimed,
        end: JobState,
        reason: &str,
        mut change: impl FnMut(&mut DbConnection) -> db::DbResult<()>,
    ) -> Result<(), TaskError> {
        let now = self.clock.now();
        self.db.write(|c| {
            change(c)?;
            if db::jobs::settle(c, &claimed.lease, end, Some(reason), now)? {
                Ok(())
            } else {
                Err(TaskError::Fenced)
            }
        })
    }

    /// Changes rows if the job still belongs to this run; does not complete the job. No other run can claim it before
    /// the transaction ends. The job's row is locked last, as in `settle`, so that no two wait for each other.
    fn under_lease<T>(
        &self,
        lease: &Lease,
        mut change: impl FnMut(&mut DbConnection) -> db::DbResult<T>,
    ) -> Result<T, TaskError> {
        self.db.write(|c| {
            let changed = change(c)?;
            if db::jobs::hold(c, lease)? {
                Ok(changed)
            } else {
                Err(TaskError::Fenced)
            }
        })
    }

    /// Leaves the owner of a backup a message. Part of the transaction that settles the backup.
    fn leave_message(
        &self,
        connection: &mut DbConnection,
        claimed: &Claimed,
        backup: &Backup,
        what: (Action, Detail),
    ) -> db::DbResult<()> {
        let message = Message::new(
            backup.project_id.clone(),
            claimed.job.request_id.clone(),
            what,
            ("VOLUME_BACKUP", backup.id.as_str()),
            self.clock.now(),
        );
        db::messages::insert(connection, &message)
    }

    /// Makes all packs of a backup live, in the transaction that makes it available; an error if one was given up. A
    /// collection may have condemned a pack after the session took its reference.
    fn hold_packs(
        &self,
        connection: &mut DbConnection,
        vault: &Vault,
        job: &JobId,
        root: &Root,
    ) -> Result<(), TaskError> {
        let packs: Vec<PackNumber> = decode_pack_set(&root.pack_set)?
            .iter()
            .map(PackNumber::from)
            .collect();
        let held = db::packs::reference(connection, vault.number, job, &packs);
        if held?.len() == packs.len() {
            Ok(())
        } else {
            Err(TaskError::Subject(
                "a pack that the backup needs was removed",
            ))
        }
    }

    fn find_backup(&self, id: &BackupId) -> Result<Option<Backup>, DbError> {
        self.db.read(|c| db::backups::find(c, id))
    }

    fn storage(&self, id: &StorageId) -> Result<&OpenStorage, TaskError> {
        self.storages.get(id).ok_or(TaskError::Subject(
            "the backup's storage is no longer configured",
        ))
    }

    /// All vaults of the configured storages, for commands that work beside the service.
    pub fn vaults(&self) -> Result<OfVaults<Vault>, DbError> {
        let rows = self.db.read(db::vaults::all)?;
        Ok(rows
            .into_iter()
            .map(|row| (row.id.clone(), self.open_vault(&row)))
            .collect())
    }

    fn open_vault(&self, row: &VaultRow) -> Result<Vault, TaskError> {
        let storage = self.storage(&row.storage_id)?;
        Ok(Vault::open(
            self.db.clone(),
            storage.store.clone().for_another_job(),
            &self.masters,
            row,
            &self.parameters,
            self.options.clone(),
        )?)
    }

    /// The vault a backup was stored in, if it got that far and the vault was not shredded.
    fn vault_of(&self, backup: &Backup) -> Result<Option<Vault>, TaskError> {
        let Some(id) = &backup.vault_id else {
            return Ok(None);
        };
        let row = self.db.read(|c| db::vaults::find_by_id(c, id))?;
        row.map(|row| self.open_vault(&row)).transpose()
    }
}

/// Delay before a job is tried again: twice as long after each failure. No job is postponed for more than
/// [`db::jobs::PUT_OFF_MAX`].
fn retry_delay(claimed: &Claimed) -> Duration {
    let doublings = u32::try_from(claimed.job.failures).unwrap_or(0).min(16);
    RETRY_DELAY * 2_u32.pow(doublings)
}

/// The totals of a backup, from its root.
fn finished(root: &Root) -> engine::Result<Finished> {
    let signed = |value: u64| {
        i64::try_from(value).map_err(|_| engine::Error::Corrupt {
            object: format!("the root of backup {}", root.backup.id),
            detail: format!("no backup comes to {value} bytes or objects"),
        })
    };
    Ok(Finished {
        pack_set: root.pack_set.clone(),
        object_count: signed(root.object_count)?,
        logical_bytes: signed(root.logical_bytes)?,
        read_bytes: signed(root.read_bytes)?,
        stored_bytes: signed(root.stored_bytes)?,
        deduplicated_bytes: signed(root.deduplicated_bytes)?,
    })
}

fn fail_reason(error: &TaskError) -> String {
    chain(error).chars().take(FAIL_REASON_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_the_database_passes_unless_a_row_cannot_be_read() {
        let (passing, lasting) = (|| DbError::Panicked, DbError::of_a_row);
        let wrapped = |error: fn() -> DbError| {
            [
                TaskError::Db(error()),
                TaskError::Catalog(CatalogError::Db(error())),
                TaskError::Engine(engine::Error::Db(error())),
            ]
        };
        for error in wrapped(passing) {
            assert!(error.is_of_database() && error.is_temporary(), "{error:?}");
        }
        let others = [TaskError::Panicked, TaskError::Fenced];
        for error in wrapped(lasting).iter().chain(&others) {
            assert!(!error.is_of_database(), "{error:?}");
        }
        assert!(wrapped(lasting).iter().all(|error| !error.is_temporary()));
    }
}
