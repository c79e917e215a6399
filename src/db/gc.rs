//! Garbage collection's view of packs: which packs are needed, and the changes of state of those that are not. A
//! collection calls these functions inside its transactions.

use crate::db::vaults::SHREDDED;
use crate::db::{self, DbConnection, DbResult};
use crate::model::backup::BackupStatus;
use crate::model::id::{BackupId, VaultId, VolumeId};
use crate::model::number::{ByteCount, Ordinal, PackNumber, Rewrite};
use crate::model::pack::{Pack, PackState};
use crate::model::schema::{
    backups, chunks, lost_chunks, noted_roots, packs, removed_roots, session_packs,
    unknown_objects, vaults,
};
use diesel::dsl::{exists, not};
use diesel::prelude::*;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Packs in one statement, below both databases' limits.
pub const BATCH: usize = 1000;

/// Begins the next generation of a vault and returns its number. Waits for transactions that change packs in an earlier
/// one.
pub fn next_generation(connection: &mut DbConnection, vault: i64) -> DbResult<i64> {
    lock(connection, vault)?;
    // Last, as this locks the row of the vault, and backups that begin a pack wait for it.
    Ok(diesel::update(vaults::table.find(vault))
        .set(vaults::generation.eq(vaults::generation + 1))
        .returning(vaults::generation)
        .get_result(connection)?)
}

/// The generation that a collector would begin now.
pub fn coming_generation(connection: &mut DbConnection, vault: i64) -> DbResult<i64> {
    Ok(vaults::table
        .find(vault)
        .select(vaults::generation + 1)
        .first(connection)?)
}

/// Packs that sessions wrote or rely upon.
pub fn held_by_sessions(connection: &mut DbConnection, vault: i64) -> DbResult<Vec<PackNumber>> {
    let mut held: Vec<PackNumber> = packs::table
        .filter(packs::vault.eq(vault).and(packs::session.is_not_null()))
        .select(packs::number)
        .load(connection)?;
    let referenced: Vec<PackNumber> = session_packs::table
        .filter(session_packs::vault.eq(vault))
        .select(session_packs::pack)
        .load(connection)?;
    held.extend(referenced);
    Ok(held)
}

