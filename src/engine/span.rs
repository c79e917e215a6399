//! One span of a backup: the parent's leaf again if nothing changed, else cut, looked up, stored,
//! and listed in a new leaf.

use crate::engine::backup::{Job, unless_damaged};
use crate::engine::codec::Encoder;
use crate::engine::format::{BLOCK_BYTES, ChunkKind};
use crate::engine::manifest::{
    ChunkId, ChunkRef, Extent, SpanEntry, SumsRef, decode_leaf, encode_leaf,
};
use crate::engine::packer::NewChunk;
use crate::engine::sums::{self, ZERO_SUM};
use crate::engine::{Result, check};
use crate::model::progress::Progress;
use crate::volume::file::VolumeReader;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

/// Bytes read at once.
const PIECE_BYTES: usize = 1 << 20;
/// Plain bytes that are cut, looked up and appended together.
const BATCH_BYTES: usize = 4 << 20;

/// Writes the spans one thread takes, one after the other.
pub(super) struct SpanWriter<'j, 'a, 's> {
    job: &'j Job<'a, 's>,
    encoder: Encoder,
    piece: Vec<u8>,
    staged: Staged,
    extents: Vec<Extent>,
    sums: Vec<u64>,
    /// Chunks of the parent's leaf of this span.
    inherited: HashMap<[u8; 16], ChunkRef>,
}

/// Data and holes of a span that are not cut yet, in order.
#[derive(Default)]
struct Staged {
    bytes: Vec<u8>,
    runs: Vec<Run>,
}

enum Run {
    Hole(u64),
    Data(usize),
}

impl Staged {
    fn push_data(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        match self.runs.last_mut() {
            Some(Run::Data(length)) => *length += bytes.len(),
            _ => self.runs.push(Run::Data(bytes.len())),
        }
    }

    fn push_zeros(&mut self, count: usize) {
        self.bytes.resize(self.bytes.len() + count, 0);
        match self.runs.last_mut() {
            Some(Run::Data(length)) => *length += count,
            _ => self.runs.push(Run::Data(count)),
        }
    }

    fn push_hole(&mut self, count: u64) {
        self.runs.push(Run::Hole(count));
    }
}

impl<'j, 'a, 's> SpanWriter<'j, 'a, 's> {
    pub(super) fn new(job: &'j Job<'a, 's>) -> Self {
        Self {
            job,
            encoder: job.session.vault.encoder(),
            piece: vec![0; PIECE_BYTES],
            staged: Staged::default(),
            extents: Vec::new(),
            sums: Vec::new(),
            inherited: HashMap::new(),
        }
    }

    /// One span: the parent's entry if nothing changed, else a new leaf.
    pub(super) fn write(&mut self, number: usize, span: Range<u64>) -> Result<SpanEntry> {
        let inherited = self.job.parent.as_ref().and_then(|parent| {
            let end = (span.start + parent.span_bytes).min(parent.volume_bytes);
            parent.spans.get(number).filter(|_| end == span.end)
        });
        let parent_sums = match inherited {
            Some(entry) => self.parent_sums(entry, span.end - span.start)?,
            None => None,
        };
        if let (Some(entry), Some(parent_sums)) = (inherited, &parent_sums)
            && self.is_unchanged(&span, parent_sums)?
        {
            if let SpanEntry::Leaf { data_bytes, .. } = entry {
                Progress::add(
                    &self.job.session.progress.deduplicated,
                    (*data_bytes).into(),
                );
            }
            return Ok(entry.clone());
        }
        self.inherit(inherited, span.end - span.start)?;
        self.chunk_span(&span)?;
        self.entry(inherited, parent_sums)
    }

    /// The sums of the parent's span. Derived data: unreadable ones are as good as none.
    fn parent_sums(&self, entry: &SpanEntry, span_bytes: u64) -> Result<Option<Vec<u64>>> {
        let blocks = sums::blocks_in(span_bytes);
        let SpanEntry::Leaf { sums, .. } = entry else {
            return Ok(Some(vec![ZERO_SUM; blocks]));
        };
        let (Some(refs), Some(parent)) = (sums, &self.job.parent) else {
            return Ok(None);
        };
        let session = self.job.session;
        let read = |chunk: &ChunkRef| unless_damaged(session, parent.reader.chunk(chunk));
        let Some(mut sums) = read(&refs.base)?.and_then(|bytes| sums::decode_full(&bytes, blocks))
        else {
            return Ok(None);
        };
        if let Some(patch) = &refs.patch {
            let applied = read(patch)?.and_then(|bytes| sums::apply_patch(&mut sums, &bytes));
            if applied.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(sums))
    }

