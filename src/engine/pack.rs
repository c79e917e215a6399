//! Packs: built in memory, sealed frame by frame, read by ordinal. The layout is in
//! [`crate::engine::format`].

use crate::engine::codec::{self, Encoded};
use crate::engine::format::{
    CHUNK_ROW_BYTES, ChunkKind, FRAME_ROW_BYTES, PACK_FOOTER_BYTES, PACK_HEADER_BYTES, PACK_MAGIC,
    SALT_BYTES, TAG_BYTES, TAIL_MAGIC, VERSION,
};
use crate::engine::keys::{VaultKeys, random_bytes};
use crate::engine::manifest::{ChunkId, FrameRef, frame_check};
use crate::engine::{Error, Result};
use crate::model::pack::PackKind;
use crate::store::Store;
use crate::store::key::Key;
use ring::aead::{Aad, LessSafeKey, Nonce};
use uuid::Uuid;

const PACK_KEY_CONTEXT: &str = "embervault 2026-11 one pack";
const TRAILER_KEY_CONTEXT: &str = "embervault 2026-11 one trailer";
const TRAILER_ORDINAL: u32 = u32::MAX;

/// Unless everything is checked after sealing, one frame of so many is.
const SAMPLE: u32 = 64;

/// Longest trailer that is believed: a million chunks.
const TRAILER_BYTES_MAX: u64 = (CHUNK_ROW_BYTES as u64) << 20;

/// Longest frame that is believed.
const FRAME_BYTES_MAX: u32 = 64 << 20;

/// Bytes read at a pack's end at once: footer and, nearly always, the whole trailer.
const TAIL_BYTES: u64 = 96 << 10;

/// What names a pack inside its sealed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackName {
    pub(crate) vault: Uuid,
    pub(crate) kind: PackKind,
    pub(crate) number: u32,
    pub(crate) rewrite: u32,
}

impl PackName {
    /// The object's name.
    pub(crate) fn key(&self) -> Key {
        Key::Pack {
            vault: crate::model::id::VaultId::new(self.vault.to_string()),
            kind: self.kind,
            number: self.number,
            rewrite: self.rewrite,
        }
    }

    fn header(&self, salt: &[u8; SALT_BYTES]) -> [u8; PACK_HEADER_BYTES] {
        let mut header = [0; PACK_HEADER_BYTES];
        header[..8].copy_from_slice(PACK_MAGIC);
        header[8..10].copy_from_slice(&VERSION.to_le_bytes());
        header[10] = u8::from(self.kind == PackKind::Meta);
        header[12..16].copy_from_slice(&self.rewrite.to_le_bytes());
        header[16..24].copy_from_slice(&u64::from(self.number).to_le_bytes());
        header[24..40].copy_from_slice(self.vault.as_bytes());
        header[40..].copy_from_slice(salt);
        header
    }

    fn associated(&self, ordinal: u32, plain_length: u32, codec: u8) -> [u8; 37] {
        let mut data = [0; 37];
        data[..16].copy_from_slice(self.vault.as_bytes());
        data[16..24].copy_from_slice(&u64::from(self.number).to_le_bytes());
        data[24..28].copy_from_slice(&self.rewrite.to_le_bytes());
        data[28..32].copy_from_slice(&ordinal.to_le_bytes());
        data[32..36].copy_from_slice(&plain_length.to_le_bytes());
        data[36] = codec;
        data
    }
}

fn nonce(ordinal: u32) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&ordinal.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// A chunk inside a frame; chunks lie there one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChunkRow {
    pub(crate) id: ChunkId,
    pub(crate) kind: ChunkKind,
    /// Plain bytes.
    pub(crate) length: u32,
}

/// Chunks compressed together, ready to be sealed.
pub(crate) struct NewFrame {
    pub(crate) chunks: Vec<ChunkRow>,
    pub(crate) encoded: Encoded,
}

