//! The collector's view of packs: what is needed, and the moves of what is not. Everything here
//! runs inside one transaction of the collector.

use crate::db::{self, DbConnection};
use crate::model::backup::BackupStatus;
use crate::model::id::{BackupId, VaultId, VolumeId};
use crate::model::pack::{Pack, PackState};
use crate::model::schema::{
    backups, chunks, packs, removed_roots, session_packs, unknown_objects, vaults,
};
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

/// A backup that needs packs.
#[derive(Debug, Clone)]
pub struct Needed {
    pub id: BackupId,
    /// The name of its root.
    pub root: BackupId,
    pub status: BackupStatus,
    pub pack_set: Vec<u8>,
}

/// The backups of a vault that need packs.
pub fn needed(connection: &mut DbConnection, vault: &VaultId) -> QueryResult<Vec<Needed>> {
    type Row = (BackupId, Option<BackupId>, BackupStatus, Option<Vec<u8>>);
    let rows: Vec<Row> = backups::table
        .filter(
            backups::vault_id
                .eq(vault)
                .and(backups::pack_set.is_not_null()),
        )
        .order(backups::id)
        .select((
            backups::id,
            backups::root_id,
            backups::status,
            backups::pack_set,
        ))
        .load(connection)?;
    Ok(rows
        .into_iter()
        .map(|(id, root, status, pack_set)| Needed {
            root: root.unwrap_or_else(|| id.clone()),
            id,
            status,
            pack_set: pack_set.unwrap_or_default(),
        })
        .collect())
}

/// Whether a backup whose deletion has not begun has this root.
pub fn is_needed(
    connection: &mut DbConnection,
    vault: &VaultId,
    root: &BackupId,
) -> QueryResult<bool> {
    let going = [BackupStatus::Deleting, BackupStatus::ErrorDeleting];
    let owners = backups::table
        .filter(db::backups::has_root(vault, root))
        .filter(backups::status.ne_all(going))
        .filter(backups::pack_set.is_not_null());
    diesel::select(diesel::dsl::exists(owners)).get_result(connection)
}

/// Names of the roots that the backups of a vault have or will have.
pub fn roots(connection: &mut DbConnection, vault: &VaultId) -> QueryResult<Vec<BackupId>> {
    let rows: Vec<(BackupId, Option<BackupId>)> = backups::table
        .filter(backups::vault_id.eq(vault))
        .select((backups::id, backups::root_id))
        .load(connection)?;
    Ok(root_names(rows))
}

/// Names of the roots of available backups of a vault.
pub fn available_roots(
    connection: &mut DbConnection,
    vault: &VaultId,
) -> QueryResult<Vec<BackupId>> {
    let rows: Vec<(BackupId, Option<BackupId>)> = backups::table
        .filter(backups::vault_id.eq(vault))
        .filter(backups::status.eq(BackupStatus::Available))
        .select((backups::id, backups::root_id))
        .load(connection)?;
    Ok(root_names(rows))
}

/// Of backups and the roots that they have of others.
fn root_names(rows: Vec<(BackupId, Option<BackupId>)>) -> Vec<BackupId> {
    rows.into_iter()
        .map(|(id, root)| root.unwrap_or(id))
        .collect()
}

/// Backups of a vault whose root could not be read when the database was made again: not even their
/// volume is known.
pub fn unreadable_roots(
    connection: &mut DbConnection,
    vault: &VaultId,
) -> QueryResult<Vec<BackupId>> {
    backups::table
        .filter(backups::vault_id.eq(vault))
        .filter(backups::volume_id.eq(VolumeId::unknown()))
        .filter(backups::pack_set.is_null())
        .filter(backups::status.eq(BackupStatus::Error))
        .select((backups::id, backups::root_id))
        .load(connection)
        .map(root_names)
}

/// Notes that a root was removed with its backup. `was_available`: the backup was complete.
pub fn note_removed_root(
    connection: &mut DbConnection,
    vault: i64,
    root: &BackupId,
    was_available: bool,
) -> QueryResult<()> {
    let row = (
        removed_roots::vault.eq(vault),
        removed_roots::root.eq(root.as_str()),
        removed_roots::was_available.eq(was_available),
    );
    match connection {
        DbConnection::Postgres(connection) => diesel::insert_into(removed_roots::table)
            .values(row)
            .on_conflict_do_nothing()
            .execute(connection),
        DbConnection::Sqlite(connection) => diesel::insert_or_ignore_into(removed_roots::table)
            .values(row)
            .execute(connection),
    }
    .map(|_| ())
}

/// Whether a root was removed with its backup, and if so whether the backup had been available.
pub fn removed_root(
    connection: &mut DbConnection,
    vault: i64,
    root: &BackupId,
) -> QueryResult<Option<bool>> {
    removed_roots::table
        .find((vault, root.as_str()))
        .select(removed_roots::was_available)
        .first(connection)
        .optional()
}

