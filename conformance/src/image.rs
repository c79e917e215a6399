//! What a volume is expected to hold: zeros with patches on them, computed anew for any range, so
//! that a whole volume is written and compared through one small buffer.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, bail, ensure};

use crate::interrupt;

pub(crate) const MIB: u64 = 1 << 20;
const BUFFER_BYTES: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    Zero,
    /// Does not compress, and no two seeds agree.
    Noise(u64),
    /// Numbered lines of text, which compress well.
    Text,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patch {
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) fill: Fill,
}

/// Contents of `size` bytes; later patches lie over earlier ones.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) size: u64,
    patches: Vec<Patch>,
}

impl Image {
    pub(crate) fn zeros(size: u64) -> Image {
        Image {
            size,
            patches: Vec::new(),
        }
    }

    pub(crate) fn patched(&self, patches: &[Patch]) -> Image {
        let patches = [&self.patches, patches].concat();
        assert!(
            patches
                .iter()
                .all(|patch| patch.start + patch.length <= self.size)
        );
        Image {
            size: self.size,
            patches,
        }
    }

    /// Writes what the image holds in the ranges of `patches` and has it reach the disk.
    pub(crate) fn write(&self, device: &File, patches: &[Patch]) -> Result<()> {
        for patch in patches {
            self.chunks(patch.start, patch.length, |offset, chunk| {
                device
                    .write_all_at(chunk, offset)
                    .with_context(|| format!("write at {offset}"))
            })?;
        }
        device.sync_all().context("writes did not reach the disk")
    }

    /// Compares every byte and names the first that differs.
    pub(crate) fn compare(&self, device: &File) -> Result<()> {
        let mut found = vec![0; BUFFER_BYTES];
        self.chunks(0, self.size, |offset, expected| {
            let found = &mut found[..expected.len()];
            let read = device.read_exact_at(found, offset);
            read.with_context(|| format!("{} bytes at {offset} cannot be read", expected.len()))?;
            match difference(offset, expected, found) {
                Some(difference) => bail!("{difference}"),
                None => Ok(()),
            }
        })
    }

    /// Hands out the range in pieces of at most one buffer, with their offsets.
    fn chunks(
        &self,
        start: u64,
        length: u64,
        mut work: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut offset = start;
        while offset < start + length {
            interrupt::check()?;
            let count = (start + length - offset).min(BUFFER_BYTES as u64);
            let chunk = &mut buffer[..usize::try_from(count)?];
            self.render(offset, chunk);
            work(offset, chunk)?;
            offset += count;
        }
        ensure!(offset == start + length);
        Ok(())
    }

    fn render(&self, offset: u64, buffer: &mut [u8]) {
        buffer.fill(0);
        let end = offset + buffer.len() as u64;
        for patch in &self.patches {
            let from = patch.start.max(offset);
            let to = (patch.start + patch.length).min(end);
            if from < to {
                // Both differences are within the buffer, so they fit.
                let range = (from - offset) as usize..(to - offset) as usize;
                patch.fill.render(from, &mut buffer[range]);
            }
        }
    }
}

impl Fill {
    /// Every byte depends on its place in the volume alone, so that shifted data is noticed.
    fn render(self, offset: u64, buffer: &mut [u8]) {
        match self {
            Fill::Zero => buffer.fill(0),
            Fill::Noise(seed) => each_word(offset, buffer, |word| {
                scrambled(seed ^ scrambled(word)).to_le_bytes()
            }),
            Fill::Text => each_word(offset, buffer, text_word),
        }
    }
}

/// Fills the buffer from eight-byte words numbered from the start of the volume.
fn each_word(offset: u64, buffer: &mut [u8], word: impl Fn(u64) -> [u8; 8]) {
    let mut offset = offset;
    let mut rest = buffer;
    while !rest.is_empty() {
        let skipped = (offset % 8) as usize;
        let count = (8 - skipped).min(rest.len());
        let (head, tail) = rest.split_at_mut(count);
        head.copy_from_slice(&word(offset / 8)[skipped..skipped + count]);
        offset += count as u64;
        rest = tail;
    }
}