/// The pack sets of all backups of a vault. Read them after the packs that sessions hold. References move from a
/// session to its backup and never back, so a pack that has left a session by then is found in a set.
pub fn pack_sets(connection: &mut DbConnection, vault: &VaultId) -> DbResult<Vec<Vec<u8>>> {
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
pub fn needed(connection: &mut DbConnection, vault: &VaultId) -> DbResult<Vec<Needed>> {
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

/// The backups of a vault that need packs, each with the name of its root.
pub fn names_of_needed(
    connection: &mut DbConnection,
    vault: &VaultId,
) -> DbResult<Vec<(BackupId, BackupId)>> {
    let rows: Vec<(BackupId, Option<BackupId>)> = backups::table
        .filter(backups::vault_id.eq(vault))
        .filter(backups::pack_set.is_not_null())
        .select((backups::id, backups::root_id))
        .load(connection)?;
    Ok(rows
        .into_iter()
        .map(|(id, root)| (id.clone(), root.unwrap_or(id)))
        .collect())
}

/// Which packs a backup needs; `None` if it needs none.
pub fn pack_set(connection: &mut DbConnection, id: &BackupId) -> DbResult<Option<Vec<u8>>> {
    Ok(backups::table
        .find(id)
        .select(backups::pack_set)
        .first::<Option<Vec<u8>>>(connection)
        .optional()
        .map(Option::flatten)?)
}

/// Whether a backup whose deletion has not begun has this root.
pub fn is_needed(
    connection: &mut DbConnection,
    vault: &VaultId,
    root: &BackupId,
) -> DbResult<bool> {
    let going = [BackupStatus::Deleting, BackupStatus::ErrorDeleting];
    let owners = backups::table
        .filter(db::backups::has_root(vault, root))
        .filter(backups::status.ne_all(going))
        .filter(backups::pack_set.is_not_null());
    Ok(diesel::select(exists(owners)).get_result(connection)?)
}

/// Names of the roots that the backups of a vault have or will have.
pub fn roots(connection: &mut DbConnection, vault: &VaultId) -> DbResult<Vec<BackupId>> {
    let rows: Vec<(BackupId, Option<BackupId>)> = backups::table
        .filter(backups::vault_id.eq(vault))
        .select((backups::id, backups::root_id))
        .load(connection)?;
    Ok(root_names(rows))
}

/// Names of the roots of available backups of a vault.
pub fn available_roots(connection: &mut DbConnection, vault: &VaultId) -> DbResult<Vec<BackupId>> {
    let rows: Vec<(BackupId, Option<BackupId>)> = backups::table
        .filter(backups::vault_id.eq(vault))
        .filter(backups::status.eq(BackupStatus::Available))
        .select((backups::id, backups::root_id))
        .load(connection)?;
    Ok(root_names(rows))
}

/// The root of each backup: its own, or the one of another backup that it was imported from.
fn root_names(rows: Vec<(BackupId, Option<BackupId>)>) -> Vec<BackupId> {
    rows.into_iter()
        .map(|(id, root)| root.unwrap_or(id))
        .collect()
}

/// Backups of a vault whose root could not be read when the database was made again: not even their
/// volume is known.
pub fn unreadable_roots(connection: &mut DbConnection, vault: &VaultId) -> DbResult<Vec<BackupId>> {
    Ok(backups::table
        .filter(backups::vault_id.eq(vault))
        .filter(backups::volume_id.eq(VolumeId::unknown()))
        .filter(backups::pack_set.is_null())
        .filter(backups::status.eq(BackupStatus::Error))
        .select((backups::id, backups::root_id))
        .load(connection)
        .map(root_names)?)
}

/// Backups of a vault that have no pack set, and that have stored no root as far as this database knows.
pub fn without_root(
    connection: &mut DbConnection,
    vault: &VaultId,
) -> DbResult<BTreeSet<BackupId>> {
    let noted = noted_roots::table.filter(noted_roots::backup.eq(backups::id));
    let ids: Vec<BackupId> = backups::table
        .filter(backups::vault_id.eq(vault))
        .filter(backups::pack_set.is_null())
        .filter(backups::root_id.is_null())
        .filter(diesel::dsl::not(exists(noted)))
        .select(backups::id)
        .load(connection)?;
    Ok(ids.into_iter().collect())
}

/// Backups of a vault that failed while they were being made, or whose deletion failed after that. They need no packs,
/// and their root, if they stored one, has to go.
pub fn unfinished(connection: &mut DbConnection, vault: &VaultId) -> DbResult<BTreeSet<BackupId>> {
    let ids: Vec<BackupId> = backups::table
        .filter(backups::vault_id.eq(vault))
        .filter(backups::pack_set.is_null())
        .filter(backups::root_id.is_null())
        .filter(backups::status.ne(BackupStatus::Creating))
        // A rebuild could not read the roots of these backups. We cannot tell which packs they need, so they stay.
        .filter(backups::volume_id.ne(VolumeId::unknown()))
        .select(backups::id)
        .load(connection)?;
    Ok(ids.into_iter().collect())
}

/// Notes that a root was removed with its backup. `was_available`: the backup was complete.
pub fn note_removed_root(
    connection: &mut DbConnection,
    vault: i64,
    root: &BackupId,
    was_available: bool,
) -> DbResult<()> {
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
    }?;
    Ok(())
}

/// Whether a root was removed with its backup, and if so whether the backup had been available.
pub fn removed_root(
    connection: &mut DbConnection,
    vault: i64,
    root: &BackupId,
) -> DbResult<Option<bool>> {
    Ok(removed_roots::table
        .find((vault, root.as_str()))
        .select(removed_roots::was_available)
        .first(connection)
        .optional()?)
}

/// Forgets that a root was removed, as it belongs to a backup again.
pub fn forget_removed_root(
    connection: &mut DbConnection,
    vault: i64,
    root: &BackupId,
) -> DbResult<()> {
    diesel::delete(removed_roots::table.find((vault, root.as_str()))).execute(connection)?;
    Ok(())
}

/// Packs that may be in the store, each with the generation that condemned it. Those being written
/// are among them only if their session is dead.
pub fn packs(connection: &mut DbConnection, vault: i64) -> DbResult<Vec<(Pack, Option<i64>)>> {
    let states = [PackState::Live, PackState::Condemned, PackState::Deleting];
    Ok(packs::table
        .filter(packs::vault.eq(vault))
        .filter(
            packs::state
                .eq_any(states)
                .or(is_orphan(PackState::Writing)),
        )
        .order(packs::number)
        .select((Pack::as_select(), packs::condemned_in))
        .load(connection)?)
}

/// Packs that sessions are writing and that are not live yet.
pub fn written(connection: &mut DbConnection, vault: i64) -> DbResult<BTreeSet<PackNumber>> {
    let numbers: Vec<PackNumber> = packs::table
        .filter(packs::vault.eq(vault))
        .filter(packs::state.eq(PackState::Writing))
        .filter(packs::session.is_not_null())
        .select(packs::number)
        .load(connection)?;
    Ok(numbers.into_iter().collect())
}

#[diesel::dsl::auto_type(no_type_alias)]
fn is_orphan(writing: PackState) -> _ {
    packs::state.eq(writing).and(packs::session.is_null())
}

/// Makes condemned packs live again.
pub fn pardon(connection: &mut DbConnection, vault: i64, numbers: &[PackNumber]) -> DbResult<()> {
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
    numbers: &[PackNumber],
    generation: i64,
) -> DbResult<()> {
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

/// Gives condemned packs up for good, and returns the numbers of those that it gave up. A pack on which a session took
/// a reference meanwhile is live again, and not among them.
pub fn give_up(
    connection: &mut DbConnection,
    vault: i64,
    numbers: &[PackNumber],
) -> DbResult<Vec<PackNumber>> {
    let mut given_up = Vec::new();
    for batch in numbers.chunks(BATCH) {
        let gone: Vec<PackNumber> = diesel::update(packs::table)
            .filter(in_state(vault, batch, PackState::Condemned))
            .set(packs::state.eq(PackState::Deleting))
            .returning(packs::number)
            .get_results(connection)?;
        given_up.extend(gone);
    }
    Ok(given_up)
}

/// Removes the chunks of a pack that was given up from the index, and from `lost_chunks`. Until then they lead to a
/// pack on which no session gets a reference. `false`: the pack was removed already, and a rebuild may have added it
/// again.
pub fn forget_given_up(
    connection: &mut DbConnection,
    vault: i64,
    number: PackNumber,
) -> DbResult<bool> {
    // A rebuild adds packs under the same lock.
    lock(connection, vault)?;
    let numbers = [number];
    let given_up = packs::table.filter(in_state(vault, &numbers, PackState::Deleting));
    if !diesel::select(exists(given_up)).get_result(connection)? {
        return Ok(false);
    }
    forget_chunks(connection, vault, number)?;
    diesel::delete(lost_chunks::table)
        .filter(
            lost_chunks::vault
                .eq(vault)
                .and(lost_chunks::pack.eq(number)),
        )
        .execute(connection)?;
    Ok(true)
}

/// Removes the chunks of a pack from the index.
pub fn forget_chunks(
    connection: &mut DbConnection,
    vault: i64,
    number: PackNumber,
) -> DbResult<()> {
    diesel::delete(chunks::table)
        .filter(chunks::vault.eq(vault).and(chunks::pack.eq(number)))
        .execute(connection)?;
    Ok(())
}

/// Marks a pack as gone once its object is deleted. `false`: another collection has marked it already, and the pack may
/// have been put back since.
pub fn mark_gone(connection: &mut DbConnection, vault: i64, number: PackNumber) -> DbResult<bool> {
    let count = diesel::update(packs::table)
        .filter(in_state(vault, &[number], PackState::Deleting))
        .set(packs::state.eq(PackState::Gone))
        .execute(connection)?;
    Ok(count == 1)
}

/// Packs of these numbers that are in a state.
#[diesel::dsl::auto_type(no_type_alias)]
fn in_state<'n>(vault: i64, numbers: &'n [PackNumber], state: PackState) -> _ {
    packs::vault
        .eq(vault)
        .and(packs::number.eq_any(numbers))
        .and(packs::state.eq(state))
}

/// Live packs that no session has written or relies upon: those that may be compacted.
pub fn settled(connection: &mut DbConnection, vault: i64) -> DbResult<Vec<Pack>> {
    // Not `NOT IN`, which PostgreSQL evaluates for each row anew.
    let references = session_packs::table.filter(
        session_packs::vault
            .eq(packs::vault)
            .and(session_packs::pack.eq(packs::number)),
    );
    Ok(packs::table
        .filter(packs::vault.eq(vault).and(packs::state.eq(PackState::Live)))
        // Damaged packs are left to a repair.
        .filter(packs::damage.is_null())
        .filter(packs::session.is_null().and(not(exists(references))))
        .order(packs::number)
        .select(Pack::as_select())
        .load(connection)?)
}

/// A number for the next object of a pack; `None` if a later generation has begun. No number is given out twice.
pub fn next_rewrite(
    connection: &mut DbConnection,
    pack: &Pack,
    generation: i64,
) -> DbResult<Option<Rewrite>> {
    if !is_latest(connection, pack.vault, generation)? {
        return Ok(None);
    }
    Ok(diesel::update(packs::table.find((pack.vault, pack.number)))
        .set(packs::rewrites.eq(packs::rewrites + 1))
        .returning(packs::rewrites)
        .get_result(connection)
        .optional()?)
}

/// Makes a new object the current one of its pack, if the row has not changed and the generation is still the latest.
/// The row stays locked until the transaction ends. A mark of damage stays: only the caller knows what the new object
/// lacks.
pub fn switch(
    connection: &mut DbConnection,
    old: &Pack,
    new: &Pack,
    generation: i64,
) -> DbResult<bool> {
    // First: a generation that began between the check below and the end of this transaction would take the new
    // object for a leftover and delete it.
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
        ))
        .execute(connection)?;
    Ok(switched == 1 && is_latest(connection, old.vault, generation)?)
}

