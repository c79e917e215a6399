//! Garbage collection of one vault, beside running backups and restores.
//!
//! A generation pardons condemned packs that are needed again, gives up those that an earlier
//! generation condemned and nobody needs, and condemns live packs that nobody needs. What is needed
//! is read in one transaction: what sessions hold first, what backups hold second. A reference taken
//! before it is seen; one taken after it finds the pack live or condemned, and makes it live, so that
//! giving it up fails, or finds it given up, and is refused. No clock and no delay takes part.
//!
//! # Roots that are there again
//!
//! A root that was removed with its backup and is in the storage again is never removed at first sight.
//! If the backup had been available and the root can be opened, a copy was put back: it is reported as
//! unknown and kept, with such of its packs as are there, until a rebuild takes it in. Any other was stored
//! late, by a run that had been overtaken: it is removed by the next generation. So are objects of packs
//! that are gone, which may be the part of a copy that came first.

use crate::clock::Clock;
use crate::db::vaults::{self, Upkeep};
use crate::db::{DbConnection, DbError, QueryResult, backups, collection, condition, packs};
use crate::engine::backup::{decode_pack_set, decode_pack_sets};
use crate::engine::compact::{Census, Sparse};
use crate::engine::vault::{Vault, pack_folders};
use crate::engine::{Error, Result, packer, verify};
use crate::model::error::chain;
use crate::model::id::BackupId;
use crate::model::pack::{Pack, PackState};
use crate::store::key::{Key, parse_pack, root_name};
use roaring::RoaringBitmap;
use std::collections::{BTreeSet, HashMap, HashSet};

/// What a generation does, or would do.
#[derive(Debug, Default)]
pub struct Plan {
    pub generation: i64,
    /// Packs that stay live.
    pub kept: Vec<Pack>,
    /// Condemned packs that are needed after all.
    pub pardoned: Vec<Pack>,
    /// Packs that nobody needs since this generation.
    pub condemned: Vec<Pack>,
    /// Condemned by an earlier generation, and given up now; or given up by one that was cut off.
    pub deleted: Vec<Pack>,
    /// Live packs of which so much is dead that they are written again without it.
    pub compacted: Vec<Sparse>,
    /// Objects that nothing leads to any more: of packs that are gone, or that were compacted.
    pub strays: Vec<String>,
    /// Objects in the store that the database does not know, and roots that were put back. What no backup
    /// needs of them goes with a later generation.
    pub unknown: Vec<String>,
    /// Why nothing was compacted, if something stood in the way.
    pub hindrance: Option<String>,
}

/// Bytes of packs in the store.
pub fn bytes(packs: &[Pack]) -> u64 {
    packs
        .iter()
        .map(|pack| u64::try_from(pack.stored_bytes).unwrap_or(0))
        .sum()
}

/// What a generation would do now.
pub fn plan(vault: &Vault) -> Result<Plan> {
    let again = reappeared(vault, check_roots(vault)?)?;
    let mut plan = vault.db.read(|c| {
        let generation = collection::coming_generation(c, vault.number).map_err(DbError::from)?;
        compute(c, vault, generation, &again.held)
    })?;
    (plan.strays, plan.unknown) = strays(vault, &again.held)?;
    plan.unknown.extend(again.put_back);
    plan.unknown.extend(again.late);
    match sparse(vault, &again.held) {
        Ok((_, mut sparse)) => {
            // What is condemned first is not compacted.
            let kept: HashSet<i64> = plan.kept.iter().map(|pack| pack.number).collect();
            sparse.retain(|sparse| kept.contains(&sparse.pack.number));
            plan.compacted = sparse;
        }
        Err(error) => plan.hindrance = hindrance(error)?,
    }
    Ok(plan)
}

