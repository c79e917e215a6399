//! One restore: spans in parallel, each frame fetched once for a span, in long ranges, verified,
//! and written wherever the span has a slice of it.

use crate::engine::manifest::{Extent, FrameRef, Root, SpanEntry, decode_leaf};
use crate::engine::parallel::Failure;
use crate::engine::reader::FrameReader;
use crate::engine::tree::TreeReader;
use crate::engine::vault::Vault;
use crate::engine::{Error, Result};
use crate::model::progress::Progress;
use crate::volume::file::VolumeWriter;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

/// A span whose pieces are shorter than this on average is put together in memory first.
const PIECE_BYTES_MIN: u64 = 32 << 10;

/// Bytes written between two looks whether the restore may still write.
const STEP_BYTES: usize = 64 << 10;
/// Bytes made zero between two such looks: one call where the target has holes.
const ZERO_BYTES: usize = 4 << 20;

/// Writes a backup to a volume that is at least as long. Whatever the target held is replaced, by
/// holes where the backup has holes, and up to its end. The result is durable on return.
pub fn run(vault: &Vault, root: &Root, writer: &VolumeWriter, progress: &Progress) -> Result<()> {
    let reader = FrameReader::new(vault);
    let tree = TreeReader::open(&reader, root)?;
    Progress::add(&progress.total, root.volume_bytes);
    // More threads than cores, so that some wait for the store while others work.
    let threads = vault.options.threads.max(vault.options.downloads);
    let restore = Restore {
        reader: &reader,
        writer,
        progress,
        rooms: Rooms::new(vault.options.assemblies),
        failure: Failure::default(),
    };
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(entry) = tree.span(number)? else {
                return Ok(());
            };
            restore.check()?;
            let start = number as u64 * root.span_bytes;
            let end = (start + root.span_bytes).min(root.volume_bytes);
            restore.span(&entry, start..end)?;
            Progress::add(&progress.done, end - start);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.min(tree.len()) {
            scope.spawn(|| {
                if let Err(error) = work() {
                    restore.failure.set(error);
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
    rooms: Rooms,
    failure: Failure,
}

impl Restore<'_, '_> {
    /// An error once the restore was asked to stop, or another thread of it has failed.
    fn check(&self) -> Result<()> {
        self.failure.check(self.progress)
    }

    fn span(&self, entry: &SpanEntry, span: Range<u64>) -> Result<()> {
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
        match extents.len() as u64 > (span.end - span.start) / PIECE_BYTES_MIN {
            true => self.assemble(&span, &targets, &data),
            false => self.frames(targets.keys(), &targets, |at, bytes| {
                self.write(bytes, span.start + at)
            }),
        }
    }

    /// Fetches frames and gives their slices, each with its offset in the span.
    fn frames<'t>(
        &self,
        frames: impl Iterator<Item = &'t FrameRef>,
        targets: &HashMap<FrameRef, Vec<Target>>,
        mut give: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.reader.frames(frames.copied(), |frame, plain| {
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
        span: &Range<u64>,
        targets: &HashMap<FrameRef, Vec<Target>>,
        data: &[Range<u64>],
    ) -> Result<()> {
        let mut memory = self.rooms.take();
        let length = (span.end - span.start) as usize;
        memory.resize(length, 0);
        let room = memory.as_mut_slice();
        let assembled = self.frames(targets.keys(), targets, |at, bytes| {
            room[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
            Ok(())
        });
        let written = assembled.and_then(|()| {
            data.iter().try_for_each(|range| {
                let bytes = &room[range.start as usize..range.end as usize];
                self.write(bytes, span.start + range.start)
            })
        });
        self.rooms.give_back(memory);
        written
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

/// Memory in which spans are put together: only so many at once.
struct Rooms {
    free: Mutex<Vec<Vec<u8>>>,
    freed: Condvar,
}

impl Rooms {
    fn new(count: usize) -> Self {
        Self {
            free: Mutex::new(vec![Vec::new(); count]),
            freed: Condvar::new(),
        }
    }

    /// Waits for a room.
    fn take(&self) -> Vec<u8> {
        let mut free = self.free.lock().expect("no panic while it is locked");
        loop {
            match free.pop() {
                Some(room) => return room,
                None => free = self.freed.wait(free).expect("no panic while it is locked"),
            }
        }
    }

    fn give_back(&self, room: Vec<u8>) {
        self.free
            .lock()
            .expect("no panic while it is locked")
            .push(room);
        self.freed.notify_one();
    }
}
