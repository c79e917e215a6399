//! New data of a span: runs are cut into chunks, chunks are looked up, and the new ones are compressed together and
//! appended to a pack.

use crate::engine::Result;
use crate::engine::format::ChunkKind;
use crate::engine::format::codec::{Encoded, Encoder};
use crate::engine::format::manifest::{ChunkId, Extent};
use crate::engine::format::pack::NewFrame;
use crate::engine::format::row::ChunkRow;
use crate::engine::write::index::ChunkLocation;
use crate::engine::write::shared::BackupRun;
use crate::engine::write::splice::Change;
use crate::model::progress::Progress;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// Plain bytes that are cut, looked up and appended together.
const BATCH_BYTES: usize = 2 << 20;
/// The same for short runs, which are held in addition.
const SMALL_BATCH_BYTES: usize = 1 << 20;

/// The staged runs of one span, in the order of the volume.
pub(super) struct Stage<'j, 'a, 's> {
    job: &'j BackupRun<'a, 's>,
    encoder: Encoder<'j>,
    bytes: Vec<u8>,
    runs: Vec<Run>,
    /// Whether the last run may go on.
    is_open: bool,
    /// Whether short runs are gathered into common chunks. Between old data, a chunk for each would cost more than it
    /// could save.
    gathers: bool,
    /// Whether chunks are stored even if they are known.
    is_again: bool,
    small: Vec<u8>,
    small_runs: Vec<Run>,
    frame: Vec<u8>,
    changes: Vec<Change>,
    fresh_bytes: u64,
}

/// Data without a gap.
struct Run {
    start: u32,
    length: u32,
    /// Whether its beginning has been cut into chunks already.
    is_rest: bool,
}

/// A future chunk, and the parts of the span that it holds, one after the other.
struct Cut {
    range: Range<usize>,
    parts: Vec<(u32, u32)>,
}

impl<'j, 'a, 's> Stage<'j, 'a, 's> {
    pub(super) fn new(job: &'j BackupRun<'a, 's>) -> Self {
        Self {
            job,
            encoder: job.session.encoder(),
            bytes: Vec::new(),
            runs: Vec::new(),
            is_open: false,
            gathers: false,
            is_again: false,
            small: Vec::new(),
            small_runs: Vec::new(),
            frame: Vec::new(),
            changes: Vec::new(),
            fresh_bytes: 0,
        }
    }

    /// Begins a span.
    pub(super) fn begin(&mut self, gathers: bool) {
        self.bytes.clear();
        self.runs.clear();
        self.small.clear();
        self.small_runs.clear();
        self.changes.clear();
        (self.is_open, self.gathers, self.fresh_bytes) = (false, gathers, 0);
        self.is_again = false;
    }

    /// Begins to store data again that is stored already, so that it lies together from now on.
    pub(super) fn begin_again(&mut self) {
        self.is_again = true;
    }

    /// Whether the open run ends at this offset of the span.
    pub(super) fn continues_at(&self, start: u32) -> bool {
        let last = self.runs.last().filter(|_| self.is_open);
        last.is_some_and(|run| run.start + run.length == start)
    }

