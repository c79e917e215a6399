//! The health of packs and backups, as verifications have found it.

use crate::db::{self, DbConnection, DbResult};
use crate::model::id::BackupId;
use crate::model::number::ByteCount;
use crate::model::pack::{IndexedChunk, Pack, PackState};
use crate::model::schema::{backups, chunks, lost_chunks, packs, vaults};
use crate::model::time::Timestamp;
use diesel::prelude::*;

/// The end of the damage text of a pack whose object is not in the storage.
pub const IS_MISSING: &str = " is missing";

/// The damage text of a pack of which some frames could not be repaired.
pub const FRAMES_LOST: &str = "some of its frames are lost";

/// States of packs that a collection removes or has removed.
const REMOVED: [PackState; 2] = [PackState::Deleting, PackState::Gone];

/// Packs that must be in the store, each with the time when it was last read whole, the longest ago first. A pack that
/// was abandoned before it was stored may be condemned, but is not among them.
pub fn packs(
    connection: &mut DbConnection,
    vault: i64,
) -> DbResult<Vec<(Pack, Option<Timestamp>)>> {
    let mut found: Vec<(Pack, Option<Timestamp>)> = packs::table
        .filter(packs::vault.eq(vault))
        .filter(packs::state.eq_any([PackState::Live, PackState::Condemned]))
        .filter(packs::stored_bytes.gt(ByteCount::default()))
        .order(packs::number)
        .select((Pack::as_select(), packs::verified_at))
        .load(connection)?;
    // The two databases sort NULL to different ends.
    found.sort_by_key(|(_, at)| *at);
    Ok(found)
}

/// Marks a pack damaged. `false`: nothing was recorded, as the pack has another object by now, or a collection is
/// removing it. Chunks of a damaged pack leave the index, so that new backups store them again. They are kept in
/// `lost_chunks`, for the repair, and until the pack is found sound.
pub fn mark_damaged(connection: &mut DbConnection, pack: &Pack, damage: &str) -> DbResult<bool> {
    let row = packs::table.find((pack.vault, pack.number));
    // Damage that was found by reading stays recorded when the object is then missing. Otherwise the next check without
    // reading would find the object there again and clear the mark.
    let replaced = if damage.ends_with(IS_MISSING) {
        format!("%{IS_MISSING}")
    } else {
        "%".to_owned()
    };
    // A pack once marked FRAMES_LOST keeps the mark, whatever a later verification finds.
    let is_replaced = packs::damage
        .ne(FRAMES_LOST)
        .and(packs::damage.like(replaced));
    diesel::update(row)
        .filter(packs::rewrite.eq(pack.rewrite))
        .filter(packs::state.ne_all(REMOVED))
        .filter(packs::damage.is_null().or(is_replaced))
        .set(packs::damage.eq(damage))
        .execute(connection)?;
    // A write, so that the row is locked: two that mark a pack at once must not both put the same chunks aside.
    let same = diesel::update(row)
        .filter(packs::rewrite.eq(pack.rewrite))
        .filter(packs::state.ne_all(REMOVED))
        .set(packs::rewrite.eq(pack.rewrite))
        .execute(connection)?;
    let is_same = same == 1;
    if is_same {
        put_aside(connection, pack)?;
    }
    Ok(is_same)
}

/// Marks a pack sound, as far as it was read; `read_at`: all of it was. Its trailer alone proves only that the object
/// is not missing any more. Frames that it lacks stay lost: a pack keeps the mark FRAMES_LOST. `false`: the pack has
/// another object by now.
pub fn mark_sound(
    connection: &mut DbConnection,
    pack: &Pack,
    read_at: Option<Timestamp>,
) -> DbResult<bool> {
    let row = packs::table.find((pack.vault, pack.number));
    let disproved = match read_at {
        Some(_) => "%".to_owned(),
        None => format!("%{IS_MISSING}"),
    };
    let cleared = diesel::update(row)
        .filter(packs::rewrite.eq(pack.rewrite))
        .filter(packs::state.ne_all(REMOVED))
        .filter(packs::damage.ne(FRAMES_LOST))
        .filter(packs::damage.like(disproved))
        .set(packs::damage.eq(None::<String>))
        .execute(connection)?;
    if cleared == 1 {
        put_back(connection, pack)?;
    }
    let Some(read_at) = read_at else {
        return Ok(true);
    };
    let noted = diesel::update(row)
        .filter(packs::rewrite.eq(pack.rewrite))
        .set(packs::verified_at.eq(read_at))
        .execute(connection)?;
    Ok(noted == 1)
}

