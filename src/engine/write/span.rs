//! One span of a backup. Full and incremental backups take the same path: a block whose sum equals the parent's is
//! skipped, other blocks are staged, and the parent's extents are split around them. If nothing changed, the parent's
//! leaf is used again.

use crate::engine::Result;
use crate::engine::format::manifest::{
    Extent, FrameRef, SpanEntry, SumsRef, decode_leaf, encode_leaf,
};
use crate::engine::format::sums::{self, ZERO_SUM, whole_blocks};
use crate::engine::format::{BLOCK_BYTES, ChunkKind};
use crate::engine::write::parent::unless_damaged;
use crate::engine::write::shared::BackupRun;
use crate::engine::write::splice::{scattered, splice};
use crate::engine::write::stage::Stage;
use crate::model::progress::Progress;
use crate::volume::VolumeReader;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::Ordering;

/// Bytes read at once.
const PIECE_BYTES: usize = 256 << 10;
/// Blocks of a sampled span that are compared although they were reported as unchanged.
const SAMPLED_BLOCKS: u64 = 8;

/// Writes the spans one thread takes, one after the other.
pub(super) struct SpanWriter<'j, 'a, 's> {
    job: &'j BackupRun<'a, 's>,
    stage: Stage<'j, 'a, 's>,
    piece: Vec<u8>,
    span_bytes: u64,
    /// Sums of the span's blocks: at first the parent's, then those of the blocks that were read.
    sums: Vec<u64>,
    /// Blocks of zeros behind the open run. What follows decides whether they become data or a hole.
    zeros: Range<usize>,
}

/// The same span in the parent.
struct Before {
    entry: SpanEntry,
    /// The full sums that a patch can be over.
    base: Option<(FrameRef, Vec<u64>)>,
    sums: Vec<u64>,
}

impl<'j, 'a, 's> SpanWriter<'j, 'a, 's> {
    pub(super) fn new(job: &'j BackupRun<'a, 's>) -> Self {
        Self {
            job,
            stage: Stage::new(job),
            piece: vec![0; PIECE_BYTES],
            span_bytes: 0,
            sums: Vec::new(),
            zeros: 0..0,
        }
    }

    /// One span: the parent's entry if nothing changed, else a new leaf.
    pub(super) fn write(&mut self, number: usize, span: Range<u64>) -> Result<SpanEntry> {
        let inherited = self.job.inherited(number, &span)?;
        let reported = match &inherited {
            Some(_) => self.job.reported(&span),
            None => None,
        };
        if let (Some(entry), Some([])) = (&inherited, reported.as_deref())
            && !self.job.is_sampled(number)
        {
            return Ok(self.keep(entry));
        }
        let before = match &inherited {
            Some(entry) => self.before(entry, span.end - span.start)?,
            None => None,
        };
        let Some(before) = before else {
            return self.write_anew(&span);
        };
        let Some(ranges) = reported else {
            return self.write_changes(&span, std::slice::from_ref(&span), &before);
        };
        if self.job.is_sampled(number) && !self.is_true(number, &span, &ranges, &before.sums)? {
            // All spans will be read again, so the value does not matter.
            self.job.source_disproved.store(true, Ordering::SeqCst);
            return Ok(SpanEntry::Hole);
        }
        self.write_changes(&span, &ranges, &before)
    }

    fn keep(&self, entry: &SpanEntry) -> SpanEntry {
        if let SpanEntry::Leaf { data_bytes, .. } = entry {
            let counter = &self.job.session.progress.deduplicated;
            Progress::add(counter, (*data_bytes).into());
        }
        entry.clone()
    }

    /// The sums of the parent's span. Derived data: unreadable ones are as good as none.
    fn before(&self, entry: &SpanEntry, span_bytes: u64) -> Result<Option<Before>> {
        let blocks = sums::blocks_in(span_bytes);
        let SpanEntry::Leaf { sums: refs, .. } = entry else {
            return Ok(Some(Before {
                entry: entry.clone(),
                base: None,
                sums: vec![ZERO_SUM; blocks],
            }));
        };
        let (Some(refs), Some(parent)) = (refs, &self.job.parent) else {
            return Ok(None);
        };
        let session = self.job.session;
        let read = |frame: &FrameRef| unless_damaged(session, parent.reader.frame(frame));
        let Some(base) = read(&refs.base)?.and_then(|bytes| sums::decode_full(&bytes, blocks))
        else {
            return Ok(None);
        };
        let mut sums = base.clone();
        if let Some(patch) = &refs.patch {
            let applied = read(patch)?.and_then(|bytes| sums::apply_patch(&mut sums, &bytes));
            if applied.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(Before {
            entry: entry.clone(),
            base: Some((refs.base, base)),
            sums,
        }))
    }

