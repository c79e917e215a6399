//! Repair: a pack in which something was found wrong is written again, of what it still holds, of
//! equal chunks that other packs hold, and of volumes that still hold what was backed up. Every chunk
//! is compared with its id before it is believed. The pack keeps number and ordinals, so no manifest
//! changes.
//!
//! A frame is lost only on the second look: what could be read but for a fault on its way must not be
//! left out of the new pack.

use crate::db::collection::{self, Needed};
use crate::db::{self, DbError, condition};
use crate::engine::backup::decode_pack_set;
use crate::engine::codec::{Encoder, Pace};
use crate::engine::compact::Census;
use crate::engine::format::ChunkKind;
use crate::engine::frames::{self, twice};
use crate::engine::manifest::{ChunkId, Extent, FrameRef, SpanEntry, decode_leaf, frame_check};
use crate::engine::pack::{ChunkRow, NewFrame, PackBuilder, PackName, PackReader};
use crate::engine::packer::{indexed, pack_name};
use crate::engine::reader::FrameReader;
use crate::engine::tree::TreeReader;
use crate::engine::vault::Vault;
use crate::engine::{Error, Result};
use crate::model::id::VolumeId;
use crate::model::pack::{Pack, PackKind, PackState};
use crate::store::StoreErrorKind;
use crate::store::key::parse_pack;
use crate::volume::VolumeReader;
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, HashMap};

/// What became of one pack.
#[derive(Debug)]
pub struct Repaired {
    pub object: String,
    /// Frames that the pack itself still held.
    pub sound: usize,
    /// Frames that were put together again.
    pub restored: usize,
    /// Frames that are lost.
    pub lost: usize,
}

/// Opens a volume that backups were made of, if it is still there.
pub type OpenVolume<'o> = &'o dyn Fn(&VolumeId) -> Option<VolumeReader>;

/// Repairs what it can of all packs that are known to be damaged.
pub fn run(vault: &Vault, open_volume: OpenVolume<'_>) -> Result<Vec<Repaired>> {
    let mut damaged = vault
        .db
        .read(|c| condition::damaged(c, vault.number).map_err(DbError::from))?;
    // Others are going, or their session sees to them.
    damaged.retain(|pack| pack.state == PackState::Live && pack.session.is_none());
    if damaged.is_empty() {
        return Ok(Vec::new());
    }
    // A compaction that is under way would write the same packs; from here on it cannot switch.
    let generation = vault
        .db
        .write(|c| collection::next_generation(c, vault.number).map_err(DbError::from))?;
    // Those with manifests first, as the others are looked for with their help.
    let (meta, data): (Vec<_>, Vec<_>) =
        damaged.iter().partition(|pack| pack.kind == PackKind::Meta);
    let mut repaired = Vec::new();
    for packs in [meta, data] {
        let census = twice(|| Census::take(vault))?;
        for pack in packs {
            repaired.push(repair(
                vault,
                pack,
                census.as_ref(),
                generation,
                open_volume,
            )?);
        }
    }
    Ok(repaired)
}

/// A frame as it was: its chunks, and their bytes as far as they are known.
struct Wanted {
    chunks: Vec<ChunkRow>,
    plain: Vec<u8>,
    is_whole: bool,
}

impl Wanted {
    fn new(chunks: Vec<ChunkRow>) -> Self {
        let length: u32 = chunks.iter().map(|chunk| chunk.length).sum();
        Self {
            chunks,
            plain: vec![0; length as usize],
            is_whole: false,
        }
    }

    /// Whether all chunks are what they must be.
    fn check(&mut self, key: &[u8; 32]) -> bool {
        let mut rest = self.plain.as_slice();
        self.is_whole = self.chunks.iter().all(|chunk| {
            let (bytes, after) = rest.split_at(chunk.length as usize);
            rest = after;
            ChunkId::of(key, bytes) == chunk.id
        });
        self.is_whole
    }
}

