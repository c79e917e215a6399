//! One restore: spans in parallel, each frame fetched once for a span, in long ranges, verified,
//! and written wherever the span has a slice of it. What is fetched and not written yet is bounded: where
//! the target is slow, threads wait before they fetch.
//!
//! If it is known where the target has changed since it held what the backup holds, only these parts are fetched and
//! written. That stays right if an earlier run was cut off, as its own writes are among the changes.

use crate::engine::budget::{Budget, Held};
use crate::engine::format::manifest::{Extent, FrameRef, Root, SpanEntry, decode_leaf};
use crate::engine::parallel::Failure;
use crate::engine::read::reader::{FrameReader, Scratch, ScratchBytes};
use crate::engine::read::tree::TreeReader;
use crate::engine::vault::Vault;
use crate::engine::{Error, Result};
use crate::model::error::chain;
use crate::model::progress::Progress;
use crate::volume::{Changes, Target, VolumeWriter};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A span whose pieces are shorter than this on average is put together in memory first.
const PIECE_BYTES_MIN: u64 = 32 << 10;

/// Bytes written between two looks whether the restore may still write.
const STEP_BYTES: usize = 64 << 10;
/// Bytes made zero between two such looks: one call where the target has holes.
const ZERO_BYTES: usize = 4 << 20;

/// What a restore has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Only what had changed since the backup was written.
    pub is_by_difference: bool,
}

/// Writes a backup to a volume that is at least as long. Whatever the target held is replaced, by
/// holes where the backup has holes, and up to its end. The result is durable on return.
pub fn run(vault: &Vault, root: &Root, target: &Target, progress: &Progress) -> Result<Restored> {
    let budget = Budget::new(vault.options.restore_bytes);
    run_within(&budget, vault, root, target, progress)
}

/// The same; what its threads have fetched and not written yet comes out of a budget.
pub(crate) fn run_within(
    budget: &Budget,
    vault: &Vault,
    root: &Root,
    target: &Target,
    progress: &Progress,
) -> Result<Restored> {
    let reader = FrameReader::new(vault);
    let tree = TreeReader::open(&reader, root)?;
    Progress::add(&progress.total, root.volume_bytes);
    let restore = |changes| Restore {
        reader: &reader,
        tree: &tree,
        root,
        writer: &target.writer,
        changes,
        are_changes_lost: AtomicBool::new(false),
        progress,
        budget,
        failure: Failure::default(),
    };
    let since = root.source_change_id.as_ref();
    let changes = target.changes.as_ref();
    if let Some(changes) = changes.filter(|changes| since == Some(&changes.since)) {
        let by_difference = restore(Some(changes));
        by_difference.pass()?;
        if by_difference.do_changes_hold(changes)? {
            by_difference.finish()?;
            return Ok(Restored {
                is_by_difference: true,
            });
        }
        tracing::warn!(backup.id = %root.backup.id, "what the volume held at the backup is not kept any more; the whole volume is written");
        progress.done.store(0, Ordering::Relaxed);
    }
    let whole = restore(None);
    whole.pass()?;
    whole.finish()?;
    Ok(Restored {
        is_by_difference: false,
    })
}

/// Where in the span a slice of a frame belongs.
struct SpanSlice {
    at: u64,
    slice: Range<usize>,
}

/// One restore, as its threads share it.
struct Restore<'r, 'a> {
    reader: &'r FrameReader<'a>,
    tree: &'r TreeReader<'r, 'a>,
    root: &'r Root,
    writer: &'r VolumeWriter,
    /// What is to be written. `None`: everything.
    changes: Option<&'r Changes>,
    /// Set when they could not be told.
    are_changes_lost: AtomicBool,
    progress: &'r Progress,
    budget: &'r Budget,
    failure: Failure,
}

/// Memory that one thread keeps from span to span, and its part of the budget.
#[derive(Default)]
struct Desk<'b> {
    scratch: Scratch,
    /// Where a span is put together.
    room: Vec<u8>,
    /// The most that these may take.
    scratch_bytes: ScratchBytes,
    room_bytes: u64,
    /// Dropped last, when the memory is free.
    held: Option<Held<'b>>,
}

