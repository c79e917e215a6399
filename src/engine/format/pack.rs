//! Packs: built in memory, sealed frame by frame, read by ordinal. The layout is in
//! [`crate::engine::format`].

use crate::engine::format::codec::{self, Encoded};
use crate::engine::format::keys::{VaultKeys, random_bytes};
use crate::engine::format::manifest::{FrameRef, frame_check};
use crate::engine::format::row::{ChunkRow, FrameRow, PackName, nonce};
use crate::engine::format::{
    PACK_FOOTER_BYTES, PACK_HEADER_BYTES, SALT_BYTES, TAIL_MAGIC, trailer,
};
use crate::engine::{Error, Result};
use crate::model::number::ImpossibleNumber;
use crate::model::pack::IndexedChunk;
use crate::store::Store;
use crate::store::key::Key;
use ring::aead::{Aad, LessSafeKey};

const PACK_KEY_CONTEXT: &str = "embervault 2026-11 one pack";

/// Unless everything is checked after sealing, one frame of so many is.
const SAMPLE: u32 = 64;

/// Bytes read at a pack's end at once: footer and, nearly always, the whole trailer.
const TAIL_BYTES: u64 = 96 << 10;

/// Longest range read at once, unless one frame is longer.
pub(crate) const RANGE_BYTES_MAX: u64 = 4 << 20;

/// Chunks compressed together, ready to be sealed.
pub(crate) struct NewFrame {
    pub(crate) chunks: Vec<ChunkRow>,
    pub(crate) encoded: Encoded,
}

/// A pack being filled.
pub(crate) struct PackBuilder {
    pub(crate) name: PackName,
    bytes: Vec<u8>,
    rows: Vec<FrameRow>,
    chunk_count: usize,
    header: [u8; PACK_HEADER_BYTES],
    key: LessSafeKey,
    trailer_key: LessSafeKey,
    /// The key of ids, by which what was sealed is checked.
    id_key: [u8; 32],
    /// Of so many frames one is opened and hashed again before it is trusted.
    checked_every: u32,
}

/// A pack ready to be stored.
pub(crate) struct SealedPack {
    pub(crate) name: PackName,
    pub(crate) bytes: Vec<u8>,
    pub(crate) rows: Vec<FrameRow>,
}

impl PackBuilder {
    /// A pack that will be closed at about this many bytes, in memory that need not be empty.
    pub(crate) fn new(
        name: PackName,
        keys: &VaultKeys,
        paranoid: bool,
        bytes: usize,
        mut buffer: Vec<u8>,
    ) -> Self {
        let salt = random_bytes();
        let header = name.header(&salt);
        // Room for the last frame and the trailer, so that it never moves.
        buffer.clear();
        buffer.reserve(bytes + (bytes >> 4) + (1 << 20));
        buffer.extend_from_slice(&header);
        Self {
            name,
            bytes: buffer,
            rows: Vec::new(),
            chunk_count: 0,
            header,
            key: keys.pack.salted(PACK_KEY_CONTEXT, &salt).sealing(),
            trailer_key: keys.trailer.salted(trailer::KEY_CONTEXT, &salt).sealing(),
            id_key: keys.id,
            checked_every: if paranoid { 1 } else { SAMPLE },
        }
    }

    /// Bytes so far.
    pub(crate) fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Chunks so far.
    pub(crate) fn count(&self) -> usize {
        self.chunk_count
    }

