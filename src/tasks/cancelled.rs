//! The end of a job that somebody asked to end: a forced deletion, or a reset of the status.

use crate::db::{self, DbError};
use crate::jobs::Claimed;
use crate::model::backup::BackupStatus;
use crate::model::error::chain;
use crate::model::job::{JobArgs, JobState, Outcome};
use crate::tasks::{TaskError, Tasks, retry_delay};

impl Tasks {
    /// Whether somebody wants the job to end. While the database cannot tell, nobody does.
    pub(super) fn is_cancel_requested(&self, claimed: &Claimed) -> bool {
        let id = &claimed.lease.job_id;
        self.db
            .read(|c| db::jobs::is_cancel_requested(c, id).map_err(DbError::from))
            .unwrap_or(false)
    }

    /// Takes back what the job had begun. Repeatable.
    pub(super) fn cancel(&self, claimed: &Claimed) -> Outcome {
        let ended = self.let_go(claimed).and_then(|()| self.take_back(claimed));
        match ended {
            Ok(()) => Outcome::Cancelled,
            Err(TaskError::Fenced | TaskError::Overtaken) => Outcome::Released,
            Err(error) => Outcome::Retry {
                after: retry_delay(claimed),
                reason: chain(&error),
            },
        }
    }

    /// Ends what the job holds.
    fn let_go(&self, claimed: &Claimed) -> Result<(), TaskError> {
        let lease = &claimed.lease;
        match &*claimed.job.args {
            JobArgs::CreateBackup { source, .. } => {
                let (volume, snapshot) = (&source.volume_id, source.snapshot_id.as_ref());
                self.catalog.end_backup(lease, volume, snapshot, false)?;
            }
            JobArgs::RestoreBackup { target, .. } => {
                self.catalog.give_target_back(lease, &target.volume_id)?;
                self.catalog
                    .end_restore(lease, &target.volume_id, Err(()))?;
            }
            JobArgs::DeleteBackup { .. }
            | JobArgs::ResetBackup { .. }
            | JobArgs::ImportBackup { .. }
            | JobArgs::CreateVolume { .. }
            | JobArgs::DeleteVolume { .. }
            | JobArgs::ExtendVolume { .. }
            | JobArgs::CreateSnapshot { .. }
            | JobArgs::DeleteSnapshot { .. }
            | JobArgs::CollectVault { .. }
            | JobArgs::VerifyVault { .. } => {}
        }
        Ok(())
    }

    fn take_back(&self, claimed: &Claimed) -> Result<(), TaskError> {
        let backup = match &*claimed.job.args {
            JobArgs::CreateBackup { backup_id, .. }
            | JobArgs::RestoreBackup { backup_id, .. }
            | JobArgs::DeleteBackup { backup_id }
            | JobArgs::ResetBackup { backup_id }
            | JobArgs::ImportBackup { backup_id, .. } => self.find_backup(backup_id)?,
            // Only a forced deletion cancels these, and what was begun is removed as a whole.
            JobArgs::CreateVolume { volume_id }
            | JobArgs::DeleteVolume { volume_id }
            | JobArgs::ExtendVolume { volume_id, .. } => {
                return self.remove_volume(claimed, volume_id, JobState::Cancelled);
            }
            JobArgs::CreateSnapshot { snapshot_id } | JobArgs::DeleteSnapshot { snapshot_id } => {
                return self.remove_snapshot(claimed, snapshot_id, JobState::Cancelled);
            }
            JobArgs::CollectVault { .. } | JobArgs::VerifyVault { .. } => None,
        };
        match backup {
            Some(backup) if backup.status == BackupStatus::Deleting => {
                self.remove_backup(claimed, &backup.id, JobState::Cancelled)
            }
            Some(backup) if backup.pack_set.is_none() => {
                // A root may have been written although the backup never became available.
                if let Some(vault) = self.vault_of(&backup)?
                    && backup.root_id.is_none()
                    && self.is_last(&backup)?
                {
                    vault.remove_root(&backup.id, &claimed.progress)?;
                }
                self.settle_cancelled(claimed)
            }
            _ => self.settle_cancelled(claimed),
        }
    }

    fn settle_cancelled(&self, claimed: &Claimed) -> Result<(), TaskError> {
        let (lease, now) = (&claimed.lease, self.clock.now());
        self.db.write(|c| {
            db::packs::end_session(c, &lease.job_id).map_err(DbError::from)?;
            match db::jobs::settle(c, lease, JobState::Cancelled, None, now)
                .map_err(DbError::from)?
            {
                true => Ok(()),
                false => Err(TaskError::Fenced),
            }
        })
    }
}
