//! What a storage alone tells: its vaults, their packs, and the backups whose roots are there. From it
//! a lost database is made again, and an old one is brought up to date.

use crate::db::{self, DbError};
use crate::engine::manifest::Root;
use crate::engine::pack::{PackName, PackReader};
use crate::engine::packer::{indexed, pack_name};
use crate::engine::vault::Vault;
use crate::engine::{Error, Result, parallel};
use crate::model::id::ProjectId;
use crate::model::id::{BackupId, StorageId, VaultId};
use crate::model::pack::{IndexedChunk, Pack, PackState};
use crate::model::time::Timestamp;
use crate::model::vault::VaultRow;
use crate::store::Store;
use crate::store::key::{parse_pack, root_name, vault_name};
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

/// The names of all objects of one vault.
#[derive(Debug, Default)]
pub struct Found {
    pub roots: Vec<BackupId>,
    /// Of each pack the lowest rewrite, which holds all that any later one does; its kind and length.
    packs: BTreeMap<u32, Pack>,
    /// The highest rewrite of each.
    rewrites: BTreeMap<u32, i32>,
    /// All that are there.
    objects: BTreeSet<(i64, i32)>,
    has_record: bool,
}

/// All vaults of a storage.
pub fn vaults(store: &Store) -> Result<BTreeMap<VaultId, Found>> {
    below(store, "v/")
}

/// One vault; `None` if the storage has none of this name.
pub fn vault(store: &Store, id: &VaultId) -> Result<Option<Found>> {
    Ok(below(store, &format!("v/{id}/"))?.remove(id))
}

fn below(store: &Store, folder: &str) -> Result<BTreeMap<VaultId, Found>> {
    let mut vaults: BTreeMap<VaultId, Found> = BTreeMap::new();
    for (object, bytes) in store.list(folder)? {
        let Some(id) = vault_name(&object) else {
            continue;
        };
        let found = vaults.entry(id.clone()).or_default();
        if let Some(root) = root_name(&id, &object) {
            found.roots.push(BackupId::new(root));
        } else if let Some((kind, number, rewrite)) = parse_pack(&id, &object) {
            let rewrite = i32::try_from(rewrite).unwrap_or(i32::MAX);
            let pack = Pack {
                vault: 0,
                number: number.into(),
                rewrite,
                kind,
                state: PackState::Live,
                session: None,
                stored_bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
                chunk_count: 0,
                frame_count: 0,
            };
            found.objects.insert((pack.number, rewrite));
            let highest = found.rewrites.entry(number).or_default();
            *highest = rewrite.max(*highest);
            let lowest = found.packs.entry(number).or_insert_with(|| pack.clone());
            if rewrite < lowest.rewrite {
                *lowest = pack;
            }
        } else {
            found.has_record |= object.ends_with("/vault.json");
        }
    }
    vaults.retain(|_, found| found.has_record);
    Ok(vaults)
}

/// The row of a vault that the database does not know; whose it is, its backups tell.
pub fn row(id: &VaultId, storage: &StorageId, found: &Found, now: Timestamp) -> VaultRow {
    VaultRow {
        number: 0,
        id: id.clone(),
        project_id: ProjectId::new(""),
        storage_id: storage.clone(),
        next_pack: found
            .packs
            .keys()
            .next_back()
            .map_or(1, |last| i64::from(*last) + 1),
        created_at: now,
    }
}

/// Brings the packs and the index of a vault up to what is stored: all packs, or only those that
/// somebody needs. Gives how many are new to the database; those whose trailer cannot be read are left
/// out, and named.
pub fn packs(
    vault: &Vault,
    found: &Found,
    needed: Option<&RoaringBitmap>,
) -> Result<(usize, Vec<String>)> {
    let known: BTreeMap<i64, (i32, PackState)> = vault
        .db
        .read(|c| db::collection::places(c, vault.number).map_err(DbError::from))?
        .into_iter()
        .map(|(number, rewrite, _, state)| (number, (rewrite, state)))
        .collect();
    // A row whose object is there is right, whatever else is there: a collector may be removing it.
    let wanted: Vec<&Pack> = found
        .packs
        .iter()
        .filter(|(number, _)| needed.is_none_or(|needed| needed.contains(**number)))
        .map(|(_, pack)| pack)
        .filter(|pack| match known.get(&pack.number) {
            None => true,
            Some((_, PackState::Gone | PackState::Deleting)) => false,
            Some((rewrite, _)) => !found.objects.contains(&(pack.number, *rewrite)),
        })
        .collect();
    let unreadable = Mutex::new(Vec::new());
    let threads = vault.options.threads.max(vault.options.downloads);
    parallel::each(&wanted, threads, |pack| {
        let name = pack_name(vault, pack)?;
        let last = found.rewrites[&name.number];
        let read = match read(vault, name, pack) {
            // A repair that was cut off after its end has left the damaged one beside the sound one.
            Err(Error::Corrupt { .. } | Error::Missing { .. }) if last > pack.rewrite => {
                read_rewrite(vault, pack, last)
            }
            read => read,
        };
        match read {
            Ok((row, chunks)) => {
                let before = known.get(&pack.number).copied();
                adopt(vault, &row, before, last, &chunks)
            }
            Err(error @ (Error::Corrupt { .. } | Error::Missing { .. })) => {
                let mut unreadable = unreadable.lock().expect("nothing panics under it");
                unreadable.push(error.to_string());
                Ok(())
            }
            Err(error) => Err(error),
        }
    })?;
    tell_missing(vault, found)?;
    let next = found
        .packs
        .keys()
        .next_back()
        .map_or(1, |last| i64::from(*last) + 1);
    vault
        .db
        .write(|c| db::vaults::raise_next_pack(c, vault.number, next).map_err(DbError::from))?;
    let unreadable = unreadable.into_inner().expect("nothing panics under it");
    Ok((wanted.len() - unreadable.len(), unreadable))
}

