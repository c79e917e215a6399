//! What a storage alone tells: its vaults, their packs, and the backups whose roots are there. From it
//! a lost database is made again, and an old one is brought up to date.

use crate::db::{self, DbError};
use crate::engine::compact::Census;
use crate::engine::manifest::Root;
use crate::engine::pack::PackReader;
use crate::engine::packer::{indexed, pack_name};
use crate::engine::vault::{self, Vault, pack_folders};
use crate::engine::{Error, Result, frames, parallel};
use crate::model::id::ProjectId;
use crate::model::id::{BackupId, StorageId, VaultId};
use crate::model::pack::{IndexedChunk, Pack, PackKind, PackState};
use crate::model::time::Timestamp;
use crate::model::vault::VaultRow;
use crate::store::Store;
use crate::store::key::{parse_pack, root_name, vault_name};
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

/// Highest number of a pack, and of a rewrite, that is believed: far from where the types end.
const NUMBER_MAX: u32 = 1 << 30;

/// The names of all objects of one vault.
#[derive(Debug, Default)]
pub struct Found {
    pub roots: Vec<BackupId>,
    /// The objects of each pack, by rewrite, ascending.
    packs: BTreeMap<u32, Vec<Pack>>,
    has_record: bool,
}

impl Found {
    fn add_pack(
        &mut self,
        (kind, number, rewrite): (PackKind, u32, u32),
        bytes: u64,
    ) -> Result<()> {
        let too_large = || Error::corrupt(format!("pack {number:08x}.{rewrite}"), "too large");
        let pack = Pack {
            vault: 0,
            number: number.into(),
            rewrite: i32::try_from(rewrite).map_err(|_| too_large())?,
            kind,
            state: PackState::Live,
            session: None,
            stored_bytes: i64::try_from(bytes).map_err(|_| too_large())?,
            chunk_count: 0,
            frame_count: 0,
        };
        let objects = self.packs.entry(number).or_default();
        objects.push(pack);
        objects.sort_by_key(|pack| pack.rewrite);
        Ok(())
    }

    fn next_pack(&self) -> i64 {
        self.packs
            .keys()
            .next_back()
            .map_or(1, |last| i64::from(*last) + 1)
    }
}

/// The names of all vaults of a storage, those without a record too.
pub fn vault_names(store: &Store) -> Result<Vec<VaultId>> {
    let folders = store.folders("v/")?;
    Ok(folders
        .iter()
        .filter_map(|folder| vault_name(folder))
        .collect())
}

/// What a vault holds; `None` if the storage has none of this name.
pub fn vault(store: &Store, id: &VaultId) -> Result<Option<Found>> {
    let mut found = Found {
        has_record: vault::is_there(store, id)?,
        ..Found::default()
    };
    if !found.has_record {
        return Ok(None);
    }
    for (object, _) in store.list(&format!("v/{id}/b/"))? {
        found
            .roots
            .extend(root_name(id, &object).map(BackupId::new));
    }
    for folder in pack_folders(store, id)? {
        for (object, bytes) in store.list(&folder)? {
            match parse_pack(id, &object) {
                // Numbers that no vault comes to are no packs of ours.
                Some((kind, number, rewrite)) if number <= NUMBER_MAX && rewrite <= NUMBER_MAX => {
                    found.add_pack((kind, number, rewrite), bytes)?;
                }
                _ => tracing::warn!(object, "passed over, as it has no pack's name"),
            }
        }
    }
    Ok(Some(found))
}

/// The row of a vault that the database does not know; whose it is, its backups tell.
pub fn row(id: &VaultId, storage: &StorageId, found: &Found, now: Timestamp) -> VaultRow {
    VaultRow {
        number: 0,
        id: id.clone(),
        project_id: ProjectId::new(""),
        storage_id: storage.clone(),
        next_pack: found.next_pack(),
        created_at: now,
    }
}