impl<'b> Desk<'b> {
    /// Makes room for the next span. If it needs more than before, all is given back first: a thread that waits for
    /// memory holds none.
    fn prepare(
        &mut self,
        budget: &'b Budget,
        scratch_bytes: ScratchBytes,
        room_bytes: u64,
        check: impl Fn() -> Result<()>,
    ) -> Result<()> {
        if !self.scratch_bytes.holds(&scratch_bytes) || room_bytes > self.room_bytes {
            *self = Self::default();
            self.held = Some(budget.take(scratch_bytes.sum() + room_bytes, check)?);
            (self.scratch_bytes, self.room_bytes) = (scratch_bytes, room_bytes);
        } else if room_bytes == 0 && self.room_bytes > 0 {
            (self.room, self.room_bytes) = (Vec::new(), 0);
            if let Some(held) = &mut self.held {
                held.shrink(self.scratch_bytes.sum());
            }
        }
        Ok(())
    }

    /// Whether it has kept to its part.
    fn is_within(&self) -> bool {
        let room = self.room.capacity() as u64;
        self.scratch_bytes.holds(&self.scratch.bytes()) && room <= self.room_bytes
    }
}

impl<'r> Restore<'r, '_> {
    /// An error once the restore was asked to stop, or another thread of it has failed.
    fn check(&self) -> Result<()> {
        self.failure.check(self.progress)
    }

    /// Goes through all spans once; ends early if the changes cannot be told.
    fn pass(&self) -> Result<()> {
        let options = &self.reader.vault.options;
        // More threads than cores, so that some wait for the store while others work.
        let threads = options.threads.max(options.downloads);
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            let mut desk = Desk::default();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= self.tree.len() || self.are_changes_lost.load(Ordering::SeqCst) {
                    return Ok(());
                }
                self.check()?;
                let start = number as u64 * self.root.span_bytes;
                let end = (start + self.root.span_bytes).min(self.root.volume_bytes);
                let parts = self.differing(&(start..end))?;
                if !parts.is_empty()
                    && let Some(entry) = self.tree.span(number)?
                {
                    self.span(&mut desk, &entry, start..end, &parts)?;
                }
                Progress::add(&self.progress.done, end - start);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..threads.min(self.tree.len()) {
                scope.spawn(|| {
                    if let Err(error) = work() {
                        self.failure.record(error);
                    }
                });
            }
        });
        match self.failure.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// The parts of a span that the target may hold otherwise, ascending.
    fn differing(&self, span: &Range<u64>) -> Result<Vec<Range<u64>>> {
        let Some(changes) = self.changes else {
            return Ok(vec![span.clone()]);
        };
        let parts = match changes.within(span.clone()) {
            Ok(parts) => parts,
            // The whole volume would be no better.
            Err(error) if error.is_temporary() => return Err(error.into()),
            Err(error) => {
                if !self.are_changes_lost.swap(true, Ordering::SeqCst) {
                    let error = chain(&error);
                    tracing::warn!(backup.id = %self.root.backup.id, error, "it is not known what changed since the backup");
                }
                return Ok(Vec::new());
            }
        };
        let within = |part: Range<u64>| part.start.max(span.start)..part.end.min(span.end);
        let parts = parts.into_iter().map(within);
        Ok(parts.filter(|part| !part.is_empty()).collect())
    }

    /// Whether what was taken for the changes is all that changed. Asked when all of them are written: what they are
    /// counted from may have been removed meanwhile.
    fn do_changes_hold(&self, changes: &Changes) -> Result<bool> {
        Ok(!self.are_changes_lost.load(Ordering::SeqCst) && changes.hold()?)
    }

    /// What is behind the end of the backup becomes zero, and all is made durable.
    fn finish(&self) -> Result<()> {
        let end = self.root.volume_bytes;
        self.zero(end..self.writer.length().max(end))?;
        Ok(self.writer.sync()?)
    }

    /// Writes the parts of a span, which are ascending.
    fn span(
        &self,
        desk: &mut Desk<'r>,
        entry: &SpanEntry,
        span: Range<u64>,
        parts: &[Range<u64>],
    ) -> Result<()> {
        let SpanEntry::Leaf { leaf, .. } = entry else {
            return parts.iter().try_for_each(|part| self.zero(part.clone()));
        };
        let bytes = self.reader.frame(leaf)?;
        let extents = decode_leaf(&bytes, span.end - span.start).ok_or_else(|| {
            Error::corrupt(format!("a leaf in pack {:08x}", leaf.pack), "unreadable")
        })?;
        let mut targets: HashMap<FrameRef, Vec<SpanSlice>> = HashMap::new();
        let mut data: Vec<Range<u64>> = Vec::new();
        let mut count = 0;
        for (extent, piece) in pieces(&extents, &span, parts) {
            count += 1;
            match extent {
                Extent::Hole { .. } => {
                    self.zero(span.start + piece.at..span.start + piece.at + piece.length)?;
                }
                Extent::Slice { frame, offset, .. } => {
                    let (at, end) = (piece.at, piece.at + piece.length);
                    let start = (u64::from(*offset) + piece.skipped) as usize;
                    let slice = start..start + piece.length as usize;
                    targets
                        .entry(*frame)
                        .or_default()
                        .push(SpanSlice { at, slice });
                    match data.last_mut() {
                        Some(last) if last.end == at => last.end = end,
                        _ => data.push(at..end),
                    }
                }
            }
        }
        let is_assembled = count > (span.end - span.start) / PIECE_BYTES_MIN;
        drop(extents);
        let room_bytes = if is_assembled {
            span.end - span.start
        } else {
            0
        };
        let scratch_bytes = ScratchBytes::needed(targets.keys());
        desk.prepare(self.budget, scratch_bytes, room_bytes, || self.check())?;
        let restored = if is_assembled {
            self.assemble(desk, &span, &targets, &data)
        } else {
            self.frames(&mut desk.scratch, &targets, |at, bytes| {
                self.write(bytes, span.start + at)
            })
        };
        debug_assert!(desk.is_within(), "more is held than was taken");
        restored
    }

    /// Fetches frames and gives their slices, each with its offset in the span.
    fn frames(
        &self,
        scratch: &mut Scratch,
        targets: &HashMap<FrameRef, Vec<SpanSlice>>,
        mut give: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let wanted = targets.keys().copied();
        self.reader.frames(scratch, wanted, |frame, plain| {
            for SpanSlice { at, slice } in &targets[frame] {
                let bytes = plain.get(slice.clone()).ok_or_else(|| {
                    let object = format!("a leaf that names pack {:08x}", frame.pack);
                    Error::corrupt(object, "a slice lies outside its frame")
                })?;
                Progress::add(&self.progress.read, bytes.len() as u64);
                give(*at, bytes)?;
            }
            Ok(())
        })
    }

    /// Puts a span together in memory and writes it in long pieces: a write of each small piece would
    /// cost more than all the rest. One thread does both, as memory that another core has just
    /// written is slow to read.
    fn assemble(
        &self,
        desk: &mut Desk<'_>,
        span: &Range<u64>,
        targets: &HashMap<FrameRef, Vec<SpanSlice>>,
        data: &[Range<u64>],
    ) -> Result<()> {
        let Desk { scratch, room, .. } = desk;
        let length = (span.end - span.start) as usize;
        if room.len() < length {
            // Fresh memory is zero, and need not be touched for that.
            *room = vec![0; length];
        }
        self.frames(scratch, targets, |at, bytes| {
            room[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
            Ok(())
        })?;
        data.iter().try_for_each(|range| {
            let bytes = &room[range.start as usize..range.end as usize];
            self.write(bytes, span.start + range.start)
        })
    }

    /// Writes a piece, in steps: a run that was overtaken while it was halted, or while it fetched, writes
    /// at most what one step holds.
    fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        for (step, offset) in bytes.chunks(STEP_BYTES).zip((at..).step_by(STEP_BYTES)) {
            self.check()?;
            Progress::add(&self.progress.written, step.len() as u64);
            if self.reader.vault.options.restore_compares {
                self.writer.write_difference(step, offset)?;
            } else {
                self.writer.write_at(step, offset)?;
            }
        }
        Ok(())
    }

    fn zero(&self, range: Range<u64>) -> Result<()> {
        for start in range.clone().step_by(ZERO_BYTES) {
            self.check()?;
            let end = range.end.min(start + ZERO_BYTES as u64);
            self.writer.zero(start..end)?;
        }
        Ok(())
    }
}

/// A part of an extent that is written.
struct Piece {
    /// Where it begins in the span.
    at: u64,
    /// Bytes of the extent before it.
    skipped: u64,
    length: u64,
}

/// What some parts of a span, ascending, take of its extents.
fn pieces<'e>(
    extents: &'e [Extent],
    span: &Range<u64>,
    parts: &[Range<u64>],
) -> impl Iterator<Item = (&'e Extent, Piece)> {
    let (mut next, mut start) = (0, span.start);
    extents.iter().flat_map(move |extent| {
        let end = start + u64::from(extent.length());
        let mut found = Vec::new();
        while let Some(part) = parts.get(next) {
            let from = part.start.max(start);
            let length = part.end.min(end).saturating_sub(from);
            if length > 0 {
                let (at, skipped) = (from - span.start, from - start);
                let piece = Piece {
                    at,
                    skipped,
                    length,
                };
                found.push((extent, piece));
            }
            // It goes on in the next extent.
            if part.end > end {
                break;
            }
            next += 1;
        }
        start = end;
        found
    })
}
