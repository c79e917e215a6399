//! The jobs of importing a backup from its record, and of resetting one to available. Both look for the data first.

use crate::db::{self, DbConnection};
use crate::engine;
use crate::engine::care::{frames, rebuild};
use crate::engine::vault::Vault;
use crate::jobs::Claimed;
use crate::model::backup::{Backup, BackupEvent, BackupStatus};
use crate::model::id::BackupId;
use crate::model::number::PackNumber;
use crate::model::pack::PackState;
use crate::model::record::{BackupRecord, Locator};
use crate::model::vault::VaultRow;
use crate::tasks::{TaskError, Tasks, finished};
use std::collections::BTreeSet;

impl Tasks {
    pub(super) fn import_backup(
        &self,
        claimed: &Claimed,
        id: &BackupId,
        record: &BackupRecord,
        of_any_project: bool,
    ) -> Result<(), TaskError> {
        let row = self
            .find_backup(id)?
            .filter(|backup| backup.status == BackupStatus::Creating)
            .ok_or(TaskError::Subject(
                "the backup is not being imported any more",
            ))?;
        let locator = record.locator().ok_or(TaskError::Subject(
            "the record was not made by this service: its service_metadata names no storage",
        ))?;
        let vault = self.vault_at(&locator, |vault| {
            of_any_project || vault.owner() == row.project_id
        })?;
        let root = vault.root(&locator.root)?;
        self.know_packs(&vault, &root)?;
        let backup = imported(&row, &vault, &locator, record, &root);
        let now = self.clock.now();
        self.claim_data(claimed, &backup, &root)?;
        if !vault.has_root(&locator.root)? {
            return Err(TaskError::Subject(
                "the data of the backup was deleted meanwhile",
            ));
        }
        if !frames::is_complete(&vault, &root)? {
            return Err(TaskError::Subject(
                "some of the data that it needs is not in the storage; if the data was put back, run `embervault vault rebuild`",
            ));
        }
        self.settle(&claimed.lease, |c| {
            self.hold_packs(c, &vault, &claimed.job.id, &root)?;
            db::packs::end_session(c, &claimed.job.id)?;
            let moved = db::backups::transition(c, id, BackupEvent::Finished, now)?;
            if moved {
                Ok(())
            } else {
                Err(TaskError::Subject(
                    "the backup is not being imported any more",
                ))
            }
        })
    }

    /// Makes the backup an owner of the data. From here on, deleting another backup of the same data keeps the data, and
    /// a collection sees which packs this one needs. The quota is charged with the size in the root, not with that in
    /// the record: the record could have been edited.
    fn claim_data(
        &self,
        claimed: &Claimed,
        backup: &Backup,
        root: &engine::format::manifest::Root,
    ) -> Result<(), TaskError> {
        let finished = finished(root)?;
        let refused = self.under_lease(&claimed.lease, |c| {
            db::lock_project(c, &backup.project_id)?;
            if !self.is_within_quota(c, backup)? {
                return Ok(Some("it exceeds the project's backup_gigabytes quota"));
            }
            db::lock(c, backup.root_name().as_str())?;
            let others = db::backups::sharing(c, backup)?;
            let is_going = others
                .iter()
                .any(|(_, status)| *status == BackupStatus::Deleting);
            if is_going {
                return Ok(Some("the data is being deleted"));
            }
            // Its root may be removed at any moment.
            let owner = db::backups::find(c, backup.root_name())?
                .filter(|owner| owner.id != backup.id && owner.vault_id == backup.vault_id);
            if owner.is_some_and(|owner| owner.is_unfinished()) {
                return Ok(Some("the backup that the data belongs to is not complete"));
            }
            db::backups::set_imported(c, backup)?;
            db::backups::set_finished(c, &backup.id, &finished)?;
            Ok(None)
        })?;
        refused.map_or(Ok(()), |reason| Err(TaskError::Subject(reason)))
    }

    /// Whether the quota allows this size. An earlier run may have charged it already.
    fn is_within_quota(
        &self,
        connection: &mut DbConnection,
        backup: &Backup,
    ) -> db::DbResult<bool> {
        let charged = db::backups::find(connection, &backup.id)?.map_or(0, |row| row.size_gib);
        let (_, used) = db::backups::usage(connection, &backup.project_id)?;
        let quota = db::quotas::limits(connection, Some(&backup.project_id), &self.quota)?;
        let total = (used - charged).saturating_add(backup.size_gib);
        Ok(backup.size_gib <= charged || quota.allows("backup_gigabytes", total))
    }