    /// Reads the span until a block differs from its parent's.
    fn is_unchanged(&mut self, span: &Range<u64>, parent_sums: &[u64]) -> Result<bool> {
        let mut expected = parent_sums.iter();
        let mut at = span.start;
        let secret = &self.job.session.vault.keys.sums;
        while at < span.end {
            let data = next_data(self.job.reader, at..span.end);
            let gap = sums::blocks_in(data.start - at);
            if !expected.by_ref().take(gap).all(|sum| *sum == ZERO_SUM) {
                return Ok(false);
            }
            at = data.start;
            while at < data.end {
                let piece = read_piece(self.job, &mut self.piece, at..data.end)?;
                let mut blocks = piece.chunks(BLOCK_BYTES);
                if !blocks.all(|block| expected.next() == Some(&block_sum(secret, block))) {
                    return Ok(false);
                }
                at += piece.len() as u64;
            }
        }
        Ok(true)
    }

    /// Makes the parent's chunks of this span known, which costs the index no look-up.
    fn inherit(&mut self, entry: Option<&SpanEntry>, span_bytes: u64) -> Result<()> {
        self.inherited.clear();
        let (Some(SpanEntry::Leaf { leaf, .. }), Some(parent)) = (entry, &self.job.parent) else {
            return Ok(());
        };
        let Some(bytes) = unless_damaged(self.job.session, parent.reader.chunk(leaf))? else {
            return Ok(());
        };
        for extent in decode_leaf(&bytes, span_bytes).unwrap_or_default() {
            if let Extent::Slice { chunk, .. } = extent {
                self.inherited.insert(chunk.id, chunk);
            }
        }
        Ok(())
    }

    /// Reads the span, cuts it, and stores what is new: fills `extents` and `sums`.
    fn chunk_span(&mut self, span: &Range<u64>) -> Result<()> {
        self.extents.clear();
        self.sums.clear();
        let mut zeros = 0;
        let mut at = span.start;
        while at < span.end {
            let data = next_data(self.job.reader, at..span.end);
            let gap = data.start - at;
            self.sums
                .resize(self.sums.len() + sums::blocks_in(gap), ZERO_SUM);
            zeros += gap;
            at = data.start;
            while at < data.end {
                let mut piece = std::mem::take(&mut self.piece);
                let length = read_piece(self.job, &mut piece, at..data.end)?.len();
                for block in piece[..length].chunks(BLOCK_BYTES) {
                    self.stage(block, &mut zeros);
                }
                self.piece = piece;
                at += length as u64;
                if self.staged.bytes.len() >= BATCH_BYTES {
                    self.flush(false)?;
                }
            }
        }
        self.stage_zeros(&mut zeros);
        self.flush(true)
    }

    fn stage(&mut self, block: &[u8], zeros: &mut u64) {
        let sum = block_sum(&self.job.session.vault.keys.sums, block);
        self.sums.push(sum);
        if sum == ZERO_SUM {
            *zeros += block.len() as u64;
        } else {
            self.stage_zeros(zeros);
            self.staged.push_data(block);
        }
    }

    /// A long run of zeros is a hole, a short one is data like any other.
    fn stage_zeros(&mut self, zeros: &mut u64) {
        let count = std::mem::take(zeros);
        if count >= self.job.session.vault.parameters.hole_bytes {
            self.staged.push_hole(count);
        } else if count > 0 {
            self.staged.push_zeros(count as usize);
        }
    }

    /// Cuts what is staged into chunks and stores the new ones. Before the span's end the tail of
    /// an unfinished run stays staged.
    fn flush(&mut self, is_end: bool) -> Result<()> {
        check(self.job.session.progress)?;
        let staged = std::mem::take(&mut self.staged);
        let last = staged.runs.len().saturating_sub(1);
        let mut pieces = Vec::new();
        let mut start = 0;
        for (position, run) in staged.runs.iter().enumerate() {
            match run {
                Run::Hole(length) => pieces.push(Piece::Hole(*length)),
                Run::Data(length) => {
                    let is_open = position == last && !is_end;
                    let cut = self
                        .job
                        .cutter
                        .cut(&staged.bytes[start..start + length], !is_open);
                    let done = cut.last().map_or(0, |range| range.end);
                    pieces.extend(
                        cut.into_iter()
                            .map(|range| Piece::Chunk(start + range.start..start + range.end)),
                    );
                    if done < *length {
                        self.staged
                            .push_data(&staged.bytes[start + done..start + length]);
                    }
                    start += length;
                }
            }
        }
        self.store(&staged.bytes, pieces)
    }

