//! Finds vaults, packs and roots by listing a storage. From them a lost database is built again, and an old one is
//! brought up to date.

use crate::db::health::IS_MISSING;
use crate::db::{self, DbError};
use crate::engine::care::census::Census;
use crate::engine::care::frames;
use crate::engine::format::manifest::Root;
use crate::engine::format::pack::{PackReader, indexed};
use crate::engine::vault::{self, Vault, pack_folders, pack_name};
use crate::engine::{Error, Result, parallel};
use crate::model::id::ProjectId;
use crate::model::id::{BackupId, StorageId, VaultId};
use crate::model::number::{Count, ImpossibleNumber, PackNumber, Rewrite};
use crate::model::pack::{IndexedChunk, Pack, PackKind, PackState};
use crate::model::time::Timestamp;
use crate::model::vault::VaultRow;
use crate::store::Store;
use crate::store::key::{parse_pack, root_name, vault_name};
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

/// Highest number of a pack, and of a rewrite, that is accepted: far below the limits of the types.
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
        let impossible =
            |error: ImpossibleNumber| Error::corrupt(format!("pack {number:08x}.{rewrite}"), error);
        let pack = Pack {
            vault: 0,
            number: number.into(),
            rewrite: rewrite.try_into().map_err(impossible)?,
            kind,
            state: PackState::Live,
            session: None,
            stored_bytes: bytes.try_into().map_err(impossible)?,
            chunk_count: Count::default(),
            frame_count: Count::default(),
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

/// The objects of a vault; `None` if the storage has no vault of this name.
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
                // No vault ever has such high numbers, so larger ones are not our packs.
                Some((kind, number, rewrite)) if number <= NUMBER_MAX && rewrite <= NUMBER_MAX => {
                    found.add_pack((kind, number, rewrite), bytes)?;
                }
                _ => tracing::warn!(
                    object,
                    "the object is ignored, as it does not have the name of a pack"
                ),
            }
        }
    }
    Ok(Some(found))
}

/// The row of a vault that the database does not know. Its project comes from one of its roots later.
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

/// Brings packs and index of a vault up to date with what is stored: all packs, or only those in `needed`. Reads the
/// packs that are new or have several objects. Gives how many these were, and names those that could not be read.
///
/// If a pack has several objects, it takes the one with the most readable frames. [`prefer_needed`] corrects that
/// once all manifests can be read.
pub fn packs(
    vault: &Vault,
    found: &Found,
    needed: Option<&RoaringBitmap>,
) -> Result<(usize, Vec<String>)> {
    // From here on a collection that is under way removes no more unknown objects: they may be adopted here.
    vault
        .db
        .write(|c| db::gc::next_generation(c, vault.number))?;
    let known: BTreeMap<PackNumber, Known> = known(vault)?;
    let written = vault.db.read(|c| db::gc::written(c, vault.number))?;
    // A row is right if its object is there and is the only one.
    let wanted: Vec<&Vec<Pack>> = found
        .packs
        .iter()
        .filter(|(number, _)| needed.is_none_or(|needed| needed.contains(**number)))
        .map(|(_, objects)| objects)
        .filter(|objects| match known.get(&objects[0].number) {
            None | Some((_, _, PackState::Gone)) => true,
            // A session may be about to make it live, but not one of a root that is stored.
            Some((_, _, PackState::Writing)) => {
                needed.is_some() || !written.contains(&objects[0].number)
            }
            Some((_, _, PackState::Deleting)) => false,
            Some((rewrite, ..)) => objects.len() > 1 || objects[0].rewrite != *rewrite,
        })
        .collect();
    raise_rewrites(vault, found, &known)?;
    let unreadable = Mutex::new(Vec::new());
    let threads = vault.options.threads.max(vault.options.downloads);
    parallel::each(&wanted, threads, |all| {
        let objects = &of_first_kind(vault, all)?;
        let taken = match objects.as_slice() {
            [one] => read(vault, one),
            several => {
                let current = known.get(&several[0].number).map(|(rewrite, ..)| *rewrite);
                most_readable(vault, several, current)
            }
        };
        // If the current object can be read, it stays current: the others may be about to be deleted.
        if let Ok(taken) = &taken
            && all.len() > 1
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
            Ok(taken) => adopt(vault, &taken, known.get(&taken.row.number), all),
            Err(error @ (Error::Corrupt { .. } | Error::Missing { .. })) => {
                let mut unreadable = unreadable.lock().expect("nothing panics under it");
                unreadable.push(error.to_string());
                Ok(())
            }
            Err(error) => Err(error),
        }
    })?;
    mark_missing(vault, found)?;
    skip_numbers(vault, found)?;
    let unreadable = unreadable.into_inner().expect("nothing panics under it");
    Ok((wanted.len() - unreadable.len(), unreadable))
}