    /// The vault that a record names, taken over from its storage if the database does not know it. A vault whose data the
    /// caller may not have is treated as missing.
    fn vault_at(
        &self,
        locator: &Locator,
        is_allowed: impl Fn(&VaultRow) -> bool,
    ) -> Result<Vault, TaskError> {
        let is_absent = TaskError::Subject("the record's vault is not in its storage");
        let known = self
            .db
            .read(|c| db::vaults::find_by_id(c, &locator.vault))?;
        match known {
            Some(row) if is_allowed(&row) => return self.open_vault(&row),
            Some(_) => return Err(is_absent),
            None => {}
        }
        let store = &self.storage(&locator.storage)?.store;
        let Some(found) = rebuild::vault(store, &locator.vault)? else {
            return Err(is_absent);
        };
        let row = self.unknown_vault(&locator.storage, &locator.vault, &found, &locator.root)?;
        if is_allowed(&row) {
            self.adopt_vault(&row, &found).map(|(vault, _)| vault)
        } else {
            Err(is_absent)
        }
    }

    /// Makes sure that the database knows the packs of a root. An import that took the vault over may have been
    /// interrupted before it added them.
    pub(super) fn know_packs(
        &self,
        vault: &Vault,
        root: &engine::format::manifest::Root,
    ) -> Result<(), TaskError> {
        let needed = engine::format::manifest::decode_pack_set(&root.pack_set)?;
        let numbers: Vec<PackNumber> = needed.iter().map(PackNumber::from).collect();
        let known: BTreeSet<PackNumber> = self
            .db
            .read(|c| db::gc::places_of(c, vault.number, &numbers))?
            .into_iter()
            .filter(|(.., state)| !matches!(state, PackState::Gone | PackState::Writing))
            .map(|(number, ..)| number)
            .collect();
        if numbers.iter().all(|number| known.contains(number)) {
            return Ok(());
        }
        if let Some(found) = rebuild::vault(vault.store(), &vault.id)? {
            rebuild::packs(vault, &found, Some(&needed))?;
        }
        Ok(())
    }

    pub(super) fn import_failed(
        &self,
        claimed: &Claimed,
        id: &BackupId,
        reason: &str,
    ) -> Result<(), TaskError> {
        let now = self.clock.now();
        self.discard(claimed, reason, |c| {
            if db::backups::transition(c, id, BackupEvent::Failed, now)? {
                db::backups::set_fail_reason(c, id, reason)?;
                // Whoever deletes it must not remove data that may be whole once more of it is put back.
                db::backups::disown(c, id)?;
            }
            Ok(())
        })
    }

    /// Makes a backup available if its data is there, and failed if it is not.
    pub(super) fn reset_backup(&self, claimed: &Claimed, id: &BackupId) -> Result<(), TaskError> {
        let found = self.find_backup(id)?;
        let backup = found.ok_or(TaskError::Subject("the backup was removed"))?;
        let is_there = match self.vault_of(&backup)? {
            Some(vault) if backup.pack_set.is_some() => {
                match vault.find_root(backup.root_name())? {
                    Some(root) => frames::is_complete(&vault, &root)?,
                    None => false,
                }
            }
            _ => false,
        };
        let now = self.clock.now();
        self.settle(&claimed.lease, |c| {
            let event = if is_there {
                BackupEvent::DeclaredAvailable
            } else {
                BackupEvent::DeclaredFailed
            };
            if db::backups::transition(c, id, event, now)? && !is_there {
                let reason = "It cannot be reset to available: its data is not in the storage.";
                db::backups::set_fail_reason(c, id, reason)?;
            }
            Ok(())
        })
    }
}

/// The row, filled: what the record says for display, what the root says of the data.
fn imported(
    row: &Backup,
    vault: &Vault,
    locator: &Locator,
    record: &BackupRecord,
    root: &engine::format::manifest::Root,
) -> Backup {
    let described = record.describe(row, &root.backup);
    let is_own = row.id == locator.root;
    let mut backup = Backup::new(described, locator.storage.clone());
    backup.vault_id = Some(vault.id.clone());
    backup.root_id = (!is_own).then(|| locator.root.clone());
    backup
}
