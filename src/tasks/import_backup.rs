//! The jobs of taking a backup in from its record, and of declaring one sound: both look for the
//! data first.

use crate::db::{self, DbError};
use crate::engine::{self, frames, rebuild, vault::Vault};
use crate::jobs::Claimed;
use crate::model::backup::{Backup, BackupEvent, BackupStatus};
use crate::model::column::Json;
use crate::model::id::{BackupId, SnapshotId, VolumeId};
use crate::model::pack::PackState;
use crate::model::record::{BackupRecord, Locator};
use crate::model::time::Timestamp;
use crate::tasks::{TaskError, Tasks, finished};
use std::collections::BTreeSet;

impl Tasks {
    pub(super) fn import_backup(
        &self,
        claimed: &Claimed,
        id: &BackupId,
        record: &BackupRecord,
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
        let vault = self.vault_at(&locator)?;
        let root = vault.root(&locator.root)?;
        self.know_packs(&vault, &root)?;
        let backup = imported(row, &vault, &locator, record, &root);
        let now = self.clock.now();
        self.claim_data(claimed, &backup, &root)?;
        if !vault.has_root(&locator.root)? {
            return Err(TaskError::Subject("the data was deleted meanwhile"));
        }
        if !frames::is_complete(&vault, &root)? {
            return Err(TaskError::Subject(
                "some of the data it needs is not in the storage; run `embervault vault rebuild` if it was put back",
            ));
        }
        self.settle(&claimed.lease, |c| {
            self.hold_packs(c, &vault, &claimed.job.id, &root)?;
            db::packs::end_session(c, &claimed.job.id).map_err(DbError::from)?;
            let moved = db::backups::transition(c, id, BackupEvent::Finished, now);
            match moved.map_err(DbError::from)? {
                true => Ok(()),
                false => Err(TaskError::Subject(
                    "the backup is not being imported any more",
                )),
            }
        })
    }

    /// From here on, who deletes another backup of the same data leaves the data, and a collector
    /// sees what this one needs.
    fn claim_data(
        &self,
        claimed: &Claimed,
        backup: &Backup,
        root: &engine::manifest::Root,
    ) -> Result<(), TaskError> {
        let is_going = self.under_lease(&claimed.lease, |c| {
            db::lock(c, backup.root_name().as_str())?;
            let others = db::backups::sharing(c, backup)?;
            let is_going = others
                .iter()
                .any(|(_, status)| *status == BackupStatus::Deleting);
            if !is_going {
                db::backups::set_imported(c, backup)?;
                db::backups::set_finished(c, &backup.id, &finished(root))?;
            }
            Ok(is_going)
        })?;
        match is_going {
            true => Err(TaskError::Subject("the data is being deleted")),
            false => Ok(()),
        }
    }

    /// The vault a record names; taken over from its storage if the database never knew it.
    fn vault_at(&self, locator: &Locator) -> Result<Vault, TaskError> {
        let found = self
            .db
            .read(|c| db::vaults::find_by_id(c, &locator.vault).map_err(DbError::from))?;
        if let Some(row) = found {
            return self.open_vault(&row);
        }
        let store = &self.storage(&locator.storage)?.store;
        let found = rebuild::vault(store, &locator.vault)?.ok_or(TaskError::Subject(
            "the record's vault is not in its storage",
        ))?;
        self.adopt_vault(&locator.storage, &locator.vault, &found, &locator.root)
    }

    /// Makes sure that the database knows the packs of a root: an import that took the vault over may
    /// have been cut off before it did.
    fn know_packs(&self, vault: &Vault, root: &engine::manifest::Root) -> Result<(), TaskError> {
        let known: BTreeSet<i64> = self
            .db
            .read(|c| db::collection::places(c, vault.number).map_err(DbError::from))?
            .into_iter()
            .filter(|(.., state)| *state != PackState::Gone)
            .map(|(number, ..)| number)
            .collect();
        let needed = engine::backup::decode_pack_set(&root.pack_set)?;
        if needed.iter().all(|pack| known.contains(&pack.into())) {
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
            }
            Ok(())
        })
    }

    /// Declares a backup sound, if its data is there; else it stays, or becomes, failed.
    pub(super) fn reset_backup(&self, claimed: &Claimed, id: &BackupId) -> Result<(), TaskError> {
        let found = self.find_backup(id)?;
        let backup = found.ok_or(TaskError::Subject("the backup is gone"))?;
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
            let event = match is_there {
                true => BackupEvent::DeclaredAvailable,
                false => BackupEvent::DeclaredFailed,
            };
            db::backups::transition(c, id, event, now).map_err(DbError::from)?;
            if !is_there {
                let reason = "It cannot be reset to available: its data is not in the storage.";
                db::backups::set_fail_reason(c, id, reason).map_err(DbError::from)?;
            }
            Ok(())
        })
    }
}

/// The row, filled: what the record says for display, what the root says of the data.
fn imported(
    row: Backup,
    vault: &Vault,
    locator: &Locator,
    record: &BackupRecord,
    root: &engine::manifest::Root,
) -> Backup {
    let time = |text: &Option<String>| text.as_deref().and_then(Timestamp::parse);
    let saved = &root.backup;
    let is_own = row.id == locator.root;
    Backup {
        storage_id: locator.storage.clone(),
        vault_id: Some(vault.id.clone()),
        root_id: (!is_own).then(|| locator.root.clone()),
        volume_id: record
            .volume_id
            .as_ref()
            .map_or_else(|| saved.volume_id.clone(), VolumeId::new),
        snapshot_id: record.snapshot_id.as_ref().map(SnapshotId::new),
        parent_id: record.parent_id.as_ref().map(BackupId::new),
        name: record.display_name.clone(),
        description: record.display_description.clone(),
        metadata: Json::new(record.metadata.clone().unwrap_or_default()),
        size_gib: saved.size_gib,
        availability_zone: record.availability_zone.clone(),
        container: record.container.clone(),
        data_timestamp: time(&record.data_timestamp).or(saved.data_timestamp),
        created_at: time(&record.created_at).unwrap_or(saved.created_at),
        ..row
    }
}
