//! The job of deleting a backup. Its space follows when packs are collected.

use crate::db::{self, DbError};
use crate::jobs::Claimed;
use crate::model::backup::BackupEvent;
use crate::model::id::BackupId;
use crate::tasks::{TaskError, Tasks};

impl Tasks {
    pub(super) fn delete_backup(&self, claimed: &Claimed, id: &BackupId) -> Result<(), TaskError> {
        let found = self
            .db
            .read(|c| db::backups::find(c, id).map_err(DbError::from))?;
        if let Some(backup) = found
            && let Some(vault) = self.vault_of(&backup)?
        {
            vault.remove_root(id)?;
        }
        self.settle(&claimed.lease, |c| {
            Ok(db::backups::remove(c, id).map_err(DbError::from)?)
        })
    }

    pub(super) fn deletion_failed(
        &self,
        claimed: &Claimed,
        id: &BackupId,
        reason: &str,
    ) -> Result<(), TaskError> {
        let now = self.clock.now();
        self.under_lease(&claimed.lease, |c| {
            if db::backups::transition(c, id, BackupEvent::Failed, now)? {
                db::backups::set_fail_reason(c, id, reason)?;
            }
            Ok(())
        })
    }
}
