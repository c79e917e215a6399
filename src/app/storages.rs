//! The storages and the master key: opened, and compared with what the database knows of them.

use crate::app::StartError;
use crate::clock::Clock;
use crate::config::Config;
use crate::db::{self, Db, DbError};
use crate::engine;
use crate::engine::keys::{Keyring, MasterKey};
use crate::metrics::Metrics;
use crate::model::id::StorageId;
use crate::model::vault::StorageRow;
use crate::store::Store;
use crate::tasks::OpenStorage;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// The master key, made only where no storage was ever used with another, and those that it has replaced.
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
    db.read(|c| db::vaults::find_storage(c, name).map_err(DbError::from))
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
        if settings.default || is_only {
            default = Some(row.id.clone());
        }
        open.insert(row.id, OpenStorage { name, store });
    }
    let default = default.expect("the settings were checked: one storage is the default");
    Ok((open, default))
}

/// Whether a storage was used with the master key, as far as the database knows; or with one that it has
/// replaced, if the database is from before a rotation.
fn check_key(
    config: &Config,
    db: &Db,
    masters: &Keyring,
    row: &StorageRow,
) -> Result<(), StartError> {
    let current = masters.current.check();
    if row.master_key_check == current {
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
        "the database is from before a change of the master key"
    );
    db.write(|c| db::vaults::set_master_key_check(c, &row.id, &current).map_err(DbError::from))?;
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

/// Makes sure that a storage is the one that the database knows by its name; one that nobody has used
/// becomes ours.
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
    let found = engine::storage::identify(store).map_err(unusable)?;
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
            let vaults = db.read(|c| db::vaults::all(c).map_err(DbError::from))?;
            let (mut is_known, mut is_there) = (false, false);
            for vault in vaults.iter().filter(|vault| vault.storage_id == known.id) {
                is_known = true;
                is_there =
                    is_there || engine::vault::is_there(store, &vault.id).map_err(unusable)?;
            }
            // Where a vault of ours is, it is the right place, and only the record was lost.
            if is_known && !is_there {
                return Err(StartError::EmptyStorage {
                    name: name.to_owned(),
                });
            }
            engine::storage::create(store, &known.id, known.created_at).map_err(unusable)?
        }
    };
    match known.id == found {
        true => Ok(known),
        false => Err(StartError::ForeignStorage {
            name: name.to_owned(),
            known: known.id,
            found,
        }),
    }
}
