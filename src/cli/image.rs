//! Generated data that behaves like a file system's: files of many sizes, text, half-ordered
//! binaries, media that do not compress, copies of other files, and free space between them. The
//! same seed gives the same bytes everywhere.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const BLOCK: u64 = 4096;
const MEBIBYTE: u64 = 1 << 20;
const FILE_BYTES_MAX: u64 = 4 * MEBIBYTE;
const WORDS: [&str; 32] = [
    "the",
    "of",
    "volume",
    "error",
    "request",
    "0x7f",
    "return",
    "static",
    "block",
    "{",
    "}",
    "if",
    "value",
    "config",
    "=",
    "and",
    "index",
    "server",
    "null",
    "\n",
    "\n    ",
    "path",
    "usr",
    "lib",
    "2026-11-22",
    "INFO",
    "time",
    "key",
    "pub",
    "fn",
    "a",
    "to",
];

/// Random numbers and bytes from a seed.
struct Dice(blake3::OutputReader);

impl Dice {
    fn new(seed: &str) -> Self {
        Self(blake3::Hasher::new().update(seed.as_bytes()).finalize_xof())
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.fill(&mut bytes);
        bytes
    }

    fn below(&mut self, limit: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes) % limit.max(1)
    }
}

/// Fills about three quarters of a sparse file of this length.
pub(super) fn fill(file: &File, length: u64, mut tick: impl FnMut(u64)) -> io::Result<()> {
    let mut dice = Dice::new("embervault demo image");
    let mut earlier: Vec<(u64, u64)> = Vec::new();
    let mut at = 0;
    while at + BLOCK < length {
        // Sizes over many orders of magnitude: 4 KiB to 4 MiB.
        let size = (BLOCK << dice.below(10)) + dice.below(BLOCK);
        let size = size.min(length - at).min(FILE_BYTES_MAX);
        let bytes = match dice.below(10) {
            0..=3 => text(&mut dice, size as usize),
            4..=6 => binary(&mut dice, size as usize),
            7 | 8 => dice.bytes(size as usize),
            _ => {
                if earlier.is_empty() {
                    text(&mut dice, size as usize)
                } else {
                    let (from, size) = earlier[dice.below(earlier.len() as u64) as usize];
                    let mut copy = vec![0; size.min(length - at) as usize];
                    file.read_exact_at(&mut copy, from)?;
                    copy
                }
            }
        };
        file.write_all_at(&bytes, at)?;
        if earlier.len() < 4096 {
            earlier.push((at, bytes.len() as u64));
        }
        at = (at + bytes.len() as u64).next_multiple_of(BLOCK);
        if dice.below(4) == 0 {
            at += BLOCK << dice.below(12);
        }
        tick(at.min(length));
    }
    Ok(())
}

/// Rewrites about one hundredth of the blocks at random places, and clears a range.
pub(super) fn change(file: &File, length: u64) -> io::Result<()> {
    let mut dice = Dice::new("embervault demo change");
    for _ in 0..length / BLOCK / 100 {
        let at = dice.below(length / BLOCK) * BLOCK;
        let block = match dice.below(2) {
            0 => dice.bytes(BLOCK as usize),
            _ => text(&mut dice, BLOCK as usize),
        };
        file.write_all_at(&block, at)?;
    }
    let cleared = vec![0; MEBIBYTE as usize];
    let start = length / 3 / BLOCK * BLOCK;
    for piece in 0..(length / 128 / MEBIBYTE).max(1) {
        file.write_all_at(&cleared, start + piece * MEBIBYTE)?;
    }
    file.sync_all()
}

fn text(dice: &mut Dice, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 16);
    while bytes.len() < size {
        for pick in dice.bytes(256) {
            bytes.extend_from_slice(WORDS[pick as usize % WORDS.len()].as_bytes());
            bytes.push(b' ');
        }
    }
    bytes.truncate(size);
    bytes
}

/// Records of 32 bytes, of which a third varies.
fn binary(dice: &mut Dice, size: usize) -> Vec<u8> {
    let pattern = dice.bytes(32);
    let noise = dice.bytes(size / 3 + 32);
    let mut bytes = Vec::with_capacity(size + 32);
    for varying in noise.chunks(10) {
        bytes.extend_from_slice(&pattern[..32 - varying.len()]);
        bytes.extend_from_slice(varying);
    }
    bytes.truncate(size);
    bytes
}
