//! What a job does: one `match` over the kinds, each in its own file.
//!
//! A task may be run again from the start at any time, so every step is repeatable. Its last step
//! is one transaction that settles subject and job together, under the lease.

mod cancelled;
mod create_backup;
mod delete_backup;
mod import_backup;
pub mod maintenance;
pub mod orphans;
pub mod rebuild;
mod restore_backup;
mod snapshots;
pub mod usage;
mod volumes;

use crate::clock::Clock;
use crate::db::backups::Finished;
use crate::db::{self, Db, DbConnection, DbError};
use crate::engine;
use crate::engine::backup::decode_pack_set;
use crate::engine::keys::Keyring;
use crate::engine::manifest::Root;
use crate::engine::vault::{Options, Parameters, Vault};
use crate::jobs::Claimed;
use crate::model::backup::{Backup, FAIL_REASON_CHARS_MAX};
use crate::model::error::chain;
use crate::model::id::{BackupId, JobId, StorageId, VaultId};
use crate::model::job::{JobArgs, JobState, Lease, Outcome};
use crate::model::message::{Action, Detail, Message};
use crate::model::vault::VaultRow;
use crate::store::Store;
use crate::volume::catalog::{Catalog, CatalogError};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Passing faults of a job after which the next is taken for a lasting one.
const RETRIES_MAX: i32 = 5;
/// Wait after the first of them; doubled each time.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// A storage that is open.
pub struct OpenStorage {
    /// Its name in the configuration; the backups' `container` unless one was asked for.
    pub name: String,
    pub store: Store,
}

/// What became of each vault.
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
    /// The row the job is about has changed or gone.
    #[error("{0}")]
    Subject(&'static str),
    #[error("the job was given up: {0} times its worker vanished")]
    Attempts(i32),
    /// An administrator has disabled the service.
    #[error("Service not found for creating backup.")]
    NoService,
    /// The second net below the rules of compaction.
    #[error("a pack that the backup relies on was written again meanwhile")]
    Rewritten,
    /// The same when the volume is no longer held, so that it cannot be read again.
    #[error("a pack that the backup relies on was written again at its end; make the backup again")]
    Unsafe,
    /// What the task decided by has changed under its hands.
    #[error("something changed meanwhile")]
    Overtaken,
    /// A defect of ours.
    #[error("the job panicked")]
    Panicked,
    /// Another worker has the job.
    #[error("another worker has taken over")]
    Fenced,
}

impl TaskError {
    fn is_temporary(&self) -> bool {
        match self {
            TaskError::Engine(error) => error.is_temporary(),
            TaskError::Catalog(CatalogError::Db(_))
            | TaskError::Db(_)
            | TaskError::Panicked
            | TaskError::Rewritten => true,
            TaskError::Catalog(_)
            | TaskError::Subject(_)
            | TaskError::Attempts(_)
            | TaskError::NoService
            | TaskError::Unsafe
            | TaskError::Overtaken
            | TaskError::Fenced => false,
        }
    }
}

impl Tasks {
    /// Runs a claimed job.
    pub fn run(&self, claimed: Claimed) -> Outcome {
        let result = match claimed.job.orphaned >= self.attempts_max {
            true => Err(TaskError::Attempts(self.attempts_max)),
            false if claimed.job.cancel_requested => return self.cancel(&claimed),
            // A panic is a failure like others: told, counted, and tried again ever more seldom.
            false => catch_unwind(AssertUnwindSafe(|| self.attempt(&claimed)))
                .unwrap_or(Err(TaskError::Panicked)),
        };
        match result {
            Err(_) if self.is_cancel_requested(&claimed) => self.cancel(&claimed),
            Ok(()) => Outcome::Settled,
            Err(error) => self.after_failure(&claimed, error),
        }
    }

