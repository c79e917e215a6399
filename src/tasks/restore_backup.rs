//! The job of restoring a backup.

use crate::db;
use crate::engine;
use crate::jobs::Claimed;
use crate::model::backup::{BackupEvent, BackupStatus};
use crate::model::error::chain;
use crate::model::id::BackupId;
use crate::model::job::{Checkpoint, RestoreTarget};
use crate::model::message::{Action, Detail};
use crate::model::progress::Progress;
use crate::model::volume::RestoredFrom;
use crate::tasks::{TaskError, Tasks};

impl Tasks {
    pub(super) fn restore_backup(
        &self,
        claimed: &Claimed,
        id: &BackupId,
        target: &RestoreTarget,
    ) -> Result<(), TaskError> {
        let found = self.db.read(|c| db::backups::find(c, id))?;
        let backup = found
            .filter(|backup| backup.status == BackupStatus::Restoring)
            .ok_or(TaskError::Subject(
                "the backup is not being restored any more",
            ))?;
        let lease = &claimed.lease;
        let volume = &target.volume_id;
        let vault = self
            .vault_of(&backup)?
            .ok_or(TaskError::Subject("the backup has no vault"))?;
        // After an earlier run has written the target, it may be in use, and must not be written again.
        if claimed.job.checkpoint != Some(Checkpoint::Written) {
            // Nor after an earlier run has failed and let go.
            self.catalog.begin_restore(lease, target)?.could_change()?;
            let root = vault.root(backup.root_name())?;
            let (bytes, data_bytes) = (root.volume_bytes, root.logical_bytes);
            let since = root.source_change_id.as_deref();
            let target = self
                .catalog
                .open_target(lease, volume, bytes, data_bytes, since)?;
            if target.writer.length() < root.volume_bytes {
                return Err(TaskError::Subject("the target is smaller than the backup"));
            }
            let progress = &claimed.progress;
            let restored = engine::read::restore::run(&vault, &root, &target, progress)?;
            tracing::info!(
                backup.id = %id,
                volume.id = %volume,
                is_by_difference = restored.is_by_difference,
                read_bytes = Progress::value(&progress.read),
                written_bytes = Progress::value(&progress.written),
                "the volume is written"
            );
            self.catalog.finish_target(lease, volume)?;
            self.under_lease(lease, |c| {
                db::jobs::set_checkpoint(c, lease, Checkpoint::Written).map(|_| ())
            })?;
        }
        let root = vault.root(backup.root_name())?;
        let restored = RestoredFrom {
            backup_id: id.clone(),
            source_volume_id: root.backup.volume_id,
            saved: root.backup.volume,
        };
        self.catalog.end_restore(lease, volume, Ok(&restored))?;
        let now = self.clock.now();
        self.settle(&claimed.lease, |c| {
            if db::backups::transition(c, id, BackupEvent::Finished, now)? {
                Ok(())
            } else {
                Err(TaskError::Subject(
                    "the backup is not being restored any more",
                ))
            }
        })
    }

    pub(super) fn restore_failed(
        &self,
        claimed: &Claimed,
        id: &BackupId,
        target: &RestoreTarget,
        reason: &str,
    ) -> Result<(), TaskError> {
        // First, as recording the failure may need the space.
        if let Err(error) = self
            .catalog
            .give_target_back(&claimed.lease, &target.volume_id)
        {
            let error = chain(&error);
            tracing::error!(volume.id = %target.volume_id, error, "the file of a failed restore was not removed");
        }
        self.catalog
            .end_restore(&claimed.lease, &target.volume_id, Err(()))?;
        let now = self.clock.now();
        let backup = self.find_backup(id)?;
        self.discard(claimed, reason, |c| {
            db::backups::transition(c, id, BackupEvent::Failed, now)?;
            let what = (Action::RestoreBackup, Detail::RestoreFailed);
            match &backup {
                Some(backup) => self.leave_message(c, claimed, backup, what),
                None => Ok(()),
            }
        })
    }
}
