//! Garbage collection of one vault, beside running backups and restores.
//!
//! A pack is needed if a session holds it or a backup has it in its pack set. One generation does three things:
//! it pardons condemned packs that are needed again, it gives up packs that an earlier generation condemned and
//! that are still not needed, and it condemns live packs that are not needed.
//!
//! A collection begins its generation first. Then it reads all that is needed: first what sessions hold, then the pack
//! sets of backups, then the packs. A reference that a session took before is seen. A reference that it takes later
//! finds the pack in one of two states. If the pack is live or condemned, the reference makes it live, and giving it up
//! fails. If the pack was given up, the reference is refused. No clock and no delay takes part.
//!
//! The states are changed afterwards, in many short transactions, and no more once a later generation has begun. So
//! from the beginning of a generation on no other collection condemns a pack, and a pack that is still
//! condemned when it is given up was so all the time. A pack that a session came to need meanwhile may be condemned;
//! the next generation pardons it.
//!
//! # Roots of backups that failed
//!
//! A backup that fails after it has stored its root removes it, and then lets its packs go. If the storage refuses
//! that, or the job is lost, the root is left to the collection. It removes such roots after it has read what is
//! needed and before it changes a pack: a pack of a backup that failed later was still held by its session when that
//! was read. A compaction looks again before each pack, and is refused if another backup has failed since.
//!
//! # Roots that were put back
//!
//! The name of a root that was removed with its backup is kept. If such a root is in the storage again, there are two
//! cases. If its backup had been available and the root can be opened, an operator has put a copy back: the root is
//! reported as unknown and kept, with those of its packs that are there, until a rebuild adds the backup. Otherwise
//! a run that had been overtaken stored it late: the next generation removes it. Objects of packs that are gone are
//! not removed at first sight either: they may be the first part of a copy that is being put back.

use crate::clock::Clock;
use crate::db::{DbConnection, DbResult, backups, gc, health, packs, vaults};
use crate::engine::care::census::{Census, Sparse};
use crate::engine::care::{rebuild, verify};
use crate::engine::format::manifest::{decode_pack_set, decode_pack_sets};
use crate::engine::vault::{Vault, pack_folders};
use crate::engine::{Error, Result, vault};
use crate::model::error::chain;
use crate::model::id::BackupId;
use crate::model::job::Upkeep;
use crate::model::number::{PackNumber, Rewrite};
use crate::model::pack::{Pack, PackState};
use crate::store::key::{Key, parse_pack, root_name};
use roaring::RoaringBitmap;
use std::collections::{BTreeSet, HashMap, HashSet};

/// The work of a generation, done or planned.
#[derive(Debug, Default)]
pub struct Plan {
    pub generation: i64,
    /// Packs that stay live.
    pub kept: Vec<Pack>,
    /// Condemned packs that are needed after all.
    pub pardoned: Vec<Pack>,
    /// Live packs that are not needed; condemned by this generation.
    pub condemned: Vec<Pack>,
    /// Packs that an earlier generation condemned and this one gives up; or that an interrupted one had given up.
    pub deleted: Vec<Pack>,
    /// Live packs of which so much is unused that they are compacted.
    pub compacted: Vec<Sparse>,
    /// Objects that no row leads to any more, such as the old objects of compacted packs.
    pub leftovers: Vec<String>,
    /// Objects in the store that the database does not know, and roots that were put back. A later generation removes
    /// those that no backup needs.
    pub unknown: Vec<String>,
    /// Why nothing was compacted, if something stood in the way.
    pub blocked_by: Option<String>,
}

/// Bytes of packs in the store.
pub fn bytes(packs: &[Pack]) -> u64 {
    packs.iter().map(|pack| pack.stored_bytes.get()).sum()
}