/// One frame, as the trailer tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FrameRow {
    pub(crate) codec: u8,
    pub(crate) offset: u32,
    pub(crate) stored_length: u32,
    pub(crate) plain_length: u32,
    /// Not stored: computed from the ids of the chunks.
    pub(crate) check: [u8; 8],
    pub(crate) chunks: Vec<ChunkRow>,
}

impl FrameRow {
    /// What a manifest says to name this frame.
    pub(crate) fn place(&self, pack: u32, ordinal: u32) -> FrameRef {
        FrameRef {
            pack,
            ordinal,
            length: self.plain_length,
            check: self.check,
        }
    }

    /// Whether compaction has left the frame out.
    pub(crate) fn is_left_out(&self) -> bool {
        self.stored_length == 0 && self.plain_length == 0 && self.chunks.is_empty()
    }

    /// Whether plain bytes are those of the chunks.
    fn is(&self, id_key: &[u8; 32], plain: &[u8]) -> bool {
        let mut rest = plain;
        self.chunks.iter().all(|chunk| {
            let Some((bytes, after)) = rest.split_at_checked(chunk.length as usize) else {
                return false;
            };
            rest = after;
            ChunkId::of(id_key, bytes) == chunk.id
        }) && rest.is_empty()
    }
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
            trailer_key: keys.trailer.salted(TRAILER_KEY_CONTEXT, &salt).sealing(),
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
            let opened = open_frame(&self.name, &self.key, ordinal, &row, &mut bytes)?;
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
        let mut trailer = encode_trailer(&self.rows);
        self.trailer_key
            .seal_in_place_append_tag(nonce(TRAILER_ORDINAL), Aad::from(self.header), &mut trailer)
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
        if trailer_length > TRAILER_BYTES_MAX
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
        let rows = open_trailer(&name, keys, &header, &salt, sealed, offset)?;
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

    /// Opens, expands and verifies a frame. The sealed bytes are used up.
    pub(crate) fn open_frame(
        &self,
        keys: &VaultKeys,
        frame: &FrameRef,
        sealed: &mut [u8],
    ) -> Result<Vec<u8>> {
        let row = self.row(frame)?;
        let plain = open_frame(&self.name, &self.key, frame.ordinal, row, sealed)?;
        self.check(keys, frame, row, &plain)?;
        Ok(plain)
    }