/// A line of 64 bytes is eight words, the second of which numbers the line modulo a million.
fn text_word(word: u64) -> [u8; 8] {
    const LINE: [&[u8; 8]; 8] = [
        b"Line no.",
        b"        ",
        b"of words",
        b" that co",
        b"mpress w",
        b"ell and ",
        b"say litt",
        b"le.    \n",
    ];
    if word % 8 != 1 {
        return *LINE[(word % 8) as usize];
    }
    let mut number = (word / 8) % 1_000_000;
    let mut text = *b" 000000 ";
    for digit in text[1..7].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    text
}

/// The mixing function of SplitMix64.
fn scrambled(value: u64) -> u64 {
    let mut value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn difference(offset: u64, expected: &[u8], found: &[u8]) -> Option<String> {
    if expected == found {
        return None;
    }
    let differs = |(expected, found): (&u8, &u8)| expected != found;
    let first = expected.iter().zip(found).position(differs)?;
    let count = expected
        .iter()
        .zip(found)
        .filter(|&pair| differs(pair))
        .count();
    Some(format!(
        "data differs from byte {} on: 0x{:02x} expected, 0x{:02x} found, {count} of {} bytes from \
         {offset} differ",
        offset + first as u64,
        expected[first],
        found[first],
        expected.len(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(image: &Image, start: u64, length: usize) -> Vec<u8> {
        let mut buffer = vec![0xff; length];
        image.render(start, &mut buffer);
        buffer
    }

    fn sample() -> Image {
        let patch = |start, length, fill| Patch {
            start,
            length,
            fill,
        };
        let noise = patch(100, 1000, Fill::Noise(1));
        let image = Image::zeros(4096).patched(&[noise, patch(2001, 777, Fill::Text)]);
        image.patched(&[patch(301, 99, Fill::Zero), patch(700, 64, Fill::Noise(2))])
    }

    #[test]
    fn any_cut_of_the_image_shows_the_same_bytes() {
        let whole = rendered(&sample(), 0, 4096);
        for (start, length) in [
            (0, 1),
            (97, 13),
            (299, 105),
            (699, 67),
            (2000, 800),
            (4090, 6),
        ] {
            let cut = rendered(&sample(), start as u64, length);
            assert_eq!(
                cut,
                whole[start..start + length],
                "{length} bytes from {start}"
            );
        }
    }

    #[test]
    fn patches_lie_over_each_other_and_zeros_around_them() {
        let whole = rendered(&sample(), 0, 4096);
        assert!(
            whole[..100]
                .iter()
                .chain(&whole[301..400])
                .all(|&byte| byte == 0)
        );
        assert!(
            whole[1100..2001]
                .iter()
                .chain(&whole[2778..])
                .all(|&byte| byte == 0)
        );
        let before = Image::zeros(4096).patched(&sample().patches[..1]);
        let before = rendered(&before, 0, 4096);
        assert_eq!(whole[100..301], before[100..301]);
        assert_ne!(whole[700..764], before[700..764]);
        assert!(
            String::from_utf8_lossy(&whole[2048..2112]).starts_with("Line no. 000032 of words")
        );
    }

    #[test]
    fn noise_has_no_short_period() {
        let image = Image::zeros(MIB).patched(&[Patch {
            start: 0,
            length: MIB,
            fill: Fill::Noise(7),
        }]);
        let bytes = rendered(&image, 0, MIB as usize);
        let words: std::collections::HashSet<_> = bytes.chunks(8).collect();
        assert_eq!(words.len(), MIB as usize / 8);
    }

    #[test]
    fn the_first_wrong_byte_is_named() {
        let message = difference(4096, &[1, 2, 3, 4], &[1, 2, 0, 0]).unwrap();
        assert!(
            message
                .starts_with("data differs from byte 4098 on: 0x03 expected, 0x00 found, 2 of 4")
        );
        assert_eq!(difference(0, &[1], &[1]), None);
    }

    #[test]
    fn what_was_written_compares_and_a_flipped_bit_does_not() {
        let path = std::env::temp_dir().join(format!("image-{}", uuid::Uuid::new_v4().simple()));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        let image = sample();
        file.set_len(image.size).unwrap();
        image.write(&file, &image.patches).unwrap();
        image.compare(&file).unwrap();
        file.write_all_at(b"!", 3000).unwrap();
        assert!(
            image
                .compare(&file)
                .unwrap_err()
                .to_string()
                .contains("byte 3000")
        );
        file.set_len(image.size - 1).unwrap();
        assert!(image.compare(&file).is_err());
    }
}