    /// Seals and appends a frame.
    pub(crate) fn push(&mut self, frame: NewFrame) -> Result<FrameRef> {
        let ordinal = u32::try_from(self.rows.len()).expect("a pack has far fewer frames");
        let Encoded { codec, mut bytes } = frame.encoded;
        let plain_length = frame.chunks.iter().map(|chunk| chunk.length).sum();
        let associated = self.name.associated(ordinal, plain_length, codec);
        self.key
            .seal_in_place_append_tag(nonce(ordinal), Aad::from(associated), &mut bytes)
            .expect("a frame is far shorter than the cipher's limit");
        let row = FrameRow {
            codec,
            offset: u32::try_from(self.bytes.len()).expect("a pack is far below 4 GiB"),
            stored_length: u32::try_from(bytes.len()).expect("a frame is far below 4 GiB"),
            plain_length,
            check: frame_check(&self.id_key, frame.chunks.iter().map(|chunk| &chunk.id)),
            chunks: frame.chunks,
        };
        self.bytes.extend_from_slice(&bytes);
        if ordinal.is_multiple_of(self.checked_every) {
            let mut opened = Vec::new();
            open_frame(
                (&self.name, &self.key),
                ordinal,
                &row,
                &mut bytes,
                &mut opened,
            )?;
            if !row.is(&self.id_key, &opened) {
                return Err(Error::corrupt(
                    self.name.key(),
                    "a frame just sealed does not open to itself",
                ));
            }
        }
        let place = row.place(self.name.number, ordinal);
        self.chunk_count += row.chunks.len();
        self.rows.push(row);
        Ok(place)
    }

    /// Leaves an ordinal without a frame.
    pub(crate) fn skip(&mut self) {
        self.rows.push(FrameRow {
            codec: 0,
            offset: u32::try_from(self.bytes.len()).expect("a pack is far below 4 GiB"),
            stored_length: 0,
            plain_length: 0,
            check: frame_check(&self.id_key, std::iter::empty()),
            chunks: Vec::new(),
        });
    }

    /// Closes the pack with trailer and footer.
    pub(crate) fn finish(mut self) -> SealedPack {
        let mut trailer = trailer::encode(&self.rows);
        self.trailer_key
            .seal_in_place_append_tag(
                nonce(trailer::ORDINAL),
                Aad::from(self.header),
                &mut trailer,
            )
            .expect("a trailer is far shorter than the cipher's limit");
        let offset = self.bytes.len() as u64;
        self.bytes.extend_from_slice(&trailer);
        let digest = {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&self.bytes);
            hasher.update(&offset.to_le_bytes());
            hasher.update(&(trailer.len() as u64).to_le_bytes());
            hasher.finalize()
        };
        self.bytes.extend_from_slice(&offset.to_le_bytes());
        self.bytes
            .extend_from_slice(&(trailer.len() as u64).to_le_bytes());
        self.bytes.extend_from_slice(digest.as_bytes());
        self.bytes.extend_from_slice(TAIL_MAGIC);
        SealedPack {
            name: self.name,
            bytes: self.bytes,
            rows: self.rows,
        }
    }
}

/// A stored pack that can be read by ordinal.
pub(crate) struct PackReader {
    name: PackName,
    key: LessSafeKey,
    pub(crate) rows: Vec<FrameRow>,
}

impl PackReader {
    /// Reads header and trailer of a stored pack of a known length.
    pub(crate) fn open(
        store: &Store,
        name: PackName,
        length: u64,
        keys: &VaultKeys,
    ) -> Result<Self> {
        let key = name.key();
        let corrupt = |detail: &str| Error::corrupt(&key, detail);
        let ends = (PACK_HEADER_BYTES + PACK_FOOTER_BYTES) as u64;
        if length < ends {
            return Err(corrupt("it is truncated"));
        }
        let footer_at = length - PACK_FOOTER_BYTES as u64;
        let tail_at = length.saturating_sub(TAIL_BYTES);
        let mut tail = store.get_range(&key, tail_at..length)?;
        let footer = tail.split_off((footer_at - tail_at) as usize);
        let offset = u64_at(&footer, 0);
        let trailer_length = u64_at(&footer, 8);
        if footer[48..] != TAIL_MAGIC[..] {
            return Err(corrupt("its end is not a pack's end"));
        }
        if trailer_length > trailer::BYTES_MAX
            || offset < PACK_HEADER_BYTES as u64
            || offset.checked_add(trailer_length) != Some(footer_at)
        {
            return Err(corrupt("its footer does not point to a trailer"));
        }
        let header = store.get_range(&key, 0..PACK_HEADER_BYTES as u64)?;
        let salt: [u8; SALT_BYTES] = header[40..]
            .try_into()
            .map_err(|_| corrupt("its header is too short"))?;
        if header != name.header(&salt) {
            return Err(corrupt("its header is not this pack's"));
        }
        let sealed = match offset.checked_sub(tail_at) {
            Some(start) => tail.split_off(start as usize),
            None => store.get_range(&key, offset..footer_at)?,
        };
        let rows = trailer::open(&name, keys, (&header, &salt), sealed, offset)?;
        Ok(Self {
            name,
            key: keys.pack.salted(PACK_KEY_CONTEXT, &salt).sealing(),
            rows,
        })
    }

