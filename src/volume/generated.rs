//! Volumes whose content is computed, so that a benchmark needs no disk for them: the same bytes
//! for the same seed, about as compressible as system files, and variants of them that differ as
//! volumes differ from one backup to the next.

use crate::volume::VolumeError;
use crate::volume::file::FileReader;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64_with_seed;

const BLOCK: u64 = 4096;
/// A piece that moves or shifts as a whole, as files do.
const SEGMENT: u64 = 1 << 20;
const POOL_BYTES: usize = 8 << 20;
const SEED: u64 = 0x0e4b_e45a;

/// How a volume differs from its base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Not at all.
    Base,
    /// One block in a hundred is another, at random places: half of them in 256 bytes, half wholly.
    Scattered,
    /// After as many generations as turns, in each of which one block in a hundred became another.
    Aged,
    /// One block in a hundred is another, in 16 runs.
    Sequential,
    /// One megabyte in 25 lies elsewhere; half of them also moved by a few bytes.
    Shifted,
    /// The same megabytes in another order, a tenth of them replaced.
    Reordered,
}

impl Variant {
    /// Every one, in the order above.
    pub const ALL: [Self; 6] = [
        Self::Base,
        Self::Scattered,
        Self::Aged,
        Self::Sequential,
        Self::Shifted,
        Self::Reordered,
    ];
}

#[derive(Debug, Clone)]
enum Base {
    /// So many bytes of data, spread evenly.
    Pool {
        data_bytes: u64,
    },
    File(Arc<FileReader>),
}

/// A computed volume. Cheap to clone; shared by many threads.
#[derive(Debug, Clone)]
pub struct Generated {
    length: u64,
    base: Base,
    variant: Variant,
    /// Tells apart variants of one kind.
    turn: u64,
    pool: Arc<Vec<u8>>,
}

impl Generated {
    /// A volume of a length with so many bytes of data.
    pub fn new(length: u64, data_bytes: u64) -> Self {
        Self {
            length,
            base: Base::Pool { data_bytes },
            variant: Variant::Base,
            turn: 0,
            pool: Arc::new(pool()),
        }
    }

    /// A volume with the content of a file.
    pub fn over(path: &Path) -> Result<Self, VolumeError> {
        let file = FileReader::open(path)?;
        Ok(Self {
            length: file.length(),
            base: Base::File(Arc::new(file)),
            variant: Variant::Base,
            turn: 0,
            pool: Arc::new(pool()),
        })
    }

