//! The end of a pack: which frames it holds, and which chunks these.

use crate::engine::format::keys::VaultKeys;
use crate::engine::format::manifest::{ChunkId, frame_check};
use crate::engine::format::row::{ChunkRow, FrameRow, PackName, nonce};
use crate::engine::format::{CHUNK_ROW_BYTES, ChunkKind, FRAME_ROW_BYTES, SALT_BYTES, TAG_BYTES};
use crate::engine::{Error, Result};
use ring::aead::Aad;

pub(crate) const KEY_CONTEXT: &str = "embervault 2026-11 one trailer";
pub(crate) const ORDINAL: u32 = u32::MAX;

/// Longest trailer that is accepted: of the most chunks at which packs were ever closed and those of a last
/// frame, each chunk in a frame of its own.
pub(crate) const BYTES_MAX: u64 =
    ((CHUNK_ROW_BYTES + FRAME_ROW_BYTES) as u64) * ((1 << 17) + (1 << 12));

/// Longest frame that is accepted.
const FRAME_BYTES_MAX: u32 = 64 << 20;

/// The stored form of a trailer, plain.
pub(crate) fn encode(frames: &[FrameRow]) -> Vec<u8> {
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
fn decode(mut bytes: &[u8], id_key: &[u8; 32]) -> Option<Vec<FrameRow>> {
    let frame_count = u32::from_le_bytes(take(&mut bytes)?);
    // As many as there are, as far as so few bytes can hold them: what is kept takes no more memory than
    // it must.
    let mut frames = Vec::with_capacity((frame_count as usize).min(bytes.len() / FRAME_ROW_BYTES));
    for _ in 0..frame_count {
        let [codec] = take(&mut bytes)?;
        let offset = u32::from_le_bytes(take(&mut bytes)?);
        let stored_length = u32::from_le_bytes(take(&mut bytes)?);
        let plain_length = u32::from_le_bytes(take(&mut bytes)?);
        let chunk_count = u32::from_le_bytes(take(&mut bytes)?);
        let mut chunks =
            Vec::with_capacity((chunk_count as usize).min(bytes.len() / CHUNK_ROW_BYTES));
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

/// Opens a trailer, given the pack's header and salt; no frame may end behind `frames_end`.
pub(crate) fn open(
    name: &PackName,
    keys: &VaultKeys,
    (header, salt): (&[u8], &[u8; SALT_BYTES]),
    mut sealed: Vec<u8>,
    frames_end: u64,
) -> Result<Vec<FrameRow>> {
    let corrupt = |detail: &str| Error::corrupt(name.key(), detail);
    let plain = keys
        .trailer
        .salted(KEY_CONTEXT, salt)
        .sealing()
        .open_in_place(nonce(ORDINAL), Aad::from(header), &mut sealed)
        .map_err(|_| corrupt("its trailer does not open"))?;
    let rows = decode(plain, &keys.id).ok_or_else(|| corrupt("its trailer is broken"))?;
    let is_inside = |row: &FrameRow| {
        row.end() <= frames_end
            && (row.stored_length as usize >= TAG_BYTES || row.is_left_out())
            && row.plain_length <= FRAME_BYTES_MAX
    };
    if rows.iter().all(is_inside) {
        Ok(rows)
    } else {
        Err(corrupt("a frame lies outside"))
    }
}
