//! Packs: built in memory, sealed chunk by chunk, read by ordinal. The layout is in
//! [`crate::engine::format`].

use crate::engine::codec::{self, Encoded};
use crate::engine::format::{
    ChunkKind, PACK_FOOTER_BYTES, PACK_HEADER_BYTES, PACK_MAGIC, SALT_BYTES, TAG_BYTES, TAIL_MAGIC,
    TRAILER_ROW_BYTES, VERSION,
};
use crate::engine::keys::{VaultKeys, random_bytes};
use crate::engine::manifest::{ChunkId, ChunkRef};
use crate::engine::{Error, Result};
use crate::model::pack::PackKind;
use crate::store::Store;
use crate::store::key::Key;
use ring::aead::{Aad, LessSafeKey, Nonce};
use uuid::Uuid;

const PACK_KEY_CONTEXT: &str = "embervault 2026-11 one pack";
const TRAILER_KEY_CONTEXT: &str = "embervault 2026-11 one trailer";
const TRAILER_ORDINAL: u32 = u32::MAX;

/// Unless everything is checked after sealing, one chunk of so many is.
const SAMPLE: u32 = 64;

/// Longest trailer that is believed: a million chunks.
const TRAILER_BYTES_MAX: u64 = (TRAILER_ROW_BYTES as u64) << 20;

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

/// One chunk, as the trailer tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TrailerRow {
    pub(crate) id: ChunkId,
    pub(crate) kind: ChunkKind,
    pub(crate) codec: u8,
    pub(crate) offset: u32,
    pub(crate) stored_length: u32,
    pub(crate) plain_length: u32,
}

/// A pack being filled.
pub(crate) struct PackBuilder {
    pub(crate) name: PackName,
    bytes: Vec<u8>,
    rows: Vec<TrailerRow>,
    header: [u8; PACK_HEADER_BYTES],
    key: LessSafeKey,
    trailer_key: LessSafeKey,
    /// The key of ids, by which what was sealed is checked.
    id_key: [u8; 32],
    /// Of so many chunks one is opened and hashed again before it is trusted.
    checked_every: u32,
}

/// A pack ready to be stored.
pub(crate) struct SealedPack {
    pub(crate) name: PackName,
    pub(crate) bytes: Vec<u8>,
    pub(crate) rows: Vec<TrailerRow>,
}