    /// Compares a sample of the blocks that the source reported as unchanged.
    fn is_true(
        &mut self,
        number: usize,
        span: &Range<u64>,
        reported: &[Range<u64>],
        sums: &[u64],
    ) -> Result<bool> {
        let count = sums.len() as u64;
        let sampled: Vec<u64> = if self.job.session.vault.options.paranoid {
            (0..count).collect()
        } else {
            (0..SAMPLED_BLOCKS)
                .map(|turn| self.job.random(number, turn) % count)
                .collect()
        };
        let secret = &self.job.session.vault.keys.sums;
        for block in sampled {
            let start = span.start + block * BLOCK_BYTES as u64;
            let range = start..(start + BLOCK_BYTES as u64).min(span.end);
            if reported.iter().any(|changed| changed.contains(&start)) {
                continue;
            }
            let bytes = read_piece(self.job, &mut self.piece, range)?;
            if sums::of(secret, bytes) != sums[block as usize] {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes a span as if there were no parent.
    fn write_anew(&mut self, span: &Range<u64>) -> Result<SpanEntry> {
        let length = span.end - span.start;
        let before = Before {
            entry: SpanEntry::Hole,
            base: None,
            sums: vec![ZERO_SUM; sums::blocks_in(length)],
        };
        self.write_changes(span, std::slice::from_ref(span), &before)
    }

    /// Reads the ranges, stores what differs, and splices it into the parent's extents.
    fn write_changes(
        &mut self,
        span: &Range<u64>,
        ranges: &[Range<u64>],
        before: &Before,
    ) -> Result<SpanEntry> {
        let has_parent = matches!(before.entry, SpanEntry::Leaf { .. });
        self.stage.begin(has_parent);
        self.span_bytes = span.end - span.start;
        self.sums.clone_from(&before.sums);
        for range in ranges {
            self.compare(span, range)?;
        }
        let (changes, fresh_bytes) = self.stage.finish()?;
        if changes.is_empty() {
            return Ok(self.keep(&before.entry));
        }
        let Some(parent) = self.parent_extents(&before.entry, span.end - span.start)? else {
            return self.write_anew(span);
        };
        let mut extents = splice(&parent, &changes);
        if has_parent {
            let scattered = scattered(&extents, fresh_bytes);
            if !scattered.is_empty() {
                self.store_again(span, &scattered)?;
                extents = splice(&extents, &self.stage.finish()?.0);
            }
        }
        self.entry(&extents, fresh_bytes, before)
    }

    fn parent_extents(&self, entry: &SpanEntry, span_bytes: u64) -> Result<Option<Vec<Extent>>> {
        let (SpanEntry::Leaf { leaf, .. }, Some(parent)) = (entry, &self.job.parent) else {
            let length = u32::try_from(span_bytes).expect("a span is small");
            return Ok(Some(vec![Extent::Hole { length }]));
        };
        let bytes = unless_damaged(self.job.session, parent.reader.frame(leaf))?;
        Ok(bytes.and_then(|bytes| decode_leaf(&bytes, span_bytes)))
    }

    /// Reads a range and stages what differs from the sums.
    fn compare(&mut self, span: &Range<u64>, range: &Range<u64>) -> Result<()> {
        let block_of = |offset: u64| sums::blocks_in(offset - span.start);
        let mut piece = std::mem::take(&mut self.piece);
        let mut at = range.start;
        while at < range.end {
            let data = next_data(&self.job.source.reader, at..range.end)?;
            self.zero_blocks(block_of(at)..block_of(data.start))?;
            at = data.start;
            while at < data.end {
                let bytes = read_piece(self.job, &mut piece, at..data.end)?;
                for (index, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
                    self.block(block_of(at) + index, block)?;
                }
                at += bytes.len() as u64;
            }
        }
        self.piece = piece;
        self.settle_zeros()
    }

    fn block(&mut self, index: usize, bytes: &[u8]) -> Result<()> {
        let sum = sums::of(&self.job.session.vault.keys.sums, bytes);
        if sum == ZERO_SUM {
            self.zero_blocks(index..index + 1)
        } else if sum == self.sums[index] {
            self.settle_zeros()
        } else {
            self.fresh(index, bytes, sum)
        }
    }

    fn fresh(&mut self, index: usize, bytes: &[u8], sum: u64) -> Result<()> {
        let start = offset_of(index);
        if !self.zeros.is_empty() {
            // A few zeros within a run are data, as they were when the run was first cut: so equal data gives equal
            // chunks.
            let zeros = std::mem::take(&mut self.zeros);
            self.stage
                .push_zeros(offset_of(zeros.start), zeros.len() * BLOCK_BYTES)?;
            self.sums[zeros].fill(ZERO_SUM);
        }
        self.sums[index] = sum;
        self.stage.push(start, bytes)
    }

    /// Blocks that are zeros.
    fn zero_blocks(&mut self, blocks: Range<usize>) -> Result<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        if self.zeros.is_empty() {
            self.zeros = blocks
        } else {
            self.zeros.end = blocks.end
        }
        let bytes = (self.zeros.len() * BLOCK_BYTES) as u64;
        let is_hole = bytes >= self.job.session.vault.parameters.hole_bytes
            || !self.stage.continues_at(offset_of(self.zeros.start));
        if is_hole { self.settle_zeros() } else { Ok(()) }
    }

    /// Ends the run. Zeros behind it become holes where the parent has data.
    fn settle_zeros(&mut self) -> Result<()> {
        self.stage.end_run()?;
        let zeros = std::mem::take(&mut self.zeros);
        let mut start = zeros.start;
        while start < zeros.end {
            let was_zero = self.sums[start] == ZERO_SUM;
            let same = self.sums[start..zeros.end]
                .iter()
                .take_while(|sum| (**sum == ZERO_SUM) == was_zero)
                .count();
            if !was_zero {
                let end = ((start + same) * BLOCK_BYTES).min(self.span_bytes as usize);
                self.stage
                    .hole(offset_of(start), end as u32 - offset_of(start));
                self.sums[start..start + same].fill(ZERO_SUM);
            }
            start += same;
        }
        Ok(())
    }

    /// Stages ranges again although they did not change, so that they lie together.
    fn store_again(&mut self, span: &Range<u64>, ranges: &[Range<u32>]) -> Result<()> {
        self.stage.begin_again();
        let mut piece = std::mem::take(&mut self.piece);
        // Frames begin and end at any byte, but sums are of whole blocks.
        let ranges = ranges
            .iter()
            .map(|range| span.start + u64::from(range.start)..span.start + u64::from(range.end));
        for Range { start: mut at, end } in whole_blocks(ranges, span) {
            while at < end {
                let bytes = read_piece(self.job, &mut piece, at..end)?;
                for (index, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
                    let index = sums::blocks_in(at - span.start) + index;
                    let sum = sums::of(&self.job.session.vault.keys.sums, block);
                    self.sums[index] = sum;
                    self.stage.push(offset_of(index), block)?;
                }
                at += bytes.len() as u64;
            }
            self.stage.end_run()?;
        }
        self.piece = piece;
        Ok(())
    }

    /// The entry of the span just read.
    fn entry(&self, extents: &[Extent], fresh_bytes: u64, before: &Before) -> Result<SpanEntry> {
        let mut packs = BTreeSet::new();
        let mut data_bytes = 0;
        for extent in extents {
            if let Extent::Slice { length, frame, .. } = extent {
                packs.insert(frame.pack);
                data_bytes += length;
            }
        }
        if data_bytes == 0 {
            return Ok(SpanEntry::Hole);
        }
        let kept = u64::from(data_bytes).saturating_sub(fresh_bytes);
        Progress::add(&self.job.session.progress.deduplicated, kept);
        Ok(SpanEntry::Leaf {
            leaf: self.job.put_meta(ChunkKind::Leaf, &encode_leaf(extents))?,
            data_bytes,
            sums: Some(self.put_sums(before.base.as_ref())?),
            packs: packs.into_iter().collect(),
        })
    }

    /// Stores the sums: as a patch over the parent's full ones where that is much shorter.
    fn put_sums(&self, base: Option<&(FrameRef, Vec<u64>)>) -> Result<SumsRef> {
        if let Some((base, sums)) = base
            && let Some(patch) = sums::encode_patch(sums, &self.sums)
        {
            let patch = self.job.put_meta(ChunkKind::Sums, &patch)?;
            return Ok(SumsRef {
                base: *base,
                patch: Some(patch),
            });
        }
        let full = sums::encode_full(&self.sums);
        let base = self.job.put_meta(ChunkKind::Sums, &full)?;
        Ok(SumsRef { base, patch: None })
    }
}

fn offset_of(block: usize) -> u32 {
    u32::try_from(block * BLOCK_BYTES).expect("a span is small")
}

/// The next data, widened to whole blocks; an empty range at the end if there is none.
fn next_data(reader: &VolumeReader, range: Range<u64>) -> Result<Range<u64>> {
    let block = BLOCK_BYTES as u64;
    Ok(match reader.next_data(range.clone())? {
        None => range.end..range.end,
        Some(data) => {
            (data.start / block * block).max(range.start)
                ..data.end.next_multiple_of(block).min(range.end)
        }
    })
}

fn read_piece<'b>(
    job: &BackupRun<'_, '_>,
    buffer: &'b mut [u8],
    range: Range<u64>,
) -> Result<&'b [u8]> {
    let length = (range.end - range.start).min(buffer.len() as u64) as usize;
    let piece = &mut buffer[..length];
    job.source.reader.read_at(piece, range.start)?;
    Progress::add(&job.session.progress.read, length as u64);
    Ok(piece)
}
