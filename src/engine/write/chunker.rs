//! FastCDC over runs of data that arrive piece by piece.
//!
//! A run is data between two holes; chunks never cross a hole, so that cutting depends on content
//! alone. `fastcdc`'s own iterator wants the whole source in memory, hence this loop around its
//! cut function (2020 variant, normalization 1).

use crate::engine::vault::options::Parameters;
use fastcdc::v2020::{Normalization, cut_gear, get_gear_with_seed, select_masks};
use std::borrow::Cow;
use std::ops::Range;

/// Finds the cut points of a vault.
pub struct Cutter {
    min: usize,
    average: usize,
    max: usize,
    mask_small: u64,
    mask_large: u64,
    gear: Cow<'static, [u64]>,
    gear_shifted: Cow<'static, [u64]>,
}

impl Cutter {
    pub fn new(parameters: &Parameters, seed: u64) -> Self {
        let average = parameters.chunk_average as usize;
        let (mask_small, mask_large) = select_masks(average, Normalization::Level1);
        let (gear, gear_shifted) = get_gear_with_seed(seed);
        Self {
            min: parameters.chunk_min() as usize,
            average,
            max: parameters.chunk_max() as usize,
            mask_small,
            mask_large,
            gear,
            gear_shifted,
        }
    }

    /// Cuts a run, or the part of it that is there: without the run's end, what could still become
    /// part of a longer chunk is left over. Ranges are within `bytes` and follow one another.
    pub fn cut(&self, bytes: &[u8], is_end: bool) -> Vec<Range<usize>> {
        let mut chunks = Vec::new();
        let mut start = 0;
        while start < bytes.len() && (is_end || bytes.len() - start >= self.max) {
            let (_, length) = cut_gear(
                &bytes[start..],
                self.min,
                self.average,
                self.max,
                self.mask_small,
                self.mask_large,
                self.mask_small << 1,
                self.mask_large << 1,
                &self.gear,
                &self.gear_shifted,
            );
            chunks.push(start..start + length);
            start += length;
        }
        chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn pieces_are_cut_as_the_whole_is() {
        let parameters = Parameters::for_tests();
        let cutter = Cutter::new(&parameters, 99);
        let bytes = noise(200_000);
        let whole = cutter.cut(&bytes, true);
        let mut pieces = Vec::new();
        let mut start = 0;
        for end in (0..=bytes.len()).step_by(7_777).chain([bytes.len()]) {
            let cut = cutter.cut(&bytes[start..end], end == bytes.len());
            let shift = start;
            start += cut.last().map_or(0, |last| last.end);
            pieces.extend(cut.into_iter().map(|c| c.start + shift..c.end + shift));
        }
        assert_eq!(pieces, whole);
        assert!(whole.len() > 50);
        assert_eq!(whole.last().unwrap().end, bytes.len());
    }

    #[test]
    fn another_seed_cuts_elsewhere() {
        let parameters = Parameters::for_tests();
        let bytes = noise(100_000);
        let one = Cutter::new(&parameters, 1).cut(&bytes, true);
        let two = Cutter::new(&parameters, 3).cut(&bytes, true);
        assert_ne!(one, two);
    }
}
