//! The names of a pack inside its sealed bytes, and the rows that describe its frames and chunks.

use crate::engine::format::manifest::{ChunkId, FrameRef};
use crate::engine::format::{ChunkKind, PACK_HEADER_BYTES, PACK_MAGIC, SALT_BYTES, VERSION};
use crate::model::pack::PackKind;
use crate::store::key::Key;
use ring::aead::Nonce;
use uuid::Uuid;

/// Names a pack, also inside its sealed bytes.
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

    pub(super) fn header(&self, salt: &[u8; SALT_BYTES]) -> [u8; PACK_HEADER_BYTES] {
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

    pub(super) fn associated(&self, ordinal: u32, plain_length: u32, codec: u8) -> [u8; 37] {
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

pub(crate) fn nonce(ordinal: u32) -> Nonce {
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

/// One frame, as the trailer describes it.
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
    /// The reference by which a manifest names this frame.
    pub(crate) fn place(&self, pack: u32, ordinal: u32) -> FrameRef {
        FrameRef {
            pack,
            ordinal,
            length: self.plain_length,
            check: self.check,
        }
    }

    /// Where its sealed bytes end.
    pub(crate) fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.stored_length)
    }

    /// Its sealed bytes among those of the pack from an offset on.
    pub(super) fn sealed<'s>(&self, bytes: &'s mut [u8], from: u64) -> Option<&'s mut [u8]> {
        let start = usize::try_from(u64::from(self.offset).checked_sub(from)?).ok()?;
        bytes.get_mut(start..start + self.stored_length as usize)
    }

    /// Whether compaction has left the frame out.
    pub(crate) fn is_left_out(&self) -> bool {
        self.stored_length == 0 && self.plain_length == 0 && self.chunks.is_empty()
    }

    /// Whether plain bytes are those of the chunks.
    pub(super) fn is(&self, id_key: &[u8; 32], plain: &[u8]) -> bool {
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
