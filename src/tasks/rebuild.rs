//! Brings the database up to date with a storage, after it was lost or replaced by an old copy.

use crate::db::backups::Finished;
use crate::db::{self, DbConnection, DbError};
use crate::engine;
use crate::engine::care::collect::is_newer;
use crate::engine::care::frames;
use crate::engine::care::rebuild::{self, Found};
use crate::engine::format::manifest::{Root, decode_pack_sets};
use crate::engine::vault::Vault;
use crate::model::backup::{Backup, BackupStatus, FAIL_REASON_CHARS_MAX};
use crate::model::description::Description;
use crate::model::id::{BackupId, StorageId, UserId, VaultId};
use crate::model::time::Timestamp;
use crate::model::vault::VaultRow;
use crate::tasks::{OfVaults, TaskError, Tasks, finished};
use std::collections::BTreeSet;

/// Reasons for which a rebuild marks a backup as failed. A later rebuild may find what was missing.
const ROOT_MISSING: &str = "Its data is not in the storage.";
const INCOMPLETE: &str = "Some of the data it needs is not in the storage.";
const PACKS_MISSING: &str = "of the packs it needs are not in the storage";

/// Whether an earlier rebuild did not find all that the backup needs.
fn was_lost(backup: &Backup) -> bool {
    let reason = backup.fail_reason.as_deref().unwrap_or_default();
    backup.status == BackupStatus::Error
        && backup.pack_set.is_some()
        && (reason == ROOT_MISSING || reason == INCOMPLETE || reason.ends_with(PACKS_MISSING))
}

/// The result for one vault.
#[derive(Debug, Default)]
pub struct Rebuilt {
    /// Packs and backups that are new to the database.
    pub packs: usize,
    pub backups: usize,
    /// Backups that the database knew already.
    pub known: usize,
    /// Objects and backups that cannot be used, with the reason.
    pub refused: Vec<String>,
}

impl Tasks {
    /// Adds everything that a storage holds and the database does not know. Backups that the database knows and the
    /// storage does not hold become failed. Can be repeated.
    pub fn rebuild(&self, storage: &StorageId) -> Result<OfVaults<Rebuilt>, TaskError> {
        let store = &self.storage(storage)?.store;
        let mut done = Vec::new();
        for id in rebuild::vault_names(store)? {
            let found = rebuild::vault(store, &id).map_err(TaskError::from);
            let rebuilt = match found {
                Ok(Some(found)) => self.rebuild_vault(storage, &id, &found),
                // Without its record there is no key to it.
                Ok(None) => continue,
                Err(error) => Err(error),
            };
            done.push((id, rebuilt));
        }
        Ok(done)
    }

    fn rebuild_vault(
        &self,
        storage: &StorageId,
        id: &VaultId,
        found: &Found,
    ) -> Result<Rebuilt, TaskError> {
        let known = self.db.read(|c| db::vaults::find_by_id(c, id))?;
        let (vault, adopted) = match known {
            Some(row) => (self.open_vault(&row)?, 0),
            None => match self.adopt_by_any(storage, id, found)? {
                Some(adopted) => adopted,
                // Without a root there is no backup in it, and no project to which it could belong.
                None => return Ok(Rebuilt::default()),
            },
        };
        // First: no backup may be given the number of a pack that is not known yet.
        rebuild::skip_numbers(&vault, found)?;
        self.add_newer(storage, &vault, found)?;
        let (packs, refused) = rebuild::packs(&vault, found, None)?;
        let mut rebuilt = Rebuilt {
            packs: adopted + packs,
            refused,
            ..Rebuilt::default()
        };
        // A root that cannot be read now does not stop the others.
        let mut failed = Ok(());
        for root in &found.roots {
            let done = self.rebuild_backup(storage, &vault, root, found, &mut rebuilt);
            failed = failed.and(done);
        }
        failed?;
        rebuild::prefer_needed(&vault, found)?;
        self.mark_lost(&vault, found)?;
        for id in frames::incomplete(&vault)? {
            rebuilt.refused.push(format!("backup {id}: {INCOMPLETE}"));
            self.db
                .write(|c| db::backups::mark_lost(c, &id, INCOMPLETE))?;
        }
        Ok(rebuilt)
    }

    /// Gives backups that failed the pack set of their root, if the root is newer than the database: they became available
    /// after the database was copied. This comes before their packs become known. Until then the roots tell that the
    /// database is out of date; afterwards the pack sets keep the packs.
    fn add_newer(
        &self,
        storage: &StorageId,
        vault: &Vault,
        found: &Found,
    ) -> Result<(), TaskError> {
        let unfinished = self.db.read(|c| db::gc::unfinished(c, &vault.id))?;
        for id in found.roots.iter().filter(|id| unfinished.contains(*id)) {
            let known = self.db.read(|c| db::backups::with_root(c, &vault.id, id))?;
            let failed = known.filter(|known| known.status == BackupStatus::Error);
            let (Some(failed), true) = (failed, is_newer(vault, id)?) else {
                continue;
            };
            let mut backup = of_root(storage, vault, &vault.root_at_last(id)?)?;
            backup.status = BackupStatus::Error;
            backup.fail_reason = Some(INCOMPLETE.to_owned());
            self.db.write(|c| -> Result<(), DbError> {
                if is_settled_meanwhile(c, vault, id, Some(&failed))? {
                    return Ok(());
                }
                db::backups::remove(c, &failed.id)?;
                insert_found(c, vault, backup.clone())
            })?;
        }
        Ok(())
    }