    /// The same volume, changed; other places and other content for another turn.
    pub fn variant(&self, variant: Variant, turn: u64) -> Self {
        Self {
            variant,
            turn,
            ..self.clone()
        }
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>, VolumeError> {
        let moves = matches!(self.variant, Variant::Shifted | Variant::Reordered);
        match &self.base {
            Base::File(_) if moves => Ok(Some(range).filter(|range| !range.is_empty())),
            Base::File(file) => file.next_data(range),
            Base::Pool { .. } => {
                let used = (range.start / SEGMENT..range.end.div_ceil(SEGMENT))
                    .find(|segment| self.is_used(*segment));
                let Some(used) = used else { return Ok(None) };
                let unused = (used..range.end.div_ceil(SEGMENT))
                    .find(|segment| !self.is_used(*segment))
                    .unwrap_or(u64::MAX / SEGMENT);
                let start = (used * SEGMENT).max(range.start);
                let data = start..(unused * SEGMENT).min(range.end);
                Ok(Some(data).filter(|data| !data.is_empty()))
            }
        }
    }

    /// Which blocks of a range differ from the base, or, of an aged volume, from the generation
    /// before: whole blocks, ascending.
    pub fn changed(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut changed: Vec<Range<u64>> = Vec::new();
        for block in range.start / BLOCK..range.end.div_ceil(BLOCK) {
            let segment = block * BLOCK / SEGMENT;
            let differs = match self.variant {
                Variant::Base => false,
                Variant::Scattered | Variant::Aged | Variant::Sequential => {
                    self.is_changed(block, self.turn)
                }
                Variant::Shifted | Variant::Reordered => self.origin(segment) != (segment, 0),
            };
            if !differs || !self.is_used(segment) {
                continue;
            }
            let (start, end) = (block * BLOCK, ((block + 1) * BLOCK).min(self.length));
            match changed.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => changed.push(start..end),
            }
        }
        changed
    }

    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), VolumeError> {
        let mut at = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let segment = at / SEGMENT;
            let length = ((segment + 1) * SEGMENT - at).min(rest.len() as u64) as usize;
            let (piece, after) = rest.split_at_mut(length);
            if self.is_used(segment) {
                let (origin, shift) = self.origin(segment);
                self.read_base(piece, origin * SEGMENT + at % SEGMENT + shift)?;
            } else {
                piece.fill(0);
            }
            if !matches!(
                self.variant,
                Variant::Base | Variant::Shifted | Variant::Reordered
            ) {
                self.change(piece, at);
            }
            at += length as u64;
            rest = after;
        }
        Ok(())
    }

    /// The segment of the base that lies at a segment, and how far it is shifted.
    fn origin(&self, segment: u64) -> (u64, u64) {
        let count = self.length.div_ceil(SEGMENT);
        let chance = mix(segment, 1);
        match self.variant {
            Variant::Shifted if chance.is_multiple_of(25) && self.is_used(segment) => {
                let elsewhere = self.used_from(chance / 25 % count);
                (elsewhere, (chance >> 32) % 2 * (1 + (chance >> 40) % 63))
            }
            // Beyond the end: megabytes that the base does not have.
            Variant::Reordered if chance.is_multiple_of(10) => (count + segment, 0),
            Variant::Reordered => match segment % 2 {
                // Neighbours change places, far from home.
                0 if segment + 1 < count => (self.used_from((segment + count / 2) % count), 0),
                _ => (segment, 0),
            },
            _ => (segment, 0),
        }
    }

    fn used_from(&self, segment: u64) -> u64 {
        let count = self.length.div_ceil(SEGMENT);
        (segment..count)
            .find(|segment| self.is_used(*segment))
            .unwrap_or(0)
    }

    fn is_used(&self, segment: u64) -> bool {
        match self.base {
            Base::File(_) => true,
            Base::Pool { data_bytes } => {
                let (count, used) = (self.length.div_ceil(SEGMENT), data_bytes.div_ceil(SEGMENT));
                segment < count && (segment + 1) * used / count > segment * used / count
            }
        }
    }

    fn is_changed(&self, block: u64, turn: u64) -> bool {
        match self.variant {
            Variant::Scattered => mix(block, 64 + turn).is_multiple_of(100),
            Variant::Aged => mix(block, 1 << 20 | turn).is_multiple_of(100),
            Variant::Sequential => {
                let part = (self.length / BLOCK / 16).max(1);
                (block + turn * part / 8) % part < part / 100
            }
            Variant::Base | Variant::Shifted | Variant::Reordered => false,
        }
    }

    /// The turn in which a block became what it is.
    fn last_change(&self, block: u64) -> Option<u64> {
        let first = if self.variant == Variant::Aged {
            1
        } else {
            self.turn
        };
        (first..=self.turn)
            .rev()
            .find(|turn| self.is_changed(block, *turn))
    }

    fn change(&self, piece: &mut [u8], offset: u64) {
        let mut at = 0;
        while at < piece.len() {
            let block = (offset + at as u64) / BLOCK;
            let end = (((block + 1) * BLOCK - offset) as usize).min(piece.len());
            let bytes = &mut piece[at..end];
            if let Some(turn) = self.last_change(block)
                && bytes.iter().any(|byte| *byte != 0)
            {
                let within = (offset + at as u64 - block * BLOCK) as usize;
                let is_part = self.variant != Variant::Sequential && block.is_multiple_of(2);
                let changed = if is_part { 256 } else { BLOCK as usize };
                let length = changed.saturating_sub(within).min(bytes.len());
                let kind = self.variant as u64 + 1;
                let from = self.place_in_pool(block ^ kind << 60 ^ turn << 44) + within;
                bytes[..length].copy_from_slice(&self.pool[from..from + length]);
            }
            at = end;
        }
    }

    fn read_base(&self, buffer: &mut [u8], offset: u64) -> Result<(), VolumeError> {
        if let Base::File(file) = &self.base {
            let inside = self.length.saturating_sub(offset).min(buffer.len() as u64) as usize;
            if inside > 0 {
                file.read_at(&mut buffer[..inside], offset)?;
            }
            self.read_pool(&mut buffer[inside..], offset + inside as u64);
            return Ok(());
        }
        if offset >= self.length || self.is_used(offset / SEGMENT) {
            self.read_pool(buffer, offset)
        } else {
            buffer.fill(0)
        }
        Ok(())
    }

    fn read_pool(&self, buffer: &mut [u8], offset: u64) {
        let mut at = 0;
        while at < buffer.len() {
            let address = offset + at as u64;
            let within = (address % BLOCK) as usize;
            let length = (BLOCK as usize - within).min(buffer.len() - at);
            let from = self.place_in_pool(address / BLOCK) + within;
            buffer[at..at + length].copy_from_slice(&self.pool[from..from + length]);
            at += length;
        }
    }

    fn place_in_pool(&self, block: u64) -> usize {
        let places = (POOL_BYTES - BLOCK as usize) / 16;
        mix(block, 3) as usize % places * 16
    }
}

