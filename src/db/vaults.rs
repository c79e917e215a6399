//! Rows of `storages` and `vaults`.

use crate::db::{self, DbConnection, DbResult};
use crate::model::id::{ProjectId, StorageId, VaultId};
use crate::model::job::Upkeep;
use crate::model::number::PackNumber;
use crate::model::schema::{
    backups, chunks, lost_chunks, packs, removed_roots, session_packs, storages, unknown_objects,
    vaults,
};
use crate::model::time::Timestamp;
use crate::model::vault::{StorageRow, VaultRow};
use diesel::prelude::*;

/// Stands in the place of the record of a vault that is being shredded, so that no process that has read the record
/// before stores it again.
pub const SHREDDED: &str = "";

/// A lock: a transaction that may add a vault holds it. The next number is that of the last one that was added.
const ADDED: &str = "vaults";

/// Packs removed in one transaction; each has some hundred to a few thousand chunks.
const PACKS_REMOVED_AT_ONCE: i64 = 64;

/// The storage of a configured name, if it was ever opened.
pub fn find_storage(connection: &mut DbConnection, name: &str) -> DbResult<Option<StorageRow>> {
    Ok(storages::table
        .filter(storages::name.eq(name))
        .select(StorageRow::as_select())
        .first(connection)
        .optional()?)
}

/// The storage of this id.
pub fn storage(connection: &mut DbConnection, id: &StorageId) -> DbResult<Option<StorageRow>> {
    Ok(storages::table
        .find(id)
        .select(StorageRow::as_select())
        .first(connection)
        .optional()?)
}

/// Notes a storage that was opened for the first time. Where two processes do so at once, the other
/// runs into a unique index.
pub fn insert_storage(connection: &mut DbConnection, row: &StorageRow) -> DbResult<()> {
    diesel::insert_into(storages::table)
        .values(row)
        .execute(connection)?;
    Ok(())
}

/// The vault of a project in a storage, if there is one.
pub fn find(
    connection: &mut DbConnection,
    project: &ProjectId,
    storage: &StorageId,
) -> DbResult<Option<VaultRow>> {
    Ok(vaults::table
        .filter(
            vaults::project_id
                .eq(project)
                .and(vaults::storage_id.eq(storage)),
        )
        .select(VaultRow::as_select())
        .first(connection)
        .optional()?)
}

/// Takes over a vault that was found in a storage, under a number of its own, unless it is known. Where the project
/// has a vault there already, new backups keep going to that one.
pub fn adopt(connection: &mut DbConnection, found: &VaultRow) -> DbResult<VaultRow> {
    db::lock(connection, ADDED)?;
    if let Some(known) = find_by_id(connection, &found.id)? {
        return Ok(known);
    }
    let mut row = found.clone();
    row.number = next_number(connection, &row.storage_id)?;
    if find(connection, &row.project_id, &row.storage_id)?.is_some() {
        row.project_id = ProjectId::new(format!("{} {}", row.project_id, row.id));
    }
    diesel::insert_into(vaults::table)
        .values(&row)
        .execute(connection)?;
    Ok(row)
}

/// A number that no vault has or had: work on one that was shredded may still be ending. Call under the lock.
fn next_number(connection: &mut DbConnection, storage: &StorageId) -> DbResult<i64> {
    let last: Option<i64> = vaults::table
        .select(diesel::dsl::max(vaults::number))
        .first(connection)?;
    let last_made: Option<i64> = storages::table
        .select(diesel::dsl::max(storages::last_vault))
        .first(connection)?;
    let next = last.max(last_made).unwrap_or(0) + 1;
    diesel::update(storages::table.find(storage))
        .set(storages::last_vault.eq(next))
        .execute(connection)?;
    Ok(next)
}

/// The vault of a project in a storage; made if there is none. Call inside `Db::write`.
pub fn find_or_insert(
    connection: &mut DbConnection,
    project: &ProjectId,
    storage: &StorageId,
    now: Timestamp,
) -> DbResult<VaultRow> {
    if let Some(row) = find(connection, project, storage)? {
        return Ok(row);
    }
    db::lock(connection, ADDED)?;
    if let Some(row) = find(connection, project, storage)? {
        return Ok(row);
    }
    let row = VaultRow {
        number: next_number(connection, storage)?,
        id: VaultId::random(),
        project_id: project.clone(),
        storage_id: storage.clone(),
        next_pack: 1,
        created_at: now,
    };
    diesel::insert_into(vaults::table)
        .values(&row)
        .execute(connection)?;
    Ok(row)
}

