//! Rows of `packs`, and the sessions' references to them.

use crate::db::health::FRAMES_LOST;
use crate::db::{DbConnection, DbResult, sessions};
use crate::model::id::JobId;
use crate::model::number::{ByteCount, Count, PackNumber, Rewrite};
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
) -> DbResult<Pack> {
    let number: PackNumber = diesel::update(vaults::table.find(vault))
        .set(vaults::next_pack.eq(vaults::next_pack + 1))
        .returning(vaults::next_pack - 1)
        .get_result(connection)?;
    let pack = Pack {
        vault,
        number,
        rewrite: Rewrite::default(),
        kind,
        state: PackState::Writing,
        session: Some(session.clone()),
        stored_bytes: ByteCount::default(),
        chunk_count: Count::default(),
        frame_count: Count::default(),
    };
    diesel::insert_into(packs::table)
        .values(&pack)
        .execute(connection)?;
    Ok(pack)
}

/// Adds the row of a pack that was found in the store, or corrects it, with the highest rewrite that was seen of it.
pub fn adopt(connection: &mut DbConnection, pack: &Pack, rewrites: Rewrite) -> DbResult<()> {
    let updated = diesel::update(packs::table.find((pack.vault, pack.number)))
        .set((
            packs::rewrite.eq(pack.rewrite),
            packs::kind.eq(pack.kind),
            packs::state.eq(PackState::Live),
            packs::session.eq(None::<JobId>),
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

/// Makes sure that no rewrite number up to this one is given out for a pack again.
pub fn raise_rewrites(
    connection: &mut DbConnection,
    vault: i64,
    number: PackNumber,
    rewrites: Rewrite,
) -> DbResult<()> {
    diesel::update(packs::table.find((vault, number)))
        .filter(packs::rewrites.lt(rewrites))
        .set(packs::rewrites.eq(rewrites))
        .execute(connection)?;
    Ok(())
}

/// Marks an uploaded pack as part of the vault, with what it holds. `false`: the row was not `writing`
/// for this session.
pub fn go_live(connection: &mut DbConnection, pack: &Pack, session: &JobId) -> DbResult<bool> {
    let count = diesel::update(packs::table.find((pack.vault, pack.number)))
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
        .execute(connection)?;
    Ok(count == 1)
}

/// Abandons a pack whose object is missing or incomplete: garbage collection removes it.
pub fn abandon(connection: &mut DbConnection, pack: &Pack, session: &JobId) -> DbResult<()> {
    diesel::update(packs::table.find((pack.vault, pack.number)))
        .filter(
            packs::state
                .eq(PackState::Writing)
                .and(packs::session.eq(session)),
        )
        .set(packs::session.eq(None::<JobId>))
        .execute(connection)?;
    Ok(())
}

/// Packs a session has written or is writing.
pub fn of_session(connection: &mut DbConnection, session: &JobId) -> DbResult<Vec<Pack>> {
    Ok(packs::table
        .filter(packs::session.eq(session))
        .order(packs::number)
        .select(Pack::as_select())
        .load(connection)?)
}

/// Takes references for a session on packs that it is going to rely on, and returns the packs on which it has one now.
/// Condemned packs become live. Packs that were given up are not returned; the session must not rely on them.
///
/// The update locks the rows before the references are inserted. So a collection either sees the reference, or cannot
/// give the pack up.
pub fn reference(
    connection: &mut DbConnection,
    vault: i64,
    session: &JobId,
    numbers: &[PackNumber],
) -> DbResult<Vec<PackNumber>> {
    let mut held = Vec::with_capacity(numbers.len());
    for batch in numbers.chunks(BATCH) {
        let alive: Vec<(PackNumber, Rewrite)> = diesel::update(packs::table)
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

/// Whether a pack that the session references has another object now than when the reference was taken. Compactions and
/// repairs do not do that; a rebuild may. Then frames that the session relies on may be missing.
pub fn is_rewritten(connection: &mut DbConnection, session: &JobId) -> DbResult<bool> {
    let rewritten = session_packs::table
        .inner_join(
            packs::table.on(packs::vault
                .eq(session_packs::vault)
                .and(packs::number.eq(session_packs::pack))),
        )
        .filter(session_packs::session.eq(session))
        .filter(session_packs::rewrite.ne(packs::rewrite.nullable()));
    Ok(diesel::select(diesel::dsl::exists(rewritten)).get_result(connection)?)
}

/// Removes all references of a session: its next run looks everything up again.
pub fn drop_references(connection: &mut DbConnection, session: &JobId) -> DbResult<()> {
    diesel::delete(session_packs::table)
        .filter(session_packs::session.eq(session))
        .execute(connection)?;
    Ok(())
}

/// Notes that a pack was written again with every frame it had, so that sessions which reference it have lost nothing.
pub fn note_whole_rewrite(connection: &mut DbConnection, written: &Pack) -> DbResult<()> {
    diesel::update(session_packs::table)
        .filter(
            session_packs::vault
                .eq(written.vault)
                .and(session_packs::pack.eq(written.number)),
        )
        .set(session_packs::rewrite.eq(written.rewrite))
        .execute(connection)?;
    Ok(())
}

fn insert_references(
    connection: &mut DbConnection,
    vault: i64,
    session: &JobId,
    alive: &[(PackNumber, Rewrite)],
) -> DbResult<()> {
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
    }?;
    Ok(())
}

/// Packs a session has references on.
pub fn referenced(
    connection: &mut DbConnection,
    vault: i64,
    session: &JobId,
) -> DbResult<Vec<PackNumber>> {
    Ok(session_packs::table
        .filter(
            session_packs::session
                .eq(session)
                .and(session_packs::vault.eq(vault)),
        )
        .select(session_packs::pack)
        .load(connection)?)
}

/// Ends a session: removes its references, releases the packs that it wrote, and fences all its runs.
pub fn end_session(connection: &mut DbConnection, session: &JobId) -> DbResult<()> {
    sessions::end(connection, session)?;
    drop_references(connection, session)?;
    diesel::update(packs::table)
        .filter(packs::session.eq(session))
        .set(packs::session.eq(None::<JobId>))
        .execute(connection)?;
    Ok(())
}

/// One pack.
pub fn find(
    connection: &mut DbConnection,
    vault: i64,
    number: PackNumber,
) -> DbResult<Option<Pack>> {
    Ok(packs::table
        .find((vault, number))
        .select(Pack::as_select())
        .first(connection)
        .optional()?)
}

/// Whether a vault has any pack.
pub fn any(connection: &mut DbConnection, vault: i64) -> DbResult<bool> {
    Ok(diesel::select(diesel::dsl::exists(
        packs::table.filter(packs::vault.eq(vault)),
    ))
    .get_result(connection)?)
}