fn repair(
    vault: &Vault,
    pack: &Pack,
    census: Option<&Census>,
    generation: i64,
    open_volume: OpenVolume<'_>,
) -> Result<Repaired> {
    let name = pack_name(vault, pack)?;
    let (mut frames, sound) = match twice(|| still_there(vault, name))? {
        Some(found) => found,
        None => (as_indexed(vault, pack)?, 0),
    };
    // What backups need, and of which nobody knows what was in it; where manifests cannot be read, that
    // may be any frame.
    let needed = match census {
        Some(census) => census.used(name.number),
        None => (0..u32::try_from(pack.frame_count).unwrap_or(u32::MAX)).collect(),
    };
    // An earlier repair may have had to leave out what can be put together now.
    if needed.iter().any(|ordinal| !frames.contains_key(&ordinal)) {
        for (ordinal, frame) in as_indexed(vault, pack)? {
            if needed.contains(ordinal) {
                frames.entry(ordinal).or_insert(frame);
            }
        }
    }
    let is_short = needed.iter().any(|ordinal| !frames.contains_key(&ordinal));
    if is_short || frames.values().any(|frame| !frame.is_whole) {
        from_other_objects(vault, name, &needed, &mut frames)?;
    }
    let is_unknown = |ordinal: &u32| !frames.contains_key(ordinal);
    let unknown = needed.iter().filter(is_unknown).count();
    for frame in frames.values_mut().filter(|frame| !frame.is_whole) {
        from_other_packs(vault, frame)?;
    }
    if frames.values().any(|frame| !frame.is_whole) {
        from_volumes(vault, pack, &mut frames, open_volume)?;
    }
    let whole = frames.values().filter(|frame| frame.is_whole).count();
    let mut found = Repaired {
        object: name.key().to_string(),
        sound,
        restored: whole - sound,
        lost: frames.len() - whole + unknown,
    };
    if found.restored > 0 || (found.lost == 0 && whole > 0) {
        let is_whole = found.lost == 0;
        let is_stored = store(vault, pack, name, &frames, (is_whole, census), generation)?;
        if !is_stored {
            // Somebody writes the pack, or has compacted it: the next run looks again.
            found.lost += found.restored;
            found.restored = 0;
        }
    }
    Ok(found)
}

/// The frames by ordinal as the pack's trailer names them, with the bytes of those that can still be
/// read, and how many these are.
fn still_there(vault: &Vault, name: PackName) -> Result<(BTreeMap<u32, Wanted>, usize)> {
    let object = name.key();
    let length = vault.store.length(&object)?.ok_or_else(|| Error::Missing {
        object: object.to_string(),
    })?;
    let reader = PackReader::open(&vault.store, name, length, &vault.keys)?;
    let (mut frames, mut sound) = (BTreeMap::new(), 0);
    for (ordinal, row) in (0_u32..).zip(&reader.rows) {
        if row.is_left_out() {
            continue;
        }
        let mut wanted = Wanted::new(row.chunks.clone());
        let plain = frames::read(vault, &reader, ordinal, row)?;
        if let Some(plain) = plain {
            wanted.plain = plain;
            wanted.is_whole = true;
            sound += 1;
        }
        frames.insert(ordinal, wanted);
    }
    Ok((frames, sound))
}

/// The frames of which the index knew every chunk. It need not know all frames: chunks that came twice
/// lead to one of their places only.
fn as_indexed(vault: &Vault, pack: &Pack) -> Result<BTreeMap<u32, Wanted>> {
    let rows = vault
        .db
        .read(|c| condition::lost(c, pack).map_err(DbError::from))?;
    let kind = match pack.kind {
        PackKind::Data => ChunkKind::Data,
        // Which of the kinds of a meta pack it is matters to nobody who reads.
        PackKind::Meta => ChunkKind::Leaf,
    };
    let mut chunks: BTreeMap<u32, (Vec<ChunkRow>, i64)> = BTreeMap::new();
    for row in &rows {
        let (Ok(ordinal), Ok(id)) = (u32::try_from(row.ordinal), row.id.as_slice().try_into())
        else {
            continue;
        };
        let chunk = ChunkRow {
            id: ChunkId(id),
            kind,
            length: u32::try_from(row.length).unwrap_or(0),
        };
        let (chunks, check) = chunks.entry(ordinal).or_default();
        *check = row.frame_check;
        chunks.push(chunk);
    }
    let is_known = |chunks: &[ChunkRow], check: i64| {
        let ids = chunks.iter().map(|chunk| &chunk.id);
        frame_check(&vault.keys.id, ids) == check.to_le_bytes()
    };
    Ok(chunks
        .into_iter()
        .filter(|(_, (chunks, check))| is_known(chunks, *check))
        .map(|(ordinal, (chunks, _))| (ordinal, Wanted::new(chunks)))
        .collect())
}

