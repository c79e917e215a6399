//! Runs a claimed job, and decides by its result: done, try again, or given up.

use crate::engine;
use crate::jobs::Claimed;
use crate::model::error::chain;
use crate::model::id::BackupId;
use crate::model::job::{BackupWork, JobState, Outcome, Subject};
use crate::model::message::Detail;
use crate::tasks::{TaskError, Tasks, fail_reason, retry_delay};
use crate::volume::catalog::CatalogError;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Most temporary faults of a job; the next one counts as permanent.
const RETRIES_MAX: i32 = 5;

/// How a job goes on after an error.
pub(super) enum Next {
    /// Another run takes it up at once; it has not failed.
    GiveBack,
    TryAgain,
    GiveUp,
}

pub(super) fn what_next(claimed: &Claimed, error: &TaskError) -> Next {
    match error {
        TaskError::Fenced
        | TaskError::Overtaken
        | TaskError::Catalog(CatalogError::Stopped)
        | TaskError::Engine(engine::Error::Cancelled | engine::Error::Fenced) => Next::GiveBack,
        error if error.is_temporary() && claimed.job.failures < RETRIES_MAX => Next::TryAgain,
        _ => Next::GiveUp,
    }
}

pub(super) fn try_again(claimed: &Claimed, reason: String) -> Outcome {
    let after = retry_delay(claimed);
    Outcome::Retry { after, reason }
}

/// A panic is an error like others: reported, counted, and tried again after longer and longer waits.
pub(super) fn guarded(work: impl FnOnce() -> Result<(), TaskError>) -> Result<(), TaskError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(TaskError::Panicked))
}

impl Tasks {
    /// Runs a claimed job.
    pub fn run(&self, claimed: Claimed) -> Outcome {
        let result = if claimed.job.orphaned >= self.attempts_max {
            Err(TaskError::Attempts(self.attempts_max))
        } else if claimed.job.cancel_requested {
            return self.cancel(&claimed);
        } else {
            guarded(|| self.attempt(&claimed))
        };
        match result {
            Err(_) if self.is_cancel_requested(&claimed) => self.cancel(&claimed),
            Ok(()) => Outcome::Settled,
            Err(error) => self.after_failure(&claimed, error),
        }
    }

    fn attempt(&self, claimed: &Claimed) -> Result<(), TaskError> {
        match claimed.job.args.subject() {
            Subject::Backup(id, work) => self.attempt_backup(claimed, id, work),
            Subject::Volume(id, work) => self.attempt_volume(claimed, id, work),
            Subject::Snapshot(id, work) => self.attempt_snapshot(claimed, id, work),
            Subject::Vault(id, upkeep) => self.attempt_upkeep(claimed, id, upkeep),
        }
    }

    fn attempt_backup(
        &self,
        claimed: &Claimed,
        id: &BackupId,
        work: BackupWork<'_>,
    ) -> Result<(), TaskError> {
        match work {
            BackupWork::Create { force, .. } => self.create_backup(claimed, id, force),
            BackupWork::Restore(target) => self.restore_backup(claimed, id, target),
            BackupWork::Delete => self.delete_backup(claimed, id),
            BackupWork::Reset => self.reset_backup(claimed, id),
            BackupWork::Import {
                record,
                of_any_project,
            } => self.import_backup(claimed, id, record, of_any_project),
        }
    }

    /// Decides whether a failed job is tried again, given back, or failed for good.
    fn after_failure(&self, claimed: &Claimed, error: TaskError) -> Outcome {
        let reason = chain(&error);
        match what_next(claimed, &error) {
            Next::GiveBack => return Outcome::Released,
            // A job that was asked to stop may fail because of that. It is resumed, not counted as failed.
            _ if error.is_temporary() && claimed.progress.is_asked_to_stop() => {
                return Outcome::Released;
            }
            Next::TryAgain => return try_again(claimed, reason),
            Next::GiveUp => {}
        }
        match guarded(|| self.give_up(claimed, &error, &reason)) {
            Ok(()) => Outcome::Failed { reason },
            Err(_) if self.is_cancel_requested(claimed) => self.cancel(claimed),
            Err(settling) => self.not_settled(claimed, reason, &settling),
        }
    }

    /// A job whose subject could not be settled is tried again if that may help. Otherwise the job ends alone: its
    /// subject is then settled as an orphan.
    pub(super) fn not_settled(
        &self,
        claimed: &Claimed,
        reason: String,
        settling: &TaskError,
    ) -> Outcome {
        let reason = format!("{reason}; and it could not be settled: {}", chain(settling));
        match what_next(claimed, settling) {
            Next::GiveBack => Outcome::Released,
            Next::TryAgain => try_again(claimed, reason),
            // While the database does not answer, nothing can be settled.
            Next::GiveUp if settling.is_of_database() => try_again(claimed, reason),
            Next::GiveUp => {
                let end = if self.is_cancel_requested(claimed) {
                    JobState::Cancelled
                } else {
                    JobState::Discarded
                };
                match self.discard_as(claimed, end, &reason, |_| Ok(())) {
                    Ok(()) => Outcome::Failed { reason },
                    Err(_) => try_again(claimed, reason),
                }
            }
        }
    }

    /// Marks the subject as failed, and discards the job with it.
    fn give_up(&self, claimed: &Claimed, error: &TaskError, reason: &str) -> Result<(), TaskError> {
        match claimed.job.args.subject() {
            Subject::Backup(id, work) => self.give_backup_up(claimed, (id, work), error, reason),
            Subject::Volume(id, work) => self.volume_failed(claimed, id, work, reason),
            Subject::Snapshot(id, work) => self.snapshot_failed(claimed, id, work, reason),
            Subject::Vault(id, upkeep) => self.upkeep_failed(claimed, id, upkeep, reason),
        }
    }

    fn give_backup_up(
        &self,
        claimed: &Claimed,
        (id, work): (&BackupId, BackupWork<'_>),
        error: &TaskError,
        reason: &str,
    ) -> Result<(), TaskError> {
        match work {
            BackupWork::Create { .. } => {
                let detail = match error {
                    TaskError::NoService => Detail::NoService,
                    _ => Detail::CreateFailed,
                };
                self.backup_failed(claimed, id, &fail_reason(error), detail)
            }
            BackupWork::Reset => self.discard(claimed, reason, |_| Ok(())),
            BackupWork::Import { .. } => self.import_failed(claimed, id, &fail_reason(error)),
            BackupWork::Restore(target) => self.restore_failed(claimed, id, target, reason),
            BackupWork::Delete => self.deletion_failed(claimed, id, &fail_reason(error)),
        }
    }
}
