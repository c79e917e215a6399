//! Reading frames back: pack trailers are kept, ranges are coalesced, everything is verified.

use crate::db;
use crate::engine::format::TAG_BYTES;
use crate::engine::format::manifest::FrameRef;
use crate::engine::format::pack::{PackReader, RANGE_BYTES_MAX};
use crate::engine::vault::{Vault, pack_name};
use crate::engine::{Error, Result};
use crate::model::pack::PackState;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

/// Memory for trailers that are kept: some 30 KiB each, but a pack of data that compresses extremely well
/// has one of megabytes.
const TRAILER_BYTES_KEPT: usize = 3 << 20;
/// Bytes between two wanted frames that are read rather than left out.
const GAP_BYTES_MAX: u32 = 64 << 10;

/// Reads frames of one vault. Shared by threads.
pub(crate) struct FrameReader<'a> {
    pub(crate) vault: &'a Vault,
    packs: Mutex<Kept>,
    kept_max: usize,
}

/// Trailers, with the memory they take.
#[derive(Default)]
struct Kept {
    readers: HashMap<u32, (Arc<PackReader>, usize)>,
    oldest_first: VecDeque<u32>,
    bytes: usize,
}

impl Kept {
    fn insert(&mut self, number: u32, reader: Arc<PackReader>, bytes_max: usize) {
        self.remove(number);
        let bytes = reader.memory_bytes();
        self.bytes += bytes;
        self.readers.insert(number, (reader, bytes));
        self.oldest_first.push_back(number);
        // The last one stays, however long it is: threads work close together.
        while self.bytes > bytes_max && self.oldest_first.len() > 1 {
            self.remove(self.oldest_first[0]);
        }
    }

    fn remove(&mut self, number: u32) {
        if let Some((_, bytes)) = self.readers.remove(&number) {
            self.bytes -= bytes;
            self.oldest_first.retain(|kept| *kept != number);
        }
    }
}

/// Memory in which one thread fetches and opens frames, used again and again.
#[derive(Default)]
pub(crate) struct Scratch {
    sealed: Vec<u8>,
    plain: Vec<u8>,
}

/// Bytes that a scratch holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ScratchBytes {
    sealed: u64,
    plain: u64,
}

impl Scratch {
    /// The memory that it holds.
    pub(crate) fn bytes(&self) -> ScratchBytes {
        ScratchBytes {
            sealed: self.sealed.capacity() as u64,
            plain: self.plain.capacity() as u64,
        }
    }
}

impl ScratchBytes {
    /// The most that a scratch comes to hold by some frames; rounded, so that it is mostly the same.
    pub(crate) fn needed<'f>(frames: impl Iterator<Item = &'f FrameRef>) -> Self {
        let tag = TAG_BYTES as u64;
        let (mut longest, mut all) = (0, 0);
        for frame in frames {
            longest = longest.max(u64::from(frame.length));
            all += u64::from(frame.length) + tag + u64::from(GAP_BYTES_MAX);
        }
        let plain = longest.next_power_of_two();
        Self {
            // No frame is stored in more bytes than it has.
            sealed: all
                .next_power_of_two()
                .min(RANGE_BYTES_MAX)
                .max(plain + tag),
            plain,
        }
    }

    /// Whether it is enough where so much is needed.
    pub(crate) fn holds(&self, needed: &Self) -> bool {
        self.sealed >= needed.sealed && self.plain >= needed.plain
    }

    pub(crate) fn sum(&self) -> u64 {
        self.sealed + self.plain
    }
}

impl<'a> FrameReader<'a> {
    pub(crate) fn new(vault: &'a Vault) -> Self {
        Self {
            vault,
            packs: Mutex::default(),
            kept_max: TRAILER_BYTES_KEPT,
        }
    }

    /// One frame.
    pub(crate) fn frame(&self, frame: &FrameRef) -> Result<Vec<u8>> {
        let mut scratch = Scratch::default();
        self.frames(&mut scratch, [*frame].into_iter(), |_, _| Ok(()))?;
        Ok(scratch.plain)
    }