    /// Where a frame lies, after a check that it is the one that was meant.
    pub(crate) fn row(&self, frame: &FrameRef) -> Result<&FrameRow> {
        self.rows
            .get(frame.ordinal as usize)
            .filter(|row| row.check == frame.check && row.plain_length == frame.length)
            .filter(|row| !row.is_left_out())
            .ok_or_else(|| {
                let detail = format!("it has not the wanted frame {}", frame.ordinal);
                Error::corrupt(self.name.key(), detail)
            })
    }

    /// Opens, expands and verifies a frame, into memory that need not be empty. The sealed bytes are used
    /// up.
    pub(crate) fn open_frame(
        &self,
        keys: &VaultKeys,
        frame: &FrameRef,
        sealed: &mut [u8],
        plain: &mut Vec<u8>,
    ) -> Result<()> {
        let row = self.row(frame)?;
        open_frame((&self.name, &self.key), frame.ordinal, row, sealed, plain)?;
        self.check(keys, frame, row, plain)
    }

    /// Verifies a whole pack of a known length: every byte by the footer's digest, every chunk by its id.
    /// Never holds more of it than one range.
    pub(crate) fn verify(&self, store: &Store, keys: &VaultKeys, length: u64) -> Result<()> {
        let key = self.name.key();
        let corrupt = |detail: &str| Error::corrupt(&key, detail);
        let hashed = length
            .checked_sub(PACK_FOOTER_BYTES as u64 - 16)
            .ok_or_else(|| corrupt("it is truncated"))?;
        let (mut sealed, mut plain) = (Vec::new(), Vec::new());
        let (mut digest, mut broken) = (blake3::Hasher::new(), None);
        let mut frames = self.frames().peekable();
        let mut at = 0;
        while at < hashed {
            // Whole frames, as many as lie in one range; behind the last one whatever follows.
            let limit = (at + RANGE_BYTES_MAX).min(hashed);
            let (mut some, mut end) = (Vec::new(), at);
            while let Some((frame, row)) = frames.next_if(|(_, row)| {
                row.end() <= limit || (some.is_empty() && u64::from(row.offset) < limit)
            }) {
                end = end.max(row.end());
                some.push((frame, row));
            }
            if end == at || frames.peek().is_none() {
                end = end.max(limit);
            }
            store.read_range(&key, at..end, &mut sealed)?;
            digest.update(&sealed);
            for (frame, row) in some {
                let opened = row
                    .sealed(&mut sealed, at)
                    .ok_or_else(|| corrupt("its frames overlap"))
                    .and_then(|sealed| self.open_frame(keys, &frame, sealed, &mut plain));
                broken = broken.or(opened.err());
            }
            at = end;
        }
        let footer = store.get_range(&key, hashed..length)?;
        if footer[..32] != *digest.finalize().as_bytes() {
            return Err(corrupt("its digest is not that of its bytes"));
        }
        broken.map_or(Ok(()), Err)
    }

    /// The memory that [`PackReader::verify`] uses at once.
    pub(crate) fn verify_bytes(&self) -> u64 {
        let longest = |of: fn(&FrameRow) -> u32| self.rows.iter().map(of).max().unwrap_or(0);
        let sealed = u64::from(longest(|row| row.stored_length)).max(RANGE_BYTES_MAX);
        sealed + u64::from(longest(|row| row.plain_length))
    }

