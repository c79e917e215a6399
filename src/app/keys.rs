//! Changing the master key, and destroying the keys of a project.
//!
//! # What a crash of a change leaves
//!
//! As long as there is a `master.next`, processes work with both keys and say so in their log, and `key rotate`, run
//! again, goes on with that key.
//!
//! | crash after | left behind | who clears it up |
//! |---|---|---|
//! | the new key was written | `master.partial` | the next `key rotate` |
//! | it was linked as `master.next` | `master.next`; no vault is wrapped with it yet. The same if a vault opens with no key | `key rotate`, run again |
//! | a vault was wrapped anew in the database | `vault.json` wrapped with the old key; either key opens it | the same |
//! | its `vault.json` was replaced | other vaults wrapped with the old key, and perhaps records under temporary names | the same |
//! | all vaults, and the checks of some storages | checks of the old key; a start takes either | the same |
//! | the old key was linked as `master.previous-N` | the old key under two names | the same; it keeps that name |
//! | `master.next` was renamed to the key file | done, but for old wrappings in unused parts of the database's files, and perhaps `master.partial` | another `key rotate` |
//!
//! Two of them never run at once, on one host or on two: each host has its own `master.next`, and vaults that are wrapped
//! with the one could not be opened with the other.
//!
//! A crash of `vault shred`: [`mod@shred`].

use crate::app::{Role, StartError, locks, storages};
use crate::config::Config;
use crate::db::{self, Db, OldRows};
use crate::engine;
use crate::engine::care::rebuild;
use crate::engine::format::keys::{Keyring, MasterKey, NEXT};
use crate::engine::vault::{self, shred};
use crate::model::id::{BackupId, VaultId};
use crate::model::vault::VaultRow;
use crate::store::Store;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Handle;

/// The name of the lock that a change of the master key holds in the database.
const ROTATION: &str = "key-rotation";

/// The result of a rotation.
pub struct Rotated {
    /// How many vaults are wrapped with the new key.
    pub vaults: usize,
    /// Where the old key is.
    pub kept: PathBuf,
    /// Where the old wrappings may still be read.
    pub old_rows: OldRows,
}

/// The result of shredding.
pub struct Shredded {
    /// Each vault that is gone, with the number of objects that were removed.
    pub vaults: Vec<(VaultId, usize)>,
    /// Each vault whose key may still stand in its storage, and why.
    pub left: Vec<(VaultId, StartError)>,
    /// Vaults that the database does not know, with their storages. Any of them may be the project's.
    pub unknown: Vec<(String, VaultId)>,
    /// Storages that may have such vaults, and why nobody could look.
    pub unseen: Vec<(String, StartError)>,
    /// Some backups of the project that lie in vaults of others, as an administrator has imported them.
    pub elsewhere: Vec<BackupId>,
    /// Where the wrapped keys may still be read.
    pub old_rows: OldRows,
}

/// One step of a rotation, done for each vault in turn. Says whether the vault has a key.
type Work =
    fn(&Db, &Store, &VaultId, Option<&VaultRow>, &Keyring, &MasterKey) -> engine::Result<bool>;

/// Wraps the keys of all vaults with a new master key: of those that the database knows, and of those that
/// only the storages hold. Nothing is changed unless every one of them can be opened. Cut off at any point,
/// it goes on where it was when it is run again. Gives how many vaults there are, and where the old key is
/// kept.
pub fn rotate(config: &Config, handle: &Handle) -> Result<Rotated, StartError> {
    // A process that runs with the old key could not open a vault any more.
    let (_lock, _) = locks::data_dir(config.data_dir(), Role::Serve)?;
    let path = config.master_key_file();
    let next = path.with_extension(NEXT);
    let db = Db::open(&config.database_url())?;
    // Before the keys are read: another one may be about to change them.
    let rotation = db.exclusive(ROTATION)?.ok_or(StartError::Rotating)?;
    refuse_beside_workers(&db, config.jobs.lease)?;
    let old = storages::open_keys(config, &db)?;
    let new = match MasterKey::load(&next)? {
        Some(key) => key,
        None => MasterKey::create(&next)?,
    };
    let stores = storages::open_for_rotation(config, &db, handle, &old, &new)?;
    let rows = db.read(db::vaults::all)?;
    let elsewhere = |row: &&VaultRow| !stores.contains_key(&row.storage_id);
    for row in rows.iter().filter(elsewhere) {
        // A vault that is being shredded is not wrapped anew: whatever is left of it then opens with the old key alone.
        if !vault::record::is_shredded(&db, row).map_err(of_database)? {
            let vault = row.id.clone();
            return Err(StartError::NoStorage { vault });
        }
    }
    let mut vaults = Vec::new();
    for (id, (name, store)) in &stores {
        let unusable = |source| unusable(name, &path, source);
        for vault in rebuild::vault_names(store).map_err(unusable)? {
            if rows.iter().all(|row| row.id != vault) {
                vaults.push((id, vault, None));
            }
        }
    }
    let known = rows
        .iter()
        .filter(|row| !elsewhere(row))
        .map(|row| (&row.storage_id, row.id.clone(), Some(row)));
    vaults.extend(known);
    let each = |work: Work| -> Result<usize, StartError> {
        let mut count = 0;
        for (storage, vault, row) in &vaults {
            let (name, store) = &stores[*storage];
            rotation.check()?;
            let has_key = work(&db, store, vault, *row, &old, &new)
                .map_err(|source| unusable(name, &path, source))?;
            count += usize::from(has_key);
        }
        Ok(count)
    };
    each(vault::record::check_opens)?;
    let change = || -> Result<(usize, PathBuf), StartError> {
        let wrapped = each(vault::record::rewrap)?;
        // No other process stores records while this one runs.
        for (name, store) in stores.values() {
            vault::record::remove_temporaries(store, None)
                .map_err(|source| unusable(name, &path, source))?;
        }
        for storage in stores.keys() {
            let check = new.check();
            db.write(|c| db::vaults::set_master_key_check(c, storage, &check))?;
        }
        rotation.check()?;
        Ok((wrapped, old.promote(&next, &path)?))
    };
    let (wrapped, kept) = change().map_err(|source| StartError::Unfinished {
        next: next.clone(),
        source: Box::new(source),
    })?;
    Ok(Rotated {
        vaults: wrapped,
        kept,
        old_rows: db.erase_old_rows(),
    })
}

