//! The job of making a backup.

use crate::db;
use crate::engine::care::frames;
use crate::engine::format::manifest::Root;
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
        // A root that is there was stored by a run that was interrupted right afterwards, or before the database that this
        // one is an old copy of was lost. Then the backup has been available since, and its root must stay.
        let found = vault.find_root(id)?;
        let is_newer = found.is_some() && !self.db.read(|c| db::backups::is_root_noted(c, id))?;
        let root = match found {
            Some(root) => {
                vault.make_root_durable(id)?;
                self.take_up(claimed, &vault, &root, is_newer)?;
                root
            }
            None => {
                // An old copy of the database would give new packs the numbers of packs that it does not know, and
                // would rely on packs that are gone.
                let roots = engine::care::collect::roots(&vault)?;
                if !roots.unknown.is_empty()
                    || engine::care::collect::is_root_lost(&vault, &roots.listed)?
                {
                    tracing::error!(vault.id = %vault.id, unknown = roots.unknown.len(), "the database does not match the storage: packs of unknown backups are kept, and backups without a root are failed, until you run `embervault vault rebuild`");
                    self.reconcile(&vault)?;
                }
                let backup = self.hold(claimed, &backup, force)?;
                self.copy(claimed, &vault, &backup)?
            }
        };
        // Check while the volume is still held, as the next run has to read it again.
        if self
            .db
            .read(|c| db::packs::is_rewritten(c, &lease.job_id))?
        {
            if is_newer {
                return Err(TaskError::Rewritten);
            }
            self.start_anew(claimed, &vault, id)?;
            return Err(TaskError::Rewritten);
        }
        self.catalog.end_backup(lease, volume, snapshot, true)?;
        let committed = self.commit(claimed, &vault, &root);
        if committed.is_err() && self.find_backup(id)?.is_none() {
            // The backup was removed meanwhile. Without its row, the root would be taken for one that the database has
            // lost.
            self.db
                .write(|c| db::gc::note_removed_root(c, vault.number, id, false))?;
            vault.remove_root(id, &claimed.progress)?;
        }
        if matches!(committed, Err(TaskError::Unsafe)) && !is_newer {
            self.start_anew(claimed, &vault, id)?;
        }
        committed
    }

    /// Takes up a root that an earlier run has stored. What it needs may have been rewritten since the run took its
    /// references, and an old copy of the database does not know the packs that were stored later: so the references are
    /// taken anew, and then everything is looked at.
    fn take_up(
        &self,
        claimed: &Claimed,
        vault: &Vault,
        root: &Root,
        is_newer: bool,
    ) -> Result<(), TaskError> {
        let job = &claimed.job.id;
        if !is_newer && !self.db.read(|c| db::packs::is_rewritten(c, job))? {
            return Ok(());
        }
        self.know_packs(vault, root)?;
        self.db.write(|c| {
            db::packs::drop_references(c, job)?;
            self.hold_packs(c, vault, job, root)?;
            if db::jobs::hold(c, &claimed.lease)? {
                Ok(())
            } else {
                Err(TaskError::Fenced)
            }
        })?;
        if frames::is_complete(vault, root)? {
            return Ok(());
        }
        if is_newer {
            return Err(TaskError::Subject(
                "some of the data that it needs is not in the storage; if the data was put back, run `embervault vault rebuild`",
            ));
        }
        self.start_anew(claimed, vault, &root.backup.id)?;
        Err(TaskError::Rewritten)
    }

    /// Removes the root first, as it must not stay without the packs that it needs; then the session's references.
    fn start_anew(&self, claimed: &Claimed, vault: &Vault, id: &BackupId) -> Result<(), TaskError> {
        vault.remove_root(id, &claimed.progress)?;
        self.under_lease(&claimed.lease, |c| {
            db::packs::drop_references(c, &claimed.job.id)
        })
    }

    /// Notes that the work has begun, and in which vault.
    fn begin(&self, claimed: &Claimed, id: &BackupId) -> Result<Backup, TaskError> {
        let now = self.clock.now();
        let is_disabled = self.db.read(db::workers::are_disabled)?;
        let found = self.find_backup(id)?;
        let zone = found.and_then(|backup| backup.availability_zone);
        let is_elsewhere = zone.is_some_and(|zone| zone != self.catalog.availability_zone());
        if is_elsewhere || (is_disabled && claimed.job.attempt == 1) {
            return Err(TaskError::NoService);
        }
        let found = self.db.read(|c| db::backups::find(c, id))?;
        let backup = found
            .filter(|backup| backup.status == BackupStatus::Creating)
            .ok_or(TaskError::Subject(
                "the backup is not being created any more",
            ))?;
        let storage = self.storage(&backup.storage_id)?;
        self.under_lease(&claimed.lease, |c| {
            let vault = db::vaults::find_or_insert(c, &backup.project_id, &backup.storage_id, now)?;
            let zone = self.catalog.availability_zone();
            db::backups::set_started(c, id, &vault.id, zone, &storage.name)
        })?;
        let begun = self.db.read(|c| db::backups::find(c, id))?;
        begun.ok_or(TaskError::Subject("the backup is gone"))
    }

    /// Holds the source. If the volume could change until now, its data is that of a later moment, so the backup's
    /// `data_timestamp` is set to now: nothing that was written before is missing. If an earlier run has made a copy,
    /// the time that was noted before the copy stays. An error if an earlier run has let go: the owner may write by now.
    fn hold(&self, claimed: &Claimed, backup: &Backup, force: bool) -> Result<Backup, TaskError> {
        let (lease, id) = (&claimed.lease, &backup.id);
        let (volume, snapshot) = (&backup.volume_id, backup.snapshot_id.as_ref());
        let is_copied = self.catalog.has_copy(&lease.job_id, volume)?;
        let held = self.db.write(|c| -> Result<_, TaskError> {
            let could_change = self
                .catalog
                .hold_source(c, lease, volume, snapshot, force)?
                .could_change()?;
            if could_change && !is_copied {
                let now = self.clock.now();
                db::backups::set_data_timestamp(c, id, now)?;
            }
            Ok(db::backups::find(c, id)?)
        })?;
        held.ok_or(TaskError::Subject("the backup is gone"))
    }

    fn copy(&self, claimed: &Claimed, vault: &Vault, backup: &Backup) -> Result<Root, TaskError> {
        let (lease, progress) = (&claimed.lease, &claimed.progress);
        let parent = self.parent_root(vault, backup)?;
        let since = parent
            .as_ref()
            .and_then(|root| root.source_change_id.as_deref());
        let (volume, snapshot) = (&backup.volume_id, backup.snapshot_id.as_ref());
        let source =
            self.catalog
                .open_source(lease, volume, snapshot, backup.size_gib, since, progress)?;
        let description = backup.describe(self.catalog.saved(&backup.volume_id)?);
        Ok(engine::write::backup::run(
            vault,
            lease,
            description,
            parent.as_ref(),
            &source,
            progress,
        )?)
    }

    /// The parent's root. Without a usable parent the backup only takes longer.
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

    /// The last transaction. If the lease holds and no pack was given up, it makes the backup available, stores its pack
    /// set, drops the session's references and completes the job.
    fn commit(&self, claimed: &Claimed, vault: &Vault, root: &Root) -> Result<(), TaskError> {
        let now = self.clock.now();
        let id = &root.backup.id;
        self.settle(&claimed.lease, |c| {
            self.hold_packs(c, vault, &claimed.job.id, root)?;
            if db::packs::is_rewritten(c, &claimed.job.id)? {
                return Err(TaskError::Unsafe);
            }
            db::backups::set_finished(c, id, &finished(root)?)?;
            db::backups::forget_noted_root(c, id)?;
            db::backups::set_place(c, id, &root.backup.volume)?;
            let moved = db::backups::transition(c, id, BackupEvent::Finished, now)?;
            if !moved {
                return Err(TaskError::Subject(
                    "the backup is not being created any more",
                ));
            }
            Ok(db::packs::end_session(c, &claimed.job.id)?)
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
        let found = self.find_backup(id)?;
        if let Some(backup) = &found {
            // First: once the session has ended, nothing keeps the packs that a root needs. A storage that fails is no
            // reason to leave the volume held; then the next collection removes the root before any pack.
            if let Err(error) = self.remove_unfinished(claimed, backup) {
                let error = chain(&error);
                tracing::warn!(backup.id = %id, error, "the root of a failed backup may be left; the next collection removes it");
            }
            let (volume, snapshot) = (&backup.volume_id, backup.snapshot_id.as_ref());
            let lease = &claimed.lease;
            self.catalog.end_backup(lease, volume, snapshot, false)?;
        }
        let now = self.clock.now();
        self.discard(claimed, reason, |c| {
            if let Some(backup) = &found
                && db::backups::transition(c, id, BackupEvent::Failed, now)?
            {
                db::backups::set_fail_reason(c, id, reason)?;
                self.leave_message(c, claimed, backup, (Action::CreateBackup, detail))?;
            }
            db::packs::end_session(c, job)
        })
    }

    /// Removes the root that a backup may have stored although it never became available. A root that is newer than the
    /// database stays: its backup became available after the database was copied.
    pub(super) fn remove_unfinished(
        &self,
        claimed: &Claimed,
        backup: &Backup,
    ) -> Result<(), TaskError> {
        if backup.is_unfinished()
            && let Some(vault) = self.vault_of(backup)?
            && self.is_last(backup)?
            && !engine::care::collect::is_newer(&vault, &backup.id)?
        {
            vault.remove_root(&backup.id, &claimed.progress)?;
        }
        Ok(())
    }
}
