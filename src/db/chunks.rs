//! Rows of `chunks`: the advisory deduplication index.

use crate::db::{DbConnection, DbResult};
#[cfg(test)]
use crate::model::number::PackNumber;
use crate::model::pack::IndexedChunk;
use crate::model::schema::chunks;
use diesel::prelude::*;

/// Rows of one insert: eight values each, below SQLite's 32 766 variables.
const BATCH: usize = 4000;

/// Chunks of a vault by id; at most some hundred ids at once.
pub fn lookup(
    connection: &mut DbConnection,
    vault: i64,
    ids: &[Vec<u8>],
) -> DbResult<Vec<IndexedChunk>> {
    Ok(chunks::table
        .filter(chunks::vault.eq(vault).and(chunks::id.eq_any(ids)))
        .select(IndexedChunk::as_select())
        .load(connection)?)
}

/// Ids of the chunks of a pack.
#[cfg(test)]
pub(crate) fn of_pack(
    connection: &mut DbConnection,
    vault: i64,
    pack: PackNumber,
) -> DbResult<Vec<Vec<u8>>> {
    Ok(chunks::table
        .filter(chunks::vault.eq(vault).and(chunks::pack.eq(pack)))
        .select(chunks::id)
        .load(connection)?)
}

/// Adds chunks; those that are known already stay where they were.
pub fn insert(connection: &mut DbConnection, rows: &[IndexedChunk]) -> DbResult<()> {
    for batch in rows.chunks(BATCH) {
        match connection {
            DbConnection::Postgres(connection) => diesel::insert_into(chunks::table)
                .values(batch)
                .on_conflict_do_nothing()
                .execute(connection)?,
            DbConnection::Sqlite(connection) => diesel::insert_or_ignore_into(chunks::table)
                .values(batch)
                .execute(connection)?,
        };
    }
    Ok(())
}
