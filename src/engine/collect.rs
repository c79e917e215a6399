//! Garbage collection of one vault, beside running backups and restores.
//!
//! A generation pardons condemned packs that are needed again, gives up those that an earlier
//! generation condemned and nobody needs, and condemns live packs that nobody needs. What is needed
//! is read in one transaction: what sessions hold first, what backups hold second. A reference taken
//! before it is seen; one taken after it finds the pack live or condemned, and makes it live, so that
//! giving it up fails, or finds it given up, and is refused. No clock and no delay takes part.

use crate::clock::Clock;
use crate::db::collection;
use crate::db::{DbConnection, DbError, QueryResult};
use crate::engine::backup::decode_pack_set;
use crate::engine::compact::{Census, Sparse};
use crate::engine::vault::Vault;
use crate::engine::{Error, Result, packer};
use crate::model::error::chain;
use crate::model::pack::{Pack, PackState};
use crate::store::key::{Key, parse_pack, root_name};
use roaring::RoaringBitmap;
use std::collections::{HashMap, HashSet};

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
    /// Packs in the store that the database has never heard of. They are left alone.
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
    refuse_unreadable(vault, &check_roots(vault)?)?;
    let mut plan = vault.db.read(|c| {
        let generation = collection::coming_generation(c, vault.number).map_err(DbError::from)?;
        compute(c, vault, generation)
    })?;
    (plan.strays, plan.unknown) = strays(vault)?;
    match sparse(vault) {
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
    refuse_unreadable(vault, &check_roots(vault)?)?;
    let number = vault.number;
    let mut plan = vault.db.write(|c| -> Result<Plan> {
        // What sessions and backups need is looked up in several statements; between them another
        // collector must not condemn again what was revived meanwhile.
        collection::lock(c, number).map_err(DbError::from)?;
        let generation = collection::next_generation(c, number).map_err(DbError::from)?;
        let mut plan = compute(c, vault, generation)?;
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
        Ok(plan)
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
    for leftover in roots(vault)?.leftovers {
        vault.store.delete(&Key::Stray(leftover))?;
    }
    (plan.strays, plan.unknown) = strays(vault)?;
    plan.strays
        .extend(unneeded(vault, plan.generation, &plan.unknown)?);
    plan.unknown.retain(|object| !plan.strays.contains(object));
    // What was listed before a later generation began was stored by an earlier one than that; nobody
    // switches to it any more, and its name is not used again.
    if is_latest(vault, plan.generation)? {
        for object in &plan.strays {
            vault.store.delete(&Key::Stray(object.clone()))?;
        }
    }
    if let Err(error) = vault.store.sweep() {
        tracing::warn!(error = %chain(&error), "temporary objects were not looked through");
    }
    match compact(vault, plan.generation) {
        Ok(compacted) => plan.compacted = compacted,
        Err(error) => plan.hindrance = hindrance(error)?,
    }
    let now = Clock::System.now();
    vault
        .db
        .write(|c| collection::set_collected(c, number, now).map_err(DbError::from))?;
    Ok(plan)
}

/// Of packs that the database does not know, those that it did not know at an earlier generation either
/// and that no backup needs. All roots are known, and what runs has rows: nobody else could need them.
fn unneeded(vault: &Vault, generation: i64, unknown: &[String]) -> Result<Vec<String>> {
    let mut held = Vec::new();
    let (earlier, sets) = vault.db.write(|c| -> std::result::Result<_, DbError> {
        collection::lock(c, vault.number)?;
        let earlier = collection::note_unknown(c, vault.number, generation, unknown)?;
        held = collection::held_by_sessions(c, vault.number)?;
        Ok((earlier, collection::pack_sets(c, &vault.id)?))
    })?;
    let mut needed: RoaringBitmap = held
        .into_iter()
        .filter_map(|number| u32::try_from(number).ok())
        .collect();
    for set in sets {
        needed |= decode_pack_set(&set)?;
    }
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

fn sparse(vault: &Vault) -> Result<(Option<Census>, Vec<Sparse>)> {
    if vault.options.dead_share >= 1.0 {
        return Ok((None, Vec::new()));
    }
    let settled = vault
        .db
        .read(|c| collection::settled(c, vault.number).map_err(DbError::from))?;
    let census = Census::take(vault)?;
    let sparse = census.sparse(vault, &settled, vault.options.dead_share)?;
    Ok((Some(census), sparse))
}

fn compact(vault: &Vault, generation: i64) -> Result<Vec<Sparse>> {
    let (Some(census), sparse) = sparse(vault)? else {
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

/// Objects of packs that are not where the database knows them to be, and those it does not know.
fn strays(vault: &Vault) -> Result<(Vec<String>, Vec<String>)> {
    // The objects first: a pack has its row before it is stored.
    let mut listed = vault.store.list(&format!("v/{}/p/", vault.id))?;
    listed.extend(vault.store.list(&format!("v/{}/m/", vault.id))?);
    let places = vault
        .db
        .read(|c| collection::places(c, vault.number).map_err(DbError::from))?;
    let places: HashMap<i64, _> = places
        .into_iter()
        .map(|(number, rewrite, rewrites, state)| (number, (rewrite, rewrites, state)))
        .collect();
    let (mut strays, mut unknown) = (Vec::new(), Vec::new());
    let listed: Vec<(String, Option<(i64, i32)>)> = listed
        .into_iter()
        .map(|(object, _)| {
            let place = parse_pack(&vault.id, &object).and_then(|(_, number, rewrite)| {
                Some((number.into(), i32::try_from(rewrite).ok()?))
            });
            (object, place)
        })
        .collect();
    let there: HashSet<(i64, i32)> = listed.iter().filter_map(|(_, place)| *place).collect();
    for (object, place) in listed {
        let Some((number, rewrite)) = place else {
            unknown.push(object);
            continue;
        };
        match places.get(&number) {
            Some((_, _, PackState::Gone)) => strays.push(object),
            Some((current, _, _)) if *current == rewrite => {}
            // Only beside the object that the row leads to: an old database leads to one that is no
            // longer there, and what it has not heard of is the pack.
            Some((current, rewrites, _))
                if rewrite <= *rewrites && there.contains(&(number, *current)) =>
            {
                strays.push(object);
            }
            _ => unknown.push(object),
        }
    }
    Ok((strays, unknown))
}

fn compute(connection: &mut DbConnection, vault: &Vault, generation: i64) -> Result<Plan> {
    let held = collection::held_by_sessions(connection, vault.number).map_err(DbError::from)?;
    let mut needed: RoaringBitmap = held
        .into_iter()
        .filter_map(|number| u32::try_from(number).ok())
        .collect();
    for set in collection::pack_sets(connection, &vault.id).map_err(DbError::from)? {
        needed |= decode_pack_set(&set)?;
    }
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

/// A database that was restored from an old copy, or a vault of which single backups were imported,
/// does not know all roots; what they need must not be taken for garbage, nor its packs' numbers for
/// free ones. Gives the names of all roots.
pub fn check_roots(vault: &Vault) -> Result<HashSet<String>> {
    // A backup whose root and row go between the two looks is not unknown at the second try.
    let mut count = 0;
    for _ in 0..2 {
        let roots = roots(vault)?;
        count = roots.unknown;
        if count == 0 {
            return Ok(roots.listed);
        }
    }
    Err(Error::UnknownRoots {
        vault: vault.id.to_string(),
        count,
    })
}

/// What a root needs that could not be read nobody knows; so nothing goes before it is taken in again,
/// or its owner deletes it.
fn refuse_unreadable(vault: &Vault, listed: &HashSet<String>) -> Result<()> {
    let unreadable = vault
        .db
        .read(|c| collection::unreadable_roots(c, &vault.id).map_err(DbError::from))?;
    match unreadable
        .iter()
        .find(|root| listed.contains(root.as_str()))
    {
        Some(root) => Err(Error::UnreadableRoot {
            object: vault.root_key(root).to_string(),
        }),
        None => Ok(()),
    }
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

/// Roots in the store that no backup of the database has.
#[derive(Debug, Default)]
struct Roots {
    /// All names.
    listed: HashSet<String>,
    unknown: usize,
    /// Of deleted backups: a run that had been overtaken has stored them after all.
    leftovers: Vec<String>,
}

fn roots(vault: &Vault) -> Result<Roots> {
    let listed = vault.store.list(&format!("v/{}/b/", vault.id))?;
    let known: HashSet<String> = vault
        .db
        .read(|c| collection::roots(c, &vault.id).map_err(DbError::from))?
        .into_iter()
        .map(|id| id.to_string())
        .collect();
    let mut roots = Roots::default();
    for (object, _) in listed {
        let Some(root) = root_name(&vault.id, &object) else {
            continue;
        };
        roots.listed.insert(root.to_owned());
        if known.contains(root) {
            continue;
        }
        let is_removed = vault
            .db
            .read(|c| collection::is_removed(c, root).map_err(DbError::from))?;
        match is_removed {
            true => roots.leftovers.push(object),
            false => roots.unknown += 1,
        }
    }
    Ok(roots)
}