/// Of the objects with one number, those of one kind. There are both kinds if an old copy of the database gave the number
/// out again. Without a row that names one of them, meta packs come first: without them no manifest can be read.
/// [`prefer_needed`] then sees which kind the backups need.
fn of_first_kind(vault: &Vault, objects: &[Pack]) -> Result<Vec<Pack>> {
    let of = |kind: PackKind| objects.iter().filter(move |object| object.kind == kind);
    if of(PackKind::Meta).next().is_none() || of(PackKind::Data).next().is_none() {
        return Ok(objects.to_vec());
    }
    let row = vault
        .db
        .read(|c| db::packs::find(c, vault.number, objects[0].number))?;
    let current = row.filter(|row| row.state != PackState::Gone);
    let kind = current.map_or(PackKind::Meta, |row| row.kind);
    Ok(of(kind).cloned().collect())
}

/// Makes sure that no new pack gets a number that was found.
pub fn skip_numbers(vault: &Vault, found: &Found) -> Result<()> {
    let next = found.next_pack();
    Ok(vault
        .db
        .write(|c| db::vaults::raise_next_pack(c, vault.number, next))?)
}

/// Rewrite, last rewrite that was given out, and state of a pack's row.
type Known = (Rewrite, Rewrite, PackState);

fn known(vault: &Vault) -> Result<BTreeMap<PackNumber, Known>> {
    let places = vault.db.read(|c| db::gc::places(c, vault.number))?;
    Ok(places
        .into_iter()
        .map(|(number, rewrite, rewrites, state)| (number, (rewrite, rewrites, state)))
        .collect())
}

/// Makes sure that no rewrite number is given out that an object has already, even by an old database.
fn raise_rewrites(vault: &Vault, found: &Found, known: &BTreeMap<PackNumber, Known>) -> Result<()> {
    for last in found.packs.values().filter_map(|objects| objects.last()) {
        let is_higher = known
            .get(&last.number)
            .is_some_and(|(_, rewrites, _)| last.rewrite > *rewrites);
        if is_higher {
            vault
                .db
                .write(|c| db::packs::raise_rewrites(c, vault.number, last.number, last.rewrite))?;
        }
    }
    Ok(())
}

/// The object of a pack that is to become its current one.
struct Taken {
    row: Pack,
    chunks: Vec<IndexedChunk>,
    /// Ordinals of the frames that it should hold and that cannot be read.
    damaged: RoaringBitmap,
}