    /// Adds data at an offset of the span, behind all before.
    pub(super) fn push(&mut self, start: u32, bytes: &[u8]) -> Result<()> {
        self.extend(start, bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() >= BATCH_BYTES {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Adds zeros that are too few to be a hole.
    pub(super) fn push_zeros(&mut self, start: u32, count: usize) -> Result<()> {
        self.extend(start, count)?;
        self.bytes.resize(self.bytes.len() + count, 0);
        Ok(())
    }

    fn extend(&mut self, start: u32, count: usize) -> Result<()> {
        if !self.continues_at(start) {
            self.end_run()?;
            self.runs.push(Run {
                start,
                length: 0,
                is_rest: false,
            });
            self.is_open = true;
        }
        if let Some(run) = self.runs.last_mut() {
            run.length += count as u32;
        }
        Ok(())
    }

    /// Notes a hole.
    pub(super) fn hole(&mut self, start: u32, length: u32) {
        self.changes.push(Change {
            start,
            extent: Extent::Hole { length },
        });
    }

    /// Ends the run: what comes next does not belong to it.
    pub(super) fn end_run(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.is_open) {
            return Ok(());
        }
        let min = self.job.session.vault.parameters.chunk_min();
        let is_short = |run: &Run| !run.is_rest && run.length < min;
        if let Some(run) = self.runs.pop_if(|run| self.gathers && is_short(run)) {
            let kept = self.bytes.len() - run.length as usize;
            self.small.extend_from_slice(&self.bytes[kept..]);
            self.bytes.truncate(kept);
            self.small_runs.push(run);
        }
        if self.small.len() >= SMALL_BATCH_BYTES {
            self.flush_small()
        } else {
            Ok(())
        }
    }

    /// Ends the span, or a part of it. Gives what changed, sorted, and how many of its bytes are not holes.
    pub(super) fn finish(&mut self) -> Result<(Vec<Change>, u64)> {
        self.end_run()?;
        self.flush()?;
        self.flush_small()?;
        let mut changes = std::mem::take(&mut self.changes);
        changes.sort_unstable_by_key(|change| change.start);
        Ok((changes, std::mem::take(&mut self.fresh_bytes)))
    }

    /// Cuts the staged data into chunks and stores the new ones. The tail of a run that may continue stays.
    fn flush(&mut self) -> Result<()> {
        self.job.session.check()?;
        let (mut bytes, runs) = (
            std::mem::take(&mut self.bytes),
            std::mem::take(&mut self.runs),
        );
        let mut cut = bytes.len();
        let last = runs.len().saturating_sub(1);
        let mut cuts = Vec::new();
        let mut at = 0;
        for (number, run) in runs.iter().enumerate() {
            let end = at + run.length as usize;
            let is_end = number < last || !self.is_open;
            let chunks = self.job.cutter.cut(&bytes[at..end], is_end);
            let done = chunks.last().map_or(0, |chunk| chunk.end);
            cuts.extend(chunks.into_iter().map(|chunk| Cut {
                parts: vec![(run.start + chunk.start as u32, chunk.len() as u32)],
                range: at + chunk.start..at + chunk.end,
            }));
            // Only of the last run, as all others have ended.
            if at + done < end {
                cut = at + done;
                self.runs.push(Run {
                    start: run.start + done as u32,
                    length: run.length - done as u32,
                    is_rest: run.is_rest || done > 0,
                });
            }
            at = end;
        }
        self.store(&bytes, cuts)?;
        bytes.drain(..cut);
        self.bytes = bytes;
        Ok(())
    }

    /// Stores what was gathered: whole runs, together about as long as chunks are.
    fn flush_small(&mut self) -> Result<()> {
        let (bytes, runs) = (
            std::mem::take(&mut self.small),
            std::mem::take(&mut self.small_runs),
        );
        let average = self.job.session.vault.parameters.chunk_average as usize;
        let mut cuts: Vec<Cut> = Vec::new();
        let mut at = 0;
        for run in runs {
            let end = at + run.length as usize;
            match cuts.last_mut() {
                Some(cut) if end - cut.range.start <= average => {
                    cut.range.end = end;
                    cut.parts.push((run.start, run.length));
                }
                _ => cuts.push(Cut {
                    range: at..end,
                    parts: vec![(run.start, run.length)],
                }),
            }
            at = end;
        }
        self.store(&bytes, cuts)
    }

    /// Decides "new or known" for a batch, stores the new, and notes where everything is.
    fn store(&mut self, bytes: &[u8], cuts: Vec<Cut>) -> Result<()> {
        if cuts.is_empty() {
            return Ok(());
        }
        let session = self.job.session;
        let ids: Vec<ChunkId> = cuts
            .iter()
            .map(|cut| ChunkId::of(&session.vault.keys.id, &bytes[cut.range.clone()]))
            .collect();
        let mut places = if self.is_again {
            HashMap::new()
        } else {
            session.index.known(&ids)?
        };
        let mut fresh = Vec::new();
        let mut seen = HashSet::new();
        for (id, cut) in ids.iter().zip(&cuts) {
            if places.contains_key(id) || !seen.insert(*id) {
                Progress::add(&session.progress.deduplicated, cut.range.len() as u64);
            } else {
                fresh.push((*id, cut.range.clone()));
            }
        }
        let frames = self.frames(bytes, &fresh);
        let stored = self.job.data.append(frames)?;
        places.extend(fresh.into_iter().map(|(id, _)| id).zip(stored));
        for (id, cut) in ids.iter().zip(cuts) {
            self.note(&places, id, cut.parts);
        }
        Ok(())
    }

    fn note(
        &mut self,
        places: &HashMap<ChunkId, ChunkLocation>,
        id: &ChunkId,
        parts: Vec<(u32, u32)>,
    ) {
        let ChunkLocation { frame, mut offset } = places[id];
        for (start, length) in parts {
            let extent = Extent::Slice {
                length,
                frame,
                offset,
            };
            self.changes.push(Change { start, extent });
            self.fresh_bytes += u64::from(length);
            offset += length;
        }
    }

    /// Groups new chunks into frames, in order, and compresses them.
    fn frames(&mut self, bytes: &[u8], fresh: &[(ChunkId, Range<usize>)]) -> Vec<NewFrame> {
        let limit = self.job.session.vault.parameters.frame_bytes() as usize;
        let mut frames = Vec::new();
        let mut rest = fresh;
        while !rest.is_empty() {
            let mut length = 0;
            let fits = rest.iter().take_while(|(_, range)| {
                length += range.len();
                length <= limit
            });
            let (group, after) = rest.split_at(fits.count().max(1));
            frames.push(NewFrame {
                chunks: group
                    .iter()
                    .map(|(id, range)| ChunkRow {
                        id: *id,
                        kind: ChunkKind::Data,
                        length: range.len() as u32,
                    })
                    .collect(),
                encoded: self.encode(bytes, group),
            });
            rest = after;
        }
        frames
    }

    fn encode(&mut self, bytes: &[u8], group: &[(ChunkId, Range<usize>)]) -> Encoded {
        let is_one_piece = group
            .windows(2)
            .all(|pair| pair[0].1.end == pair[1].1.start);
        if let (true, Some((_, first)), Some((_, last))) =
            (is_one_piece, group.first(), group.last())
        {
            return self.encoder.encode(&bytes[first.start..last.end]);
        }
        self.frame.clear();
        for (_, range) in group {
            self.frame.extend_from_slice(&bytes[range.clone()]);
        }
        self.encoder.encode(&self.frame)
    }
}