    fn attempt(&self, claimed: &Claimed) -> Result<(), TaskError> {
        match &*claimed.job.args {
            JobArgs::CreateBackup {
                backup_id, force, ..
            } => self.create_backup(claimed, backup_id, *force),
            JobArgs::RestoreBackup { backup_id, target } => {
                self.restore_backup(claimed, backup_id, target)
            }
            JobArgs::DeleteBackup { backup_id } => self.delete_backup(claimed, backup_id),
            JobArgs::ResetBackup { backup_id } => self.reset_backup(claimed, backup_id),
            JobArgs::ImportBackup { backup_id, record } => {
                self.import_backup(claimed, backup_id, record)
            }
            JobArgs::CreateVolume { volume_id } => self.create_volume(claimed, volume_id),
            JobArgs::DeleteVolume { volume_id } => {
                self.remove_volume(claimed, volume_id, JobState::Completed)
            }
            JobArgs::ExtendVolume {
                volume_id,
                size_gib,
            } => self.extend_volume(claimed, volume_id, *size_gib),
            JobArgs::CreateSnapshot { snapshot_id } => self.create_snapshot(claimed, snapshot_id),
            JobArgs::DeleteSnapshot { snapshot_id } => {
                self.remove_snapshot(claimed, snapshot_id, JobState::Completed)
            }
            JobArgs::CollectVault { vault_id } => self.collect_vault(claimed, vault_id),
            JobArgs::VerifyVault { vault_id } => self.verify_vault(claimed, vault_id),
        }
    }

    /// Decides between again, given back, and failed for good.
    fn after_failure(&self, claimed: &Claimed, error: TaskError) -> Outcome {
        let reason = chain(&error);
        match &error {
            TaskError::Fenced
            | TaskError::Overtaken
            | TaskError::Engine(engine::Error::Cancelled | engine::Error::Fenced) => {
                return Outcome::Released;
            }
            // Whatever failed while the job was asked to stop failed for that.
            error if error.is_temporary() && claimed.progress.is_asked_to_stop() => {
                return Outcome::Released;
            }
            error if error.is_temporary() && claimed.job.failures < RETRIES_MAX => {
                return Outcome::Retry {
                    after: retry_delay(claimed),
                    reason,
                };
            }
            _ => {}
        }
        match self.give_up(claimed, &error, &reason) {
            Ok(()) => Outcome::Failed { reason },
            Err(_) if self.is_cancel_requested(claimed) => self.cancel(claimed),
            Err(settling) => Outcome::Retry {
                after: retry_delay(claimed),
                reason: format!(
                    "{reason}; and it could not be settled: {}",
                    chain(&settling)
                ),
            },
        }
    }

    /// Tells the subject that its job failed, and settles the job with it.
    fn give_up(&self, claimed: &Claimed, error: &TaskError, reason: &str) -> Result<(), TaskError> {
        match &*claimed.job.args {
            JobArgs::CreateBackup { backup_id, .. } => {
                let detail = match error {
                    TaskError::NoService => Detail::NoService,
                    _ => Detail::CreateFailed,
                };
                self.backup_failed(claimed, backup_id, &fail_reason(error), detail)
            }
            JobArgs::ResetBackup { .. } => self.discard(claimed, reason, |_| Ok(())),
            JobArgs::ImportBackup { backup_id, .. } => {
                self.import_failed(claimed, backup_id, &fail_reason(error))
            }
            JobArgs::RestoreBackup { backup_id, target } => {
                self.restore_failed(claimed, backup_id, target, reason)
            }
            JobArgs::DeleteBackup { backup_id } => {
                self.deletion_failed(claimed, backup_id, &fail_reason(error))
            }
            JobArgs::CreateVolume { volume_id }
            | JobArgs::DeleteVolume { volume_id }
            | JobArgs::ExtendVolume { volume_id, .. } => {
                self.volume_failed(claimed, volume_id, reason)
            }
            JobArgs::CreateSnapshot { snapshot_id } | JobArgs::DeleteSnapshot { snapshot_id } => {
                self.snapshot_failed(claimed, snapshot_id, reason)
            }
            JobArgs::CollectVault { .. } | JobArgs::VerifyVault { .. } => {
                self.maintenance_failed(claimed, reason)
            }
        }
    }

