//! Rows of `packs`, and the sessions' references to them.

use crate::db::condition::FRAMES_LOST;
use crate::db::{DbConnection, sessions};
use crate::model::id::JobId;
use crate::model::pack::{Pack, PackKind, PackState};
use crate::model::schema::{packs, session_packs, vaults};
use diesel::prelude::*;

/// Packs in one IN list or one multi-row insert, below both databases' limits.
const BATCH: usize = 1000;

/// Takes the next pack number of a vault and notes that the session writes it.
pub fn open(
    connection: &mut DbConnection,
    vault: i64,
    kind: PackKind,
    session: &JobId,
) -> QueryResult<Pack> {
    let next: i64 = diesel::update(vaults::table.find(vault))
        .set(vaults::next_pack.eq(vaults::next_pack + 1))
        .returning(vaults::next_pack)
        .get_result(connection)?;
    let pack = Pack {
        vault,
        number: next - 1,
        rewrite: 0,
        kind,
        state: PackState::Writing,
        session: Some(session.clone()),
        stored_bytes: 0,
        chunk_count: 0,
        frame_count: 0,
    };
    diesel::insert_into(packs::table)
        .values(&pack)
        .execute(connection)?;
    Ok(pack)
}

/// Takes over a pack that was found in the store, with the highest rewrite that was seen of it; a row
/// that says something else is put right.
pub fn adopt(connection: &mut DbConnection, pack: &Pack, rewrites: i32) -> QueryResult<()> {
    let updated = diesel::update(packs::table.find((pack.vault, pack.number)))
        .set((
            packs::rewrite.eq(pack.rewrite),
            packs::kind.eq(pack.kind),
            packs::state.eq(PackState::Live),
            packs::stored_bytes.eq(pack.stored_bytes),
            packs::chunk_count.eq(pack.chunk_count),
            packs::frame_count.eq(pack.frame_count),
            packs::condemned_in.eq(None::<i64>),
        ))
        .execute(connection)?;
    if updated == 0 {
        diesel::insert_into(packs::table)
            .values(pack)
            .execute(connection)?;
    }
    diesel::update(packs::table.find((pack.vault, pack.number)))
        .filter(packs::damage.ne(FRAMES_LOST))
        .set(packs::damage.eq(None::<String>))
        .execute(connection)?;
    raise_rewrites(connection, pack.vault, pack.number, rewrites)
}

/// Makes sure that no rewrite of a pack up to this one is given out: no number is given twice.
pub fn raise_rewrites(
    connection: &mut DbConnection,
    vault: i64,
    number: i64,
    rewrites: i32,
) -> QueryResult<()> {
    diesel::update(packs::table.find((vault, number)))
        .filter(packs::rewrites.lt(rewrites))
        .set(packs::rewrites.eq(rewrites))
        .execute(connection)
        .map(|_| ())
}

/// Marks an uploaded pack as part of the vault, with what it holds. `false`: the row was not `writing`
/// for this session.
pub fn go_live(connection: &mut DbConnection, pack: &Pack, session: &JobId) -> QueryResult<bool> {
    diesel::update(packs::table.find((pack.vault, pack.number)))
        .filter(
            packs::state
                .eq(PackState::Writing)
                .and(packs::session.eq(session)),
        )
        .set((
            packs::state.eq(PackState::Live),
            packs::stored_bytes.eq(pack.stored_bytes),
            packs::chunk_count.eq(pack.chunk_count),
            packs::frame_count.eq(pack.frame_count),
        ))
        .execute(connection)
        .map(|count| count == 1)
}

/// Leaves a pack that never reached the store whole to the collector.
pub fn abandon(connection: &mut DbConnection, pack: &Pack, session: &JobId) -> QueryResult<()> {
    diesel::update(packs::table.find((pack.vault, pack.number)))
        .filter(
            packs::state
                .eq(PackState::Writing)
                .and(packs::session.eq(session)),
        )
        .set(packs::session.eq(None::<JobId>))
        .execute(connection)
        .map(|_| ())
}

/// Packs a session has written or is writing.
pub fn of_session(connection: &mut DbConnection, session: &JobId) -> QueryResult<Vec<Pack>> {
    packs::table
        .filter(packs::session.eq(session))
        .order(packs::number)
        .select(Pack::as_select())
        .load(connection)
}