/// Runs a generation.
pub fn run(vault: &Vault) -> Result<Plan> {
    let again = reappeared(vault, check_roots(vault)?)?;
    let number = vault.number;
    let mut plan = vault.db.write(|c| -> Result<Plan> {
        // What sessions and backups need is looked up in several statements; between them another
        // collector must not condemn again what was revived meanwhile.
        collection::lock(c, number).map_err(DbError::from)?;
        let generation = collection::coming_generation(c, number).map_err(DbError::from)?;
        let mut plan = compute(c, vault, generation, &again.held)?;
        let numbers = |packs: &[Pack]| packs.iter().map(|pack| pack.number).collect::<Vec<_>>();
        let doomed: Vec<i64> = numbers(&plan.deleted);
        let mut apply = || -> QueryResult<Vec<i64>> {
            collection::pardon(c, number, &numbers(&plan.pardoned))?;
            let given_up = collection::give_up(c, number, &doomed)?;
            collection::condemn(c, number, &numbers(&plan.condemned), generation)?;
            Ok(given_up)
        };

        let given_up: HashSet<i64> = apply().map_err(DbError::from)?.into_iter().collect();
        plan.deleted
            .retain(|pack| pack.state == PackState::Deleting || given_up.contains(&pack.number));
        // Last, as backups that begin a pack wait for this row.
        match collection::next_generation(c, number).map_err(DbError::from)? == generation {
            true => Ok(plan),
            false => Err(Error::Fenced),
        }
    })?;
    // One pack at a time, so that nobody waits long for the database.
    for pack in &plan.deleted {
        let write = |change: fn(&mut DbConnection, i64, i64) -> QueryResult<()>| {
            let changed = vault
                .db
                .write(|c| change(c, number, pack.number).map_err(DbError::from));
            changed.map_err(Error::from)
        };
        write(collection::forget_chunks)?;
        vault.store.delete(&packer::pack_name(vault, pack)?.key())?;
        write(collection::gone)?;
    }
    (plan.strays, plan.unknown) = strays(vault, &again.held)?;
    plan.unknown.extend(again.late);
    plan.strays.extend(unneeded(
        vault,
        plan.generation,
        &plan.unknown,
        &again.held,
    )?);
    let strays: HashSet<String> = plan.strays.iter().cloned().collect();
    plan.unknown.retain(|object| !strays.contains(object));
    plan.unknown.extend(again.put_back);
    let mut removed = Vec::new();
    for object in std::mem::take(&mut plan.strays) {
        // What was listed before a later generation began was stored by an earlier one than that; no
        // collection switches to it any more, and its name is not used again.
        if !is_latest(vault, plan.generation)? {
            break;
        }
        if may_go(vault, &object)? {
            vault.store.delete(&Key::Stray(object.clone()))?;
            removed.push(object);
        }
    }
    plan.strays = removed;
    if let Err(error) = vault.store.sweep() {
        tracing::warn!(error = %chain(&error), "temporary objects were not looked through");
    }
    match compact(vault, plan.generation, &again.held) {
        Ok(compacted) => plan.compacted = compacted,
        Err(error) => plan.hindrance = hindrance(error)?,
    }
    let now = Clock::System.now();
    vault
        .db
        .write(|c| vaults::note_done(c, number, Upkeep::Collect, now).map_err(DbError::from))?;
    Ok(plan)
}

/// Of the objects that the database does not know, those that it did not know at an earlier generation
/// either and that no backup needs. All roots are known, and what runs has rows: nothing else could need
/// them.
fn unneeded(
    vault: &Vault,
    generation: i64,
    unknown: &[String],
    kept: &RoaringBitmap,
) -> Result<Vec<String>> {
    let mut held = Vec::new();
    let (earlier, sets) = vault.db.write(|c| -> std::result::Result<_, DbError> {
        collection::lock(c, vault.number)?;
        let earlier = collection::note_unknown(c, vault.number, generation, unknown)?;
        held = collection::held_by_sessions(c, vault.number)?;
        Ok((earlier, collection::pack_sets(c, &vault.id)?))
    })?;
    let needed = needed(held, &sets)? | kept;
    Ok(earlier
        .into_iter()
        .filter(|object| {
            let pack = parse_pack(&vault.id, object);
            !pack.is_some_and(|(_, number, _)| needed.contains(number))
        })
        .collect())
}

fn is_latest(vault: &Vault, generation: i64) -> Result<bool> {
    let coming = vault
        .db
        .read(|c| collection::coming_generation(c, vault.number).map_err(DbError::from))?;
    Ok(coming == generation + 1)
}

/// Damage in a manifest stands in the way of compaction, and of nothing else.
fn hindrance(error: Error) -> Result<Option<String>> {
    match error {
        Error::Corrupt { .. } | Error::Missing { .. } => Ok(Some(error.to_string())),
        error => Err(error),
    }
}

fn sparse(vault: &Vault, held: &RoaringBitmap) -> Result<(Option<Census>, Vec<Sparse>)> {
    if vault.options.dead_share >= 1.0 {
        return Ok((None, Vec::new()));
    }
    let mut settled = vault
        .db
        .read(|c| collection::settled(c, vault.number).map_err(DbError::from))?;
    settled.retain(|pack| !u32::try_from(pack.number).is_ok_and(|number| held.contains(number)));
    let census = Census::take(vault)?;
    let sparse = census.sparse(vault, &settled, vault.options.dead_share)?;
    Ok((Some(census), sparse))
}

fn compact(vault: &Vault, generation: i64, held: &RoaringBitmap) -> Result<Vec<Sparse>> {
    let (Some(census), sparse) = sparse(vault, held)? else {
        return Ok(Vec::new());
    };
    let mut compacted = Vec::new();
    for sparse in sparse {
        if census.compact(vault, &sparse.pack, generation)?.is_some() {
            compacted.push(sparse);
        }
    }
    Ok(compacted)
}