    /// Decides "new or known" for a batch, stores the new, and appends the extents.
    fn store(&mut self, bytes: &[u8], pieces: Vec<Piece>) -> Result<()> {
        let session = self.job.session;
        let ids: Vec<Option<ChunkId>> = pieces
            .iter()
            .map(|piece| match piece {
                Piece::Hole(_) => None,
                Piece::Chunk(range) => {
                    Some(ChunkId::of(&session.vault.keys.id, &bytes[range.clone()]))
                }
            })
            .collect();
        let mut places: HashMap<ChunkId, ChunkRef> = ids
            .iter()
            .flatten()
            .filter_map(|id| Some((*id, *self.inherited.get(&id.short())?)))
            .collect();
        let asked: Vec<ChunkId> = ids
            .iter()
            .flatten()
            .filter(|id| !places.contains_key(id))
            .copied()
            .collect();
        if !asked.is_empty() {
            places.extend(session.index.known(&asked)?);
        }
        let mut fresh = Vec::new();
        let mut fresh_ids = BTreeSet::new();
        for (piece, id) in pieces.iter().zip(&ids) {
            let (Piece::Chunk(range), Some(id)) = (piece, id) else {
                continue;
            };
            if places.contains_key(id) || !fresh_ids.insert(*id) {
                Progress::add(&session.progress.deduplicated, range.len() as u64);
                continue;
            }
            fresh.push(NewChunk {
                id: *id,
                kind: ChunkKind::Data,
                plain_length: range.len() as u32,
                encoded: self.encoder.encode(&bytes[range.clone()]),
            });
        }
        if !fresh.is_empty() {
            let ids: Vec<ChunkId> = fresh.iter().map(|chunk| chunk.id).collect();
            places.extend(ids.into_iter().zip(self.job.data.append(fresh)?));
        }
        for (piece, id) in pieces.iter().zip(&ids) {
            let extent = match (piece, id) {
                (Piece::Chunk(range), Some(id)) => Extent::Slice {
                    length: range.len() as u32,
                    chunk: places[id],
                    offset: 0,
                },
                (Piece::Hole(length), _) => Extent::Hole {
                    length: *length as u32,
                },
                (Piece::Chunk(_), None) => unreachable!("every chunk has an id"),
            };
            self.extents.push(extent);
        }
        Ok(())
    }

    /// The entry of the span just read.
    fn entry(
        &self,
        inherited: Option<&SpanEntry>,
        parent_sums: Option<Vec<u64>>,
    ) -> Result<SpanEntry> {
        let mut packs = BTreeSet::new();
        let mut data_bytes = 0;
        for extent in &self.extents {
            if let Extent::Slice { length, chunk, .. } = extent {
                packs.insert(chunk.pack);
                data_bytes += length;
            }
        }
        if data_bytes == 0 {
            return Ok(SpanEntry::Hole);
        }
        let base = match inherited {
            Some(SpanEntry::Leaf {
                sums: Some(sums), ..
            }) => Some(*sums),
            _ => None,
        };
        Ok(SpanEntry::Leaf {
            leaf: self
                .job
                .put_meta(ChunkKind::Leaf, &encode_leaf(&self.extents))?,
            data_bytes,
            sums: Some(self.put_sums(base, parent_sums)?),
            packs: packs.into_iter().collect(),
        })
    }

    /// Stores the sums: as a patch over the parent's full ones where that is much shorter.
    fn put_sums(&self, base: Option<SumsRef>, parent_sums: Option<Vec<u64>>) -> Result<SumsRef> {
        // A patch is always over full sums, so only a parent without a patch lends its own at once.
        let base_sums = match (base, parent_sums, &self.job.parent) {
            (Some(SumsRef { base, patch: None }), Some(sums), _) => Some((base, sums)),
            (Some(SumsRef { base, .. }), Some(_), Some(parent)) => {
                unless_damaged(self.job.session, parent.reader.chunk(&base))?
                    .and_then(|bytes| sums::decode_full(&bytes, self.sums.len()))
                    .map(|sums| (base, sums))
            }
            _ => None,
        };
        if let Some((base, base_sums)) = base_sums
            && let Some(patch) = sums::encode_patch(&base_sums, &self.sums)
        {
            let patch = self.job.put_meta(ChunkKind::Sums, &patch)?;
            return Ok(SumsRef {
                base,
                patch: Some(patch),
            });
        }
        let base = self
            .job
            .put_meta(ChunkKind::Sums, &sums::encode_full(&self.sums))?;
        Ok(SumsRef { base, patch: None })
    }
}

enum Piece {
    Hole(u64),
    Chunk(Range<usize>),
}

fn block_sum(secret: &[u8; 192], block: &[u8]) -> u64 {
    match sums::is_zero(block) {
        true => ZERO_SUM,
        false => sums::of_block(secret, block),
    }
}

/// The next data, widened to whole blocks; an empty range at the end if there is none.
fn next_data(reader: &VolumeReader, range: Range<u64>) -> Range<u64> {
    let block = BLOCK_BYTES as u64;
    match reader.next_data(range.clone()) {
        None => range.end..range.end,
        Some(data) => {
            (data.start / block * block).max(range.start)
                ..data.end.next_multiple_of(block).min(range.end)
        }
    }
}

fn read_piece<'b>(job: &Job<'_, '_>, buffer: &'b mut [u8], range: Range<u64>) -> Result<&'b [u8]> {
    let length = (range.end - range.start).min(buffer.len() as u64) as usize;
    let piece = &mut buffer[..length];
    job.reader.read_at(piece, range.start)?;
    Progress::add(&job.session.progress.read, length as u64);
    Ok(piece)
}
