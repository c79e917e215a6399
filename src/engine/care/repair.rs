//! Repair: a damaged pack is written again from what it still holds, from other objects of the same pack, from equal
//! chunks in other packs, and from volumes that still hold what was backed up. Every chunk is hashed and compared
//! with its id. The new object takes the place of the old one as `switch.rs` says. As long as frames are lost, the old
//! object stays beside it: a storage that serves wrong bytes for an hour may serve the right ones later.
//!
//! A frame counts as lost only if it could not be read twice: a fault on the way must not drop a frame that is there.
//!
//! # What a crash leaves
//!
//! The table of `switch.rs` holds for each of its steps. Besides:
//!
//! | crash after | left behind | who clears it up |
//! |---|---|---|
//! | the generation began | nothing; a compaction that was under way cannot switch | |
//! | the new object was stored | collections keep it as long as the pack is marked damaged | the next repair takes frames from it; a collection removes it once the pack is sound |
//! | the old object was deleted, or stays beside a new one that lacks frames | backups that are still called damaged | the next verification |

use crate::db::gc::{self, Needed};
use crate::db::{self, health};
use crate::engine::care::census::Census;
use crate::engine::care::collect;
use crate::engine::care::frames::{self, read_twice};
use crate::engine::care::switch::{Old, Switch};
use crate::engine::format::ChunkKind;
use crate::engine::format::codec::{CompressionPace, Encoder};
use crate::engine::format::manifest::{
    ChunkId, Extent, FrameRef, SpanEntry, decode_leaf, decode_pack_set, frame_check,
};
use crate::engine::format::pack::{NewFrame, PackReader, indexed};
use crate::engine::format::row::{ChunkRow, PackName};
use crate::engine::read::reader::FrameReader;
use crate::engine::read::tree::TreeReader;
use crate::engine::vault::{Vault, pack_name};
use crate::engine::{Error, Result};
use crate::model::id::VolumeId;
use crate::model::pack::{Pack, PackKind, PackState};
use crate::store::key::parse_pack;
use crate::volume::VolumeReader;
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, HashMap};