fn mix(number: u64, purpose: u64) -> u64 {
    xxh3_64_with_seed(&number.to_le_bytes(), SEED ^ purpose)
}

/// Phrases in changing order between pieces of noise: zstd 3 makes a third of it.
fn pool() -> Vec<u8> {
    let noise = |from: u64, length: u64| {
        let words = (0..length.div_ceil(8)).map(move |word| mix(from * 8 + word, 4).to_le_bytes());
        let mut bytes = words.collect::<Vec<_>>().concat();
        bytes.truncate(length as usize);
        bytes
    };
    let phrases: Vec<Vec<u8>> = (0..2048)
        .map(|phrase| noise(phrase, 8 + mix(phrase, 5) % 33))
        .collect();
    let mut pool: Vec<u8> = Vec::with_capacity(POOL_BYTES + 64);
    for turn in 0.. {
        let chance = mix(turn, 6);
        match chance >> 61 {
            0 => pool.extend_from_slice(&noise(4096 + turn, 1 + (chance >> 40) % 24)),
            // Some phrases are far more frequent than others.
            _ => pool.extend_from_slice(
                &phrases[((chance % 2048) * (chance >> 20 & 2047) / 2048) as usize],
            ),
        }
        if pool.len() >= POOL_BYTES {
            break;
        }
    }
    pool.truncate(POOL_BYTES);
    pool
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(volume: &Generated, range: Range<u64>) -> Vec<u8> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        volume.read_at(&mut bytes, range.start).unwrap();
        bytes
    }

    #[test]
    fn pieces_read_as_the_whole_does_and_holes_hold_nothing() {
        let base = Generated::new(16 << 20, 6 << 20);
        for variant in Variant::ALL {
            let volume = base.variant(variant, 1);
            let whole = read(&volume, 0..16 << 20);
            let mut at = 0;
            while at < whole.len() as u64 {
                let end = (at + 77_777).min(whole.len() as u64);
                assert!(read(&volume, at..end) == whole[at as usize..end as usize]);
                at = end;
            }
            let mut at = 0;
            while let Some(data) = volume.next_data(at..16 << 20).unwrap() {
                assert!(
                    whole[at as usize..data.start as usize]
                        .iter()
                        .all(|byte| *byte == 0)
                );
                at = data.end;
            }
            if matches!(
                variant,
                Variant::Scattered | Variant::Aged | Variant::Sequential
            ) {
                let original = read(&base, 0..16 << 20);
                let reported = volume.changed(0..16 << 20);
                for block in 0..(16 << 20) / BLOCK {
                    let range = (block * BLOCK) as usize..((block + 1) * BLOCK) as usize;
                    let is_reported = reported
                        .iter()
                        .any(|reported| reported.contains(&(block * BLOCK)));
                    assert_eq!(
                        whole[range.clone()] != original[range],
                        is_reported,
                        "{block}"
                    );
                }
            }
        }
    }
}