    /// Takes a vault over with the first of its roots that can be read. Gives how many of its packs are known now.
    fn adopt_by_any(
        &self,
        storage: &StorageId,
        id: &VaultId,
        found: &Found,
    ) -> Result<Option<(Vault, usize)>, TaskError> {
        let mut damage = None;
        for root in &found.roots {
            let adopted = self
                .unknown_vault(storage, id, found, root)
                .and_then(|row| self.adopt_vault(&row, found));
            match adopted {
                Ok(adopted) => return Ok(Some(adopted)),
                Err(error @ TaskError::Engine(engine::Error::Corrupt { .. })) => {
                    damage.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        damage.map_or(Ok(None), Err)
    }

    /// The row of a vault that the database does not know. One of its roots proves that we have the key, and names the
    /// project.
    pub(super) fn unknown_vault(
        &self,
        storage: &StorageId,
        id: &VaultId,
        found: &Found,
        root: &BackupId,
    ) -> Result<VaultRow, TaskError> {
        let mut row = rebuild::row(id, storage, found, self.clock.now());
        row.project_id = self.open_vault(&row)?.root(root)?.backup.project_id;
        Ok(row)
    }

    /// Takes a vault over from its storage. Gives how many of its packs are known now.
    pub(super) fn adopt_vault(
        &self,
        row: &VaultRow,
        found: &Found,
    ) -> Result<(Vault, usize), TaskError> {
        let row = self.db.write(|c| db::vaults::adopt(c, row))?;
        let vault = self.open_vault(&row)?;
        let (packs, unreadable) = rebuild::packs(&vault, found, None)?;
        Ok((vault, packs.saturating_sub(unreadable.len())))
    }

    fn rebuild_backup(
        &self,
        storage: &StorageId,
        vault: &Vault,
        id: &BackupId,
        found: &Found,
        rebuilt: &mut Rebuilt,
    ) -> Result<(), TaskError> {
        let known = self.db.read(|c| db::backups::with_root(c, &vault.id, id))?;
        // A backup that was unreadable or incomplete before may be complete by now.
        let is_settled = |known: &Backup| !known.is_unreadable() && !was_lost(known);
        if known.as_ref().is_some_and(is_settled) {
            rebuilt.known += 1;
            return Ok(());
        }
        // A root that was stored late, by a run whose backup was deleted meanwhile: a collection removes it.
        let removed = self
            .db
            .read(|c| db::gc::removed_root(c, vault.number, id))?;
        if removed == Some(false) {
            return Ok(());
        }
        let read = vault.root_at_last(id).and_then(|root| {
            let backup = of_root(storage, vault, &root)?;
            Ok((root, backup))
        });
        let (root, mut backup) = match read {
            Ok(read) => read,
            Err(error @ engine::Error::Corrupt { .. }) => {
                rebuilt.refused.push(error.to_string());
                if known.is_some() {
                    return Ok(());
                }
                return self.note_unreadable(storage, vault, id, &error.to_string());
            }
            Err(engine::Error::Missing { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let missing = rebuild::missing(vault, &root, found)?;
        if !missing.is_empty() {
            let reason = format!("{} {PACKS_MISSING}", missing.len());
            rebuilt.refused.push(format!("backup {id}: {reason}"));
            backup.status = BackupStatus::Error;
            backup.fail_reason = Some(reason);
        }
        self.db.write(|c| -> Result<(), DbError> {
            if is_settled_meanwhile(c, vault, id, known.as_ref())? {
                return Ok(());
            }
            match &known {
                Some(known) if was_lost(known) && missing.is_empty() => {
                    let was = known.fail_reason.as_deref().unwrap_or_default();
                    return db::backups::mark_found(c, &known.id, was);
                }
                Some(known) if was_lost(known) => return Ok(()),
                Some(known) => db::backups::remove(c, &known.id)?,
                None => {}
            }
            insert_found(c, vault, backup.clone())
        })?;
        rebuilt.backups += usize::from(missing.is_empty());
        Ok(())
    }

    /// Adds a backup of which nothing is known but that its root cannot be read. With it the database knows all roots of
    /// the vault. Its owner can delete it.
    fn note_unreadable(
        &self,
        storage: &StorageId,
        vault: &Vault,
        id: &BackupId,
        reason: &str,
    ) -> Result<(), TaskError> {
        let backup = self.db.read(|c| -> Result<_, DbError> {
            let row = db::vaults::find_by_id(c, &vault.id)?;
            Ok(row.map(|row| unreadable(storage, row, id, reason, self.clock.now())))
        })?;
        let Some(backup) = backup else { return Ok(()) };
        self.db.write(|c| -> Result<(), DbError> {
            if is_settled_meanwhile(c, vault, id, None)? {
                return Ok(());
            }
            insert_found(c, vault, backup.clone())
        })?;
        Ok(())
    }

    /// Called when roots of known backups are missing: the database may be an old copy. Marks those backups as failed and
    /// missing packs as damaged, so that new backups do not rely on them.
    pub(super) fn reconcile(&self, vault: &Vault) -> Result<(), TaskError> {
        if let Some(found) = rebuild::vault(vault.store(), &vault.id)? {
            let sets = self.db.read(|c| db::gc::pack_sets(c, &vault.id))?;
            rebuild::packs(vault, &found, Some(&decode_pack_sets(&sets)?))?;
            self.mark_lost(vault, &found)?;
        }
        Ok(())
    }

    /// Makes backups available again whose roots were missing for a while, and are there with all that they need.
    pub(crate) fn find_lost(&self, vault: &Vault) -> Result<(), TaskError> {
        let failed = self
            .db
            .read(|c| db::backups::failed_for(c, &vault.id, ROOT_MISSING))?;
        for backup in failed.iter().filter(|backup| was_lost(backup)) {
            let root = match vault.find_root(backup.root_name()) {
                Err(engine::Error::Corrupt { .. }) => None,
                found => found?,
            };
            if let Some(root) = root
                && frames::is_complete(vault, &root)?
            {
                tracing::info!(backup.id = %backup.id, "the data of a backup that was missing is there again");
                self.db
                    .write(|c| db::backups::mark_found(c, &backup.id, ROOT_MISSING))?;
            }
        }
        Ok(())
    }

    /// Marks available backups as failed if their root is missing: they were deleted after the database was copied.
    fn mark_lost(&self, vault: &Vault, found: &Found) -> Result<(), TaskError> {
        let there: BTreeSet<&BackupId> = found.roots.iter().collect();
        let known = self.db.read(|c| db::gc::needed(c, &vault.id))?;
        for backup in known {
            let is_lost = backup.status == BackupStatus::Available && !there.contains(&backup.root);
            // Look again, as it may have been stored after the listing.
            if is_lost && !vault.has_root(&backup.root)? {
                self.db
                    .write(|c| db::backups::mark_lost(c, &backup.id, ROOT_MISSING))?;
            }
        }
        Ok(())
    }
}

/// Whether the backup with a root is no longer the one that was known: another rebuild was faster. Others that ask wait
/// until the transaction ends.
fn is_settled_meanwhile(
    connection: &mut DbConnection,
    vault: &Vault,
    root: &BackupId,
    known: Option<&Backup>,
) -> Result<bool, DbError> {
    db::lock(connection, root.as_str())?;
    let now = db::backups::with_root(connection, &vault.id, root)?;
    Ok(now.map(|now| (now.id, now.status)) != known.map(|known| (known.id.clone(), known.status)))
}

/// Adds a backup that was found by its root. Its id may be taken: an import may bear the id of one backup
/// and have the data of another.
fn insert_found(
    connection: &mut DbConnection,
    vault: &Vault,
    mut backup: Backup,
) -> Result<(), DbError> {
    db::gc::forget_removed_root(connection, vault.number, &backup.id)?;
    if db::backups::find(connection, &backup.id)?.is_some() {
        backup.root_id = Some(std::mem::replace(&mut backup.id, BackupId::random()));
    }
    db::backups::insert(connection, &backup)
}

fn unreadable(
    storage: &StorageId,
    vault: VaultRow,
    id: &BackupId,
    reason: &str,
    now: Timestamp,
) -> Backup {
    let described = Description::blank(id.clone(), vault.owner(), UserId::new(""), now);
    let mut backup = Backup::new(described, storage.clone());
    backup.vault_id = Some(vault.id);
    backup.status = BackupStatus::Error;
    backup.fail_reason = Some(reason.chars().take(FAIL_REASON_CHARS_MAX).collect());
    backup
}

/// The row of a backup, built from its root alone.
fn of_root(storage: &StorageId, vault: &Vault, root: &Root) -> engine::Result<Backup> {
    let mut backup = Backup::new(root.backup.clone(), storage.clone());
    let Finished {
        pack_set,
        object_count,
        logical_bytes,
        read_bytes,
        stored_bytes,
        deduplicated_bytes,
    } = finished(root)?;
    backup.vault_id = Some(vault.id.clone());
    backup.status = BackupStatus::Available;
    backup.pack_set = Some(pack_set);
    backup.object_count = object_count;
    backup.logical_bytes = logical_bytes;
    backup.read_bytes = read_bytes;
    backup.stored_bytes = stored_bytes;
    backup.deduplicated_bytes = deduplicated_bytes;
    Ok(backup)
}