/// The result for one pack.
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
    let mut damaged = vault.db.read(|c| health::damaged(c, vault.number))?;
    // A condemned pack is about to be removed. A pack that a running session wrote waits until the session ends.
    damaged.retain(|pack| pack.state == PackState::Live && pack.session.is_none());
    if damaged.is_empty() {
        return Ok(Vec::new());
    }
    // A compaction that is under way may be writing the same packs; from here on it cannot switch.
    let generation = vault.db.write(|c| gc::next_generation(c, vault.number))?;
    // Packs with manifests first: their content is needed to repair the others.
    let (meta, data): (Vec<_>, Vec<_>) =
        damaged.iter().partition(|pack| pack.kind == PackKind::Meta);
    let mut repaired = Vec::new();
    // A root that the database does not know may need packs that this one does not see.
    let roots = collect::roots(vault)?;
    let are_all_known = roots.unknown.is_empty() && roots.removed.is_empty();
    for packs in [meta, data] {
        let census = read_twice(|| Census::take(vault))?.filter(|_| are_all_known);
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
    let name = pack_name(vault, pack);
    let (mut frames, sound) = match read_twice(|| still_there(vault, name))? {
        Some(found) => found,
        None => (as_indexed(vault, pack)?, 0),
    };
    // The frames that backups need; where manifests cannot be read, every frame.
    let needed = match census {
        Some(census) if !census.opaque.contains(name.number) => census.used(name.number),
        _ => (0..pack.frame_count.get()).collect(),
    };
    // An earlier repair may have left out frames that can be restored now.
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
        // A frame that no backup needs is left out of the new object, as a compaction would leave it out.
        lost: unknown
            + frames
                .iter()
                .filter(|(ordinal, frame)| !frame.is_whole && needed.contains(**ordinal))
                .count(),
    };
    if found.restored > 0 || (found.lost == 0 && whole > 0) {
        let is_whole = found.lost == 0;
        let is_stored = store(vault, pack, &frames, (is_whole, census), generation)?;
        if !is_stored {
            // A session or backup relies on the pack, or it was switched meanwhile: the next repair tries again.
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
    let rows = vault.db.read(|c| health::lost_chunks(c, pack))?;
    let kind = match pack.kind {
        PackKind::Data => ChunkKind::Data,
        // No reader looks at the kind of a meta chunk, so any will do.
        PackKind::Meta => ChunkKind::Leaf,
    };
    let mut chunks: BTreeMap<u32, (Vec<ChunkRow>, i64)> = BTreeMap::new();
    for row in &rows {
        let Ok(id) = row.id.as_slice().try_into() else {
            continue;
        };
        let chunk = ChunkRow {
            id: ChunkId(id),
            kind,
            length: row.length.get(),
        };
        let (chunks, check) = chunks.entry(row.ordinal.get()).or_default();
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

/// Fills in the frames that other objects of the same pack still hold: those that an earlier repair or compaction
/// replaced, or stored without switching to them.
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
        let Some(reader) =
            read_twice(|| PackReader::open(&vault.store, other, length, &vault.keys))?
        else {
            continue;
        };
        // Frames that no object before this one named.
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
        .read(|c| db::chunks::lookup(c, vault.number, &ids))?;
    let rows: HashMap<&[u8], _> = rows.iter().map(|row| (row.id.as_slice(), row)).collect();
    let reader = FrameReader::new(vault);
    let mut at = 0;
    for chunk in &frame.chunks {
        let range = at..at + chunk.length as usize;
        at = range.end;
        let Some(row) = rows.get(chunk.id.0.as_slice()) else {
            continue;
        };
        let offset = row.frame_offset.get() as usize;
        match reader.frame(&FrameRef::of(row)) {
            Ok(plain) => {
                if let Some(bytes) = plain.get(offset..offset + range.len()) {
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
    let number = pack.number.get();
    let backups = vault.db.read(|c| gc::needed(c, &vault.id))?;
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

/// Stores the pack again from the frames that are whole, and switches to the new object. `false`: the switch was
/// refused, and the pack stays as it is.
fn store(
    vault: &Vault,
    pack: &Pack,
    frames: &BTreeMap<u32, Wanted>,
    (is_whole, census): (bool, Option<&Census>),
    generation: i64,
) -> Result<bool> {
    let Some(switch) = Switch::begin(vault, pack, generation)? else {
        return Ok(false);
    };
    let pace = CompressionPace::new(1);
    let mut encoder = Encoder::new(vault.options.compression, &pace);
    let mut builder = switch.builder();
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
    let chunks = indexed(vault.number, &sealed.name, &sealed.rows)?;
    let frame_count = pack.frame_count.get();
    let is_all = frame_count > 0
        && (0..frame_count).all(|ordinal| frames.get(&ordinal).is_some_and(|frame| frame.is_whole));
    let fate = if is_whole { Old::Deleted } else { Old::Kept };
    let switched = switch.finish(sealed, fate, |c, written| {
        // A session or backup that came meanwhile may need a frame that the new object lacks.
        let is_needed = match census {
            Some(census) => census.is_needed_meanwhile(c, vault, pack)?,
            None => false,
        };
        if !is_all && (is_needed || gc::is_referenced(c, pack)?) {
            return Err(Error::Fenced);
        }
        if is_whole {
            health::mark_repaired(c, pack)?;
            if is_all {
                db::packs::note_whole_rewrite(c, written)?;
            }
            db::chunks::insert(c, &chunks)?;
        } else {
            // New backups do not use it: they would be damaged too.
            health::mark_damaged(c, written, health::FRAMES_LOST)?;
        }
        Ok(())
    })?;
    Ok(switched.is_some())
}