/// A root that was removed belongs to a backup again.
pub fn forget_removed_root(
    connection: &mut DbConnection,
    vault: i64,
    root: &BackupId,
) -> QueryResult<()> {
    diesel::delete(removed_roots::table.find((vault, root.as_str())))
        .execute(connection)
        .map(|_| ())
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

/// Live packs that no session has written or relies upon: those that may be compacted.
pub fn settled(connection: &mut DbConnection, vault: i64) -> QueryResult<Vec<Pack>> {
    let referenced = session_packs::table
        .filter(session_packs::vault.eq(vault))
        .select(session_packs::pack);
    packs::table
        .filter(packs::vault.eq(vault).and(packs::state.eq(PackState::Live)))
        // Damaged ones are the repair's.
        .filter(packs::damage.is_null())
        .filter(
            packs::session
                .is_null()
                .and(packs::number.ne_all(referenced)),
        )
        .order(packs::number)
        .select(Pack::as_select())
        .load(connection)
}

/// A number for the next object of a pack, while the collection is the latest one. No number is given
/// twice.
pub fn next_rewrite(
    connection: &mut DbConnection,
    pack: &Pack,
    generation: i64,
) -> QueryResult<Option<i32>> {
    if !is_latest(connection, pack.vault, generation)? {
        return Ok(None);
    }
    diesel::update(packs::table.find((pack.vault, pack.number)))
        .set(packs::rewrites.eq(packs::rewrites + 1))
        .returning(packs::rewrites)
        .get_result(connection)
        .optional()
}

/// Puts a compacted pack in the place of the old one, if the old one is as it was and the collection
/// is still the latest one. The row stays locked until the transaction ends.
pub fn switch(
    connection: &mut DbConnection,
    old: &Pack,
    new: &Pack,
    generation: i64,
) -> QueryResult<bool> {
    // Before anything else: a generation that began between the look at it below and the end of the
    // transaction would take the new object for a leftover.
    lock(connection, old.vault)?;
    let switched = diesel::update(packs::table.find((old.vault, old.number)))
        .filter(
            packs::rewrite
                .eq(old.rewrite)
                .and(packs::state.eq(PackState::Live)),
        )
        .filter(packs::session.is_null())
        .set((
            packs::rewrite.eq(new.rewrite),
            packs::stored_bytes.eq(new.stored_bytes),
            packs::chunk_count.eq(new.chunk_count),
            packs::damage.eq(None::<String>),
        ))
        .execute(connection)?;
    Ok(switched == 1 && is_latest(connection, old.vault, generation)?)
}

/// Until the transaction ends, no generation of the vault begins, and no pack is switched.
pub fn lock(connection: &mut DbConnection, vault: i64) -> QueryResult<()> {
    db::lock(connection, &format!("collection of {vault}"))
}

fn is_latest(connection: &mut DbConnection, vault: i64, generation: i64) -> QueryResult<bool> {
    let latest: i64 = vaults::table
        .find(vault)
        .select(vaults::generation)
        .first(connection)?;
    Ok(latest == generation)
}

/// Whether a session relies on a pack.
pub fn is_referenced(connection: &mut DbConnection, pack: &Pack) -> QueryResult<bool> {
    let references = session_packs::table.filter(
        session_packs::vault
            .eq(pack.vault)
            .and(session_packs::pack.eq(pack.number)),
    );
    diesel::select(diesel::dsl::exists(references)).get_result(connection)
}

/// Takes the chunks of some frames of a pack out of the index.
pub fn forget_frames(
    connection: &mut DbConnection,
    pack: &Pack,
    ordinals: &[i32],
) -> QueryResult<()> {
    for batch in ordinals.chunks(BATCH) {
        diesel::delete(chunks::table)
            .filter(
                chunks::vault
                    .eq(pack.vault)
                    .and(chunks::pack.eq(pack.number)),
            )
            .filter(chunks::ordinal.eq_any(batch.to_vec()))
            .execute(connection)?;
    }
    Ok(())
}

/// Stored bytes of the packs of a vault, by number.
pub fn sizes(connection: &mut DbConnection, vault: i64) -> QueryResult<Vec<(i64, i64)>> {
    packs::table
        .filter(packs::vault.eq(vault))
        .filter(packs::state.eq_any([PackState::Live, PackState::Condemned]))
        .select((packs::number, packs::stored_bytes))
        .load(connection)
}

/// Where the object of a pack is, or was: the pack's number, the object's rewrite, the last rewrite that
/// was given out, and the pack's state.
pub type Place = (i64, i32, i32, PackState);

/// The places of some packs of a vault.
pub fn places_of(
    connection: &mut DbConnection,
    vault: i64,
    numbers: &[i64],
) -> QueryResult<Vec<Place>> {
    let mut found = Vec::with_capacity(numbers.len());
    for batch in numbers.chunks(BATCH) {
        found.extend(
            packs::table
                .filter(packs::vault.eq(vault))
                .filter(packs::number.eq_any(batch))
                .select((packs::number, packs::rewrite, packs::rewrites, packs::state))
                .load::<Place>(connection)?,
        );
    }
    Ok(found)
}

/// The places of all packs of a vault.
pub fn places(connection: &mut DbConnection, vault: i64) -> QueryResult<Vec<Place>> {
    packs::table
        .filter(packs::vault.eq(vault))
        .select((packs::number, packs::rewrite, packs::rewrites, packs::state))
        .load(connection)
}

/// Takes note of objects of packs that the database does not know; gives those that were unknown in an
/// earlier generation already. Others of the vault are forgotten.
pub fn note_unknown(
    connection: &mut DbConnection,
    vault: i64,
    generation: i64,
    objects: &[String],
) -> QueryResult<Vec<String>> {
    let noted: Vec<(String, i64)> = unknown_objects::table
        .filter(unknown_objects::vault.eq(vault))
        .select((unknown_objects::object, unknown_objects::generation))
        .load(connection)?;
    diesel::delete(unknown_objects::table.filter(unknown_objects::vault.eq(vault)))
        .execute(connection)?;
    let mut earlier = Vec::new();
    for object in objects {
        let since = noted.iter().find(|(known, _)| known == object);
        let since = since.map_or(generation, |(_, since)| *since);
        diesel::insert_into(unknown_objects::table)
            .values((
                unknown_objects::object.eq(object),
                unknown_objects::vault.eq(vault),
                unknown_objects::generation.eq(since),
            ))
            .execute(connection)?;
        if since < generation {
            earlier.push(object.clone());
        }
    }
    Ok(earlier)
}