/// Fills in the frames that other objects of the same pack still hold: what an earlier repair or
/// compaction was to replace, or has stored and never came to lead to.
fn from_other_objects(
    vault: &Vault,
    name: PackName,
    needed: &RoaringBitmap,
    frames: &mut BTreeMap<u32, Wanted>,
) -> Result<()> {
    let object = name.key().to_string();
    let folder = object.rsplit_once('/').map_or("", |(folder, _)| folder);
    for (other, length) in vault.store.list(&format!("{folder}/"))? {
        let Some((kind, number, rewrite)) = parse_pack(&vault.id, &other) else {
            continue;
        };
        if (kind, number) != (name.kind, name.number) || rewrite == name.rewrite {
            continue;
        }
        let other = PackName { rewrite, ..name };
        let Some(reader) = twice(|| PackReader::open(&vault.store, other, length, &vault.keys))?
        else {
            continue;
        };
        // What this object tells of, and no other did.
        for ordinal in needed {
            let row = reader.rows.get(ordinal as usize);
            if let Some(row) = row.filter(|row| !row.is_left_out()) {
                frames
                    .entry(ordinal)
                    .or_insert_with(|| Wanted::new(row.chunks.clone()));
            }
        }
        for (ordinal, frame) in frames.iter_mut().filter(|(_, frame)| !frame.is_whole) {
            let Some(row) = reader.rows.get(*ordinal as usize) else {
                continue;
            };
            if row.is_left_out() || row.chunks != frame.chunks {
                continue;
            }
            let plain = frames::read(vault, &reader, *ordinal, row)?;
            if let Some(plain) = plain {
                frame.plain = plain;
                frame.is_whole = true;
            }
        }
    }
    Ok(())
}

