//! Compression of one frame, and back.

use crate::config::Compression;
use std::cell::RefCell;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Stored as it is.
pub const RAW: u8 = 0;
/// One zstd frame.
pub const ZSTD: u8 = 1;

/// A frame ready to be sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    pub codec: u8,
    pub bytes: Vec<u8>,
}

/// Levels that `auto` chooses from, least work first.
const LEVELS: [i32; 7] = [1, 2, 3, 5, 7, 9, 12];
/// Where `auto` begins: level 3.
const FIRST_STEP: usize = 2;
/// If a thread waits for the store for more than the first share of its time, it compresses harder from then on; if it
/// waits for less than the second, it compresses less.
const IDLE_SHARE: f64 = 0.2;
const BUSY_SHARE: f64 = 0.05;
/// Bytes of each of the three samples by which `auto` sees that data does not compress.
const SAMPLE_BYTES: usize = 4096;

/// How hard `auto` compresses: as hard as the store leaves the cores time for. Shared by the
/// threads of a session.
pub struct CompressionPace {
    threads: u32,
    step: AtomicUsize,
    waited_ns: AtomicU64,
    judged: Mutex<(Instant, u64)>,
}

impl CompressionPace {
    pub fn new(threads: usize) -> Self {
        Self {
            threads: u32::try_from(threads).unwrap_or(u32::MAX).max(1),
            step: AtomicUsize::new(FIRST_STEP),
            waited_ns: AtomicU64::new(0),
            judged: Mutex::new((Instant::now(), 0)),
        }
    }

    /// A thread has waited because packs leave more slowly than they fill.
    pub fn waited(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.waited_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// Looks back, once for each pack, and chooses the level for the next.
    pub fn judge(&self) {
        let mut judged = self.judged.lock().expect("no panic while it is locked");
        let waited = self.waited_ns.load(Ordering::Relaxed);
        let worked = judged.0.elapsed().as_secs_f64() * f64::from(self.threads);
        let share = Duration::from_nanos(waited - judged.1).as_secs_f64() / worked.max(1e-9);
        let step = next_step(self.step.load(Ordering::Relaxed), share);
        self.step.store(step, Ordering::Relaxed);
        *judged = (Instant::now(), waited);
    }

    /// The level chosen last.
    pub fn level(&self) -> i32 {
        LEVELS[self.step.load(Ordering::Relaxed)]
    }
}

fn next_step(step: usize, waited_share: f64) -> usize {
    if waited_share > IDLE_SHARE {
        (step + 1).min(LEVELS.len() - 1)
    } else if waited_share < BUSY_SHARE {
        step.saturating_sub(1)
    } else {
        step
    }
}

/// Compresses frames; one for each thread, as it keeps its tables.
pub struct Encoder<'p> {
    compression: Compression,
    pace: &'p CompressionPace,
    compressor: zstd::bulk::Compressor<'static>,
    level: i32,
    /// Room for the longest result, used again and again.
    room: Vec<u8>,
}

impl<'p> Encoder<'p> {
    pub fn new(compression: Compression, pace: &'p CompressionPace) -> Self {
        let level = match compression {
            Compression::Zstd(level) => level,
            Compression::None | Compression::Auto => pace.level(),
        };
        let compressor =
            zstd::bulk::Compressor::new(level).expect("levels were checked in the settings");
        Self {
            compression,
            pace,
            compressor,
            level,
            room: Vec::new(),
        }
    }

    /// The shorter of compressed and raw; what does not shrink by 1/32 stays raw, so that
    /// restoring it costs nothing.
    pub fn encode(&mut self, plain: &[u8]) -> Encoded {
        let compressed = match self.compression {
            Compression::None => None,
            Compression::Zstd(level) => self.compress(plain, level),
            Compression::Auto => {
                if self.seems_random(plain) {
                    None
                } else {
                    self.compress(plain, self.pace.level())
                }
            }
        };
        match compressed {
            Some(bytes) => Encoded { codec: ZSTD, bytes },
            None => Encoded {
                codec: RAW,
                bytes: plain.to_vec(),
            },
        }
    }

    fn compress(&mut self, plain: &[u8], level: i32) -> Option<Vec<u8>> {
        if self.level != level {
            self.compressor.set_compression_level(level).ok()?;
            self.level = level;
        }
        let bound = zstd::zstd_safe::compress_bound(plain.len());
        if self.room.len() < bound {
            self.room.resize(bound, 0);
        }
        let length = self
            .compressor
            .compress_to_buffer(plain, self.room.as_mut_slice())
            .ok()?;
        (length < plain.len() - plain.len() / 32).then(|| self.room[..length].to_vec())
    }