/// Brings the packs and the index of a vault up to what is stored: all packs, or only those that are
/// needed. Gives how many were looked at, as they are new or have several objects; those that cannot be read
/// are left out, and named.
///
/// Of several objects of one pack the one with the most readable frames is taken; [`prefer_needed`]
/// corrects that once all manifests can be read.
pub fn packs(
    vault: &Vault,
    found: &Found,
    needed: Option<&RoaringBitmap>,
) -> Result<(usize, Vec<String>)> {
    // A collection that is under way removes nothing more: it may have listed what is taken over here.
    vault.db.write(|c| -> std::result::Result<_, DbError> {
        db::collection::lock(c, vault.number)?;
        Ok(db::collection::next_generation(c, vault.number)?)
    })?;
    let known: BTreeMap<i64, Known> = known(vault)?;
    // A row whose only object is there is right.
    let wanted: Vec<&Vec<Pack>> = found
        .packs
        .iter()
        .filter(|(number, _)| needed.is_none_or(|needed| needed.contains(**number)))
        .map(|(_, objects)| objects)
        .filter(|objects| match known.get(&objects[0].number) {
            None | Some((_, _, PackState::Gone)) => true,
            Some((_, _, PackState::Deleting)) => false,
            Some((rewrite, ..)) => objects.len() > 1 || objects[0].rewrite != *rewrite,
        })
        .collect();
    raise_rewrites(vault, found, &known)?;
    let unreadable = Mutex::new(Vec::new());
    let threads = vault.options.threads.max(vault.options.downloads);
    parallel::each(&wanted, threads, |objects| {
        let taken = match objects.as_slice() {
            [one] => read(vault, one),
            several => {
                let current = known.get(&several[0].number).map(|(rewrite, ..)| *rewrite);
                most_readable(vault, several, current)
            }
        };
        // What the row leads to already, and can be read, stays: another object may be going.
        if let Ok(taken) = &taken
            && objects.len() > 1
            && taken.damaged.is_empty()
            && known
                .get(&taken.row.number)
                .is_some_and(|(rewrite, _, state)| {
                    *rewrite == taken.row.rewrite && *state != PackState::Gone
                })
        {
            return Ok(());
        }
        match taken {
            Ok(taken) => adopt(vault, &taken, known.get(&taken.row.number), objects),
            Err(error @ (Error::Corrupt { .. } | Error::Missing { .. })) => {
                let mut unreadable = unreadable.lock().expect("nothing panics under it");
                unreadable.push(error.to_string());
                Ok(())
            }
            Err(error) => Err(error),
        }
    })?;
    tell_missing(vault, found)?;
    vault.db.write(|c| {
        db::vaults::raise_next_pack(c, vault.number, found.next_pack()).map_err(DbError::from)
    })?;
    let unreadable = unreadable.into_inner().expect("nothing panics under it");
    Ok((wanted.len() - unreadable.len(), unreadable))
}

/// Rewrite, last rewrite that was given out, and state of a pack's row.
type Known = (i32, i32, PackState);

fn known(vault: &Vault) -> Result<BTreeMap<i64, Known>> {
    let places = vault
        .db
        .read(|c| db::collection::places(c, vault.number).map_err(DbError::from))?;
    Ok(places
        .into_iter()
        .map(|(number, rewrite, rewrites, state)| (number, (rewrite, rewrites, state)))
        .collect())
}

/// No number of a rewrite is given out that an object has already, also by an old database.
fn raise_rewrites(vault: &Vault, found: &Found, known: &BTreeMap<i64, Known>) -> Result<()> {
    for last in found.packs.values().filter_map(|objects| objects.last()) {
        let is_higher = known
            .get(&last.number)
            .is_some_and(|(_, rewrites, _)| last.rewrite > *rewrites);
        if is_higher {
            vault.db.write(|c| {
                db::packs::raise_rewrites(c, vault.number, last.number, last.rewrite)
                    .map_err(DbError::from)
            })?;
        }
    }
    Ok(())
}

/// An object of a pack that the database is to lead to.
struct Taken {
    row: Pack,
    chunks: Vec<IndexedChunk>,
    /// Ordinals of the frames that it should hold and that cannot be read.
    damaged: RoaringBitmap,
}