    /// Verifies a whole pack: every byte by the footer's digest, every chunk by its id.
    pub(crate) fn verify(&self, keys: &VaultKeys, mut bytes: Vec<u8>) -> Result<()> {
        let corrupt = |detail: &str| Error::corrupt(self.name.key(), detail);
        let (hashed, footer) = bytes
            .len()
            .checked_sub(PACK_FOOTER_BYTES - 16)
            .map(|end| bytes.split_at(end))
            .ok_or_else(|| corrupt("it is truncated"))?;
        if footer[..32] != *blake3::hash(hashed).as_bytes() {
            return Err(corrupt("its digest is not that of its bytes"));
        }
        for (ordinal, row) in (0..).zip(&self.rows) {
            if !row.is_left_out() {
                let frame = row.place(self.name.number, ordinal);
                let end = row.offset as usize + row.stored_length as usize;
                let sealed = bytes
                    .get_mut(row.offset as usize..end)
                    .ok_or_else(|| corrupt("it is truncated"))?;
                self.open_frame(keys, &frame, sealed)?;
            }
        }
        Ok(())
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
        let (codec, bytes) = (row.codec, opened.to_vec());
        let plain = expand(&self.name, frame.ordinal, row, &bytes)?;
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
        match row.is(&keys.id, plain) {
            true => Ok(()),
            false => {
                let detail = format!("a chunk of frame {} does not have its id", frame.ordinal);
                Err(Error::corrupt(self.name.key(), detail))
            }
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
    name: &PackName,
    key: &LessSafeKey,
    ordinal: u32,
    row: &FrameRow,
    sealed: &mut [u8],
) -> Result<Vec<u8>> {
    let opened = unseal(name, key, ordinal, row, sealed)?;
    expand(name, ordinal, row, opened)
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

fn expand(name: &PackName, ordinal: u32, row: &FrameRow, opened: &[u8]) -> Result<Vec<u8>> {
    codec::decode(row.codec, opened, row.plain_length as usize)
        .map_err(|error| Error::corrupt(name.key(), format!("frame {ordinal}: {error}")))
}

/// The stored form of a trailer, plain.
fn encode_trailer(frames: &[FrameRow]) -> Vec<u8> {
    let chunk_count: usize = frames.iter().map(|frame| frame.chunks.len()).sum();
    let length = 4 + frames.len() * FRAME_ROW_BYTES + chunk_count * CHUNK_ROW_BYTES + TAG_BYTES;
    let mut trailer = Vec::with_capacity(length);
    trailer.extend_from_slice(&(frames.len() as u32).to_le_bytes());
    for frame in frames {
        trailer.push(frame.codec);
        trailer.extend_from_slice(&frame.offset.to_le_bytes());
        trailer.extend_from_slice(&frame.stored_length.to_le_bytes());
        trailer.extend_from_slice(&frame.plain_length.to_le_bytes());
        trailer.extend_from_slice(&(frame.chunks.len() as u32).to_le_bytes());
        for chunk in &frame.chunks {
            trailer.extend_from_slice(&chunk.id.0);
            trailer.push(chunk.kind as u8);
            trailer.extend_from_slice(&chunk.length.to_le_bytes());
        }
    }
    trailer
}

/// Reads a plain trailer; `None` if the bytes are none.
fn decode_trailer(mut bytes: &[u8], id_key: &[u8; 32]) -> Option<Vec<FrameRow>> {
    let frame_count = u32::from_le_bytes(take(&mut bytes)?);
    let mut frames = Vec::new();
    for _ in 0..frame_count {
        let [codec] = take(&mut bytes)?;
        let offset = u32::from_le_bytes(take(&mut bytes)?);
        let stored_length = u32::from_le_bytes(take(&mut bytes)?);
        let plain_length = u32::from_le_bytes(take(&mut bytes)?);
        let chunk_count = u32::from_le_bytes(take(&mut bytes)?);
        let mut chunks = Vec::new();
        for _ in 0..chunk_count {
            let id = ChunkId(take(&mut bytes)?);
            let [kind] = take(&mut bytes)?;
            chunks.push(ChunkRow {
                id,
                kind: ChunkKind::parse(kind)?,
                length: u32::from_le_bytes(take(&mut bytes)?),
            });
        }
        frames.push(FrameRow {
            codec,
            offset,
            stored_length,
            plain_length,
            check: frame_check(id_key, chunks.iter().map(|chunk| &chunk.id)),
            chunks,
        });
    }
    bytes.is_empty().then_some(frames)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

fn open_trailer(
    name: &PackName,
    keys: &VaultKeys,
    header: &[u8],
    salt: &[u8; SALT_BYTES],
    mut sealed: Vec<u8>,
    frames_end: u64,
) -> Result<Vec<FrameRow>> {
    let corrupt = |detail: &str| Error::corrupt(name.key(), detail);
    let plain = keys
        .trailer
        .salted(TRAILER_KEY_CONTEXT, salt)
        .sealing()
        .open_in_place(nonce(TRAILER_ORDINAL), Aad::from(header), &mut sealed)
        .map_err(|_| corrupt("its trailer does not open"))?;
    let rows = decode_trailer(plain, &keys.id).ok_or_else(|| corrupt("its trailer is broken"))?;
    let is_inside = |row: &FrameRow| {
        u64::from(row.offset) + u64::from(row.stored_length) <= frames_end
            && (row.stored_length as usize >= TAG_BYTES || row.is_left_out())
            && row.plain_length <= FRAME_BYTES_MAX
    };
    match rows.iter().all(is_inside) {
        true => Ok(rows),
        false => Err(corrupt("a frame lies outside")),
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes were cut"))
}
