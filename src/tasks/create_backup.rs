//! The job of making a backup.

use crate::db::{self, DbError};
use crate::engine::manifest::{Description, Root};
use crate::engine::{self, vault::Vault};
use crate::jobs::Claimed;
use crate::model::backup::{Backup, BackupEvent, BackupStatus};
use crate::model::error::chain;
use crate::model::id::{BackupId, JobId};
use crate::model::message::{Action, Detail};
use crate::tasks::{TaskError, Tasks, finished};

impl Tasks {
    pub(super) fn create_backup(
        &self,
        claimed: &Claimed,
        id: &BackupId,
        force: bool,
    ) -> Result<(), TaskError> {
        let lease = &claimed.lease;
        let backup = self.begin(claimed, id)?;
        let (volume, snapshot) = (&backup.volume_id, backup.snapshot_id.as_ref());
        let vault = self
            .vault_of(&backup)?
            .ok_or(TaskError::Subject("the backup has no vault"))?;
        // A root that is there was written by a run that was cut off right after it.
        let root = match vault.find_root(id)? {
            Some(root) => {
                vault.make_root_durable(id)?;
                root
            }
            None => {
                // An old database would number new packs as those are that it does not know, and would
                // rely on packs that are gone.
                let roots = engine::collect::roots(&vault)?;
                if !roots.unknown.is_empty()
                    || engine::collect::is_root_lost(&vault, &roots.listed)?
                {
                    tracing::error!(vault.id = %vault.id, unknown = roots.unknown.len(), "the database does not agree with the storage, so nothing is reclaimed; run `embervault vault rebuild`");
                    self.reconcile(&vault)?;
                }
                self.catalog.begin_backup(lease, volume, snapshot, force)?;
                self.copy(claimed, &vault, &backup)?
            }
        };
        // While the volume is still held: the next run has to read it again.
        if self
            .db
            .read(|c| db::packs::is_rewritten(c, &lease.job_id).map_err(DbError::from))?
        {
            self.start_anew(claimed, &vault, id)?;
            return Err(TaskError::Rewritten);
        }
        self.catalog.end_backup(lease, volume, snapshot, true)?;
        let committed = self.commit(claimed, &vault, &root);
        if committed.is_err() && self.find_backup(id)?.is_none() {
            // No request leads to it any more, and it would be taken for one the database has lost.
            self.db.write(|c| {
                db::collection::note_removed_root(c, vault.number, id, false).map_err(DbError::from)
            })?;
            vault.remove_root(id, &claimed.progress)?;
        }
        if matches!(committed, Err(TaskError::Unsafe)) {
            self.start_anew(claimed, &vault, id)?;
        }
        committed
    }

    /// First the root goes, which must not stay without what it needs; then what the session relies upon.
    fn start_anew(&self, claimed: &Claimed, vault: &Vault, id: &BackupId) -> Result<(), TaskError> {
        vault.remove_root(id, &claimed.progress)?;
        self.under_lease(&claimed.lease, |c| {
            db::packs::drop_references(c, &claimed.job.id)
        })
    }

    /// Notes that the work has begun, and where it goes.
    fn begin(&self, claimed: &Claimed, id: &BackupId) -> Result<Backup, TaskError> {
        let now = self.clock.now();
        let is_disabled = self
            .db
            .read(|c| db::workers::are_disabled(c).map_err(DbError::from))?;
        let found = self.find_backup(id)?;
        let zone = found.and_then(|backup| backup.availability_zone);
        let is_elsewhere = zone.is_some_and(|zone| zone != self.catalog.availability_zone);
        if is_elsewhere || (is_disabled && claimed.job.attempt == 1) {
            return Err(TaskError::NoService);
        }
        let found = self
            .db
            .read(|c| db::backups::find(c, id).map_err(DbError::from))?;
        let backup = found
            .filter(|backup| backup.status == BackupStatus::Creating)
            .ok_or(TaskError::Subject(
                "the backup is not being created any more",
            ))?;
        let storage = self.storage(&backup.storage_id)?;
        self.under_lease(&claimed.lease, |c| {
            let vault = db::vaults::find_or_insert(c, &backup.project_id, &backup.storage_id, now)?;
            let zone = &self.catalog.availability_zone;
            db::backups::set_started(c, id, &vault.id, zone, &storage.name)
        })?;
        let begun = self
            .db
            .read(|c| db::backups::find(c, id).map_err(DbError::from))?;
        begun.ok_or(TaskError::Subject("the backup is gone"))
    }