impl PackBuilder {
    pub(crate) fn new(name: PackName, keys: &VaultKeys, paranoid: bool) -> Self {
        let salt = random_bytes();
        let header = name.header(&salt);
        Self {
            name,
            bytes: header.to_vec(),
            rows: Vec::new(),
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
        self.rows.len()
    }

    /// Seals and appends a chunk; gives its ordinal.
    pub(crate) fn push(
        &mut self,
        id: ChunkId,
        kind: ChunkKind,
        plain_length: u32,
        encoded: Encoded,
    ) -> Result<u32> {
        let ordinal = u32::try_from(self.rows.len()).expect("a pack has far fewer chunks");
        let Encoded { codec, mut bytes } = encoded;
        let associated = self.name.associated(ordinal, plain_length, codec);
        self.key
            .seal_in_place_append_tag(nonce(ordinal), Aad::from(associated), &mut bytes)
            .expect("a chunk is far shorter than the cipher's limit");
        let row = TrailerRow {
            id,
            kind,
            codec,
            offset: u32::try_from(self.bytes.len()).expect("a pack is far below 4 GiB"),
            stored_length: u32::try_from(bytes.len()).expect("a chunk is far below 4 GiB"),
            plain_length,
        };
        if ordinal.is_multiple_of(self.checked_every) {
            let opened = open_chunk(&self.name, &self.key, ordinal, &row, bytes.clone())?;
            if ChunkId::of(&self.id_key, &opened) != id {
                return Err(Error::corrupt(
                    self.name.key(),
                    "a chunk just sealed does not open to itself",
                ));
            }
        }
        self.bytes.extend_from_slice(&bytes);
        self.rows.push(row);
        Ok(ordinal)
    }

    /// Closes the pack with trailer and footer.
    pub(crate) fn finish(mut self) -> SealedPack {
        let mut trailer = Vec::with_capacity(4 + self.rows.len() * TRAILER_ROW_BYTES + TAG_BYTES);
        trailer.extend_from_slice(&(self.rows.len() as u32).to_le_bytes());
        for row in &self.rows {
            trailer.extend_from_slice(&row.id.0);
            trailer.push(row.kind as u8);
            trailer.push(row.codec);
            trailer.extend_from_slice(&row.offset.to_le_bytes());
            trailer.extend_from_slice(&row.stored_length.to_le_bytes());
            trailer.extend_from_slice(&row.plain_length.to_le_bytes());
        }
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
    pub(crate) rows: Vec<TrailerRow>,
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
        let footer = store.get_range(&key, footer_at..length)?;
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
        let sealed = store.get_range(&key, offset..footer_at)?;
        let rows = open_trailer(&name, keys, &header, &salt, sealed, offset)?;
        Ok(Self {
            name,
            key: keys.pack.salted(PACK_KEY_CONTEXT, &salt).sealing(),
            rows,
        })
    }

    /// Where a chunk lies, after a check that it is the one that was meant.
    pub(crate) fn row(&self, chunk: &ChunkRef) -> Result<&TrailerRow> {
        self.rows
            .get(chunk.ordinal as usize)
            .filter(|row| row.id.0[..16] == chunk.id)
            .ok_or_else(|| {
                let detail = format!("it has no chunk {} of the wanted id", chunk.ordinal);
                Error::corrupt(self.name.key(), detail)
            })
    }

    /// Opens, expands and verifies a chunk.
    pub(crate) fn open_chunk(
        &self,
        keys: &VaultKeys,
        chunk: &ChunkRef,
        sealed: Vec<u8>,
    ) -> Result<Vec<u8>> {
        let row = self.row(chunk)?;
        let plain = open_chunk(&self.name, &self.key, chunk.ordinal, row, sealed)?;
        if ChunkId::of(&keys.id, &plain) != row.id {
            let detail = format!("chunk {} does not have its id", chunk.ordinal);
            return Err(Error::corrupt(self.name.key(), detail));
        }
        Ok(plain)
    }

    /// Name of the object.
    pub(crate) fn object(&self) -> Key {
        self.name.key()
    }
}

fn open_chunk(
    name: &PackName,
    key: &LessSafeKey,
    ordinal: u32,
    row: &TrailerRow,
    mut sealed: Vec<u8>,
) -> Result<Vec<u8>> {
    let associated = name.associated(ordinal, row.plain_length, row.codec);
    let length = key
        .open_in_place(nonce(ordinal), Aad::from(associated), &mut sealed)
        .map_err(|_| Error::corrupt(name.key(), format!("chunk {ordinal} does not open")))?
        .len();
    sealed.truncate(length);
    codec::decode(row.codec, sealed, row.plain_length as usize)
        .map_err(|error| Error::corrupt(name.key(), format!("chunk {ordinal}: {error}")))
}

fn open_trailer(
    name: &PackName,
    keys: &VaultKeys,
    header: &[u8],
    salt: &[u8; SALT_BYTES],
    mut sealed: Vec<u8>,
    chunks_end: u64,
) -> Result<Vec<TrailerRow>> {
    let corrupt = |detail: &str| Error::corrupt(name.key(), detail);
    let plain = keys
        .trailer
        .salted(TRAILER_KEY_CONTEXT, salt)
        .sealing()
        .open_in_place(nonce(TRAILER_ORDINAL), Aad::from(header), &mut sealed)
        .map_err(|_| corrupt("its trailer does not open"))?;
    let (count, rows) = plain
        .split_first_chunk::<4>()
        .ok_or_else(|| corrupt("its trailer is empty"))?;
    if rows.len() != u32::from_le_bytes(*count) as usize * TRAILER_ROW_BYTES {
        return Err(corrupt("its trailer has not the length it tells"));
    }
    rows.chunks_exact(TRAILER_ROW_BYTES)
        .map(|row| {
            let parsed = TrailerRow {
                id: ChunkId(row[..32].try_into().expect("a row has 46 bytes")),
                kind: ChunkKind::parse(row[32])
                    .ok_or_else(|| corrupt("a chunk's kind is unknown"))?,
                codec: row[33],
                offset: u32_at(row, 34),
                stored_length: u32_at(row, 38),
                plain_length: u32_at(row, 42),
            };
            let end = u64::from(parsed.offset) + u64::from(parsed.stored_length);
            match end <= chunks_end && parsed.stored_length as usize >= TAG_BYTES {
                true => Ok(parsed),
                false => Err(corrupt("a chunk lies outside")),
            }
        })
        .collect()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes were cut"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes were cut"))
}