/// The work that a generation would do now. Changes nothing.
pub fn plan(vault: &Vault) -> Result<Plan> {
    let again = reappeared(vault, check_roots(vault)?)?;
    let mut plan = vault.db.read(|c| {
        let generation = gc::coming_generation(c, vault.number)?;
        compute(c, vault, generation, &again.held)
    })?;
    (plan.leftovers, plan.unknown) = leftovers(vault, &again.held)?;
    plan.unknown.extend(again.put_back);
    plan.unknown.extend(again.late);
    match sparse(vault, &again.held) {
        Ok((_, mut sparse)) => {
            // A pack that the generation would condemn is not compacted.
            let kept: HashSet<PackNumber> = plan.kept.iter().map(|pack| pack.number).collect();
            sparse.retain(|sparse| kept.contains(&sparse.pack.number));
            plan.compacted = sparse;
        }
        Err(error) => plan.blocked_by = blocked_by(error)?,
    }
    Ok(plan)
}

/// Runs a generation.
pub fn run(vault: &Vault) -> Result<Plan> {
    let again = reappeared(vault, check_roots(vault)?)?;
    let number = vault.number;
    let generation = vault.db.write(|c| gc::next_generation(c, number))?;
    let mut plan = vault
        .db
        .read(|c| compute(c, vault, generation, &again.held))?;
    let unfinished = remove_unfinished(vault, &BTreeSet::new())?;
    mark(vault, &mut plan)?;
    // One pack at a time, so that no other transaction waits long.
    for pack in &plan.deleted {
        let db = &vault.db;
        // A later collection may have removed it meanwhile, and an operator may have put it back.
        if !db.write(|c| gc::forget_given_up(c, number, pack.number))? {
            continue;
        }
        vault.store.delete(&vault::pack_name(vault, pack).key())?;
        if !db.write(|c| gc::mark_gone(c, number, pack.number))? {
            rebuild::mark_if_missing(vault, pack)?;
        }
    }
    (plan.leftovers, plan.unknown) = leftovers(vault, &again.held)?;
    plan.unknown.extend(again.late);
    plan.leftovers.extend(unneeded(
        vault,
        plan.generation,
        &plan.unknown,
        &again.held,
    )?);
    let leftovers: HashSet<String> = plan.leftovers.iter().cloned().collect();
    plan.unknown.retain(|object| !leftovers.contains(object));
    plan.unknown.extend(again.put_back);
    let mut removed = Vec::new();
    for object in std::mem::take(&mut plan.leftovers) {
        // As long as this generation is the latest, no earlier one can still switch to an object that was listed
        // here, and no name of an object is used again.
        if !is_latest(vault, plan.generation)? {
            break;
        }
        if may_go(vault, &object)? {
            vault.store.delete(&Key::Leftover(object.clone()))?;
            removed.push(object);
        }
    }
    plan.leftovers = removed;
    if let Err(error) = vault.store.sweep() {
        tracing::warn!(error = %chain(&error), "temporary objects were not cleaned up");
    }
    match compact(vault, plan.generation, &again.held, unfinished) {
        Ok(compacted) => plan.compacted = compacted,
        Err(error) => plan.blocked_by = blocked_by(error)?,
    }
    let now = Clock::System.now();
    vault.db.write(|c| -> DbResult<()> {
        // What was left to a later generation is not done: a repair and a rebuild condemn nothing.
        if gc::coming_generation(c, number)? != generation + 1 {
            return Ok(());
        }
        vaults::note_done(c, number, Upkeep::Collect, now)
    })?;
    Ok(plan)
}

/// Removes the roots of backups that failed, as no pack set keeps the packs that they name. `before`: those of which
/// that is done. Gives all.
fn remove_unfinished(vault: &Vault, before: &BTreeSet<BackupId>) -> Result<BTreeSet<BackupId>> {
    let unfinished = vault.db.read(|c| gc::unfinished(c, &vault.id))?;
    if unfinished.is_subset(before) {
        return Ok(unfinished);
    }
    for (object, _) in vault.store.list(&format!("v/{}/b/", vault.id))? {
        let Some(root) = root_name(&vault.id, &object).map(BackupId::new) else {
            continue;
        };
        let is_needed = || vault.db.read(|c| gc::is_needed(c, &vault.id, &root));
        // In this order: a rebuild gives a newer root its pack set first, and only then knows its packs.
        if unfinished.contains(&root) && !is_newer(vault, &root)? && !is_needed()? {
            tracing::info!(object, "the root of a backup that failed is removed");
            vault.store.delete(&vault.root_key(&root))?;
        }
    }
    Ok(unfinished)
}

