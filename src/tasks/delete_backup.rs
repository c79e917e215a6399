//! The job of deleting a backup. Its space follows when packs are collected.

use crate::db::{self, DbError};
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
                db::lock(c, backup.root_name().as_str()).map_err(DbError::from)?;
                // The other owner of the data may have been asked to go since.
                if is_last != self::is_last(c, backup).map_err(DbError::from)? {
                    return Err(TaskError::Overtaken);
                }
                db::backups::remove(c, id).map_err(DbError::from)?;
                // Only of a root that was this backup's own: the row of an import that failed never had one.
                if let Some(vault) = removed_from {
                    let was_available = backup.pack_set.is_some() || backup.is_unreadable();
                    let root = backup.root_name();
                    db::collection::note_removed_root(c, vault, root, was_available)
                        .map_err(DbError::from)?;
                }
            }
            db::packs::end_session(c, &lease.job_id).map_err(DbError::from)?;
            match db::jobs::settle(c, lease, end, None, now).map_err(DbError::from)? {
                true => Ok(()),
                false => Err(TaskError::Fenced),
            }
        })
    }

    /// Whether nobody else needs, or will need, the backup's root.
    pub(super) fn is_last(&self, backup: &Backup) -> Result<bool, TaskError> {
        Ok(self
            .db
            .read(|c| is_last(c, backup).map_err(DbError::from))?)
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
                    self.tell(c, claimed, backup, what)?;
                }
            }
            Ok(())
        })
    }
}

/// Whether nobody else will need the backup's root: of several that share it and are all being
/// deleted, the one with the greatest id takes the root along.
fn is_last(connection: &mut db::DbConnection, backup: &Backup) -> db::QueryResult<bool> {
    let others = db::backups::sharing(connection, backup)?;
    Ok(others
        .iter()
        .all(|(id, status)| *status == BackupStatus::Deleting && *id < backup.id))
}