/// Until the transaction ends, no generation of the vault begins, and no pack is switched.
pub fn lock(connection: &mut DbConnection, vault: i64) -> DbResult<()> {
    db::lock(connection, &format!("collection of {vault}"))
}

/// Whether a generation is the latest of its vault. In a vault that is being shredded no generation is.
fn is_latest(connection: &mut DbConnection, vault: i64, generation: i64) -> DbResult<bool> {
    let latest: Option<i64> = vaults::table
        .find(vault)
        .filter(vaults::record.is_null().or(vaults::record.ne(SHREDDED)))
        .select(vaults::generation)
        .first(connection)
        .optional()?;
    Ok(latest == Some(generation))
}

/// Whether a session relies on a pack.
pub fn is_referenced(connection: &mut DbConnection, pack: &Pack) -> DbResult<bool> {
    let references = session_packs::table.filter(
        session_packs::vault
            .eq(pack.vault)
            .and(session_packs::pack.eq(pack.number)),
    );
    Ok(diesel::select(exists(references)).get_result(connection)?)
}

/// Removes the chunks of some frames of a pack from the index.
pub fn forget_frames(
    connection: &mut DbConnection,
    pack: &Pack,
    ordinals: &[Ordinal],
) -> DbResult<()> {
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
pub fn sizes(connection: &mut DbConnection, vault: i64) -> DbResult<Vec<(PackNumber, ByteCount)>> {
    Ok(packs::table
        .filter(packs::vault.eq(vault))
        .filter(packs::state.eq_any([PackState::Live, PackState::Condemned]))
        .select((packs::number, packs::stored_bytes))
        .load(connection)?)
}

/// The pack's number, the rewrite of its current or last object, the last rewrite that was given out, and the pack's
/// state.
pub type PackPlace = (PackNumber, Rewrite, Rewrite, PackState);

/// The places of some packs of a vault.
pub fn places_of(
    connection: &mut DbConnection,
    vault: i64,
    numbers: &[PackNumber],
) -> DbResult<Vec<PackPlace>> {
    let mut found = Vec::with_capacity(numbers.len());
    for batch in numbers.chunks(BATCH) {
        found.extend(
            packs::table
                .filter(packs::vault.eq(vault))
                .filter(packs::number.eq_any(batch))
                .select((packs::number, packs::rewrite, packs::rewrites, packs::state))
                .load::<PackPlace>(connection)?,
        );
    }
    Ok(found)
}

/// The places of all packs of a vault.
pub fn places(connection: &mut DbConnection, vault: i64) -> DbResult<Vec<PackPlace>> {
    Ok(packs::table
        .filter(packs::vault.eq(vault))
        .select((packs::number, packs::rewrite, packs::rewrites, packs::state))
        .load(connection)?)
}

/// Notes objects that the database does not know, and returns those that were unknown in an earlier generation already.
/// Objects that were noted before and are not unknown any more are forgotten.
pub fn note_unknown(
    connection: &mut DbConnection,
    vault: i64,
    generation: i64,
    objects: &[String],
) -> DbResult<Vec<String>> {
    let noted: HashMap<String, i64> = unknown_objects::table
        .filter(unknown_objects::vault.eq(vault))
        .select((unknown_objects::object, unknown_objects::generation))
        .load::<(String, i64)>(connection)?
        .into_iter()
        .collect();
    let unknown: HashSet<&String> = objects.iter().collect();
    let known: Vec<&String> = noted.keys().filter(|o| !unknown.contains(o)).collect();
    for batch in known.chunks(BATCH) {
        let known = unknown_objects::object.eq_any(batch.iter().copied());
        diesel::delete(unknown_objects::table.filter(known)).execute(connection)?;
    }
    let new: Vec<_> = unknown
        .iter()
        .filter(|object| !noted.contains_key(**object))
        .map(|object| {
            (
                unknown_objects::object.eq(object.as_str()),
                unknown_objects::vault.eq(vault),
                unknown_objects::generation.eq(generation),
            )
        })
        .collect();
    for batch in new.chunks(BATCH) {
        let insert = diesel::insert_into(unknown_objects::table).values(batch.to_vec());
        // Inserts of several rows have no common form for both backends.
        match connection {
            DbConnection::Postgres(connection) => insert.execute(connection)?,
            DbConnection::Sqlite(connection) => insert.execute(connection)?,
        };
    }
    let is_old = |object: &&String| noted.get(*object).is_some_and(|since| *since < generation);
    Ok(objects.iter().filter(is_old).cloned().collect())
}
