//! The storages and the master key: opened, and compared with what the database knows of them.

use crate::app::StartError;
use crate::clock::Clock;
use crate::config::Config;
use crate::db::{self, Db, DbConnection, DbError};
use crate::engine::format::keys::{Keyring, MasterKey};
use crate::engine::{self, vault};
use crate::metrics::Metrics;
use crate::model::id::StorageId;
use crate::model::vault::{StorageRow, VaultRow};
use crate::store::Store;
use crate::tasks::OpenStorage;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// How many of the oldest and of the youngest vaults a start tries to open.
const VAULTS_TRIED: i64 = 4;

/// The master key and the keys that it has replaced. A key is created only if no storage was ever used with another one.
pub(super) fn open_keys(config: &Config, db: &Db) -> Result<Keyring, StartError> {
    let path = config.master_key_file();
    if let Some(keys) = Keyring::load(&path)? {
        return Ok(keys);
    }
    for name in config.storages().keys() {
        if find(db, name)?.is_some() {
            return Err(StartError::NoMasterKey(path));
        }
    }
    Ok(Keyring::of(MasterKey::create(&path)?))
}

fn find(db: &Db, name: &str) -> Result<Option<StorageRow>, DbError> {
    db.read(|c| db::vaults::find_storage(c, name))
}

/// Opens all storages; gives the one for new backups with them. Calls to them end with the token.
pub(super) fn open(
    config: &Config,
    db: &Db,
    clock: &Clock,
    masters: &Keyring,
    handle: &Handle,
    stop: &CancellationToken,
    metrics: &Arc<Metrics>,
) -> Result<(BTreeMap<StorageId, OpenStorage>, StorageId), StartError> {
    if let Some((next, _)) = masters.unfinished() {
        tracing::error!(key = %next.display(), "a change of the master key was interrupted. Both keys stay in use until it is finished: stop all processes and run `embervault key rotate`");
    }
    if let Some(leftover) = &masters.leftover {
        tracing::warn!(key = %leftover.display(), "a process was killed while it created this key. The file may be a copy of a key in use: delete it, or run `embervault key rotate`, which deletes it");
    }
    let mut open = BTreeMap::new();
    let mut default = None;
    let configured = config.storages();
    let is_only = configured.len() == 1;
    for (name, settings) in configured {
        let store = Store::open(&settings, handle.clone()).map_err(|source| {
            let name = name.clone();
            StartError::Open { name, source }
        })?;
        let (counter, label) = (metrics.clone(), name.clone());
        let store = store.stopped_by(stop.clone()).with_observer(Arc::new(
            move |verb, outcome, duration| {
                counter.store_call(&label, verb.as_str(), outcome.as_str(), duration);
            },
        ));
        let row = identify(db, clock, &masters.current, &name, &store)?;
        check_key(config, db, masters, &row)?;
        report_locked(config, db, masters, &row)?;
        if settings.default || is_only {
            default = Some(row.id.clone());
        }
        open.insert(row.id, OpenStorage { name, store });
    }
    let default = default.expect("the settings were checked: one storage is the default");
    Ok((open, default))
}

/// Refuses a storage that, as the database says, was used with an unknown master key. A kept key is accepted: the database
/// may be older than a change of the key.
fn check_key(
    config: &Config,
    db: &Db,
    masters: &Keyring,
    row: &StorageRow,
) -> Result<(), StartError> {
    let current = masters.current.check();
    let is_unfinished = masters
        .unfinished()
        .is_some_and(|(_, next)| next.check() == row.master_key_check);
    if row.master_key_check == current || is_unfinished {
        return Ok(());
    }
    if !masters
        .keys()
        .any(|(_, key)| key.check() == row.master_key_check)
    {
        return Err(StartError::WrongMasterKey {
            path: config.master_key_file(),
            storage: row.name.clone(),
        });
    }
    tracing::warn!(
        storage = row.name,
        "the database is older than the last change of the master key"
    );
    db.write(|c| db::vaults::set_master_key_check(c, &row.id, &current))?;
    Ok(())
}