/// Whether an object that nothing leads to may be removed. Of a root it is looked once more whether a
/// backup has come to own it. Of a pack, the object that the row leads to instead must be readable from
/// end to end, and nothing wrong with it known: after a rebuild it may be the damaged one of two.
fn may_go(vault: &Vault, object: &str) -> Result<bool> {
    if let Some(root) = root_name(&vault.id, object) {
        let owner = vault.db.read(|c| {
            backups::with_root(c, &vault.id, &BackupId::new(root)).map_err(DbError::from)
        })?;
        return Ok(owner.is_none());
    }
    let Some((_, number, _)) = parse_pack(&vault.id, object) else {
        return Ok(true);
    };
    let row = vault
        .db
        .read(|c| packs::find(c, vault.number, number.into()).map_err(DbError::from))?;
    match row {
        Some(row) if row.state != PackState::Gone => {
            let is_noted = vault
                .db
                .read(|c| condition::is_damaged(c, &row).map_err(DbError::from))?;
            if is_noted {
                return Ok(false);
            }
            let damage = verify::read_whole(vault, &row)?;
            if let Some(damage) = &damage {
                tracing::error!(
                    object,
                    damage,
                    "kept, as the pack's current object is damaged; run `embervault vault repair`"
                );
                vault.db.write(|c| {
                    condition::set(c, &row, Some(damage), None).map_err(DbError::from)
                })?;
            }
            Ok(damage.is_none())
        }
        _ => Ok(true),
    }
}

/// The place of a pack's object in its name: the pack's number and the object's rewrite.
fn place(vault: &Vault, object: &str) -> Option<(i64, i32)> {
    let (_, number, rewrite) = parse_pack(&vault.id, object)?;
    Some((number.into(), i32::try_from(rewrite).ok()?))
}

/// Objects of packs that are not where the database knows them to be, and those it does not know. Objects
/// of packs that are gone, or that a root needs which was put back, are among the latter.
fn strays(vault: &Vault, held: &RoaringBitmap) -> Result<(Vec<String>, Vec<String>)> {
    let (mut strays, mut unknown) = (Vec::new(), Vec::new());
    // All objects of one pack lie in one folder.
    for folder in pack_folders(&vault.store, &vault.id)? {
        // The objects first: a pack has its row before it is stored.
        let listed = vault.store.list(&folder)?;
        let numbers: BTreeSet<i64> = listed
            .iter()
            .filter_map(|(object, _)| Some(place(vault, object)?.0))
            .collect();
        let places = vault.db.read(|c| {
            let numbers: Vec<i64> = numbers.into_iter().collect();
            collection::places_of(c, vault.number, &numbers).map_err(DbError::from)
        })?;
        let places: HashMap<i64, _> = places
            .into_iter()
            .map(|(number, rewrite, rewrites, state)| (number, (rewrite, rewrites, state)))
            .collect();
        let there: HashSet<(i64, i32)> = listed
            .iter()
            .filter_map(|(object, _)| place(vault, object))
            .collect();
        for (object, _) in listed {
            let Some((number, rewrite)) = place(vault, &object) else {
                unknown.push(object);
                continue;
            };
            // A root that was put back may need what the present object was written without.
            let is_held = u32::try_from(number).is_ok_and(|number| held.contains(number));
            match places.get(&number) {
                Some((current, _, state)) if *current == rewrite && *state != PackState::Gone => {}
                // Only beside the object that the row leads to: an old database leads to one that is no
                // longer there, and what it has not heard of is the pack.
                Some((current, rewrites, state))
                    if !is_held
                        && rewrite <= *rewrites
                        && *state != PackState::Gone
                        && there.contains(&(number, *current)) =>
                {
                    strays.push(object);
                }
                _ => unknown.push(object),
            }
        }
    }
    Ok((strays, unknown))
}

/// What sessions hold, and what backups need.
fn needed(held: Vec<i64>, sets: &[Vec<u8>]) -> Result<RoaringBitmap> {
    let held = held.into_iter().flat_map(u32::try_from);
    Ok(held.collect::<RoaringBitmap>() | decode_pack_sets(sets)?)
}

