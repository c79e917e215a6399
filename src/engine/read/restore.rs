//! One restore: spans in parallel, each frame fetched once for a span, in long ranges, verified,
//! and written wherever the span has a slice of it. What is fetched and not written yet is bounded: where
//! the target is slow, threads wait before they fetch.

use crate::engine::budget::{Budget, Held};
use crate::engine::format::manifest::{Extent, FrameRef, Root, SpanEntry, decode_leaf};
use crate::engine::parallel::Failure;
use crate::engine::read::reader::{FrameReader, Scratch, ScratchBytes};
use crate::engine::read::tree::TreeReader;
use crate::engine::vault::Vault;
use crate::engine::{Error, Result};
use crate::model::progress::Progress;
use crate::volume::VolumeWriter;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A span whose pieces are shorter than this on average is put together in memory first.
const PIECE_BYTES_MIN: u64 = 32 << 10;

/// Bytes written between two looks whether the restore may still write.
const STEP_BYTES: usize = 64 << 10;
/// Bytes made zero between two such looks: one call where the target has holes.
const ZERO_BYTES: usize = 4 << 20;

/// Writes a backup to a volume that is at least as long. Whatever the target held is replaced, by
/// holes where the backup has holes, and up to its end. The result is durable on return.
pub fn run(vault: &Vault, root: &Root, writer: &VolumeWriter, progress: &Progress) -> Result<()> {
    let budget = Budget::new(vault.options.restore_bytes);
    run_within(&budget, vault, root, writer, progress)
}

/// The same; what its threads have fetched and not written yet comes out of a budget.
pub(crate) fn run_within(
    budget: &Budget,
    vault: &Vault,
    root: &Root,
    writer: &VolumeWriter,
    progress: &Progress,
) -> Result<()> {
    let reader = FrameReader::new(vault);
    let tree = TreeReader::open(&reader, root)?;
    Progress::add(&progress.total, root.volume_bytes);
    // More threads than cores, so that some wait for the store while others work.
    let threads = vault.options.threads.max(vault.options.downloads);
    let restore = Restore {
        reader: &reader,
        writer,
        progress,
        budget,
        failure: Failure::default(),
    };
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        let mut desk = Desk::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(entry) = tree.span(number)? else {
                return Ok(());
            };
            restore.check()?;
            let start = number as u64 * root.span_bytes;
            let end = (start + root.span_bytes).min(root.volume_bytes);
            restore.span(&mut desk, &entry, start..end)?;
            Progress::add(&progress.done, end - start);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.min(tree.len()) {
            scope.spawn(|| {
                if let Err(error) = work() {
                    restore.failure.record(error);
                }
            });
        }
    });
    if let Some(error) = restore.failure.take() {
        return Err(error);
    }
    restore.zero(root.volume_bytes..writer.length().max(root.volume_bytes))?;
    Ok(writer.sync()?)
}

/// Where in the span a slice of a frame belongs.
struct Target {
    at: u64,
    slice: Range<usize>,
}

/// One restore, as its threads share it.
struct Restore<'r, 'a> {
    reader: &'r FrameReader<'a>,
    writer: &'r VolumeWriter,
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

    fn span(&self, desk: &mut Desk<'r>, entry: &SpanEntry, span: Range<u64>) -> Result<()> {
        let SpanEntry::Leaf { leaf, .. } = entry else {
            return self.zero(span);
        };
        let bytes = self.reader.frame(leaf)?;
        let extents = decode_leaf(&bytes, span.end - span.start).ok_or_else(|| {
            Error::corrupt(format!("a leaf in pack {:08x}", leaf.pack), "unreadable")
        })?;
        let mut targets: HashMap<FrameRef, Vec<Target>> = HashMap::new();
        let mut data: Vec<Range<u64>> = Vec::new();
        let mut at = 0;
        for extent in &extents {
            let end = at + u64::from(extent.length());
            match extent {
                Extent::Hole { .. } => self.zero(span.start + at..span.start + end)?,
                Extent::Slice {
                    length,
                    frame,
                    offset,
                } => {
                    let slice = *offset as usize..(*offset + *length) as usize;
                    targets
                        .entry(*frame)
                        .or_default()
                        .push(Target { at, slice });
                    match data.last_mut() {
                        Some(last) if last.end == at => last.end = end,
                        _ => data.push(at..end),
                    }
                }
            }
            at = end;
        }
        let is_assembled = extents.len() as u64 > (span.end - span.start) / PIECE_BYTES_MIN;
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
        targets: &HashMap<FrameRef, Vec<Target>>,
        mut give: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let wanted = targets.keys().copied();
        self.reader.frames(scratch, wanted, |frame, plain| {
            for Target { at, slice } in &targets[frame] {
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
        targets: &HashMap<FrameRef, Vec<Target>>,
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
