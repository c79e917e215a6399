//! Changing the master key, and destroying the keys of a project.

use crate::app::{Role, StartError, locks, storages};
use crate::clock::Clock;
use crate::config::Config;
use crate::db::{self, Db, DbError};
use crate::engine::keys::MasterKey;
use crate::engine::{self, rebuild, vault};
use crate::model::id::VaultId;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// Wraps the keys of all vaults with a new master key: of those that the database knows, and of those that
/// only the storages hold. Nothing is changed unless every one of them can be opened. Cut off at any point,
/// it goes on where it was when it is run again. Gives how many vaults there are, and where the old key is
/// kept.
pub fn rotate(config: &Config, handle: &Handle) -> Result<(usize, PathBuf), StartError> {
    // Who runs with the old key could not open a vault any more.
    let (_lock, _) = locks::data_dir(config.data_dir(), Role::Serve)?;
    let path = config.master_key_file();
    let next = path.with_extension("next");
    let db = Db::open(&config.database_url())?;
    refuse_beside_workers(&db, config.jobs.lease)?;
    let old = storages::open_keys(config, &db)?;
    let new = match MasterKey::load(&next)? {
        Some(key) => key,
        None => MasterKey::create(&next)?,
    };
    let stores = storages::open_for_rotation(config, &db, handle, &old, &new)?;
    let rows = db.read(|c| db::vaults::all(c).map_err(DbError::from))?;
    if let Some(row) = rows
        .iter()
        .find(|row| !stores.contains_key(&row.storage_id))
    {
        let vault = row.id.clone();
        return Err(StartError::NoStorage { vault });
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
        .map(|row| (&row.storage_id, row.id.clone(), Some(row)));
    vaults.extend(known);
    for work in [vault::check_opens, vault::rewrap] {
        for (storage, vault, row) in &vaults {
            let (name, store) = &stores[*storage];
            work(&db, store, vault, *row, &old, &new)
                .map_err(|source| unusable(name, &path, source))?;
        }
    }
    for storage in stores.keys() {
        let check = new.check();
        db.write(|c| db::vaults::set_master_key_check(c, storage, &check).map_err(DbError::from))?;
    }
    let kept = old.promote(&next, &path)?;
    Ok((vaults.len(), kept))
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

/// Workers in other places have the old key too. One that gives a sign of life while we look is there;
/// one that gave its last a moment ago need not be.
fn refuse_beside_workers(db: &Db, lease: Duration) -> Result<(), StartError> {
    let look = || db.read(|c| db::workers::all(c).map_err(DbError::from));
    let before = look()?;
    if before.is_empty() {
        return Ok(());
    }
    // They tell once a lease.
    std::thread::sleep(lease * 3);
    let alive: Vec<String> = look()?
        .into_iter()
        .filter(|worker| !before.contains(worker))
        .map(|worker| worker.name)
        .collect();
    match alive.is_empty() {
        true => Ok(()),
        false => Err(StartError::Workers(alive)),
    }
}

/// Destroys the keys of all vaults of a project, and removes what they stored. Gives each vault with
/// the number of its objects.
pub fn shred(
    config: &Config,
    handle: &Handle,
    project: &str,
) -> Result<Vec<(VaultId, usize)>, StartError> {
    let db = Db::open(&config.database_url())?;
    let masters = storages::open_keys(config, &db)?;
    let stop = CancellationToken::new();
    let (open, _) = storages::open(
        config,
        &db,
        &Clock::System,
        &masters,
        handle,
        &stop,
        &Arc::default(),
    )?;
    let rows = db.read(|c| db::vaults::of_project(c, project).map_err(DbError::from))?;
    let mut shredded = Vec::new();
    for row in rows {
        let storage = open.get(&row.storage_id).ok_or_else(|| {
            let vault = row.id.clone();
            StartError::NoStorage { vault }
        })?;
        let count = vault::shred(&db, &storage.store, &row).map_err(|source| {
            let name = storage.name.clone();
            StartError::Storage { name, source }
        })?;
        shredded.push((row.id, count));
    }
    Ok(shredded)
}