/// Puts the chunks of a pack that is sound after all back into the index. Those that were stored again meanwhile stay
/// where they are.
fn put_back(connection: &mut DbConnection, pack: &Pack) -> DbResult<()> {
    let chunks = lost_chunks(connection, pack)?;
    db::chunks::insert(connection, &chunks)?;
    forget_lost_chunks(connection, pack)
}

fn put_aside(connection: &mut DbConnection, pack: &Pack) -> DbResult<()> {
    chunks::table
        .filter(
            chunks::vault
                .eq(pack.vault)
                .and(chunks::pack.eq(pack.number)),
        )
        .select(chunks::all_columns)
        .insert_into(lost_chunks::table)
        .into_columns(lost_chunks::all_columns)
        .execute(connection)?;
    diesel::delete(chunks::table)
        .filter(
            chunks::vault
                .eq(pack.vault)
                .and(chunks::pack.eq(pack.number)),
        )
        .execute(connection)?;
    Ok(())
}

/// The chunks of a damaged pack, as the index knew them.
pub fn lost_chunks(connection: &mut DbConnection, pack: &Pack) -> DbResult<Vec<IndexedChunk>> {
    Ok(lost_chunks::table
        .filter(
            lost_chunks::vault
                .eq(pack.vault)
                .and(lost_chunks::pack.eq(pack.number)),
        )
        .order((lost_chunks::ordinal, lost_chunks::frame_offset))
        .select(lost_chunks::all_columns)
        .load(connection)?)
}

/// Removes the chunks of a pack from `lost_chunks`, as it is sound again.
pub fn forget_lost_chunks(connection: &mut DbConnection, pack: &Pack) -> DbResult<()> {
    diesel::delete(lost_chunks::table)
        .filter(
            lost_chunks::vault
                .eq(pack.vault)
                .and(lost_chunks::pack.eq(pack.number)),
        )
        .execute(connection)?;
    Ok(())
}

/// Records that a pack was written again with all that backups need. The row must lead to the new object already.
pub fn mark_repaired(connection: &mut DbConnection, pack: &Pack) -> DbResult<()> {
    diesel::update(packs::table.find((pack.vault, pack.number)))
        .set(packs::damage.eq(None::<String>))
        .execute(connection)?;
    forget_lost_chunks(connection, pack)
}

/// Whether a pack is marked damaged.
pub fn is_damaged(connection: &mut DbConnection, pack: &Pack) -> DbResult<bool> {
    let damaged = packs::table
        .find((pack.vault, pack.number))
        .filter(packs::damage.is_not_null());
    Ok(diesel::select(diesel::dsl::exists(damaged)).get_result(connection)?)
}

/// Packs that are marked damaged.
pub fn damaged(connection: &mut DbConnection, vault: i64) -> DbResult<Vec<Pack>> {
    Ok(packs::table
        .filter(packs::vault.eq(vault).and(packs::damage.is_not_null()))
        .filter(packs::state.eq_any([PackState::Live, PackState::Condemned]))
        .order(packs::number)
        .select(Pack::as_select())
        .load(connection)?)
}

/// Sets the reason why a backup is damaged, or removes such a reason.
pub fn set_damage_reason(
    connection: &mut DbConnection,
    id: &BackupId,
    damaged: &str,
    reason: Option<&str>,
) -> DbResult<()> {
    let row = backups::table.find(id);
    match reason {
        Some(reason) => diesel::update(row)
            .set(backups::fail_reason.eq(reason))
            .execute(connection),
        None => diesel::update(row)
            .filter(backups::fail_reason.like(format!("{damaged}%")))
            .set(backups::fail_reason.eq(None::<String>))
            .execute(connection),
    }?;
    Ok(())
}

/// When the full verification that is under way began. Begins one if there is none.
pub fn begin_full(
    connection: &mut DbConnection,
    vault: i64,
    now: Timestamp,
) -> DbResult<Timestamp> {
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
pub fn end_full(connection: &mut DbConnection, vault: i64) -> DbResult<()> {
    diesel::update(vaults::table.find(vault))
        .set(vaults::verifying_since.eq(None::<Timestamp>))
        .execute(connection)?;
    Ok(())
}
