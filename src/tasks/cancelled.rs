//! The end of a job that was asked to end, by a forced deletion or a reset of the status.

use crate::db;
use crate::jobs::Claimed;
use crate::model::backup::{BackupEvent, BackupStatus};
use crate::model::error::chain;
use crate::model::job::{BackupWork, JobState, Outcome, Subject};
use crate::model::message::{Action, Detail};
use crate::tasks::run::{Next, guarded, try_again, what_next};
use crate::tasks::{TaskError, Tasks, fail_reason};

impl Tasks {
    /// Whether the job was asked to end. While the database does not answer, the answer is no.
    pub(super) fn is_cancel_requested(&self, claimed: &Claimed) -> bool {
        let id = &claimed.lease.job_id;
        self.db
            .read(|c| db::jobs::is_cancel_requested(c, id))
            .unwrap_or(false)
    }

    /// Undoes the job's work. Can be repeated. If that fails even after some attempts, the job ends like a failed
    /// deletion.
    pub(super) fn cancel(&self, claimed: &Claimed) -> Outcome {
        let undo = || self.let_go(claimed).and_then(|()| self.take_back(claimed));
        let Err(error) = guarded(undo) else {
            return Outcome::Cancelled;
        };
        let reason = chain(&error);
        match what_next(claimed, &error) {
            Next::GiveBack => Outcome::Released,
            Next::TryAgain => try_again(claimed, reason),
            Next::GiveUp => match guarded(|| self.cancelling_failed(claimed, &error)) {
                Ok(()) => Outcome::Failed { reason },
                Err(settling) => self.not_settled(claimed, reason, &settling),
            },
        }
    }

    /// Marks a subject that was to be deleted as not deleted. Any other keeps the state that an administrator gave it.
    fn cancelling_failed(&self, claimed: &Claimed, error: &TaskError) -> Result<(), TaskError> {
        let (now, reason) = (self.clock.now(), fail_reason(error));
        let subject = claimed.job.args.subject();
        let backup = match subject {
            Subject::Backup(id, _) => self.find_backup(id)?,
            Subject::Volume(..) | Subject::Snapshot(..) | Subject::Vault(..) => None,
        };
        self.discard_as(claimed, JobState::Cancelled, &reason, |c| {
            db::packs::end_session(c, &claimed.job.id)?;
            if let Some(backup) = &backup {
                let is_going = backup.status == BackupStatus::Deleting;
                if is_going && db::backups::transition(c, &backup.id, BackupEvent::Failed, now)? {
                    db::backups::set_fail_reason(c, &backup.id, &reason)?;
                    let what = (Action::DeleteBackup, Detail::DeleteFailed);
                    self.leave_message(c, claimed, backup, what)?;
                }
                return Ok(());
            }
            match subject {
                Subject::Volume(id, _) => self.volume_not_removed(c, id),
                Subject::Snapshot(id, _) => self.snapshot_not_removed(c, id),
                Subject::Backup(..) | Subject::Vault(..) => Ok(()),
            }
        })
    }

    /// Releases what the job holds besides its subject.
    fn let_go(&self, claimed: &Claimed) -> Result<(), TaskError> {
        let lease = &claimed.lease;
        let Subject::Backup(_, work) = claimed.job.args.subject() else {
            return Ok(());
        };
        match work {
            BackupWork::Create { source, .. } => {
                let (volume, snapshot) = (&source.volume_id, source.snapshot_id.as_ref());
                self.catalog.end_backup(lease, volume, snapshot, false)?;
            }
            BackupWork::Restore(target) => {
                self.catalog.give_target_back(lease, &target.volume_id)?;
                self.catalog
                    .end_restore(lease, &target.volume_id, Err(()))?;
            }
            BackupWork::Delete | BackupWork::Reset | BackupWork::Import { .. } => {}
        }
        Ok(())
    }

    fn take_back(&self, claimed: &Claimed) -> Result<(), TaskError> {
        let backup = match claimed.job.args.subject() {
            Subject::Backup(id, _) => self.find_backup(id)?,
            // Only a forced deletion cancels these: remove the volume or snapshot with all that was begun.
            Subject::Volume(id, _) => return self.remove_volume(claimed, id, JobState::Cancelled),
            Subject::Snapshot(id, _) => {
                return self.remove_snapshot(claimed, id, JobState::Cancelled);
            }
            Subject::Vault(..) => None,
        };
        match backup {
            Some(backup) if backup.status == BackupStatus::Deleting => {
                self.remove_backup(claimed, &backup.id, JobState::Cancelled)
            }
            Some(backup) => {
                self.remove_unfinished(claimed, &backup)?;
                self.settle_cancelled(claimed)
            }
            None => self.settle_cancelled(claimed),
        }
    }

    fn settle_cancelled(&self, claimed: &Claimed) -> Result<(), TaskError> {
        let (lease, now) = (&claimed.lease, self.clock.now());
        self.db.write(|c| {
            db::packs::end_session(c, &lease.job_id)?;
            if db::jobs::settle(c, lease, JobState::Cancelled, None, now)? {
                Ok(())
            } else {
                Err(TaskError::Fenced)
            }
        })
    }
}