    /// Changes rows and completes the job in one transaction, or, if the lease is lost, nothing.
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
            match db::jobs::settle(c, lease, end, None, now).map_err(DbError::from)? {
                true => Ok(()),
                false => Err(TaskError::Fenced),
            }
        })
    }

    /// Tells the subject that its job failed, and discards the job, in one transaction.
    fn discard(
        &self,
        claimed: &Claimed,
        reason: &str,
        mut change: impl FnMut(&mut DbConnection) -> db::QueryResult<()>,
    ) -> Result<(), TaskError> {
        let now = self.clock.now();
        self.db.write(|c| {
            change(c).map_err(DbError::from)?;
            let end = JobState::Discarded;
            match db::jobs::settle(c, &claimed.lease, end, Some(reason), now)
                .map_err(DbError::from)?
            {
                true => Ok(()),
                false => Err(TaskError::Fenced),
            }
        })
    }

    /// Changes rows if the job is still ours; completes nothing.
    fn under_lease<T>(
        &self,
        lease: &Lease,
        mut change: impl FnMut(&mut DbConnection) -> db::QueryResult<T>,
    ) -> Result<T, TaskError> {
        self.db.write(|c| {
            let job = db::jobs::find(c, &lease.job_id).map_err(DbError::from)?;
            let is_ours = job
                .is_some_and(|job| job.state == JobState::Running && job.attempt == lease.attempt);
            match is_ours {
                true => Ok(change(c).map_err(DbError::from)?),
                false => Err(TaskError::Fenced),
            }
        })
    }

    /// Tells the owner of a backup what became of it. Part of the transaction that settles it.
    fn tell(
        &self,
        connection: &mut DbConnection,
        claimed: &Claimed,
        backup: &Backup,
        what: (Action, Detail),
    ) -> db::QueryResult<()> {
        let message = Message::new(
            backup.project_id.clone(),
            claimed.job.request_id.clone(),
            what,
            ("VOLUME_BACKUP", backup.id.as_str()),
            self.clock.now(),
        );
        db::messages::insert(connection, &message)
    }

    /// Makes sure that all packs of a backup are live, in the transaction that makes it available:
    /// a collector may have condemned one that the session had just come to rely upon.
    fn hold_packs(
        &self,
        connection: &mut DbConnection,
        vault: &Vault,
        job: &JobId,
        root: &Root,
    ) -> Result<(), TaskError> {
        let packs: Vec<i64> = decode_pack_set(&root.pack_set)?
            .iter()
            .map(i64::from)
            .collect();
        let held = db::packs::reference(connection, vault.number, job, &packs);
        match held.map_err(DbError::from)?.len() == packs.len() {
            true => Ok(()),
            false => Err(TaskError::Subject("a pack of the backup is not live")),
        }
    }

    fn find_backup(&self, id: &BackupId) -> Result<Option<Backup>, DbError> {
        self.db
            .read(|c| db::backups::find(c, id).map_err(DbError::from))
    }

    fn storage(&self, id: &StorageId) -> Result<&OpenStorage, TaskError> {
        self.storages.get(id).ok_or(TaskError::Subject(
            "the backup's storage is not configured any more",
        ))
    }

    /// All vaults of the configured storages, for commands that work beside the service.
    pub fn vaults(&self) -> Result<OfVaults<Vault>, DbError> {
        let rows = self
            .db
            .read(|c| db::vaults::all(c).map_err(DbError::from))?;
        Ok(rows
            .into_iter()
            .map(|row| (row.id.clone(), self.open_vault(&row)))
            .collect())
    }

    fn open_vault(&self, row: &VaultRow) -> Result<Vault, TaskError> {
        let storage = self.storage(&row.storage_id)?;
        Ok(Vault::open(
            self.db.clone(),
            storage.store.clone(),
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
        let row = self
            .db
            .read(|c| db::vaults::find_by_id(c, id).map_err(DbError::from))?;
        row.map(|row| self.open_vault(&row)).transpose()
    }
}

/// Wait before a job is tried again: twice as long after each failure. No job is put off for more than
/// [`db::jobs::PUT_OFF_MAX`].
fn retry_delay(claimed: &Claimed) -> Duration {
    let doublings = u32::try_from(claimed.job.failures).unwrap_or(0).min(16);
    RETRY_DELAY * 2_u32.pow(doublings)
}

/// What a root says a backup came to.
fn finished(root: &Root) -> Finished {
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    Finished {
        pack_set: root.pack_set.clone(),
        object_count: signed(root.object_count),
        logical_bytes: signed(root.logical_bytes),
        read_bytes: signed(root.read_bytes),
        stored_bytes: signed(root.stored_bytes),
        deduplicated_bytes: signed(root.deduplicated_bytes),
    }
}

fn fail_reason(error: &TaskError) -> String {
    chain(error).chars().take(FAIL_REASON_CHARS_MAX).collect()
}