    fn copy(&self, claimed: &Claimed, vault: &Vault, backup: &Backup) -> Result<Root, TaskError> {
        let job = &claimed.job.id;
        let parent = self.parent_root(vault, backup)?;
        let since = parent
            .as_ref()
            .and_then(|root| root.source_change_id.as_deref());
        let (volume, snapshot) = (&backup.volume_id, backup.snapshot_id.as_ref());
        let source = self
            .catalog
            .open_source(job, volume, snapshot, backup.size_gib, since)?;
        let description = self.describe(backup)?;
        let progress = &claimed.progress;
        Ok(engine::backup::run(
            vault,
            &claimed.lease,
            description,
            parent.as_ref(),
            &source,
            progress,
        )?)
    }

    /// The parent's root. A parent that is gone or damaged only costs its help.
    fn parent_root(&self, vault: &Vault, backup: &Backup) -> Result<Option<Root>, TaskError> {
        let Some(id) = &backup.parent_id else {
            return Ok(None);
        };
        let Some(parent) = self.find_backup(id)? else {
            return Ok(None);
        };
        // An imported backup may lie in a vault of its own.
        if parent.vault_id.as_ref() != Some(&vault.id) {
            return Ok(None);
        }
        match vault.root(parent.root_name()) {
            Ok(root) => Ok(Some(root)),
            Err(error @ (engine::Error::Missing { .. } | engine::Error::Corrupt { .. })) => {
                tracing::warn!(backup.id = %backup.id, parent.id = %id, error = %chain(&error), "the parent cannot be used");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn describe(&self, backup: &Backup) -> Result<Description, TaskError> {
        Ok(Description {
            id: backup.id.clone(),
            project_id: backup.project_id.clone(),
            user_id: backup.user_id.clone(),
            volume_id: backup.volume_id.clone(),
            snapshot_id: backup.snapshot_id.clone(),
            parent_id: backup.parent_id.clone(),
            name: backup.name.clone(),
            description: backup.description.clone(),
            metadata: (*backup.metadata).clone(),
            size_gib: backup.size_gib,
            availability_zone: backup.availability_zone.clone(),
            container: backup.container.clone(),
            created_at: backup.created_at,
            data_timestamp: backup.data_timestamp,
            volume: self.catalog.saved(&backup.volume_id)?,
        })
    }

    /// Lease still ours and all packs live: available, pack set stored, references dropped, job
    /// completed, all at once.
    fn commit(&self, claimed: &Claimed, vault: &Vault, root: &Root) -> Result<(), TaskError> {
        let now = self.clock.now();
        let id = &root.backup.id;
        self.settle(&claimed.lease, |c| {
            self.hold_packs(c, vault, &claimed.job.id, root)?;
            if db::packs::is_rewritten(c, &claimed.job.id).map_err(DbError::from)? {
                return Err(TaskError::Unsafe);
            }
            db::backups::set_finished(c, id, &finished(root)).map_err(DbError::from)?;
            let moved = db::backups::transition(c, id, BackupEvent::Finished, now);
            if !moved.map_err(DbError::from)? {
                return Err(TaskError::Subject(
                    "the backup is not being created any more",
                ));
            }
            Ok(db::packs::end_session(c, &claimed.job.id).map_err(DbError::from)?)
        })
    }

    pub(super) fn backup_failed(
        &self,
        claimed: &Claimed,
        id: &BackupId,
        reason: &str,
        detail: Detail,
    ) -> Result<(), TaskError> {
        let job: &JobId = &claimed.job.id;
        let found = self
            .db
            .read(|c| db::backups::find(c, id).map_err(DbError::from))?;
        let Some(backup) = found else { return Ok(()) };
        self.catalog.end_backup(
            &claimed.lease,
            &backup.volume_id,
            backup.snapshot_id.as_ref(),
            false,
        )?;
        let now = self.clock.now();
        self.discard(claimed, reason, |c| {
            if db::backups::transition(c, id, BackupEvent::Failed, now)? {
                db::backups::set_fail_reason(c, id, reason)?;
                self.tell(c, claimed, &backup, (Action::CreateBackup, detail))?;
            }
            db::packs::end_session(c, job)
        })
    }
}