/// Changes the states of packs as planned, and leaves in the plan what was done.
fn mark(vault: &Vault, plan: &mut Plan) -> Result<()> {
    let (number, generation) = (vault.number, plan.generation);
    let pardoned = some_at_a_time(vault, generation, &plan.pardoned, |c, batch| {
        gc::pardon(c, number, batch).map(|()| batch.to_vec())
    })?;
    plan.pardoned.retain(|pack| pardoned.contains(&pack.number));
    let given_up = some_at_a_time(vault, generation, &plan.deleted, |c, batch| {
        gc::give_up(c, number, batch)
    })?;
    plan.deleted
        .retain(|pack| pack.state == PackState::Deleting || given_up.contains(&pack.number));
    let condemned = some_at_a_time(vault, generation, &plan.condemned, |c, batch| {
        gc::condemn(c, number, batch, generation).map(|()| batch.to_vec())
    })?;
    plan.condemned
        .retain(|pack| condemned.contains(&pack.number));
    Ok(())
}

/// Changes packs in short transactions, so that other writers do not wait long. During each of them no later
/// generation begins; once one has begun, the rest is left to it. Gives the packs that were changed.
fn some_at_a_time(
    vault: &Vault,
    generation: i64,
    packs: &[Pack],
    mut change: impl FnMut(&mut DbConnection, &[PackNumber]) -> DbResult<Vec<PackNumber>>,
) -> Result<HashSet<PackNumber>> {
    let numbers: Vec<PackNumber> = packs.iter().map(|pack| pack.number).collect();
    let mut changed = HashSet::new();
    for batch in numbers.chunks(gc::BATCH) {
        let done = vault.db.write(|c| {
            gc::lock(c, vault.number)?;
            let is_latest = gc::coming_generation(c, vault.number)? == generation + 1;
            is_latest.then(|| change(c, batch)).transpose()
        })?;
        let Some(done) = done else { break };
        changed.extend(done);
    }
    Ok(changed)
}

