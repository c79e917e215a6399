//! Reading frames back: pack trailers are kept, ranges are coalesced, everything is verified.

use crate::db::{self, DbError};
use crate::engine::manifest::FrameRef;
use crate::engine::pack::{PackName, PackReader};
use crate::engine::vault::Vault;
use crate::engine::{Error, Result};
use crate::model::pack::{Pack, PackState};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

/// Trailers kept: some 60 KiB each.
const PACKS_KEPT: usize = 256;
/// Bytes between two wanted frames that are read rather than left out.
const GAP_BYTES_MAX: u32 = 64 << 10;
/// Longest range read at once, unless one frame is longer.
const RANGE_BYTES_MAX: u32 = 4 << 20;

/// Reads frames of one vault. Shared by threads.
pub(crate) struct FrameReader<'a> {
    pub(crate) vault: &'a Vault,
    packs: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    readers: HashMap<u32, Arc<PackReader>>,
    oldest_first: VecDeque<u32>,
}

impl<'a> FrameReader<'a> {
    pub(crate) fn new(vault: &'a Vault) -> Self {
        Self {
            vault,
            packs: Mutex::default(),
        }
    }

    /// One frame.
    pub(crate) fn frame(&self, frame: &FrameRef) -> Result<Vec<u8>> {
        let mut found = None;
        self.frames([*frame].into_iter(), |_, plain| {
            found = Some(plain);
            Ok(())
        })?;
        Ok(found.expect("the frame asked for was given"))
    }

    /// Some frames, each once, by few and long reads; one is in memory at a time, besides the
    /// sealed bytes of one range. They come in the order of their places in the store.
    pub(crate) fn frames(
        &self,
        wanted: impl Iterator<Item = FrameRef>,
        mut take: impl FnMut(&FrameRef, Vec<u8>) -> Result<()>,
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
            let mut doubts = 0;
            while !rest.is_empty() {
                let done = match self.some_of(number, rest, &mut take) {
                    Ok(done) => done,
                    // The pack may have been compacted meanwhile, or the bytes changed on their way:
                    // nothing is called damaged that was not seen so twice.
                    Err((Some(done), error)) if doubts == 0 && is_doubtful(&error) => {
                        doubts += 1;
                        self.forget(number);
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
        number: u32,
        frames: &[FrameRef],
        take: &mut impl FnMut(&FrameRef, Vec<u8>) -> Result<()>,
    ) -> std::result::Result<usize, (Option<usize>, Error)> {
        let none = |error| (Some(0), error);
        let pack = self.pack(number).map_err(none)?;
        let (range, count) = coalesce(&pack, frames).map_err(none)?;
        let mut bytes = self
            .vault
            .store
            .get_range(&pack.object(), u64::from(range.0)..u64::from(range.1))
            .map_err(|error| none(error.into()))?;
        for (done, frame) in frames[..count].iter().enumerate() {
            let mut open = || {
                let row = pack.row(frame)?;
                let at = (row.offset - range.0) as usize;
                let sealed = &mut bytes[at..at + row.stored_length as usize];
                pack.open_frame(&self.vault.keys, frame, sealed)
            };
            let plain = open().map_err(|error| (Some(done), error))?;
            // What the taker refuses is not read again.
            take(frame, plain).map_err(|error| (None, error))?;
        }
        Ok(count)
    }

    fn forget(&self, number: u32) {
        let mut kept = self.kept();
        kept.readers.remove(&number);
        kept.oldest_first.retain(|kept| *kept != number);
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
fn coalesce(pack: &PackReader, frames: &[FrameRef]) -> Result<((u32, u32), usize)> {
    let first = pack.row(&frames[0])?;
    let (start, mut end) = (first.offset, first.offset + first.stored_length);
    let mut count = 1;
    for frame in &frames[1..] {
        let row = pack.row(frame)?;
        let next = row.offset.saturating_add(row.stored_length);
        if row.offset < end || row.offset - end > GAP_BYTES_MAX || next - start > RANGE_BYTES_MAX {
            break;
        }
        end = next;
        count += 1;
    }
    Ok(((start, end), count))
}