    /// Some frames, each once, by few and long reads; one is in memory at a time, besides the
    /// sealed bytes of one range. They come in the order of their places in the store.
    pub(crate) fn frames(
        &self,
        scratch: &mut Scratch,
        wanted: impl Iterator<Item = FrameRef>,
        mut take: impl FnMut(&FrameRef, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut by_pack: BTreeMap<u32, BTreeMap<u32, FrameRef>> = BTreeMap::new();
        for frame in wanted {
            let of_pack = by_pack.entry(frame.pack).or_default();
            if of_pack
                .insert(frame.ordinal, frame)
                .is_some_and(|other| other != frame)
            {
                let object = format!("a leaf that names pack {:08x}", frame.pack);
                return Err(Error::corrupt(object, "one frame is named in two ways"));
            }
        }
        for (number, frames) in by_pack {
            // Ordinals lie in the order of their offsets.
            let frames: Vec<FrameRef> = frames.into_values().collect();
            let mut rest = frames.as_slice();
            let (mut pack, mut doubts) = (None, 0);
            while !rest.is_empty() {
                let done = match self.some_of((number, &mut pack), rest, scratch, &mut take) {
                    Ok(done) => done,
                    // The pack may have been compacted meanwhile, or the bytes changed on their way. Damage
                    // counts only if it is seen twice.
                    Err((Some(done), error)) if doubts == 0 && is_doubtful(&error) => {
                        doubts += 1;
                        pack = None;
                        self.kept().remove(number);
                        done
                    }
                    Err((_, error)) => return Err(error),
                };
                rest = &rest[done..];
            }
        }
        Ok(())
    }

    /// Gives the first frames, as many as lie in one range; says how many, also where the next one
    /// could not be read.
    fn some_of(
        &self,
        (number, pack): (u32, &mut Option<Arc<PackReader>>),
        frames: &[FrameRef],
        scratch: &mut Scratch,
        take: &mut impl FnMut(&FrameRef, &[u8]) -> Result<()>,
    ) -> std::result::Result<usize, (Option<usize>, Error)> {
        let none = |error| (Some(0), error);
        let pack = match pack {
            Some(pack) => pack,
            None => pack.insert(self.pack(number).map_err(none)?),
        };
        let (range, count) = coalesce(pack, frames).map_err(none)?;
        let Scratch { sealed, plain } = scratch;
        self.vault
            .store
            .read_range(&pack.object(), range.clone(), sealed)
            .map_err(|error| none(error.into()))?;
        for (done, frame) in frames[..count].iter().enumerate() {
            let mut open = || {
                let row = pack.row(frame)?;
                let at = (u64::from(row.offset) - range.start) as usize;
                let sealed = &mut sealed[at..at + row.stored_length as usize];
                pack.open_frame(&self.vault.keys, frame, sealed, plain)
            };
            open().map_err(|error| (Some(done), error))?;
            // An error of `take` is no reason to read again.
            take(frame, plain).map_err(|error| (None, error))?;
        }
        Ok(count)
    }

    fn pack(&self, number: u32) -> Result<Arc<PackReader>> {
        if let Some((reader, _)) = self.kept().readers.get(&number) {
            return Ok(reader.clone());
        }
        let row = self
            .vault
            .db
            .read(|c| db::packs::find(c, self.vault.number, number.into()))?
            .filter(|row| !matches!(row.state, PackState::Writing | PackState::Gone))
            .ok_or_else(|| Error::Missing {
                object: format!("pack {number:08x}"),
            })?;
        let name = pack_name(self.vault, &row);
        let length = row.stored_bytes.get();
        let reader = PackReader::open(&self.vault.store, name, length, &self.vault.keys)?;
        let reader = Arc::new(reader);
        self.kept().insert(number, reader.clone(), self.kept_max);
        Ok(reader)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.packs
            .lock()
            .expect("no panic while the trailers are locked")
    }
}

/// Whether a second look may show something else.
fn is_doubtful(error: &Error) -> bool {
    matches!(error, Error::Corrupt { .. } | Error::Missing { .. })
}

/// The first range worth reading at once, and how many of the frames it holds.
fn coalesce(pack: &PackReader, frames: &[FrameRef]) -> Result<(Range<u64>, usize)> {
    let first = pack.row(&frames[0])?;
    let (start, mut end) = (u64::from(first.offset), first.end());
    let mut count = 1;
    for frame in &frames[1..] {
        let row = pack.row(frame)?;
        let offset = u64::from(row.offset);
        if offset < end
            || offset - end > GAP_BYTES_MAX.into()
            || row.end() - start > RANGE_BYTES_MAX
        {
            break;
        }
        end = row.end();
        count += 1;
    }
    Ok((start..end, count))
}

#[cfg(test)]
impl FrameReader<'_> {
    /// Keeps trailers of so many bytes.
    pub(crate) fn keeping(mut self, bytes: usize) -> Self {
        self.kept_max = bytes;
        self
    }

    /// How many trailers are kept, and the memory they take.
    pub(crate) fn trailers(&self) -> (usize, usize) {
        let kept = self.kept();
        let bytes = kept.readers.values().map(|(pack, _)| pack.memory_bytes());
        assert_eq!(bytes.sum::<usize>(), kept.bytes);
        (kept.readers.len(), kept.bytes)
    }
}
