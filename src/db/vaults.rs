//! Rows of `storages` and `vaults`.

use crate::db::DbConnection;
use crate::model::id::{ProjectId, StorageId, VaultId};
use crate::model::schema::{storages, vaults};
use crate::model::time::Timestamp;
use crate::model::vault::{StorageRow, VaultRow};
use diesel::prelude::*;

/// The storage of a configured name, if it was ever opened.
pub fn find_storage(connection: &mut DbConnection, name: &str) -> QueryResult<Option<StorageRow>> {
    storages::table
        .filter(storages::name.eq(name))
        .select(StorageRow::as_select())
        .first(connection)
        .optional()
}

/// Notes a storage that was opened for the first time.
pub fn insert_storage(connection: &mut DbConnection, row: &StorageRow) -> QueryResult<()> {
    diesel::insert_into(storages::table)
        .values(row)
        .execute(connection)
        .map(|_| ())
}

/// The vault of a project in a storage, if there is one.
pub fn find(
    connection: &mut DbConnection,
    project: &ProjectId,
    storage: &StorageId,
) -> QueryResult<Option<VaultRow>> {
    vaults::table
        .filter(
            vaults::project_id
                .eq(project)
                .and(vaults::storage_id.eq(storage)),
        )
        .select(VaultRow::as_select())
        .first(connection)
        .optional()
}

/// Takes over a vault that was found in a storage, under a number of its own. Where the project has
/// a vault there already, new backups keep going to that one.
pub fn adopt(connection: &mut DbConnection, found: &VaultRow) -> QueryResult<VaultRow> {
    let mut row = found.clone();
    row.number = next_number(connection)?;
    if find(connection, &row.project_id, &row.storage_id)?.is_some() {
        row.project_id = ProjectId::new(format!("{} {}", row.project_id, row.id));
    }
    diesel::insert_into(vaults::table)
        .values(&row)
        .execute(connection)?;
    Ok(row)
}

fn next_number(connection: &mut DbConnection) -> QueryResult<i64> {
    let last: Option<i64> = vaults::table
        .select(diesel::dsl::max(vaults::number))
        .first(connection)?;
    Ok(last.unwrap_or(0) + 1)
}

/// The vault of a project in a storage; made if there is none. Call inside `Db::write`; a
/// concurrent maker on PostgreSQL runs into a unique index, and the caller tries again.
pub fn find_or_insert(
    connection: &mut DbConnection,
    project: &ProjectId,
    storage: &StorageId,
    now: Timestamp,
) -> QueryResult<VaultRow> {
    if let Some(row) = find(connection, project, storage)? {
        return Ok(row);
    }
    let row = VaultRow {
        number: next_number(connection)?,
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

/// All vaults.
pub fn all(connection: &mut DbConnection) -> QueryResult<Vec<VaultRow>> {
    vaults::table
        .order(vaults::number)
        .select(VaultRow::as_select())
        .load(connection)
}

/// The vault of this name, if there is one.
pub fn find_by_id(connection: &mut DbConnection, id: &VaultId) -> QueryResult<Option<VaultRow>> {
    vaults::table
        .filter(vaults::id.eq(id))
        .select(VaultRow::as_select())
        .first(connection)
        .optional()
}