fn unusable(storage: &str, path: &Path, source: engine::Error) -> StartError {
    match source {
        engine::Error::Key { object } => StartError::NoKeyOpens {
            storage: storage.to_owned(),
            object,
            path: path.with_extension("previous-N"),
        },
        source => StartError::Storage {
            name: storage.to_owned(),
            source,
        },
    }
}

/// Refuses while a worker runs anywhere: it has the old key. Only a heartbeat that is seen to change proves that a
/// worker runs; a recent one may be the last of a worker that has stopped.
fn refuse_beside_workers(db: &Db, lease: Duration) -> Result<(), StartError> {
    let look = || db.read(db::workers::all);
    let before = look()?;
    if before.is_empty() {
        return Ok(());
    }
    // Workers send several heartbeats a lease.
    std::thread::sleep(lease * 3);
    let alive: Vec<String> = look()?
        .into_iter()
        .filter(|worker| !before.contains(worker))
        .map(|worker| worker.name)
        .collect();
    if alive.is_empty() {
        Ok(())
    } else {
        Err(StartError::Workers(alive))
    }
}

/// Destroys the keys of all vaults of a project, and removes what they stored. A storage that cannot be used does
/// not keep the others; its vaults stay known as shredded, so that the same can be run again. The rows go last, once
/// nothing else is left: what was cut off before is found again.
pub fn shred(config: &Config, handle: &Handle, project: &str) -> Result<Shredded, StartError> {
    let db = Db::open(&config.database_url())?;
    let rows = db.read(|c| db::vaults::of_project(c, project))?;
    let vaults: Vec<VaultId> = rows.iter().map(|row| row.id.clone()).collect();
    let guests = db.read(|c| db::backups::of_others_in(c, &vaults, project))?;
    if !guests.is_empty() {
        return Err(StartError::Guests(guests));
    }
    for row in &rows {
        shred::forget_key(&db, row).map_err(of_database)?;
    }
    let (mut removed, mut left) = (Vec::new(), Vec::new());
    for row in rows {
        match remove_objects(config, handle, &db, &row) {
            Ok(count) => removed.push((row, count)),
            Err(error) => left.push((row.id, error)),
        }
    }
    let old_rows = db.erase_old_rows();
    let mut shredded = Vec::new();
    for (row, mut count) in removed {
        if !matches!(old_rows, OldRows::Remain(_)) {
            // Erasing takes minutes in a large database: a process that was killed meanwhile may have left something.
            match remove_objects(config, handle, &db, &row) {
                Ok(late) => count += late,
                Err(error) => {
                    left.push((row.id, error));
                    continue;
                }
            }
            shred::remove_rows(&db, &row).map_err(of_database)?;
        }
        shredded.push((row.id, count));
    }
    let (unknown, unseen) = unknown_vaults(config, handle, &db)?;
    let elsewhere = db.read(|c| db::backups::of_project_outside(c, project, &vaults))?;
    Ok(Shredded {
        vaults: shredded,
        left,
        unknown,
        unseen,
        elsewhere,
        old_rows,
    })
}

type Unseen = Vec<(String, StartError)>;

/// Vaults in the configured storages that the database does not know: it was lost, or is an old copy. A rebuild would
/// bring their backups back.
fn unknown_vaults(
    config: &Config,
    handle: &Handle,
    db: &Db,
) -> Result<(Vec<(String, VaultId)>, Unseen), StartError> {
    let (mut unknown, mut unseen) = (Vec::new(), Vec::new());
    let known = db.read(db::vaults::all)?;
    let known: HashSet<VaultId> = known.into_iter().map(|row| row.id).collect();
    for (name, settings) in config.storages() {
        let look = || -> Result<Vec<VaultId>, StartError> {
            let opened = Store::open(&settings, handle.clone());
            let store = opened.map_err(|source| StartError::Open {
                name: name.clone(),
                source,
            })?;
            let unusable = |source| StartError::Storage {
                name: name.clone(),
                source,
            };
            let mut found = rebuild::vault_names(&store).map_err(unusable)?;
            found.retain(|vault| !known.contains(vault));
            let mut there = Vec::new();
            for vault in found {
                if vault::is_there(&store, &vault).map_err(unusable)? {
                    there.push(vault);
                }
            }
            Ok(there)
        };
        match look() {
            Ok(found) => unknown.extend(found.into_iter().map(|vault| (name.clone(), vault))),
            Err(error) => unseen.push((name, error)),
        }
    }
    Ok((unknown, unseen))
}

/// Removes what a vault has in its storage.
fn remove_objects(
    config: &Config,
    handle: &Handle,
    db: &Db,
    row: &VaultRow,
) -> Result<usize, StartError> {
    let storage = db.read(|c| db::vaults::storage(c, &row.storage_id))?;
    let storage = storage.ok_or_else(|| StartError::NoStorage {
        vault: row.id.clone(),
    })?;
    let store = storages::open_for_shredding(config, &storage, row, handle)?;
    shred::remove_objects(&store, row).map_err(|source| StartError::Storage {
        name: storage.name,
        source,
    })
}

fn of_database(source: engine::Error) -> StartError {
    StartError::Vaults(source)
}
