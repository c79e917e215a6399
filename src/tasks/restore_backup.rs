//! The job of restoring a backup.

use crate::db::{self, DbError};
use crate::engine;
use crate::jobs::Claimed;
use crate::model::backup::{BackupEvent, BackupStatus};
use crate::model::id::BackupId;
use crate::model::job::RestoreTarget;
use crate::model::volume::RestoredFrom;
use crate::tasks::{TaskError, Tasks};
use crate::volume::catalog::Restore;

impl Tasks {
    pub(super) fn restore_backup(
        &self,
        claimed: &Claimed,
        id: &BackupId,
        target: &RestoreTarget,
    ) -> Result<(), TaskError> {
        let found = self
            .db
            .read(|c| db::backups::find(c, id).map_err(DbError::from))?;
        let backup = found
            .filter(|backup| backup.status == BackupStatus::Restoring)
            .ok_or(TaskError::Subject(
                "the backup is not being restored any more",
            ))?;
        let job = &claimed.job.id;
        if let Some(wanted) = &target.create {
            self.catalog.create_target(job, &target.volume_id, wanted)?;
        }
        // What was finished by an earlier run may be in use by now.
        if self.catalog.begin_restore(job, &target.volume_id)? == Restore::Begun {
            let vault = self
                .vault_of(&backup)?
                .ok_or(TaskError::Subject("the backup has no vault"))?;
            let root = vault.root(id)?;
            let writer = self.catalog.open_target(&target.volume_id)?;
            if writer.length() < root.volume_bytes {
                return Err(TaskError::Subject("the target is smaller than the backup"));
            }
            engine::restore::run(&vault, &root, &writer, &claimed.progress)?;
            let restored = RestoredFrom {
                backup_id: id.clone(),
                source_volume_id: root.backup.volume_id,
                saved: root.backup.volume,
            };
            self.catalog
                .end_restore(job, &target.volume_id, Ok(&restored))?;
        }
        let now = self.clock.now();
        self.settle(&claimed.lease, |c| {
            db::backups::transition(c, id, BackupEvent::Finished, now).map_err(DbError::from)?;
            Ok(())
        })
    }

    pub(super) fn restore_failed(
        &self,
        claimed: &Claimed,
        id: &BackupId,
        target: &RestoreTarget,
    ) -> Result<(), TaskError> {
        self.catalog
            .end_restore(&claimed.job.id, &target.volume_id, Err(()))?;
        let now = self.clock.now();
        self.under_lease(&claimed.lease, |c| {
            db::backups::transition(c, id, BackupEvent::Failed, now).map(|_| ())
        })
    }
}
