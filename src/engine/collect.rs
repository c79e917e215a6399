//! Garbage collection of one vault, beside running backups and restores.
//!
//! A generation pardons condemned packs that are needed again, gives up those that an earlier
//! generation condemned and nobody needs, and condemns live packs that nobody needs. What is needed
//! is read in one transaction: what sessions hold first, what backups hold second. A reference taken
//! before it is seen; one taken after it finds the pack live or condemned, and makes it live, so that
//! giving it up fails, or finds it given up, and is refused. No clock and no delay takes part.

use crate::db::collection;
use crate::db::{DbConnection, DbError, QueryResult};
use crate::engine::backup::decode_pack_set;
use crate::engine::vault::Vault;
use crate::engine::{Error, Result, packer};
use crate::model::pack::{Pack, PackState};
use crate::store::StoreErrorKind;
use crate::store::key::root_name;
use roaring::RoaringBitmap;
use std::collections::HashSet;

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
    check_roots(vault)?;
    vault.db.read(|c| {
        let generation = collection::coming_generation(c, vault.number).map_err(DbError::from)?;
        compute(c, vault, generation)
    })
}

/// Runs a generation.
pub fn run(vault: &Vault) -> Result<Plan> {
    check_roots(vault)?;
    let number = vault.number;
    let plan = vault.db.write(|c| -> Result<Plan> {
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
    Ok(plan)
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

/// A database that was restored from an old dump, or a vault of which single backups were imported,
/// does not know all roots; what they need must not be taken for garbage.
fn check_roots(vault: &Vault) -> Result<()> {
    // A backup whose root and row go between the two looks is not unknown at the second try.
    let mut count = 0;
    for _ in 0..2 {
        count = unknown_roots(vault)?;
        if count == 0 {
            return Ok(());
        }
    }
    Err(Error::UnknownRoots {
        vault: vault.id.to_string(),
        count,
    })
}

fn unknown_roots(vault: &Vault) -> Result<usize> {
    let listed = match vault.store.list(&format!("v/{}/b/", vault.id)) {
        Err(error) if error.kind == StoreErrorKind::Missing => Vec::new(),
        listed => listed?,
    };
    let known: HashSet<String> = vault
        .db
        .read(|c| collection::roots(c, &vault.id).map_err(DbError::from))?
        .into_iter()
        .map(|id| id.to_string())
        .collect();
    Ok(listed
        .iter()
        .filter_map(|(object, _)| root_name(&vault.id, object))
        .filter(|name| !known.contains(*name))
        .count())
}