/// Of several objects of one pack the one that the row leads to, if all of it can be read; else that of which
/// the most frames can be read; of equal ones the lowest rewrite, as a compaction may have stored a later one
/// and not have come to switch to it.
fn most_readable(vault: &Vault, objects: &[Pack], current: Option<i32>) -> Result<Taken> {
    let mut best: Option<(u64, Taken)> = None;
    let mut damage = None;
    for object in objects {
        match read_whole(vault, object) {
            Ok((_, taken)) if taken.damaged.is_empty() && current == Some(object.rewrite) => {
                return Ok(taken);
            }
            Ok((readable, taken)) => {
                if best.as_ref().is_none_or(|(most, _)| readable.len() > *most) {
                    best = Some((readable.len(), taken));
                }
            }
            Err(error @ (Error::Corrupt { .. } | Error::Missing { .. })) => {
                damage.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    match (best, damage) {
        (Some((_, taken)), _) => Ok(taken),
        (None, Some(error)) => Err(error),
        (None, None) => Err(Error::corrupt("a pack", "it has no object")),
    }
}

/// Where packs have several objects: leads each to one that holds everything that backups need, readable,
/// if the one taken first does not. For once all backups are known.
pub fn prefer_needed(vault: &Vault, found: &Found) -> Result<()> {
    let several: Vec<&Vec<Pack>> = found
        .packs
        .values()
        .filter(|objects| objects.len() > 1)
        .collect();
    if several.is_empty() {
        return Ok(());
    }
    let census = match Census::take(vault) {
        Ok(census) => census,
        // Which frames are needed cannot be told; a repair looks through all objects.
        Err(Error::Corrupt { .. } | Error::Missing { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    for objects in several {
        prefer(vault, objects, &census)?;
    }
    Ok(())
}

fn prefer(vault: &Vault, objects: &[Pack], census: &Census) -> Result<()> {
    let needed = census.used(pack_name(vault, &objects[0])?.number);
    let known = known(vault)?;
    let before = known.get(&objects[0].number);
    let mut others = Vec::new();
    for object in objects {
        let (readable, taken) = match read_whole(vault, object) {
            Ok(read) => read,
            Err(Error::Corrupt { .. } | Error::Missing { .. }) => continue,
            Err(error) => return Err(error),
        };
        let is_current = before.is_some_and(|(rewrite, ..)| *rewrite == object.rewrite);
        if needed.is_subset(&readable) {
            if is_current {
                return Ok(());
            }
            others.push(taken);
        }
    }
    if let Some(taken) = others.first() {
        return adopt(vault, taken, before, objects);
    }
    // None is complete: all of them are kept, for a repair to take from.
    let row = vault
        .db
        .read(|c| db::packs::find(c, vault.number, objects[0].number).map_err(DbError::from))?;
    if let Some(row) = row {
        vault.db.write(|c| {
            db::condition::set(c, &row, Some(db::condition::FRAMES_LOST), None)
                .map_err(DbError::from)
        })?;
    }
    Ok(())
}

/// Packs that an old database knows and that were removed since: nothing may rely on them any more.
fn tell_missing(vault: &Vault, found: &Found) -> Result<()> {
    let known = vault
        .db
        .read(|c| db::condition::packs(c, vault.number).map_err(DbError::from))?;
    for (pack, _) in known {
        let number = pack_name(vault, &pack)?.number;
        if !found.packs.contains_key(&number) {
            note_if_missing(vault, &pack)?;
        }
    }
    Ok(())
}

fn note_if_missing(vault: &Vault, pack: &Pack) -> Result<()> {
    let key = pack_name(vault, pack)?.key();
    if vault.store.length(&key)?.is_none() {
        let damage = format!("{key} is missing");
        vault
            .db
            .write(|c| db::condition::set(c, pack, Some(&damage), None).map_err(DbError::from))?;
    }
    Ok(())
}

/// Reads the trailer of an object; its frames are believed.
fn read(vault: &Vault, object: &Pack) -> Result<Taken> {
    let name = pack_name(vault, object)?;
    let length = u64::try_from(object.stored_bytes).unwrap_or(0);
    let reader = PackReader::open(&vault.store, name, length, &vault.keys)?;
    let chunks = indexed(vault.number, name.number, &reader.rows);
    let signed = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let row = Pack {
        vault: vault.number,
        chunk_count: signed(chunks.len()),
        frame_count: signed(reader.rows.len()),
        ..object.clone()
    };
    Ok(Taken {
        row,
        chunks,
        damaged: RoaringBitmap::new(),
    })
}

/// Reads all of an object: the ordinals of the frames that can be read, and what it is.
fn read_whole(vault: &Vault, object: &Pack) -> Result<(RoaringBitmap, Taken)> {
    let mut taken = read(vault, object)?;
    let frames = frames::look(vault, object)?;
    taken.damaged = frames.damaged;
    Ok((frames.readable, taken))
}

/// Takes a pack over, unless its row has changed since it was looked at: by a compaction, or another
/// rebuild. What the row led to is no longer there, and neither are chunks that are not in it.
fn adopt(vault: &Vault, taken: &Taken, before: Option<&Known>, objects: &[Pack]) -> Result<()> {
    let row = &taken.row;
    let last = objects.last().map_or(row.rewrite, |last| last.rewrite);
    let adopt = |c: &mut db::DbConnection| -> db::QueryResult<()> {
        db::collection::lock(c, vault.number)?;
        let now = db::packs::find(c, vault.number, row.number)?;
        let before = before.map(|(rewrite, _, state)| (*rewrite, *state));
        if now.map(|now| (now.rewrite, now.state)) != before {
            return Ok(());
        }
        db::packs::adopt(c, row, last)?;
        db::condition::found(c, row)?;
        db::collection::forget_chunks(c, vault.number, row.number)?;
        db::chunks::insert(c, &taken.chunks)?;
        if !taken.damaged.is_empty() {
            let damage = format!("{} of its frames cannot be read", taken.damaged.len());
            db::condition::set(c, row, Some(&damage), None)?;
        }
        Ok(())
    };
    vault.db.write(|c| adopt(c).map_err(DbError::from))?;
    // A collector may have been about to remove it as unknown.
    note_if_missing(vault, row)
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
