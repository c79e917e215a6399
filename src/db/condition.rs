//! What verifications have found of packs and backups.

use crate::db::DbConnection;
use crate::model::id::BackupId;
use crate::model::pack::{IndexedChunk, Pack, PackState};
use crate::model::schema::{backups, chunks, lost_chunks, packs, vaults};
use crate::model::time::Timestamp;
use diesel::prelude::*;

/// What is noted of a pack of which not all could be repaired.
pub const FRAMES_LOST: &str = "some of its frames are lost";

/// Packs that must be in the store, with when each was last read whole, the longest ago first. One that
/// a run gave up before it was stored is not among them, although it is condemned.
pub fn packs(
    connection: &mut DbConnection,
    vault: i64,
) -> QueryResult<Vec<(Pack, Option<Timestamp>)>> {
    let mut found: Vec<(Pack, Option<Timestamp>)> = packs::table
        .filter(packs::vault.eq(vault))
        .filter(packs::state.eq_any([PackState::Live, PackState::Condemned]))
        .filter(packs::stored_bytes.gt(0))
        .order(packs::number)
        .select((Pack::as_select(), packs::verified_at))
        .load(connection)?;
    // The two databases sort NULL to different ends.
    found.sort_by_key(|(_, at)| *at);
    Ok(found)
}

/// Notes what was found of a pack, unless it is another object meanwhile. Chunks of a damaged pack are
/// taken out of the index, so that they are stored again when they come again, and kept aside for the
/// repair.
pub fn set(
    connection: &mut DbConnection,
    pack: &Pack,
    damage: Option<&str>,
    read_at: Option<Timestamp>,
) -> QueryResult<bool> {
    let row = packs::table.find((pack.vault, pack.number));
    if damage.is_none() && read_at.is_none() {
        return Ok(true);
    }
    let updated = match (damage, read_at) {
        (Some(damage), _) => {
            // That frames are lost nothing else that is found makes undone.
            diesel::update(row)
                .filter(packs::rewrite.eq(pack.rewrite))
                .filter(packs::damage.is_null().or(packs::damage.ne(FRAMES_LOST)))
                .set(packs::damage.eq(damage))
                .execute(connection)?;
            let same = row.filter(packs::rewrite.eq(pack.rewrite));
            let is_same: bool = diesel::select(diesel::dsl::exists(same)).get_result(connection)?;
            usize::from(is_same)
        }
        (None, read_at) => {
            // What is left of the pack is sound; what is not left stays lost.
            diesel::update(row)
                .filter(packs::rewrite.eq(pack.rewrite))
                .filter(packs::damage.ne(FRAMES_LOST))
                .set(packs::damage.eq(None::<String>))
                .execute(connection)?;
            diesel::update(row)
                .filter(packs::rewrite.eq(pack.rewrite))
                .set(packs::verified_at.eq(read_at))
                .execute(connection)?
        }
    };
    if updated == 1 && damage.is_some() {
        put_aside(connection, pack)?;
    }
    Ok(updated == 1)
}

fn put_aside(connection: &mut DbConnection, pack: &Pack) -> QueryResult<()> {
    let of_pack = chunks::vault
        .eq(pack.vault)
        .and(chunks::pack.eq(pack.number));
    let rows: Vec<IndexedChunk> = chunks::table
        .filter(of_pack)
        .select(IndexedChunk::as_select())
        .load(connection)?;
    for row in &rows {
        diesel::insert_into(lost_chunks::table)
            .values((
                lost_chunks::vault.eq(row.vault),
                lost_chunks::id.eq(&row.id),
                lost_chunks::pack.eq(row.pack),
                lost_chunks::ordinal.eq(row.ordinal),
                lost_chunks::length.eq(row.length),
                lost_chunks::frame_offset.eq(row.frame_offset),
                lost_chunks::frame_length.eq(row.frame_length),
                lost_chunks::frame_check.eq(row.frame_check),
            ))
            .execute(connection)?;
    }
    diesel::delete(chunks::table)
        .filter(
            chunks::vault
                .eq(pack.vault)
                .and(chunks::pack.eq(pack.number)),
        )
        .execute(connection)
        .map(|_| ())
}

/// The chunks of a damaged pack, as the index knew them.
pub fn lost(connection: &mut DbConnection, pack: &Pack) -> QueryResult<Vec<IndexedChunk>> {
    lost_chunks::table
        .filter(
            lost_chunks::vault
                .eq(pack.vault)
                .and(lost_chunks::pack.eq(pack.number)),
        )
        .order((lost_chunks::ordinal, lost_chunks::frame_offset))
        .select((
            lost_chunks::vault,
            lost_chunks::id,
            lost_chunks::pack,
            lost_chunks::ordinal,
            lost_chunks::length,
            lost_chunks::frame_offset,
            lost_chunks::frame_length,
            lost_chunks::frame_check,
        ))
        .load(connection)
}

/// Forgets what was kept aside of a pack that is sound again.
pub fn found(connection: &mut DbConnection, pack: &Pack) -> QueryResult<()> {
    diesel::delete(lost_chunks::table)
        .filter(
            lost_chunks::vault
                .eq(pack.vault)
                .and(lost_chunks::pack.eq(pack.number)),
        )
        .execute(connection)
        .map(|_| ())
}

/// Whether something wrong with a pack is known.
pub fn is_damaged(connection: &mut DbConnection, pack: &Pack) -> QueryResult<bool> {
    let damaged = packs::table
        .find((pack.vault, pack.number))
        .filter(packs::damage.is_not_null());
    diesel::select(diesel::dsl::exists(damaged)).get_result(connection)
}

/// Packs that are known to be damaged.
pub fn damaged(connection: &mut DbConnection, vault: i64) -> QueryResult<Vec<Pack>> {
    packs::table
        .filter(packs::vault.eq(vault).and(packs::damage.is_not_null()))
        .filter(packs::state.eq_any([PackState::Live, PackState::Condemned]))
        .order(packs::number)
        .select(Pack::as_select())
        .load(connection)
}

/// Tells of a backup that it is damaged, or, of one of which that was told, that it is not any more.
pub fn tell(
    connection: &mut DbConnection,
    id: &BackupId,
    damaged: &str,
    reason: Option<&str>,
) -> QueryResult<()> {
    let row = backups::table.find(id);
    match reason {
        Some(reason) => diesel::update(row)
            .set(backups::fail_reason.eq(reason))
            .execute(connection),
        None => diesel::update(row)
            .filter(backups::fail_reason.like(format!("{damaged}%")))
            .set(backups::fail_reason.eq(None::<String>))
            .execute(connection),
    }
    .map(|_| ())
}

/// When the full verification began that is under way; begins one unless there is.
pub fn begin_full(
    connection: &mut DbConnection,
    vault: i64,
    now: Timestamp,
) -> QueryResult<Timestamp> {
    diesel::update(vaults::table.find(vault))
        .filter(vaults::verifying_since.is_null())
        .set(vaults::verifying_since.eq(now))
        .execute(connection)?;
    let since: Option<Timestamp> = vaults::table
        .find(vault)
        .select(vaults::verifying_since)
        .first(connection)?;
    Ok(since.unwrap_or(now))
}

/// Ends the full verification that is under way.
pub fn end_full(connection: &mut DbConnection, vault: i64) -> QueryResult<()> {
    diesel::update(vaults::table.find(vault))
        .set(vaults::verifying_since.eq(None::<Timestamp>))
        .execute(connection)
        .map(|_| ())
}
