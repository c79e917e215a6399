//! The job of deleting a backup. Garbage collection reclaims its space later.

use crate::db;
use crate::jobs::Claimed;
use crate::model::backup::{Backup, BackupEvent, BackupStatus};
use crate::model::id::BackupId;
use crate::model::job::JobState;
use crate::model::message::{Action, Detail};
use crate::tasks::{TaskError, Tasks};

impl Tasks {
    pub(super) fn delete_backup(&self, claimed: &Claimed, id: &BackupId) -> Result<(), TaskError> {
        self.remove_backup(claimed, id, JobState::Completed)
    }

    /// Removes a backup's root, unless another backup needs it, and its row; then settles the job.
    pub(super) fn remove_backup(
        &self,
        claimed: &Claimed,
        id: &BackupId,
        end: JobState,
    ) -> Result<(), TaskError> {
        let backup = self.find_backup(id)?;
        let is_last = match &backup {
            None => false,
            Some(backup) => self.is_last(backup)?,
        };
        let mut removed_from = None;
        if let (true, Some(backup)) = (is_last, &backup)
            && let Some(vault) = self.vault_of(backup)?
        {
            vault.remove_root(backup.root_name(), &claimed.progress)?;
            removed_from = Some(vault.number);
        }
        let (lease, now) = (&claimed.lease, self.clock.now());
        self.db.write(|c| {
            if let Some(backup) = &backup {
                db::lock(c, backup.root_name().as_str())?;
                // Another backup with the same root may have been added, or asked to go, since.
                if is_last != self::is_last(c, backup)? {
                    return Err(TaskError::Overtaken);
                }
                db::backups::remove(c, id)?;
                // Only if this backup owned the root: an import that failed never did.
                if let Some(vault) = removed_from {
                    let was_available = backup.pack_set.is_some() || backup.is_unreadable();
                    let root = backup.root_name();
                    db::gc::note_removed_root(c, vault, root, was_available)?;
                }
            }
            db::packs::end_session(c, &lease.job_id)?;
            if db::jobs::settle(c, lease, end, None, now)? {
                Ok(())
            } else {
                Err(TaskError::Fenced)
            }
        })
    }

    /// Whether no other backup needs, or will need, the backup's root.
    pub(super) fn is_last(&self, backup: &Backup) -> Result<bool, TaskError> {
        Ok(self.db.read(|c| is_last(c, backup))?)
    }

    pub(super) fn deletion_failed(
        &self,
        claimed: &Claimed,
        id: &BackupId,
        reason: &str,
    ) -> Result<(), TaskError> {
        let now = self.clock.now();
        let backup = self.find_backup(id)?;
        self.discard(claimed, reason, |c| {
            if db::backups::transition(c, id, BackupEvent::Failed, now)? {
                db::backups::set_fail_reason(c, id, reason)?;
                if let Some(backup) = &backup {
                    let what = (Action::DeleteBackup, Detail::DeleteFailed);
                    self.leave_message(c, claimed, backup, what)?;
                }
            }
            Ok(())
        })
    }
}

/// Whether no other backup will need the backup's root. If several share the root and all are being deleted, the one with
/// the greatest id removes it.
fn is_last(connection: &mut db::DbConnection, backup: &Backup) -> db::DbResult<bool> {
    let others = db::backups::sharing(connection, backup)?;
    Ok(others
        .iter()
        .all(|(id, status)| *status == BackupStatus::Deleting && *id < backup.id))
}