/// Chooses among several objects of one pack: the current one, if all of it can be read; else the one with the most
/// readable frames; of equal ones the lowest rewrite, as a compaction may have stored a later one without switching
/// to it.
fn most_readable(vault: &Vault, objects: &[Pack], current: Option<Rewrite>) -> Result<Taken> {
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

/// Corrects the choice for packs with several objects: if the current object lacks a readable frame that backups need,
/// switches to one that has them all. Call it once all backups are known.
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
        // We cannot tell which frames are needed. A repair reads all objects.
        Err(Error::Corrupt { .. } | Error::Missing { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    for objects in several {
        prefer(vault, objects, &census)?;
    }
    Ok(())
}

fn prefer(vault: &Vault, objects: &[Pack], census: &Census) -> Result<()> {
    let number = objects[0].number;
    let needed = census.used(number.get());
    let known = known(vault)?;
    let before = known.get(&number);
    let row = vault
        .db
        .read(|c| db::packs::find(c, vault.number, number))?;
    let kind = row.as_ref().map(|row| row.kind);
    let needed_kind = census.kind(number.get()).or(kind);
    let mut others = Vec::new();
    for object in objects {
        if needed_kind.is_some_and(|needed| object.kind != needed) {
            continue;
        }
        let (readable, taken) = match read_whole(vault, object) {
            Ok(read) => read,
            Err(Error::Corrupt { .. } | Error::Missing { .. }) => continue,
            Err(error) => return Err(error),
        };
        let is_current = kind == Some(object.kind)
            && before.is_some_and(|(rewrite, ..)| *rewrite == object.rewrite);
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
    // No object is complete: keep all of them, so that a repair can take frames from each.
    if let Some(row) = row {
        vault
            .db
            .write(|c| db::health::mark_damaged(c, &row, db::health::FRAMES_LOST))?;
    }
    Ok(())
}

/// Marks packs that an old database lists and that were removed since, so that no backup relies on them.
fn mark_missing(vault: &Vault, found: &Found) -> Result<()> {
    let known = vault.db.read(|c| db::health::packs(c, vault.number))?;
    for (pack, _) in known {
        let number = pack_name(vault, &pack).number;
        if !found.packs.contains_key(&number) {
            mark_if_missing(vault, &pack)?;
        }
    }
    Ok(())
}

/// Marks a pack whose object is not there, unless its row leads to another object.
pub(super) fn mark_if_missing(vault: &Vault, pack: &Pack) -> Result<()> {
    let key = pack_name(vault, pack).key();
    if vault.store.length(&key)?.is_none() {
        let damage = format!("{key}{IS_MISSING}");
        vault
            .db
            .write(|c| db::health::mark_damaged(c, pack, &damage))?;
    }
    Ok(())
}

/// Reads the trailer of an object, but not its frames.
fn read(vault: &Vault, object: &Pack) -> Result<Taken> {
    let name = pack_name(vault, object);
    let length = object.stored_bytes.get();
    let reader = PackReader::open(&vault.store, name, length, &vault.keys)?;
    let chunks = indexed(vault.number, &name, &reader.rows)?;
    let impossible = |error: ImpossibleNumber| Error::corrupt(name.key(), error);
    let row = Pack {
        vault: vault.number,
        chunk_count: chunks.len().try_into().map_err(impossible)?,
        frame_count: reader.rows.len().try_into().map_err(impossible)?,
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

/// Makes an object the current one of its pack, unless the row has changed since it was read, by a compaction or
/// another rebuild. The index then has exactly the chunks of this object.
fn adopt(vault: &Vault, taken: &Taken, before: Option<&Known>, objects: &[Pack]) -> Result<()> {
    let row = &taken.row;
    let last = objects.last().map_or(row.rewrite, |last| last.rewrite);
    vault.db.write(|c| -> std::result::Result<_, DbError> {
        db::gc::lock(c, vault.number)?;
        let now = db::packs::find(c, vault.number, row.number)?;
        let before = before.map(|(rewrite, _, state)| (*rewrite, *state));
        if now.map(|now| (now.rewrite, now.state)) != before {
            return Ok(());
        }
        db::packs::adopt(c, row, last)?;
        db::health::forget_lost_chunks(c, row)?;
        db::gc::forget_chunks(c, vault.number, row.number)?;
        db::chunks::insert(c, &taken.chunks)?;
        if !taken.damaged.is_empty() {
            let damage = format!("{} of its frames cannot be read", taken.damaged.len());
            db::health::mark_damaged(c, row, &damage)?;
        }
        Ok(())
    })?;
    // A collection may have been about to delete the object as unknown.
    mark_if_missing(vault, row)
}

/// Which of the packs that a root needs are not stored, or were given up.
pub fn missing(vault: &Vault, root: &Root, found: &Found) -> Result<Vec<u32>> {
    let mut stored: BTreeSet<u32> = found.packs.keys().copied().collect();
    let needed = crate::engine::format::manifest::decode_pack_set(&root.pack_set)?;
    let numbers: Vec<PackNumber> = needed.iter().map(PackNumber::from).collect();
    let places = vault
        .db
        .read(|c| db::gc::places_of(c, vault.number, &numbers))?;
    for (number, _, _, state) in places {
        if matches!(state, PackState::Deleting | PackState::Gone) {
            stored.remove(&number.get());
        }
    }
    Ok(needed
        .iter()
        .filter(|pack| !stored.contains(pack))
        .collect())
}