/// Logs an error if no master key here opens a vault: a change of the key on another host was interrupted, or a key was
/// lost. Tries the oldest and the youngest vaults, as a change goes from the oldest to the youngest.
fn report_locked(
    config: &Config,
    db: &Db,
    masters: &Keyring,
    storage: &StorageRow,
) -> Result<(), StartError> {
    let some = |c: &mut DbConnection| db::vaults::some_records(c, &storage.id, VAULTS_TRIED);
    let tried = db.read(some)?;
    let locked = |(row, record): &&(VaultRow, String)| vault::is_locked(record, row, masters);
    if let Some((row, _)) = tried.iter().find(locked) {
        let key = config.master_key_file();
        tracing::error!(
            storage = storage.name,
            vault = %row.id,
            "no master key on this host opens this vault, and perhaps others; their backups can be neither made nor restored from here. If a change of the master key was interrupted on another host, run `embervault key rotate` there and copy its keys to this host. Otherwise put the missing key beside the others, as {}",
            key.with_extension("previous-N").display()
        );
    }
    Ok(())
}

/// All configured storages by id, while the master key changes: each is used with the one or the other.
pub(super) fn open_for_rotation(
    config: &Config,
    db: &Db,
    handle: &Handle,
    old: &Keyring,
    new: &MasterKey,
) -> Result<BTreeMap<StorageId, (String, Store)>, StartError> {
    let mut open = BTreeMap::new();
    for (name, settings) in config.storages() {
        let store = Store::open(&settings, handle.clone()).map_err(|source| {
            let name = name.clone();
            StartError::Open { name, source }
        })?;
        let row = identify(db, &Clock::System, &old.current, &name, &store)?;
        if row.master_key_check != new.check() {
            check_key(config, db, old, &row)?;
        }
        open.insert(row.id, (name, store));
    }
    Ok(open)
}

/// The storage in which a vault is to be shredded. The keys of this host do not matter there.
pub(super) fn open_for_shredding(
    config: &Config,
    storage: &StorageRow,
    vault: &VaultRow,
    handle: &Handle,
) -> Result<Store, StartError> {
    let name = storage.name.clone();
    let Some(settings) = config.storages().remove(&name) else {
        return Err(StartError::NotConfigured { name });
    };
    let opened = Store::open(&settings, handle.clone());
    let store = opened.map_err(|source| StartError::Open {
        name: name.clone(),
        source,
    })?;
    let unusable = |source| StartError::Storage {
        name: name.clone(),
        source,
    };
    match engine::vault::storage::identify(&store).map_err(unusable)? {
        Some(found) if found == storage.id => Ok(store),
        Some(found) => Err(StartError::ForeignStorage {
            name,
            known: storage.id.clone(),
            found,
        }),
        // Only its record was lost, or it is not mounted.
        None => {
            if engine::vault::is_there(&store, &vault.id).map_err(unusable)? {
                Ok(store)
            } else {
                Err(StartError::EmptyStorage { name })
            }
        }
    }
}

/// Makes sure that a storage is the one that the database knows by its name. An unused storage becomes ours.
fn identify(
    db: &Db,
    clock: &Clock,
    master: &MasterKey,
    name: &str,
    store: &Store,
) -> Result<StorageRow, StartError> {
    let unusable = |source| StartError::Storage {
        name: name.to_owned(),
        source,
    };
    let found = engine::vault::storage::identify(store).map_err(unusable)?;
    let known = db.write(|c| -> Result<_, DbError> {
        db::lock(c, "storages")?;
        if let Some(known) = db::vaults::find_storage(c, name)? {
            return Ok(known);
        }
        let row = StorageRow {
            id: found.clone().unwrap_or_else(StorageId::random),
            name: name.to_owned(),
            master_key_check: master.check(),
            created_at: clock.now(),
        };
        db::vaults::insert_storage(c, &row)?;
        Ok(row)
    })?;
    let found = match found {
        Some(found) => found,
        None => {
            let vaults = db.read(db::vaults::all)?;
            let (mut is_known, mut is_there) = (false, false);
            for vault in vaults.iter().filter(|vault| vault.storage_id == known.id) {
                is_known = true;
                is_there =
                    is_there || engine::vault::is_there(store, &vault.id).map_err(unusable)?;
            }
            // If a vault of ours is there, it is the right storage, and only `format.json` was lost.
            if is_known && !is_there {
                return Err(StartError::EmptyStorage {
                    name: name.to_owned(),
                });
            }
            engine::vault::storage::create(store, &known.id, known.created_at).map_err(unusable)?
        }
    };
    if known.id == found {
        Ok(known)
    } else {
        Err(StartError::ForeignStorage {
            name: name.to_owned(),
            known: known.id,
            found,
        })
    }
}