    /// Bytes of memory that it takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let chunks: usize = self.rows.iter().map(|row| row.chunks.capacity()).sum();
        self.rows.capacity() * size_of::<FrameRow>() + chunks * size_of::<ChunkRow>()
    }

    /// The frames that are there, in the order of their offsets.
    fn frames(&self) -> impl Iterator<Item = (FrameRef, &FrameRow)> {
        let rows = (0..).zip(&self.rows);
        rows.filter(|(_, row)| !row.is_left_out())
            .map(|(ordinal, row)| (row.place(self.name.number, ordinal), row))
    }

    /// Opens and verifies a frame, and gives it as it was before it was sealed.
    pub(crate) fn unseal(
        &self,
        keys: &VaultKeys,
        frame: &FrameRef,
        sealed: &mut [u8],
    ) -> Result<Encoded> {
        let row = self.row(frame)?;
        let opened = unseal(&self.name, &self.key, frame.ordinal, row, sealed)?;
        let (codec, bytes, mut plain) = (row.codec, opened.to_vec(), Vec::new());
        expand(&self.name, frame.ordinal, row, &bytes, &mut plain)?;
        self.check(keys, frame, row, &plain)?;
        Ok(Encoded { codec, bytes })
    }

    fn check(
        &self,
        keys: &VaultKeys,
        frame: &FrameRef,
        row: &FrameRow,
        plain: &[u8],
    ) -> Result<()> {
        if row.is(&keys.id, plain) {
            Ok(())
        } else {
            let detail = format!("a chunk of frame {} does not have its id", frame.ordinal);
            Err(Error::corrupt(self.name.key(), detail))
        }
    }

    /// Whether there is a frame of this ordinal.
    pub(crate) fn holds(&self, ordinal: u32) -> bool {
        let row = self.rows.get(ordinal as usize);
        row.is_some_and(|row| !row.is_left_out())
    }

    /// The pack's number.
    pub(crate) fn number(&self) -> u32 {
        self.name.number
    }

    /// Name of the object.
    pub(crate) fn object(&self) -> Key {
        self.name.key()
    }
}

fn open_frame(
    (name, key): (&PackName, &LessSafeKey),
    ordinal: u32,
    row: &FrameRow,
    sealed: &mut [u8],
    plain: &mut Vec<u8>,
) -> Result<()> {
    let opened = unseal(name, key, ordinal, row, sealed)?;
    expand(name, ordinal, row, opened, plain)
}

fn unseal<'s>(
    name: &PackName,
    key: &LessSafeKey,
    ordinal: u32,
    row: &FrameRow,
    sealed: &'s mut [u8],
) -> Result<&'s [u8]> {
    let associated = name.associated(ordinal, row.plain_length, row.codec);
    match key.open_in_place(nonce(ordinal), Aad::from(associated), sealed) {
        Ok(opened) => Ok(opened),
        Err(_) => {
            let detail = format!("frame {ordinal} does not open");
            Err(Error::corrupt(name.key(), detail))
        }
    }
}

fn expand(
    name: &PackName,
    ordinal: u32,
    row: &FrameRow,
    opened: &[u8],
    plain: &mut Vec<u8>,
) -> Result<()> {
    codec::decode(row.codec, opened, row.plain_length as usize, plain)
        .map_err(|error| Error::corrupt(name.key(), format!("frame {ordinal}: {error}")))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes were cut"))
}

/// The rows of the index for the chunks of a pack.
pub(crate) fn indexed(
    vault: i64,
    name: &PackName,
    frames: &[FrameRow],
) -> Result<Vec<IndexedChunk>> {
    let mut rows = Vec::new();
    for (ordinal, frame) in (0..).zip(frames) {
        index_frame((vault, name.number), ordinal, frame, &mut rows)
            .map_err(|error| Error::corrupt(name.key(), error))?;
    }
    Ok(rows)
}

fn index_frame(
    (vault, pack): (i64, u32),
    ordinal: u32,
    frame: &FrameRow,
    rows: &mut Vec<IndexedChunk>,
) -> std::result::Result<(), ImpossibleNumber> {
    let mut offset = 0_u32;
    for chunk in &frame.chunks {
        rows.push(IndexedChunk {
            vault,
            id: chunk.id.0.to_vec(),
            pack: pack.into(),
            ordinal: ordinal.try_into()?,
            length: chunk.length.try_into()?,
            frame_offset: offset.try_into()?,
            frame_length: frame.plain_length.try_into()?,
            frame_check: i64::from_le_bytes(frame.check),
        });
        offset += chunk.length;
    }
    Ok(())
}