/// Takes references for a session on packs it relies upon. Condemned packs are revived; packs that
/// are already being deleted do not come back in the answer and must not be relied upon.
///
/// The update takes the row locks before the references are written, so a collector either sees
/// the reference or fails to delete the row.
pub fn reference(
    connection: &mut DbConnection,
    vault: i64,
    session: &JobId,
    numbers: &[i64],
) -> QueryResult<Vec<i64>> {
    let mut held = Vec::with_capacity(numbers.len());
    for batch in numbers.chunks(BATCH) {
        let alive: Vec<(i64, i32)> = diesel::update(packs::table)
            .filter(
                packs::vault
                    .eq(vault)
                    .and(packs::number.eq_any(batch.to_vec()))
                    .and(packs::state.eq_any([PackState::Live, PackState::Condemned])),
            )
            .set(packs::state.eq(PackState::Live))
            .returning((packs::number, packs::rewrite))
            .get_results(connection)?;
        insert_references(connection, vault, session, &alive)?;
        held.extend(alive.into_iter().map(|(number, _)| number));
    }
    Ok(held)
}

/// Whether a pack that the session references is another object now than when the reference was taken.
/// No rule allows that; where it happens all the same, what the session has found may be gone.
pub fn is_rewritten(connection: &mut DbConnection, session: &JobId) -> QueryResult<bool> {
    let rewritten = session_packs::table
        .inner_join(
            packs::table.on(packs::vault
                .eq(session_packs::vault)
                .and(packs::number.eq(session_packs::pack))),
        )
        .filter(session_packs::session.eq(session))
        .filter(session_packs::rewrite.ne(packs::rewrite.nullable()));
    diesel::select(diesel::dsl::exists(rewritten)).get_result(connection)
}

/// Lets all references of a session go: its next run finds everything anew.
pub fn drop_references(connection: &mut DbConnection, session: &JobId) -> QueryResult<()> {
    diesel::delete(session_packs::table)
        .filter(session_packs::session.eq(session))
        .execute(connection)
        .map(|_| ())
}

/// A pack was written again with every frame it had: who references it has lost nothing.
pub fn note_whole_rewrite(connection: &mut DbConnection, written: &Pack) -> QueryResult<()> {
    diesel::update(session_packs::table)
        .filter(
            session_packs::vault
                .eq(written.vault)
                .and(session_packs::pack.eq(written.number)),
        )
        .set(session_packs::rewrite.eq(written.rewrite))
        .execute(connection)
        .map(|_| ())
}

fn insert_references(
    connection: &mut DbConnection,
    vault: i64,
    session: &JobId,
    alive: &[(i64, i32)],
) -> QueryResult<()> {
    let rows: Vec<_> = alive
        .iter()
        .map(|(number, rewrite)| {
            (
                session_packs::session.eq(session.as_str()),
                session_packs::vault.eq(vault),
                session_packs::pack.eq(*number),
                session_packs::rewrite.eq(*rewrite),
            )
        })
        .collect();
    // `ON CONFLICT` and multi-row inserts have no common form for both backends.
    match connection {
        DbConnection::Postgres(connection) => diesel::insert_into(session_packs::table)
            .values(&rows)
            .on_conflict_do_nothing()
            .execute(connection),
        DbConnection::Sqlite(connection) => diesel::insert_or_ignore_into(session_packs::table)
            .values(&rows)
            .execute(connection),
    }
    .map(|_| ())
}

/// Packs a session has references on.
pub fn referenced(
    connection: &mut DbConnection,
    vault: i64,
    session: &JobId,
) -> QueryResult<Vec<i64>> {
    session_packs::table
        .filter(
            session_packs::session
                .eq(session)
                .and(session_packs::vault.eq(vault)),
        )
        .select(session_packs::pack)
        .load(connection)
}

/// Ends a session: its references go, the packs it wrote stand on their own, and no run of it goes on.
pub fn end_session(connection: &mut DbConnection, session: &JobId) -> QueryResult<()> {
    sessions::end(connection, session)?;
    drop_references(connection, session)?;
    diesel::update(packs::table)
        .filter(packs::session.eq(session))
        .set(packs::session.eq(None::<JobId>))
        .execute(connection)
        .map(|_| ())
}

/// One pack.
pub fn find(connection: &mut DbConnection, vault: i64, number: i64) -> QueryResult<Option<Pack>> {
    packs::table
        .find((vault, number))
        .select(Pack::as_select())
        .first(connection)
        .optional()
}

/// Whether a vault has any pack.
pub fn any(connection: &mut DbConnection, vault: i64) -> QueryResult<bool> {
    diesel::select(diesel::dsl::exists(
        packs::table.filter(packs::vault.eq(vault)),
    ))
    .get_result(connection)
}