/// Those of the unknown objects that were unknown at an earlier generation already and that no backup needs. No other
/// backup can need them: all roots are known, and every running session has rows.
fn unneeded(
    vault: &Vault,
    generation: i64,
    unknown: &[String],
    kept: &RoaringBitmap,
) -> Result<Vec<String>> {
    let mut held = Vec::new();
    let (earlier, sets) = vault.db.write(|c| -> DbResult<_> {
        gc::lock(c, vault.number)?;
        let earlier = gc::note_unknown(c, vault.number, generation, unknown)?;
        held = gc::held_by_sessions(c, vault.number)?;
        Ok((earlier, gc::pack_sets(c, &vault.id)?))
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
    let coming = vault.db.read(|c| gc::coming_generation(c, vault.number))?;
    Ok(coming == generation + 1)
}

/// Damage in a manifest stops the compaction, and nothing else.
fn blocked_by(error: Error) -> Result<Option<String>> {
    match error {
        Error::Corrupt { .. } | Error::Missing { .. } => Ok(Some(error.to_string())),
        error => Err(error),
    }
}

fn sparse(vault: &Vault, held: &RoaringBitmap) -> Result<(Option<Census>, Vec<Sparse>)> {
    if vault.options.dead_share >= 1.0 {
        return Ok((None, Vec::new()));
    }
    let mut settled = vault.db.read(|c| gc::settled(c, vault.number))?;
    settled.retain(|pack| !held.contains(pack.number.get()));
    let census = Census::take(vault)?;
    let sparse = census.sparse(vault, &settled, vault.options.dead_share)?;
    Ok((Some(census), sparse))
}

fn compact(
    vault: &Vault,
    generation: i64,
    held: &RoaringBitmap,
    mut unfinished: BTreeSet<BackupId>,
) -> Result<Vec<Sparse>> {
    let (Some(census), sparse) = sparse(vault, held)? else {
        return Ok(Vec::new());
    };
    let mut compacted = Vec::new();
    for sparse in sparse {
        unfinished = remove_unfinished(vault, &unfinished)?;
        let length = census.compact(vault, &sparse.pack, generation, &unfinished)?;
        if length.is_some() {
            compacted.push(sparse);
        }
    }
    Ok(compacted)
}

/// Whether an object that no row leads to may be removed. A root may not if a backup owns it by now. An object of a
/// pack may only be removed if the current object of the pack can be read from end to end and is not marked damaged:
/// after a rebuild, the current object may be the damaged one of two.
fn may_go(vault: &Vault, object: &str) -> Result<bool> {
    if let Some(root) = root_name(&vault.id, object) {
        let owner = vault
            .db
            .read(|c| backups::with_root(c, &vault.id, &BackupId::new(root)))?;
        return Ok(owner.is_none());
    }
    let Some((_, number, _)) = parse_pack(&vault.id, object) else {
        return Ok(true);
    };
    let row = vault
        .db
        .read(|c| packs::find(c, vault.number, number.into()))?;
    match row {
        Some(row) if row.state != PackState::Gone => {
            let is_noted = vault.db.read(|c| health::is_damaged(c, &row))?;
            if is_noted {
                return Ok(false);
            }
            let damage = verify::read_whole(vault, &row)?;
            if let Some(damage) = &damage {
                tracing::error!(
                    object,
                    damage,
                    "the object is kept, as the current object of its pack is damaged; run `embervault vault repair`"
                );
                vault.db.write(|c| health::mark_damaged(c, &row, damage))?;
            }
            Ok(damage.is_none())
        }
        _ => Ok(true),
    }
}

/// The place of a pack's object in its name: the pack's number and the object's rewrite.
fn place(vault: &Vault, object: &str) -> Option<(PackNumber, Rewrite)> {
    let (_, number, rewrite) = parse_pack(&vault.id, object)?;
    Some((number.into(), rewrite.try_into().ok()?))
}

/// Two lists: objects of known packs that are not the current object, and unknown objects. Objects of packs that are
/// gone, and of packs that a put-back root needs, count as unknown.
fn leftovers(vault: &Vault, held: &RoaringBitmap) -> Result<(Vec<String>, Vec<String>)> {
    let (mut leftovers, mut unknown) = (Vec::new(), Vec::new());
    // All objects of one pack lie in one folder.
    for folder in pack_folders(&vault.store, &vault.id)? {
        // The objects first: a pack has its row before it is stored.
        let listed = vault.store.list(&folder)?;
        let numbers: BTreeSet<PackNumber> = listed
            .iter()
            .filter_map(|(object, _)| Some(place(vault, object)?.0))
            .collect();
        let places = vault.db.read(|c| {
            let numbers: Vec<PackNumber> = numbers.into_iter().collect();
            gc::places_of(c, vault.number, &numbers)
        })?;
        let places: HashMap<PackNumber, _> = places
            .into_iter()
            .map(|(number, rewrite, rewrites, state)| (number, (rewrite, rewrites, state)))
            .collect();
        let there: HashSet<(PackNumber, Rewrite)> = listed
            .iter()
            .filter_map(|(object, _)| place(vault, object))
            .collect();
        for (object, _) in listed {
            let Some((number, rewrite)) = place(vault, &object) else {
                unknown.push(object);
                continue;
            };
            // A root that was put back may need frames that the current object was written without.
            let is_held = held.contains(number.get());
            match places.get(&number) {
                Some((current, _, state)) if *current == rewrite && *state != PackState::Gone => {}
                // Only if the current object is there too. The row of an old database may name an object that is
                // no longer there; then this other object is all that is left of the pack.
                Some((current, rewrites, state))
                    if !is_held
                        && rewrite <= *rewrites
                        && *state != PackState::Gone
                        && there.contains(&(number, *current)) =>
                {
                    leftovers.push(object);
                }
                _ => unknown.push(object),
            }
        }
    }
    Ok((leftovers, unknown))
}

/// The packs that sessions hold or backups need.
fn needed(held: Vec<PackNumber>, sets: &[Vec<u8>]) -> Result<RoaringBitmap> {
    let held = held.into_iter().map(PackNumber::get);
    Ok(held.collect::<RoaringBitmap>() | decode_pack_sets(sets)?)
}

fn compute(
    connection: &mut DbConnection,
    vault: &Vault,
    generation: i64,
    kept: &RoaringBitmap,
) -> Result<Plan> {
    let held = gc::held_by_sessions(connection, vault.number)?;
    let sets = gc::pack_sets(connection, &vault.id)?;
    let needed = needed(held, &sets)? | kept;
    let mut plan = Plan {
        generation,
        ..Plan::default()
    };
    for (pack, condemned_in) in gc::packs(connection, vault.number)? {
        let is_needed = needed.contains(pack.number.get());
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
    pub removed: Vec<(BackupId, bool)>,
}

/// The roots in the store, compared with what the database knows.
pub fn roots(vault: &Vault) -> Result<Roots> {
    let listed = vault.store.list(&format!("v/{}/b/", vault.id))?;
    let known: HashSet<String> = vault
        .db
        .read(|c| gc::roots(c, &vault.id))?
        .into_iter()
        .map(|id| id.to_string())
        .collect();
    let without = vault.db.read(|c| gc::without_root(c, &vault.id))?;
    let mut roots = Roots::default();
    for (object, _) in listed {
        let Some(name) = root_name(&vault.id, &object) else {
            continue;
        };
        roots.listed.insert(name.to_owned());
        let root = BackupId::new(name);
        if known.contains(name) {
            // The root may have been noted since.
            if without.contains(&root) && is_newer(vault, &root)? {
                roots.unknown.push(root);
            }
            continue;
        }
        let removed = vault
            .db
            .read(|c| gc::removed_root(c, vault.number, &root))?;
        match removed {
            Some(was_available) => roots.removed.push((root, was_available)),
            None => roots.unknown.push(root),
        }
    }
    Ok(roots)
}

/// Whether the root of a backup that never became available was stored without this database: it is a copy from before,
/// and what it says of the backup is out of date.
pub fn is_newer(vault: &Vault, root: &BackupId) -> Result<bool> {
    let is_noted = vault.db.read(|c| backups::is_root_noted(c, root))?;
    Ok(!is_noted && vault.has_root(root)?)
}

/// The roots of the vault; an error if nothing may be reclaimed in it. That is so if there are roots that the database
/// does not know, because it is an old copy or because single backups were imported: what they need must not be
/// taken for garbage. It is also so while a root is unreadable: we cannot tell which packs it needs. Then nothing is
/// reclaimed until the root is readable again or its backup is deleted.
fn check_roots(vault: &Vault) -> Result<Roots> {
    let mut roots = self::roots(vault)?;
    if !roots.unknown.is_empty() {
        // A backup may have been deleted between the listing and the look at the rows. A second look decides.
        roots = self::roots(vault)?;
    }
    if let Some(first) = roots.unknown.first() {
        return Err(Error::UnknownRoots {
            vault: vault.id.to_string(),
            count: roots.unknown.len(),
            first: vault.root_key(first).to_string(),
        });
    }
    let unreadable = vault.db.read(|c| gc::unreadable_roots(c, &vault.id))?;
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
                "the root of a deleted backup was put back, so it is kept. Run `embervault vault rebuild` to add the backup, or delete the object"
            );
            again.put_back.push(object);
            again.held |= needed;
        } else {
            again.late.push(object);
        }
    }
    Ok(again)
}

/// Whether the root of an available backup is missing in the storage. Then the database may be an old copy that lists
/// packs which are gone.
pub fn is_root_lost(vault: &Vault, listed: &HashSet<String>) -> Result<bool> {
    let roots = vault.db.read(|c| gc::available_roots(c, &vault.id))?;
    for root in roots {
        // A root that was stored after the listing is not in the list either.
        if !listed.contains(root.as_str()) && !vault.has_root(&root)? {
            return Ok(true);
        }
    }
    Ok(false)
}