fn compute(
    connection: &mut DbConnection,
    vault: &Vault,
    generation: i64,
    kept: &RoaringBitmap,
) -> Result<Plan> {
    let held = collection::held_by_sessions(connection, vault.number).map_err(DbError::from)?;
    let sets = collection::pack_sets(connection, &vault.id).map_err(DbError::from)?;
    let needed = needed(held, &sets)? | kept;
    let mut plan = Plan {
        generation,
        ..Plan::default()
    };
    for (pack, condemned_in) in
        collection::packs(connection, vault.number).map_err(DbError::from)?
    {
        let is_needed = u32::try_from(pack.number).is_ok_and(|number| needed.contains(number));
        let list = match (pack.state, is_needed) {
            (PackState::Deleting, _) => &mut plan.deleted,
            (PackState::Condemned, true) => &mut plan.pardoned,
            (PackState::Condemned, false) if condemned_in < Some(generation) => &mut plan.deleted,
            (PackState::Live | PackState::Writing, false) => &mut plan.condemned,
            _ => &mut plan.kept,
        };
        list.push(pack);
    }
    Ok(plan)
}

/// Roots of one vault in the store.
#[derive(Debug, Default)]
pub struct Roots {
    /// Names of all.
    pub listed: HashSet<String>,
    /// Roots that no backup has, and of which no removal is known.
    pub unknown: Vec<BackupId>,
    /// Roots that were removed with their backup, and whether that had been available.
    removed: Vec<(BackupId, bool)>,
}

/// The roots in the store, compared with what the database knows.
pub fn roots(vault: &Vault) -> Result<Roots> {
    let listed = vault.store.list(&format!("v/{}/b/", vault.id))?;
    let known: HashSet<String> = vault
        .db
        .read(|c| collection::roots(c, &vault.id).map_err(DbError::from))?
        .into_iter()
        .map(|id| id.to_string())
        .collect();
    let mut roots = Roots::default();
    for (object, _) in listed {
        let Some(name) = root_name(&vault.id, &object) else {
            continue;
        };
        roots.listed.insert(name.to_owned());
        if known.contains(name) {
            continue;
        }
        let root = BackupId::new(name);
        let removed = vault
            .db
            .read(|c| collection::removed_root(c, vault.number, &root).map_err(DbError::from))?;
        match removed {
            Some(was_available) => roots.removed.push((root, was_available)),
            None => roots.unknown.push(root),
        }
    }
    Ok(roots)
}

/// The roots of a vault of which something may be reclaimed. A database that was restored from an old
/// copy, or a vault of which single backups were imported, does not know all roots; what they need must
/// not be taken for garbage. And which packs an unreadable root needs cannot be told: nothing is reclaimed
/// until the root is readable again or its backup is deleted.
fn check_roots(vault: &Vault) -> Result<Roots> {
    let mut roots = self::roots(vault)?;
    if !roots.unknown.is_empty() {
        // A backup whose root and row go between the two looks is not unknown at the second.
        roots = self::roots(vault)?;
    }
    if let Some(first) = roots.unknown.first() {
        return Err(Error::UnknownRoots {
            vault: vault.id.to_string(),
            count: roots.unknown.len(),
            first: vault.root_key(first).to_string(),
        });
    }
    let unreadable = vault
        .db
        .read(|c| collection::unreadable_roots(c, &vault.id).map_err(DbError::from))?;
    let mut unreadable = unreadable.iter();
    match unreadable.find(|root| roots.listed.contains(root.as_str())) {
        Some(root) => Err(Error::UnreadableRoot {
            object: vault.root_key(root).to_string(),
        }),
        None => Ok(roots),
    }
}

/// Removed roots that are in the store again.
#[derive(Debug, Default)]
struct Reappeared {
    /// Roots of backups that were put back.
    put_back: Vec<String>,
    /// The packs that those need.
    held: RoaringBitmap,
    /// All others.
    late: Vec<String>,
}

fn reappeared(vault: &Vault, roots: Roots) -> Result<Reappeared> {
    let mut again = Reappeared::default();
    for (name, was_available) in roots.removed {
        let object = vault.root_key(&name).to_string();
        let root = match vault.root_at_last(&name) {
            Ok(root) => root,
            Err(Error::Missing { .. }) => continue,
            Err(Error::Corrupt { .. }) => {
                again.late.push(object);
                continue;
            }
            Err(error) => return Err(error),
        };
        let needed = decode_pack_set(&root.pack_set)?;
        if was_available {
            tracing::error!(
                object,
                "the root of a deleted backup was put back, so it is kept: run `embervault vault rebuild` to take it in, or remove the object"
            );
            again.put_back.push(object);
            again.held |= needed;
        } else {
            again.late.push(object);
        }
    }
    Ok(again)
}

/// Whether an available backup has its root neither among the listed ones nor elsewhere: then the
/// database may be an old copy, and believe in packs that are gone.
pub fn is_root_lost(vault: &Vault, listed: &HashSet<String>) -> Result<bool> {
    let roots = vault
        .db
        .read(|c| collection::available_roots(c, &vault.id).map_err(DbError::from))?;
    for root in roots {
        // Not in the list are also those that came since.
        if !listed.contains(root.as_str()) && !vault.has_root(&root)? {
            return Ok(true);
        }
    }
    Ok(false)
}
