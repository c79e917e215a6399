//! Reading chunks back: pack trailers are kept, ranges are coalesced, everything is verified.

use crate::db::{self, DbError};
use crate::engine::manifest::{ChunkRef, Root, SpanEntry, decode_inner_node, decode_span_node};
use crate::engine::pack::{PackName, PackReader};
use crate::engine::vault::Vault;
use crate::engine::{Error, Result};
use crate::model::pack::{Pack, PackState};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};

/// Trailers kept: about 16 bytes a chunk, some 20 KiB a pack.
const PACKS_KEPT: usize = 512;
/// Bytes between two wanted chunks that are read rather than left out.
const GAP_BYTES_MAX: u32 = 64 << 10;
/// Longest range read at once.
const RANGE_BYTES_MAX: u32 = 8 << 20;

/// Reads chunks of one vault. Shared by threads.
pub(crate) struct ChunkReader<'a> {
    pub(crate) vault: &'a Vault,
    packs: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    readers: HashMap<u32, Arc<PackReader>>,
    oldest_first: VecDeque<u32>,
}

impl<'a> ChunkReader<'a> {
    pub(crate) fn new(vault: &'a Vault) -> Self {
        Self {
            vault,
            packs: Mutex::default(),
        }
    }

    /// One chunk.
    pub(crate) fn chunk(&self, chunk: &ChunkRef) -> Result<Vec<u8>> {
        let mut chunks = self.chunks([*chunk].into_iter())?;
        Ok(chunks.remove(chunk).expect("the chunk asked for is there"))
    }

    /// Some chunks, each once, by few and long reads.
    pub(crate) fn chunks(
        &self,
        wanted: impl Iterator<Item = ChunkRef>,
    ) -> Result<HashMap<ChunkRef, Vec<u8>>> {
        let mut by_pack: BTreeMap<u32, BTreeMap<u32, ChunkRef>> = BTreeMap::new();
        for chunk in wanted {
            by_pack
                .entry(chunk.pack)
                .or_default()
                .insert(chunk.ordinal, chunk);
        }
        let mut plain = HashMap::new();
        for (number, chunks) in by_pack {
            let pack = self.pack(number)?;
            // Ordinals lie in the order of their offsets.
            let chunks: Vec<ChunkRef> = chunks.into_values().collect();
            let mut rest = chunks.as_slice();
            while !rest.is_empty() {
                let (range, now) = coalesce(&pack, rest)?;
                let bytes = self
                    .vault
                    .store
                    .get_range(&pack.object(), u64::from(range.0)..u64::from(range.1))?;
                for chunk in &rest[..now] {
                    let row = pack.row(chunk)?;
                    let at = (row.offset - range.0) as usize;
                    let sealed = bytes[at..at + row.stored_length as usize].to_vec();
                    plain.insert(*chunk, pack.open_chunk(&self.vault.keys, chunk, sealed)?);
                }
                rest = &rest[now..];
            }
        }
        Ok(plain)
    }

    fn pack(&self, number: u32) -> Result<Arc<PackReader>> {
        if let Some(reader) = self.kept().readers.get(&number) {
            return Ok(reader.clone());
        }
        let row = self
            .vault
            .db
            .read(|c| db::packs::find(c, self.vault.number, number.into()).map_err(DbError::from))?
            .filter(|row| !matches!(row.state, PackState::Writing | PackState::Gone))
            .ok_or_else(|| Error::Missing {
                object: format!("pack {number:08x}"),
            })?;
        let reader = Arc::new(self.open(number, &row)?);
        let mut kept = self.kept();
        if kept.readers.insert(number, reader.clone()).is_none() {
            kept.oldest_first.push_back(number);
        }
        if kept.oldest_first.len() > PACKS_KEPT
            && let Some(oldest) = kept.oldest_first.pop_front()
        {
            kept.readers.remove(&oldest);
        }
        Ok(reader)
    }

    fn open(&self, number: u32, row: &Pack) -> Result<PackReader> {
        let name = PackName {
            vault: self.vault.name,
            kind: row.kind,
            number,
            rewrite: u32::try_from(row.rewrite).unwrap_or(0),
        };
        let length = u64::try_from(row.stored_bytes).unwrap_or(0);
        PackReader::open(&self.vault.store, name, length, &self.vault.keys)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.packs
            .lock()
            .expect("no panic while the trailers are locked")
    }

    /// The entries of all spans of a backup, in order.
    pub(crate) fn spans(&self, root: &Root) -> Result<Vec<SpanEntry>> {
        let count = usize::try_from(root.volume_bytes.div_ceil(root.span_bytes))
            .map_err(|_| Error::corrupt(format!("root of {}", root.backup.id), "too large"))?;
        let mut spans = Vec::new();
        match &root.tree {
            None => spans.resize(count, SpanEntry::Hole),
            Some(top) => {
                let level = root.levels.saturating_sub(1);
                self.descend(Some(top), level, count, &mut spans)?;
            }
        }
        match spans.len() == count {
            true => Ok(spans),
            false => Err(Error::corrupt(
                format!("manifest of backup {}", root.backup.id),
                "it does not cover the volume",
            )),
        }
    }

    fn descend(
        &self,
        node: Option<&ChunkRef>,
        level: u8,
        count: usize,
        spans: &mut Vec<SpanEntry>,
    ) -> Result<()> {
        let Some(node) = node else {
            // A subtree that is one hole: as long as its level says, but not beyond the volume.
            let width = crate::engine::format::NODE_CHILDREN
                .saturating_pow(u32::from(level) + 1)
                .min(count.saturating_sub(spans.len()));
            spans.resize(spans.len() + width, SpanEntry::Hole);
            return Ok(());
        };
        let bytes = self.chunk(node)?;
        let broken = || Error::corrupt(format!("a node in pack {:08x}", node.pack), "unreadable");
        if level == 0 {
            spans.extend(decode_span_node(&bytes).ok_or_else(broken)?);
        } else {
            for child in decode_inner_node(&bytes, level).ok_or_else(broken)? {
                self.descend(child.as_ref(), level - 1, count, spans)?;
            }
        }
        match spans.len() <= count {
            true => Ok(()),
            false => Err(broken()),
        }
    }
}

/// The first range worth reading at once, and how many of the chunks it holds.
fn coalesce(pack: &PackReader, chunks: &[ChunkRef]) -> Result<((u32, u32), usize)> {
    let first = pack.row(&chunks[0])?;
    let (start, mut end) = (first.offset, first.offset + first.stored_length);
    let mut count = 1;
    for chunk in &chunks[1..] {
        let row = pack.row(chunk)?;
        let next = row.offset.saturating_add(row.stored_length);
        if row.offset < end || row.offset - end > GAP_BYTES_MAX || next - start > RANGE_BYTES_MAX {
            break;
        }
        end = next;
        count += 1;
    }
    Ok(((start, end), count))
}