/// The record of a vault that is stored or is to be stored, once it was decided.
pub fn record(connection: &mut DbConnection, vault: i64) -> DbResult<Option<String>> {
    Ok(vaults::table
        .find(vault)
        .select(vaults::record)
        .first::<Option<String>>(connection)
        .optional()
        .map(Option::flatten)?)
}

/// The same under a shared lock: until the transaction ends, no process marks the vault as being shredded.
pub fn share_record(connection: &mut DbConnection, vault: i64) -> DbResult<Option<String>> {
    db::lock_shared(connection, &record_lock(vault))?;
    record(connection, vault)
}

/// Waits for all transactions that share the record of a vault. To be called before the mark is set.
pub fn lock_record(connection: &mut DbConnection, vault: i64) -> DbResult<()> {
    db::lock(connection, &record_lock(vault))
}

fn record_lock(vault: i64) -> String {
    format!("record of {vault}")
}

/// Sets the record of a vault unless it has one, and returns the one that it has. For a vault that the database does not
/// know, that is the proposed one.
pub fn decide_record(
    connection: &mut DbConnection,
    vault: i64,
    proposed: &str,
) -> DbResult<String> {
    diesel::update(vaults::table.find(vault))
        .filter(vaults::record.is_null())
        .set(vaults::record.eq(proposed))
        .execute(connection)?;
    Ok(record(connection, vault)?.unwrap_or_else(|| proposed.to_owned()))
}

/// Vaults of a storage whose records were decided, each with its record: the oldest and the youngest, so many of
/// each.
pub fn some_records(
    connection: &mut DbConnection,
    storage: &StorageId,
    count: i64,
) -> DbResult<Vec<(VaultRow, String)>> {
    let decided = || {
        vaults::table
            .filter(vaults::storage_id.eq(storage))
            .filter(vaults::record.ne(SHREDDED))
            .select((VaultRow::as_select(), vaults::record.assume_not_null()))
            .limit(count)
    };
    let mut found: Vec<(VaultRow, String)> =
        decided().order(vaults::number.asc()).load(connection)?;
    found.extend(decided().order(vaults::number.desc()).load(connection)?);
    found.sort_by_key(|(row, _)| row.number);
    found.dedup_by_key(|(row, _)| row.number);
    Ok(found)
}

/// Makes sure that no pack number below this one is given out.
pub fn raise_next_pack(connection: &mut DbConnection, vault: i64, next: i64) -> DbResult<()> {
    diesel::update(vaults::table.find(vault))
        .filter(vaults::next_pack.lt(next))
        .set(vaults::next_pack.eq(next))
        .execute(connection)?;
    Ok(())
}

/// Replaces the record of a vault, unless the vault is being shredded.
pub fn set_record(connection: &mut DbConnection, vault: i64, record: &str) -> DbResult<()> {
    diesel::update(vaults::table.find(vault))
        .filter(vaults::record.is_null().or(vaults::record.ne(SHREDDED)))
        .set(vaults::record.eq(record))
        .execute(connection)?;
    Ok(())
}

/// Removes some packs of a vault that is to be removed, with all that is known of them. `false`: there are none.
pub fn remove_packs(connection: &mut DbConnection, vault: i64) -> DbResult<bool> {
    let numbers: Vec<PackNumber> = packs::table
        .filter(packs::vault.eq(vault))
        .order(packs::number)
        .limit(PACKS_REMOVED_AT_ONCE)
        .select(packs::number)
        .load(connection)?;
    let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else {
        return Ok(false);
    };
    diesel::delete(chunks::table.filter(chunks::vault.eq(vault)))
        .filter(chunks::pack.between(first, last))
        .execute(connection)?;
    diesel::delete(lost_chunks::table.filter(lost_chunks::vault.eq(vault)))
        .filter(lost_chunks::pack.between(first, last))
        .execute(connection)?;
    diesel::delete(session_packs::table.filter(session_packs::vault.eq(vault)))
        .filter(session_packs::pack.between(first, last))
        .execute(connection)?;
    diesel::delete(packs::table.filter(packs::vault.eq(vault)))
        .filter(packs::number.between(first, last))
        .execute(connection)?;
    Ok(true)
}

