//! Sums: a short keyed hash of each 4 KiB block of a span, by which a source without change
//! tracking is compared with its parent without reading the store's data.

use crate::engine::format::BLOCK_BYTES;
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64_with_secret;

const FULL: u8 = 0;
const PATCH: u8 = 1;
/// A patch may be this part of the full sums; then it is time for new full ones.
const PATCH_SHARE: usize = 4;

/// The sum of a block of zeros, and of a hole.
pub const ZERO_SUM: u64 = 0;

/// Whether a piece is all zeros, at memory speed.
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(256)
        .all(|piece| piece.iter().fold(0, |seen, byte| seen | byte) == 0)
}

/// The sum of a block.
pub fn of(secret: &[u8; 192], block: &[u8]) -> u64 {
    if is_zero(block) {
        ZERO_SUM
    } else {
        xxh3_64_with_secret(block, secret).max(1)
    }
}

/// Blocks of a span, the last of which may be short.
pub fn blocks_in(span_bytes: u64) -> usize {
    usize::try_from(span_bytes.div_ceil(BLOCK_BYTES as u64)).expect("a span is small")
}

/// The stored form of all sums of a span.
pub fn encode_full(sums: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 + 8 * sums.len());
    bytes.extend_from_slice(&[1, FULL]);
    sums.iter()
        .for_each(|sum| bytes.extend_from_slice(&sum.to_le_bytes()));
    bytes
}

/// The stored form of what differs from a base; `None` if new full sums are better.
pub fn encode_patch(base: &[u64], sums: &[u64]) -> Option<Vec<u8>> {
    if base.len() != sums.len() {
        return None;
    }
    let mut bytes = vec![1, PATCH];
    for (index, (old, new)) in base.iter().zip(sums).enumerate() {
        if old != new {
            bytes.extend_from_slice(&(index as u32).to_le_bytes());
            bytes.extend_from_slice(&new.to_le_bytes());
        }
    }
    (bytes.len() * PATCH_SHARE < 8 * sums.len()).then_some(bytes)
}

/// Sums of a span of so many blocks; `None` if the bytes are not that.
pub fn decode_full(bytes: &[u8], blocks: usize) -> Option<Vec<u64>> {
    let rest = bytes.strip_prefix(&[1, FULL])?;
    if rest.len() != 8 * blocks {
        return None;
    }
    let (sums, _) = rest.as_chunks::<8>();
    Some(sums.iter().map(|sum| u64::from_le_bytes(*sum)).collect())
}

/// Applies a patch; `None` if the bytes are none for these sums.
pub fn apply_patch(sums: &mut [u64], bytes: &[u8]) -> Option<()> {
    let (rows, rest) = bytes.strip_prefix(&[1, PATCH])?.as_chunks::<12>();
    if !rest.is_empty() {
        return None;
    }
    for row in rows {
        let (index, sum) = row.split_first_chunk::<4>()?;
        let sum = u64::from_le_bytes(*sum.first_chunk()?);
        *sums.get_mut(u32::from_le_bytes(*index) as usize)? = sum;
    }
    Some(())
}

/// Ranges of a span widened to whole blocks; those that then touch become one.
pub(crate) fn whole_blocks(
    ranges: impl Iterator<Item = Range<u64>>,
    span: &Range<u64>,
) -> Vec<Range<u64>> {
    let block = BLOCK_BYTES as u64;
    let mut whole: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        let start = (range.start / block * block).max(span.start);
        let end = range.end.next_multiple_of(block).min(span.end);
        match whole.last_mut() {
            Some(last) if start <= last.end => last.end = last.end.max(end),
            _ if start < end => whole.push(start..end),
            _ => {}
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_over_its_base_gives_the_new_sums() {
        let base: Vec<u64> = (1..=1000).collect();
        let mut new = base.clone();
        new[3] = 77;
        new[999] = ZERO_SUM;
        let patch = encode_patch(&base, &new).unwrap();
        assert!(patch.len() < 40);
        let mut sums = decode_full(&encode_full(&base), 1000).unwrap();
        apply_patch(&mut sums, &patch).unwrap();
        assert_eq!(sums, new);
    }

    #[test]
    fn much_change_asks_for_new_full_sums_and_rubbish_is_refused() {
        let base = vec![1; 100];
        assert!(encode_patch(&base, &[2; 100]).is_none());
        assert!(encode_patch(&base, &[1; 99]).is_none());
        assert!(decode_full(&encode_full(&base), 99).is_none());
        assert!(decode_full(&[], 0).is_none());
        assert!(apply_patch(&mut [1], &[1, PATCH, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]).is_none());
        assert!(apply_patch(&mut [1], &[1, PATCH, 9]).is_none());
    }

    #[test]
    fn zeros_are_told_from_a_single_bit_anywhere() {
        for length in [0, 1, 255, 256, 257, 4096] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            for at in [0, length / 2, length.saturating_sub(1)] {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = 1;
                    assert!(!is_zero(&bytes));
                    bytes[at] = 0;
                }
            }
        }
    }
}
