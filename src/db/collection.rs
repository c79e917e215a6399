//! The collector's view of packs: what is needed, and the moves of what is not. Everything here
//! runs inside one transaction of the collector.

use crate::db::DbConnection;
use crate::model::id::{BackupId, VaultId};
use crate::model::pack::{Pack, PackState};
use crate::model::schema::{backups, chunks, packs, session_packs, vaults};
use diesel::prelude::*;

/// Packs in one statement, below both databases' limits.
const BATCH: usize = 1000;

/// Begins the next generation of a vault; gives its number.
pub fn next_generation(connection: &mut DbConnection, vault: i64) -> QueryResult<i64> {
    diesel::update(vaults::table.find(vault))
        .set(vaults::generation.eq(vaults::generation + 1))
        .returning(vaults::generation)
        .get_result(connection)
}

/// The generation that a collector would begin now.
pub fn coming_generation(connection: &mut DbConnection, vault: i64) -> QueryResult<i64> {
    vaults::table
        .find(vault)
        .select(vaults::generation + 1)
        .first(connection)
}

/// Packs that sessions wrote or rely upon.
pub fn held_by_sessions(connection: &mut DbConnection, vault: i64) -> QueryResult<Vec<i64>> {
    let mut held: Vec<i64> = packs::table
        .filter(packs::vault.eq(vault).and(packs::session.is_not_null()))
        .select(packs::number)
        .load(connection)?;
    let referenced: Vec<i64> = session_packs::table
        .filter(session_packs::vault.eq(vault))
        .select(session_packs::pack)
        .load(connection)?;
    held.extend(referenced);
    Ok(held)
}

/// The pack sets of all backups of a vault. Read them after what sessions hold: references move
/// from a session to its backup, never back, so what has left the one is found in the other.
pub fn pack_sets(connection: &mut DbConnection, vault: &VaultId) -> QueryResult<Vec<Vec<u8>>> {
    let sets: Vec<Option<Vec<u8>>> = backups::table
        .filter(backups::vault_id.eq(vault))
        .select(backups::pack_set)
        .load(connection)?;
    Ok(sets.into_iter().flatten().collect())
}

/// Names of the roots that the backups of a vault have or will have.
pub fn roots(connection: &mut DbConnection, vault: &VaultId) -> QueryResult<Vec<BackupId>> {
    let rows: Vec<(BackupId, Option<BackupId>)> = backups::table
        .filter(backups::vault_id.eq(vault))
        .select((backups::id, backups::root_id))
        .load(connection)?;
    Ok(rows
        .into_iter()
        .map(|(id, root)| root.unwrap_or(id))
        .collect())
}

/// Packs that may be in the store, each with the generation that condemned it. Those being written
/// are among them only if their session is dead.
pub fn packs(connection: &mut DbConnection, vault: i64) -> QueryResult<Vec<(Pack, Option<i64>)>> {
    let states = [PackState::Live, PackState::Condemned, PackState::Deleting];
    packs::table
        .filter(packs::vault.eq(vault))
        .filter(
            packs::state
                .eq_any(states)
                .or(is_orphan(PackState::Writing)),
        )
        .order(packs::number)
        .select((Pack::as_select(), packs::condemned_in))
        .load(connection)
}

#[diesel::dsl::auto_type(no_type_alias)]
fn is_orphan(writing: PackState) -> _ {
    packs::state.eq(writing).and(packs::session.is_null())
}

/// Makes condemned packs live again.
pub fn pardon(connection: &mut DbConnection, vault: i64, numbers: &[i64]) -> QueryResult<()> {
    for batch in numbers.chunks(BATCH) {
        diesel::update(packs::table)
            .filter(in_state(vault, batch, PackState::Condemned))
            .set((
                packs::state.eq(PackState::Live),
                packs::condemned_in.eq(None::<i64>),
            ))
            .execute(connection)?;
    }
    Ok(())
}

/// Condemns packs in a generation: live ones, and those that a dead session left half-written.
pub fn condemn(
    connection: &mut DbConnection,
    vault: i64,
    numbers: &[i64],
    generation: i64,
) -> QueryResult<()> {
    for batch in numbers.chunks(BATCH) {
        diesel::update(packs::table)
            .filter(
                packs::vault.eq(vault).and(packs::number.eq_any(batch)).and(
                    packs::state
                        .eq(PackState::Live)
                        .or(is_orphan(PackState::Writing)),
                ),
            )
            .set((
                packs::state.eq(PackState::Condemned),
                packs::condemned_in.eq(generation),
            ))
            .execute(connection)?;
    }
    Ok(())
}

/// Gives condemned packs up for good. Gives those that were still condemned; a pack that somebody
/// took a reference on meanwhile is not among them.
pub fn give_up(
    connection: &mut DbConnection,
    vault: i64,
    numbers: &[i64],
) -> QueryResult<Vec<i64>> {
    let mut given_up = Vec::new();
    for batch in numbers.chunks(BATCH) {
        let gone: Vec<i64> = diesel::update(packs::table)
            .filter(in_state(vault, batch, PackState::Condemned))
            .set(packs::state.eq(PackState::Deleting))
            .returning(packs::number)
            .get_results(connection)?;
        given_up.extend(gone);
    }
    Ok(given_up)
}

/// Takes the chunks of a pack that was given up out of the index. Until then they lead to a pack on
/// which nobody gets a reference.
pub fn forget_chunks(connection: &mut DbConnection, vault: i64, number: i64) -> QueryResult<()> {
    diesel::delete(chunks::table)
        .filter(chunks::vault.eq(vault).and(chunks::pack.eq(number)))
        .execute(connection)
        .map(|_| ())
}

/// Notes that the object of a pack is no longer there.
pub fn gone(connection: &mut DbConnection, vault: i64, number: i64) -> QueryResult<()> {
    diesel::update(packs::table)
        .filter(in_state(vault, &[number], PackState::Deleting))
        .set(packs::state.eq(PackState::Gone))
        .execute(connection)
        .map(|_| ())
}

/// Packs of these numbers that are in a state.
#[diesel::dsl::auto_type(no_type_alias)]
fn in_state<'n>(vault: i64, numbers: &'n [i64], state: PackState) -> _ {
    packs::vault
        .eq(vault)
        .and(packs::number.eq_any(numbers))
        .and(packs::state.eq(state))
}
