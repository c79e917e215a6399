//! Bringing the database up to what a storage holds: after it was lost, or replaced by an old copy.

use crate::db::{self, DbConnection, DbError};
use crate::engine;
use crate::engine::backup::decode_pack_sets;
use crate::engine::frames;
use crate::engine::manifest::Root;
use crate::engine::rebuild::{self, Found};
use crate::engine::vault::Vault;
use crate::model::backup::{Backup, BackupStatus, FAIL_REASON_CHARS_MAX};
use crate::model::column::Json;
use crate::model::id::{BackupId, ProjectId, StorageId, UserId, VaultId};
use crate::model::time::Timestamp;
use crate::model::vault::VaultRow;
use crate::tasks::{OfVaults, TaskError, Tasks, finished};
use std::collections::BTreeSet;

/// Why a backup was called failed here; a later rebuild may find what was missing.
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

/// What became of one vault.
#[derive(Debug, Default)]
pub struct Rebuilt {
    /// Packs and backups that are new to the database.
    pub packs: usize,
    pub backups: usize,
    /// Backups that the database knew already.
    pub known: usize,
    /// What cannot be used, with the reason.
    pub refused: Vec<String>,
}

impl Tasks {
    /// Takes in all that a storage holds and the database does not know. Repeatable; what the database
    /// knows beyond it is told to be failed.
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
        let known = self
            .db
            .read(|c| db::vaults::find_by_id(c, id).map_err(DbError::from))?;
        let vault = match known {
            Some(row) => self.open_vault(&row)?,
            None => match self.adopt_by_any(storage, id, found)? {
                Some(vault) => vault,
                // Nobody can tell whose it was, and nobody misses it.
                None => return Ok(Rebuilt::default()),
            },
        };
        let (packs, refused) = rebuild::packs(&vault, found, None)?;
        let mut rebuilt = Rebuilt {
            packs,
            refused,
            ..Rebuilt::default()
        };
        // One that cannot be reached does not keep the others away.
        let mut failed = Ok(());
        for root in &found.roots {
            let done = self.rebuild_backup(storage, &vault, root, found, &mut rebuilt);
            failed = failed.and(done);
        }
        failed?;
        rebuild::prefer_needed(&vault, found)?;
        self.tell_lost(&vault, found)?;
        for id in frames::incomplete(&vault)? {
            rebuilt.refused.push(format!("backup {id}: {INCOMPLETE}"));
            self.db
                .write(|c| db::backups::set_lost(c, &id, INCOMPLETE).map_err(DbError::from))?;
        }
        Ok(rebuilt)
    }

    /// Takes a vault over by the first of its roots that can be read.
    fn adopt_by_any(
        &self,
        storage: &StorageId,
        id: &VaultId,
        found: &Found,
    ) -> Result<Option<Vault>, TaskError> {
        let mut damage = None;
        for root in &found.roots {
            match self.adopt_vault(storage, id, found, root) {
                Ok(vault) => return Ok(Some(vault)),
                Err(error @ TaskError::Engine(engine::Error::Corrupt { .. })) => {
                    damage.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        damage.map_or(Ok(None), Err)
    }

    /// Takes a vault over from its storage. One of its roots proves that the key is ours, and tells
    /// whose vault it is.
    pub(super) fn adopt_vault(
        &self,
        storage: &StorageId,
        id: &VaultId,
        found: &Found,
        root: &BackupId,
    ) -> Result<Vault, TaskError> {
        let mut row = rebuild::row(id, storage, found, self.clock.now());
        row.project_id = self.open_vault(&row)?.root(root)?.backup.project_id;
        let row = self.db.write(|c| -> Result<_, DbError> {
            db::lock(c, "vaults")?;
            match db::vaults::find_by_id(c, id)? {
                Some(row) => Ok(row),
                None => Ok(db::vaults::adopt(c, &row)?),
            }
        })?;
        let vault = self.open_vault(&row)?;
        rebuild::packs(&vault, found, None)?;
        Ok(vault)
    }

    fn rebuild_backup(
        &self,
        storage: &StorageId,
        vault: &Vault,
        id: &BackupId,
        found: &Found,
        rebuilt: &mut Rebuilt,
    ) -> Result<(), TaskError> {
        let known = self
            .db
            .read(|c| db::backups::with_root(c, &vault.id, id).map_err(DbError::from))?;
        // Of one that could not be read, or not be found, all may be there by now.
        let is_settled = |known: &Backup| !known.is_unreadable() && !was_lost(known);
        if known.as_ref().is_some_and(is_settled) {
            rebuilt.known += 1;
            return Ok(());
        }
        let root = match vault.root_at_last(id) {
            Ok(root) => root,
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
        let mut backup = of_root(storage, vault, &root);
        let missing = rebuild::missing(vault, &root, found)?;
        if !missing.is_empty() {
            let reason = format!("{} {PACKS_MISSING}", missing.len());
            rebuilt.refused.push(format!("backup {id}: {reason}"));
            backup.status = BackupStatus::Error;
            backup.fail_reason = Some(reason);
        }
        self.db.write(|c| -> Result<(), DbError> {
            match &known {
                Some(known) if was_lost(known) && missing.is_empty() => {
                    return Ok(db::backups::set_found(c, &known.id)?);
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

    /// A backup of which no more is known than that it cannot be read. With it the vault's roots are all
    /// known again; it is its owner's to delete.
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
        self.db.write(|c| insert_found(c, vault, backup.clone()))?;
        Ok(())
    }

    /// After roots of backups turned out not to be there: what an old database believes to be stored
    /// must not be relied upon. Those backups are told to be failed, and packs that are not there are
    /// noted.
    pub(super) fn reconcile(&self, vault: &Vault) -> Result<(), TaskError> {
        if let Some(found) = rebuild::vault(vault.store(), &vault.id)? {
            let sets = self
                .db
                .read(|c| db::collection::pack_sets(c, &vault.id).map_err(DbError::from))?;
            rebuild::packs(vault, &found, Some(&decode_pack_sets(&sets)?))?;
            self.tell_lost(vault, &found)?;
        }
        Ok(())
    }

    /// Backups that were deleted after the database was copied are known and not there.
    fn tell_lost(&self, vault: &Vault, found: &Found) -> Result<(), TaskError> {
        let there: BTreeSet<&BackupId> = found.roots.iter().collect();
        let known = self
            .db
            .read(|c| db::collection::needed(c, &vault.id).map_err(DbError::from))?;
        for backup in known {
            let is_lost = backup.status == BackupStatus::Available && !there.contains(&backup.root);
            // Once more, as it may just have been made.
            if is_lost && !vault.has_root(&backup.root)? {
                self.db.write(|c| {
                    db::backups::set_lost(c, &backup.id, ROOT_MISSING).map_err(DbError::from)
                })?;
            }
        }
        Ok(())
    }
}

/// Adds a backup that was found by its root. Its id may be taken: an import may bear the id of one backup
/// and have the data of another.
fn insert_found(
    connection: &mut DbConnection,
    vault: &Vault,
    mut backup: Backup,
) -> Result<(), DbError> {
    db::collection::forget_removed_root(connection, vault.number, &backup.id)?;
    if db::backups::find(connection, &backup.id)?.is_some() {
        backup.root_id = Some(std::mem::replace(&mut backup.id, BackupId::random()));
    }
    Ok(db::backups::insert(connection, &backup)?)
}

fn unreadable(
    storage: &StorageId,
    vault: VaultRow,
    id: &BackupId,
    reason: &str,
    now: Timestamp,
) -> Backup {
    // Of a vault taken over beside another one of the project.
    let project = vault.project_id.as_str();
    let project = project.split_once(' ').map_or(project, |(owner, _)| owner);
    let owner = (ProjectId::new(project), UserId::new(""));
    Backup {
        vault_id: Some(vault.id),
        status: BackupStatus::Error,
        fail_reason: Some(reason.chars().take(FAIL_REASON_CHARS_MAX).collect()),
        ..Backup::blank(id.clone(), owner, storage.clone(), now)
    }
}

/// The row of a backup of which the root is all that is left.
fn of_root(storage: &StorageId, vault: &Vault, root: &Root) -> Backup {
    let saved = &root.backup;
    let sums = finished(root);
    let owner = (saved.project_id.clone(), saved.user_id.clone());
    Backup {
        vault_id: Some(vault.id.clone()),
        volume_id: saved.volume_id.clone(),
        snapshot_id: saved.snapshot_id.clone(),
        parent_id: saved.parent_id.clone(),
        name: saved.name.clone(),
        description: saved.description.clone(),
        status: BackupStatus::Available,
        size_gib: saved.size_gib,
        object_count: sums.object_count,
        availability_zone: saved.availability_zone.clone(),
        container: saved.container.clone(),
        metadata: Json::new(saved.metadata.clone()),
        data_timestamp: saved.data_timestamp,
        pack_set: Some(sums.pack_set),
        logical_bytes: sums.logical_bytes,
        read_bytes: sums.read_bytes,
        stored_bytes: sums.stored_bytes,
        deduplicated_bytes: sums.deduplicated_bytes,
        ..Backup::blank(saved.id.clone(), owner, storage.clone(), saved.created_at)
    }
}