/// Fills in the chunks that other packs hold too.
fn from_other_packs(vault: &Vault, frame: &mut Wanted) -> Result<()> {
    let ids: Vec<Vec<u8>> = frame
        .chunks
        .iter()
        .map(|chunk| chunk.id.0.to_vec())
        .collect();
    let rows = vault
        .db
        .read(|c| db::chunks::lookup(c, vault.number, &ids).map_err(DbError::from))?;
    let rows: HashMap<&[u8], _> = rows.iter().map(|row| (row.id.as_slice(), row)).collect();
    let reader = FrameReader::new(vault);
    let mut at = 0;
    for chunk in &frame.chunks {
        let range = at..at + chunk.length as usize;
        at = range.end;
        let Some(row) = rows.get(chunk.id.0.as_slice()) else {
            continue;
        };
        let place = FrameRef {
            pack: u32::try_from(row.pack).unwrap_or(u32::MAX),
            ordinal: u32::try_from(row.ordinal).unwrap_or(u32::MAX),
            length: u32::try_from(row.frame_length).unwrap_or(0),
            check: row.frame_check.to_le_bytes(),
        };
        let offset = usize::try_from(row.frame_offset).unwrap_or(usize::MAX);
        match reader.frame(&place) {
            Ok(plain) => {
                if let Some(bytes) = plain.get(offset..offset.saturating_add(range.len())) {
                    frame.plain[range].copy_from_slice(bytes);
                }
            }
            Err(Error::Corrupt { .. } | Error::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    frame.check(&vault.keys.id);
    Ok(())
}

/// Fills in what volumes still hold where backups of them have slices of the pack.
fn from_volumes(
    vault: &Vault,
    pack: &Pack,
    frames: &mut BTreeMap<u32, Wanted>,
    open_volume: OpenVolume<'_>,
) -> Result<()> {
    let number = u32::try_from(pack.number).unwrap_or(u32::MAX);
    let backups = vault
        .db
        .read(|c| collection::needed(c, &vault.id).map_err(DbError::from))?;
    for backup in backups {
        if !decode_pack_set(&backup.pack_set)?.contains(number) {
            continue;
        }
        match from_volume(vault, number, &backup, frames, open_volume) {
            Ok(()) => {}
            // The damage reaches the backup's own manifest.
            Err(Error::Corrupt { .. } | Error::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
        if frames.values().all(|frame| frame.is_whole) {
            break;
        }
    }
    Ok(())
}

fn from_volume(
    vault: &Vault,
    number: u32,
    backup: &Needed,
    frames: &mut BTreeMap<u32, Wanted>,
    open_volume: OpenVolume<'_>,
) -> Result<()> {
    let root = vault.root(&backup.root)?;
    let Some(volume) = open_volume(&root.backup.volume_id) else {
        return Ok(());
    };
    let reader = FrameReader::new(vault);
    let tree = TreeReader::open(&reader, &root)?;
    for span in 0..tree.len() {
        let Some(SpanEntry::Leaf { leaf, packs, .. }) = tree.span(span)? else {
            continue;
        };
        if !packs.contains(&number) {
            continue;
        }
        let start = span as u64 * root.span_bytes;
        let length = root.span_bytes.min(root.volume_bytes - start);
        let extents = decode_leaf(&reader.frame(&leaf)?, length).ok_or_else(|| {
            Error::corrupt(format!("a leaf in pack {:08x}", leaf.pack), "unreadable")
        })?;
        let mut at = start;
        for extent in extents {
            if let Extent::Slice {
                length,
                frame,
                offset,
            } = extent
                && frame.pack == number
                && let Some(wanted) = frames.get_mut(&frame.ordinal)
                && !wanted.is_whole
                && let Some(room) = wanted
                    .plain
                    .get_mut(offset as usize..(offset + length) as usize)
                && at + u64::from(length) <= volume.length()
            {
                volume.read_at(room, at)?;
            }
            at += u64::from(extent.length());
        }
    }
    for frame in frames.values_mut().filter(|frame| !frame.is_whole) {
        frame.check(&vault.keys.id);
    }
    Ok(())
}

/// Stores the pack again, of the frames that are whole, and leads to it. `false`: it has changed
/// meanwhile.
fn store(
    vault: &Vault,
    pack: &Pack,
    name: PackName,
    frames: &BTreeMap<u32, Wanted>,
    (is_whole, census): (bool, Option<&Census>),
    generation: i64,
) -> Result<bool> {
    let rewrite = vault
        .db
        .write(|c| collection::next_rewrite(c, pack, generation).map_err(DbError::from))?;
    let Some(rewrite) = rewrite else {
        return Ok(false);
    };
    let new = PackName {
        rewrite: u32::try_from(rewrite).unwrap_or(u32::MAX),
        ..name
    };
    let pace = Pace::new(1);
    let mut encoder = Encoder::new(vault.options.compression, &pace);
    let bytes = vault.options.pack_bytes;
    let mut builder = PackBuilder::new(new, &vault.keys, true, bytes, Vec::new());
    let last = frames.keys().next_back().copied().unwrap_or(0);
    for ordinal in 0..=last {
        match frames.get(&ordinal).filter(|frame| frame.is_whole) {
            None => builder.skip(),
            Some(frame) => {
                builder.push(NewFrame {
                    chunks: frame.chunks.clone(),
                    encoded: encoder.encode(&frame.plain),
                })?;
            }
        }
    }
    let sealed = builder.finish();
    let length = sealed.bytes.len();
    match vault.store.put_new(&new.key(), sealed.bytes) {
        // The database is older than the object; the next number will be free.
        Err(error) if error.kind == StoreErrorKind::Exists => return Ok(false),
        stored => stored?,
    }
    // The old object goes next.
    vault.expect(&new.key(), length as u64)?;
    let chunks = indexed(vault.number, name.number, &sealed.rows);
    let signed = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let written = Pack {
        rewrite,
        stored_bytes: signed(length),
        chunk_count: signed(chunks.len()),
        ..pack.clone()
    };
    let switched = vault.db.write(|c| -> Result<()> {
        if !collection::switch(c, pack, &written, generation).map_err(DbError::from)? {
            return Err(Error::Fenced);
        }
        // Who has come meanwhile may need more than was known to be needed.
        let is_all = pack.frame_count > 0
            && (0..pack.frame_count).all(|ordinal| {
                let frame = u32::try_from(ordinal)
                    .ok()
                    .and_then(|ordinal| frames.get(&ordinal));
                frame.is_some_and(|frame| frame.is_whole)
            });
        let is_needed = match census {
            Some(census) => census.is_needed_meanwhile(c, vault, pack)?,
            None => false,
        };
        if !is_all && (is_needed || collection::is_referenced(c, pack).map_err(DbError::from)?) {
            return Err(Error::Fenced);
        }
        let mut note = || -> db::QueryResult<()> {
            match is_whole {
                true => {
                    condition::found(c, pack)?;
                    if is_all {
                        db::packs::note_whole_rewrite(c, &written)?;
                    }
                    db::chunks::insert(c, &chunks)
                }
                // New backups stay away from it: they would be told to be damaged too.
                false => condition::set(c, &written, Some(condition::FRAMES_LOST), None).map(drop),
            }
        };
        Ok(note().map_err(DbError::from)?)
    });
    match switched {
        Ok(()) => {
            // A rebuild may have led the row back to the old object since.
            let row = vault
                .db
                .read(|c| db::packs::find(c, pack.vault, pack.number).map_err(DbError::from))?;
            if row.is_some_and(|row| row.rewrite == rewrite) {
                vault.store.delete(&name.key())?;
            }
        }
        Err(Error::Fenced) => {
            vault.store.delete(&new.key())?;
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    Ok(true)
}
