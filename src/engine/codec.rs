//! Compression of one chunk, and back.

use crate::config::Compression;
use std::io;

/// Stored as it is.
pub(crate) const RAW: u8 = 0;
/// One zstd frame.
pub(crate) const ZSTD: u8 = 1;

/// A chunk ready to be sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encoded {
    pub(crate) codec: u8,
    pub(crate) bytes: Vec<u8>,
}

/// Compresses chunks; one for each thread, as it keeps its tables.
pub(crate) struct Encoder {
    compressor: Option<zstd::bulk::Compressor<'static>>,
}

impl Encoder {
    pub(crate) fn new(compression: Compression) -> Self {
        let compressor = match compression {
            Compression::None => None,
            Compression::Zstd(level) => Some(
                zstd::bulk::Compressor::new(level).expect("levels were checked in the settings"),
            ),
        };
        Self { compressor }
    }

    /// The shorter of compressed and raw; a chunk that does not shrink by 1/32 stays raw, so that
    /// restoring it costs nothing.
    pub(crate) fn encode(&mut self, plain: &[u8]) -> Encoded {
        let compressed = self
            .compressor
            .as_mut()
            .and_then(|compressor| compressor.compress(plain).ok())
            .filter(|bytes| bytes.len() < plain.len() - plain.len() / 32);
        match compressed {
            Some(bytes) => Encoded { codec: ZSTD, bytes },
            None => Encoded {
                codec: RAW,
                bytes: plain.to_vec(),
            },
        }
    }
}

/// Gives the plain bytes, exactly as many as were written. Never panics, whatever the bytes.
pub(crate) fn decode(codec: u8, bytes: Vec<u8>, plain_length: usize) -> io::Result<Vec<u8>> {
    let plain = match codec {
        RAW => bytes,
        ZSTD => zstd::bulk::decompress(&bytes, plain_length)?,
        _ => return Err(io::Error::other(format!("codec {codec} is unknown"))),
    };
    if plain.len() != plain_length {
        return Err(io::Error::other("its length is not what was written"));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_compresses_is_compressed_and_all_comes_back() {
        let text = b"embers under ash ".repeat(1000);
        let noise: Vec<u8> = blake3::Hasher::new().finalize_xof().take_bytes(20_000);
        let mut encoder = Encoder::new(Compression::Zstd(3));
        let (small, raw) = (encoder.encode(&text), encoder.encode(&noise));
        assert_eq!((small.codec, raw.codec), (ZSTD, RAW));
        assert_eq!(decode(small.codec, small.bytes, text.len()).unwrap(), text);
        assert_eq!(decode(raw.codec, raw.bytes, noise.len()).unwrap(), noise);
    }

    #[test]
    fn rubbish_is_an_error() {
        assert!(decode(ZSTD, vec![1, 2, 3], 10).is_err());
        assert!(decode(7, vec![1, 2, 3], 3).is_err());
        assert!(decode(RAW, vec![1, 2, 3], 4).is_err());
        let bomb = zstd::bulk::compress(&vec![0; 1 << 20], 3).unwrap();
        assert!(decode(ZSTD, bomb, 100).is_err());
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