    /// Whether samples from three places do not compress.
    fn seems_random(&mut self, plain: &[u8]) -> bool {
        let last = plain.len().saturating_sub(SAMPLE_BYTES);
        plain.len() > 8 * SAMPLE_BYTES
            && [0, last / 2, last]
                .into_iter()
                .all(|at| self.compress(&plain[at..at + SAMPLE_BYTES], 1).is_none())
    }
}

thread_local! {
    /// Kept, as making one costs as much as a small frame.
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> =
        const { RefCell::new(None) };
}

/// Puts the plain bytes into memory that need not be empty, exactly as many as were written. Never
/// panics, whatever the bytes.
pub fn decode(codec: u8, bytes: &[u8], plain_length: usize, plain: &mut Vec<u8>) -> io::Result<()> {
    plain.clear();
    match codec {
        RAW if bytes.len() == plain_length => {
            plain.reserve_exact(plain_length);
            plain.extend_from_slice(bytes);
        }
        RAW => {}
        ZSTD => {
            plain.reserve_exact(plain_length);
            DECOMPRESSOR.with_borrow_mut(|decompressor| match decompressor {
                Some(decompressor) => decompressor.decompress_to_buffer(bytes, plain),
                None => decompressor
                    .insert(zstd::bulk::Decompressor::new()?)
                    .decompress_to_buffer(bytes, plain),
            })?;
        }
        _ => return Err(io::Error::other(format!("codec {codec} is unknown"))),
    }
    if plain.len() != plain_length {
        return Err(io::Error::other("its length is not what was written"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_compresses_is_compressed_and_all_comes_back() {
        let text = b"embers under ash ".repeat(1000);
        let noise: Vec<u8> = blake3::Hasher::new().finalize_xof().take_bytes(20_000);
        let pace = CompressionPace::new(1);
        let mut encoder = Encoder::new(Compression::Zstd(3), &pace);
        let (small, raw) = (encoder.encode(&text), encoder.encode(&noise));
        assert_eq!((small.codec, raw.codec), (ZSTD, RAW));
        // In memory that held something longer, and something shorter.
        let mut plain = vec![7; 50_000];
        for _ in 0..2 {
            decode(small.codec, &small.bytes, text.len(), &mut plain).unwrap();
            assert_eq!(plain, text);
            decode(raw.codec, &raw.bytes, noise.len(), &mut plain).unwrap();
            assert_eq!(plain, noise);
            plain = Vec::new();
        }
    }

    #[test]
    fn auto_leaves_noise_alone_and_follows_the_store() {
        let pace = CompressionPace::new(2);
        let mut encoder = Encoder::new(Compression::Auto, &pace);
        let text: Vec<u8> = (0..40_000_u32)
            .flat_map(|n| format!("{} ", n.wrapping_mul(2_654_435_761) % 9973).into_bytes())
            .collect();
        let noise: Vec<u8> = blake3::Hasher::new().finalize_xof().take_bytes(200_000);
        assert_eq!(encoder.encode(&noise).codec, RAW);
        assert_eq!(encoder.encode(&text).codec, ZSTD);
        for _ in 0..LEVELS.len() {
            // A store at which both threads wait all the time.
            pace.waited(Duration::from_secs(3600));
            pace.judge();
        }
        assert_eq!(pace.level(), 12);
        let hard = encoder.encode(&text);
        let mut plain = Vec::new();
        decode(hard.codec, &hard.bytes, text.len(), &mut plain).unwrap();
        assert_eq!(plain, text);
        for _ in 0..LEVELS.len() {
            pace.judge();
        }
        assert_eq!(pace.level(), 1);
        assert!(hard.bytes.len() < encoder.encode(&text).bytes.len());
        assert_eq!(
            (next_step(3, 0.1), next_step(0, 0.0), next_step(6, 1.0)),
            (3, 0, 6)
        );
    }

    #[test]
    fn rubbish_is_an_error() {
        let mut plain = Vec::new();
        assert!(decode(ZSTD, &[1, 2, 3], 10, &mut plain).is_err());
        assert!(decode(7, &[1, 2, 3], 3, &mut plain).is_err());
        assert!(decode(RAW, &[1, 2, 3], 4, &mut plain).is_err());
        let bomb = zstd::bulk::compress(&vec![0; 1 << 20], 3).unwrap();
        assert!(decode(ZSTD, &bomb, 100, &mut plain).is_err());
        assert!(plain.capacity() < 1 << 20);
    }

    trait TakeBytes {
        fn take_bytes(self, count: usize) -> Vec<u8>;
    }
    impl TakeBytes for blake3::OutputReader {
        fn take_bytes(mut self, count: usize) -> Vec<u8> {
            let mut bytes = vec![0; count];
            self.fill(&mut bytes);
            bytes
        }
    }
}