/// Packs that an old database knows and that were removed since: nothing may rely on them any more.
fn tell_missing(vault: &Vault, found: &Found) -> Result<()> {
    let known = vault
        .db
        .read(|c| db::condition::packs(c, vault.number).map_err(DbError::from))?;
    for (pack, _) in known {
        let number = u32::try_from(pack.number).unwrap_or(u32::MAX);
        let key = pack_name(vault, &pack)?.key();
        if found.packs.contains_key(&number) || vault.store.length(&key)?.is_some() {
            continue;
        }
        let damage = format!("{key} is missing");
        vault
            .db
            .write(|c| db::condition::set(c, &pack, Some(&damage), None).map_err(DbError::from))?;
    }
    Ok(())
}

fn read_rewrite(vault: &Vault, pack: &Pack, rewrite: i32) -> Result<(Pack, Vec<IndexedChunk>)> {
    let mut pack = Pack {
        rewrite,
        ..pack.clone()
    };
    let name = pack_name(vault, &pack)?;
    let length = vault.store.length(&name.key())?.unwrap_or(0);
    pack.stored_bytes = i64::try_from(length).unwrap_or(i64::MAX);
    read(vault, name, &pack)
}

fn read(vault: &Vault, name: PackName, pack: &Pack) -> Result<(Pack, Vec<IndexedChunk>)> {
    let length = u64::try_from(pack.stored_bytes).unwrap_or(0);
    let reader = PackReader::open(&vault.store, name, length, &vault.keys)?;
    let chunks = indexed(vault.number, name.number, &reader.rows);
    let signed = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let row = Pack {
        vault: vault.number,
        chunk_count: signed(chunks.len()),
        frame_count: signed(reader.rows.len()),
        ..pack.clone()
    };
    Ok((row, chunks))
}

/// Takes a pack over, unless somebody has changed its row since it was looked at: a compaction, or
/// another rebuild. What the row led to is no longer there, and neither are chunks that are not in it.
fn adopt(
    vault: &Vault,
    row: &Pack,
    before: Option<(i32, PackState)>,
    rewrites: i32,
    chunks: &[IndexedChunk],
) -> Result<()> {
    let adopt = |c: &mut db::DbConnection| {
        db::collection::lock(c, vault.number)?;
        let now = db::packs::find(c, vault.number, row.number)?;
        if now.map(|now| (now.rewrite, now.state)) != before {
            return Ok(());
        }
        db::packs::adopt(c, row, rewrites)?;
        db::condition::found(c, row)?;
        db::collection::forget_chunks(c, vault.number, row.number)?;
        db::chunks::insert(c, chunks)
    };
    vault.db.write(|c| adopt(c).map_err(DbError::from))?;
    // A collector may have been about to remove it as unknown.
    let key = pack_name(vault, row)?.key();
    if vault.store.length(&key)?.is_none() {
        let damage = format!("{key} is missing");
        vault
            .db
            .write(|c| db::condition::set(c, row, Some(&damage), None).map_err(DbError::from))?;
    }
    Ok(())
}

/// Which of the packs that a root needs are not stored, or were given up.
pub fn missing(vault: &Vault, root: &Root, found: &Found) -> Result<Vec<u32>> {
    let mut stored: BTreeSet<u32> = found.packs.keys().copied().collect();
    let places = vault
        .db
        .read(|c| db::collection::places(c, vault.number).map_err(DbError::from))?;
    for (number, _, _, state) in places {
        if matches!(state, PackState::Deleting | PackState::Gone) {
            stored.remove(&u32::try_from(number).unwrap_or(u32::MAX));
        }
    }
    let needed = crate::engine::backup::decode_pack_set(&root.pack_set)?;
    Ok(needed
        .iter()
        .filter(|pack| !stored.contains(pack))
        .collect())
}