/// Removes a vault with all that is left of it, its backups included.
pub fn remove(connection: &mut DbConnection, row: &VaultRow) -> DbResult<()> {
    let number = row.number;
    diesel::delete(backups::table.filter(backups::vault_id.eq(&row.id))).execute(connection)?;
    diesel::delete(chunks::table.filter(chunks::vault.eq(number))).execute(connection)?;
    diesel::delete(lost_chunks::table.filter(lost_chunks::vault.eq(number))).execute(connection)?;
    diesel::delete(session_packs::table.filter(session_packs::vault.eq(number)))
        .execute(connection)?;
    diesel::delete(packs::table.filter(packs::vault.eq(number))).execute(connection)?;
    diesel::delete(unknown_objects::table.filter(unknown_objects::vault.eq(number)))
        .execute(connection)?;
    diesel::delete(removed_roots::table.filter(removed_roots::vault.eq(number)))
        .execute(connection)?;
    diesel::delete(vaults::table.find(number)).execute(connection)?;
    Ok(())
}

/// The vaults of a project, in all storages, those taken over from elsewhere included.
pub fn of_project(connection: &mut DbConnection, project: &str) -> DbResult<Vec<VaultRow>> {
    let adopted = format!("{project} ");
    let mut found = all(connection)?;
    found.retain(|row| {
        let owner = row.project_id.as_str();
        owner == project || owner.starts_with(&adopted)
    });
    Ok(found)
}

/// Notes which master key a storage is used with.
pub fn set_master_key_check(
    connection: &mut DbConnection,
    storage: &StorageId,
    check: &str,
) -> DbResult<()> {
    diesel::update(storages::table.find(storage))
        .set(storages::master_key_check.eq(check))
        .execute(connection)?;
    Ok(())
}

/// How the upkeep of a vault went last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turn {
    /// When it last succeeded.
    pub done_at: Option<Timestamp>,
    /// How often in a row it has failed since.
    pub failures: i32,
    /// When it last failed, if it did since.
    pub failed_at: Option<Timestamp>,
}

type Times = (Option<Timestamp>, i32, Option<Timestamp>);

impl From<Times> for Turn {
    fn from((done_at, failures, failed_at): Times) -> Self {
        Self {
            done_at,
            failures,
            failed_at,
        }
    }
}

/// All vaults, with how collection and verification of each went last.
pub fn maintained(connection: &mut DbConnection) -> DbResult<Vec<(VaultId, Turn, Turn)>> {
    let rows: Vec<(VaultId, Times, Times)> = vaults::table
        .order(vaults::number)
        .select((
            vaults::id,
            (
                vaults::collected_at,
                vaults::collect_failures,
                vaults::collect_failed_at,
            ),
            (
                vaults::verified_at,
                vaults::verify_failures,
                vaults::verify_failed_at,
            ),
        ))
        .load(connection)?;
    Ok(rows
        .into_iter()
        .map(|(id, collected, verified)| (id, collected.into(), verified.into()))
        .collect())
}

/// Notes that upkeep has succeeded.
pub fn note_done(
    connection: &mut DbConnection,
    vault: i64,
    upkeep: Upkeep,
    now: Timestamp,
) -> DbResult<()> {
    let row = vaults::table.find(vault);
    let never = None::<Timestamp>;
    match upkeep {
        Upkeep::Collect => diesel::update(row)
            .set((
                vaults::collected_at.eq(now),
                vaults::collect_failures.eq(0),
                vaults::collect_failed_at.eq(never),
            ))
            .execute(connection),
        Upkeep::Verify => diesel::update(row)
            .set((
                vaults::verified_at.eq(now),
                vaults::verify_failures.eq(0),
                vaults::verify_failed_at.eq(never),
            ))
            .execute(connection),
    }?;
    Ok(())
}

/// Notes that upkeep has failed.
pub fn note_failed(
    connection: &mut DbConnection,
    vault: i64,
    upkeep: Upkeep,
    now: Timestamp,
) -> DbResult<()> {
    let row = vaults::table.find(vault);
    match upkeep {
        Upkeep::Collect => diesel::update(row)
            .set((
                vaults::collect_failures.eq(vaults::collect_failures + 1),
                vaults::collect_failed_at.eq(now),
            ))
            .execute(connection),
        Upkeep::Verify => diesel::update(row)
            .set((
                vaults::verify_failures.eq(vaults::verify_failures + 1),
                vaults::verify_failed_at.eq(now),
            ))
            .execute(connection),
    }?;
    Ok(())
}

/// All vaults.
pub fn all(connection: &mut DbConnection) -> DbResult<Vec<VaultRow>> {
    Ok(vaults::table
        .order(vaults::number)
        .select(VaultRow::as_select())
        .load(connection)?)
}

/// The vault of this name, if there is one.
pub fn find_by_id(connection: &mut DbConnection, id: &VaultId) -> DbResult<Option<VaultRow>> {
    Ok(vaults::table
        .filter(vaults::id.eq(id))
        .select(VaultRow::as_select())
        .first(connection)
        .optional()?)
}
