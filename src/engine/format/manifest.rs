//! Root, nodes, leaves and extents: what a backup is made of. The stored forms are in
//! [`crate::engine::format`]. Decoding trusts nothing: any bytes give a value or `None`.

use crate::engine::format::NODE_CHILDREN;
use crate::engine::{Error, Result};
use crate::model::description::Description;
use crate::model::pack::IndexedChunk;
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// BLAKE3 of a chunk's plain bytes, keyed with the vault's id key. 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkId(pub [u8; 32]);

impl ChunkId {
    /// The id of these bytes.
    pub fn of(key: &[u8; 32], plain: &[u8]) -> Self {
        Self(*blake3::keyed_hash(key, plain).as_bytes())
    }
}

/// Where a frame is, and which frame must be found there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FrameRef {
    pub pack: u32,
    pub ordinal: u32,
    /// Plain bytes.
    pub length: u32,
    /// See [`frame_check`].
    pub check: [u8; 8],
}

impl FrameRef {
    /// The frame to which the index leads.
    pub(crate) fn of(row: &IndexedChunk) -> Self {
        Self {
            pack: row.pack.get(),
            ordinal: row.ordinal.get(),
            length: row.frame_length.get(),
            check: row.frame_check.to_le_bytes(),
        }
    }
}

/// Tells frames apart: the first 8 bytes of BLAKE3 over the ids of the frame's chunks, keyed with
/// the vault's id key. It guards against a pack that is not the one that was meant (a pack number
/// used again after an old database was restored); against forgery the seal does.
pub fn frame_check<'i>(key: &[u8; 32], ids: impl Iterator<Item = &'i ChunkId>) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    for id in ids {
        hasher.update(&id.0);
    }
    *hasher
        .finalize()
        .as_bytes()
        .first_chunk()
        .expect("32 bytes hold 8")
}

/// A piece of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Zeros.
    Hole { length: u32 },
    /// A slice of a frame.
    Slice {
        length: u32,
        frame: FrameRef,
        offset: u32,
    },
}

impl Extent {
    /// Bytes of the volume.
    pub fn length(&self) -> u32 {
        match self {
            Extent::Hole { length } | Extent::Slice { length, .. } => *length,
        }
    }
}

/// Where the sums of a span are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SumsRef {
    pub base: FrameRef,
    pub patch: Option<FrameRef>,
}

/// A span, as its node describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SpanEntry {
    /// Zeros from end to end.
    #[default]
    Hole,
    Leaf {
        leaf: FrameRef,
        /// Bytes that are not holes.
        data_bytes: u32,
        sums: Option<SumsRef>,
        /// Data packs the leaf's extents lie in, ascending.
        packs: Vec<u32>,
    },
}

/// The root of a backup: all that is needed to list, restore and import it without the database. It is stored as JSON,
/// so a new field needs `#[serde(default)]`: the roots of older backups do not have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    pub backup: Description,
    /// Bytes of the source.
    pub volume_bytes: u64,
    pub span_bytes: u64,
    /// The topmost node; `None` if the volume is one hole.
    pub tree: Option<FrameRef>,
    /// Levels of nodes, of which the lowest is 0; at least 1.
    pub levels: u8,
    /// Serialized bitmap of the numbers of all packs needed.
    #[serde(with = "base64_bytes")]
    pub pack_set: Vec<u8>,
    /// BLAKE3 over the digests of the lowest nodes, each BLAKE3 over the checks of its leaves, holes
    /// as zeros: equal for equal leaves.
    pub leaves_digest: String,
    /// The source's own name for this state of its content, if it has one.
    pub source_change_id: Option<String>,
    pub logical_bytes: u64,
    pub read_bytes: u64,
    pub stored_bytes: u64,
    pub deduplicated_bytes: u64,
    pub object_count: u64,
}

mod base64_bytes {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        BASE64_STANDARD.decode(text).map_err(D::Error::custom)
    }
}

const MANIFEST_VERSION: u8 = 1;

/// The stored form of a span's extents.
pub fn encode_leaf(extents: &[Extent]) -> Vec<u8> {
    let mut numbers = HashMap::new();
    let mut frames = Vec::new();
    let mut rows = Vec::new();
    for extent in extents {
        put_varint(&mut rows, extent.length().into());
        match extent {
            Extent::Hole { .. } => rows.push(0),
            Extent::Slice { frame, offset, .. } => {
                let number = *numbers.entry(*frame).or_insert_with(|| {
                    frames.push(*frame);
                    frames.len() as u64
                });
                put_varint(&mut rows, number);
                put_varint(&mut rows, (*offset).into());
            }
        }
    }
    let mut bytes = vec![MANIFEST_VERSION];
    put_varint(&mut bytes, frames.len() as u64);
    frames.iter().for_each(|frame| put_ref(&mut bytes, frame));
    bytes.extend_from_slice(&rows);
    bytes
}

/// The extents of a span of this length.
pub fn decode_leaf(bytes: &[u8], span_bytes: u64) -> Option<Vec<Extent>> {
    let mut input = Input(bytes);
    if input.byte()? != MANIFEST_VERSION {
        return None;
    }
    let count = input.u32()?;
    let frames = (0..count)
        .map(|_| input.frame_ref())
        .collect::<Option<Vec<_>>>()?;
    let mut extents = Vec::new();
    let mut covered = 0;
    while !input.0.is_empty() {
        let length = input.u32()?;
        extents.push(match (input.u32()? as usize).checked_sub(1) {
            None => Extent::Hole { length },
            Some(number) => {
                let (frame, offset) = (*frames.get(number)?, input.u32()?);
                if offset.checked_add(length)? > frame.length {
                    return None;
                }
                Extent::Slice {
                    length,
                    frame,
                    offset,
                }
            }
        });
        covered += u64::from(length);
    }
    (covered == span_bytes).then_some(extents)
}

/// The stored form of a node over spans.
pub fn encode_span_node(entries: &[SpanEntry]) -> Vec<u8> {
    let mut bytes = vec![MANIFEST_VERSION, 0];
    put_varint(&mut bytes, entries.len() as u64);
    for entry in entries {
        match entry {
            SpanEntry::Hole => bytes.push(0),
            SpanEntry::Leaf {
                leaf,
                data_bytes,
                sums,
                packs,
            } => {
                bytes.push(1);
                put_ref(&mut bytes, leaf);
                put_varint(&mut bytes, (*data_bytes).into());
                put_sums(&mut bytes, sums.as_ref());
                put_varint(&mut bytes, packs.len() as u64);
                let mut last = 0;
                for pack in packs {
                    put_varint(&mut bytes, (pack - last).into());
                    last = *pack;
                }
            }
        }
    }
    bytes
}

/// The stored form of a node over nodes.
pub fn encode_inner_node(level: u8, entries: &[Option<FrameRef>]) -> Vec<u8> {
    let mut bytes = vec![MANIFEST_VERSION, level];
    put_varint(&mut bytes, entries.len() as u64);
    for entry in entries {
        match entry {
            None => bytes.push(0),
            Some(node) => {
                bytes.push(1);
                put_ref(&mut bytes, node);
            }
        }
    }
    bytes
}

/// The spans of a level 0 node.
pub fn decode_span_node(bytes: &[u8]) -> Option<Vec<SpanEntry>> {
    let (mut input, count) = node_start(bytes, 0)?;
    let entries = (0..count)
        .map(|_| match input.byte()? {
            0 => Some(SpanEntry::Hole),
            1 => decode_leaf_entry(&mut input),
            _ => None,
        })
        .collect::<Option<Vec<_>>>()?;
    input.0.is_empty().then_some(entries)
}

/// The children of a node of a higher level.
pub fn decode_inner_node(bytes: &[u8], level: u8) -> Option<Vec<Option<FrameRef>>> {
    let (mut input, count) = node_start(bytes, level)?;
    let entries = (0..count)
        .map(|_| match input.byte()? {
            0 => Some(None),
            1 => input.frame_ref().map(Some),
            _ => None,
        })
        .collect::<Option<Vec<_>>>()?;
    input.0.is_empty().then_some(entries)
}

fn node_start(bytes: &[u8], level: u8) -> Option<(Input<'_>, usize)> {
    let mut input = Input(bytes);
    let is_node = input.byte()? == MANIFEST_VERSION && input.byte()? == level;
    let count = input.u32()? as usize;
    (is_node && count <= NODE_CHILDREN).then_some((input, count))
}

fn decode_leaf_entry(input: &mut Input<'_>) -> Option<SpanEntry> {
    let leaf = input.frame_ref()?;
    let data_bytes = input.u32()?;
    let sums = match input.byte()? {
        0 => None,
        1 => Some(SumsRef {
            base: input.frame_ref()?,
            patch: None,
        }),
        2 => Some(SumsRef {
            base: input.frame_ref()?,
            patch: Some(input.frame_ref()?),
        }),
        _ => return None,
    };
    let count = input.u32()?;
    let mut last = 0_u32;
    let mut packs = Vec::new();
    for _ in 0..count {
        last = last.checked_add(input.u32()?)?;
        packs.push(last);
    }
    Some(SpanEntry::Leaf {
        leaf,
        data_bytes,
        sums,
        packs,
    })
}

fn put_sums(bytes: &mut Vec<u8>, sums: Option<&SumsRef>) {
    match sums {
        None => bytes.push(0),
        Some(SumsRef { base, patch: None }) => {
            bytes.push(1);
            put_ref(bytes, base);
        }
        Some(SumsRef {
            base,
            patch: Some(patch),
        }) => {
            bytes.push(2);
            put_ref(bytes, base);
            put_ref(bytes, patch);
        }
    }
}

fn put_ref(bytes: &mut Vec<u8>, frame: &FrameRef) {
    put_varint(bytes, frame.pack.into());
    put_varint(bytes, frame.ordinal.into());
    put_varint(bytes, frame.length.into());
    bytes.extend_from_slice(&frame.check);
}

/// Seven bits a byte, lowest first, the eighth set on all but the last.
fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        let mut value = 0_u64;
        for shift in (0..35).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).ok();
            }
        }
        None
    }

    fn frame_ref(&mut self) -> Option<FrameRef> {
        Some(FrameRef {
            pack: self.u32()?,
            ordinal: self.u32()?,
            length: self.u32()?,
            check: self.array()?,
        })
    }
}

/// The stored form of a set of pack numbers.
pub fn encode_pack_set(packs: &RoaringBitmap) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(packs.serialized_size());
    packs
        .serialize_into(&mut bytes)
        .expect("memory takes all bytes");
    bytes
}

/// A set of pack numbers from its stored form.
pub fn decode_pack_set(bytes: &[u8]) -> Result<RoaringBitmap> {
    RoaringBitmap::deserialize_from(bytes).map_err(|error| Error::corrupt("a pack set", error))
}

/// All packs that are in some of these sets.
pub fn decode_pack_sets(sets: &[Vec<u8>]) -> Result<RoaringBitmap> {
    let mut sets = sets.iter().map(|set| decode_pack_set(set));
    sets.try_fold(RoaringBitmap::new(), |all, set| Ok(all | set?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame() -> impl Strategy<Value = FrameRef> {
        let numbers = (any::<u32>(), any::<u32>(), 0..1_u32 << 31);
        (numbers, any::<[u8; 8]>()).prop_map(|((pack, ordinal, length), check)| FrameRef {
            pack,
            ordinal,
            length,
            check,
        })
    }

    fn extent() -> impl Strategy<Value = Extent> {
        prop_oneof![
            any::<u32>().prop_map(|length| Extent::Hole { length }),
            (frame(), any::<u32>(), any::<u32>()).prop_map(|(frame, offset, length)| {
                let offset = offset % (frame.length + 1);
                Extent::Slice {
                    length: length % (frame.length - offset + 1),
                    frame,
                    offset,
                }
            }),
        ]
    }

    fn entry() -> impl Strategy<Value = SpanEntry> {
        let sums = proptest::option::of((frame(), proptest::option::of(frame())))
            .prop_map(|sums| sums.map(|(base, patch)| SumsRef { base, patch }));
        let packs = proptest::collection::btree_set(any::<u32>(), 0..9);
        prop_oneof![
            Just(SpanEntry::Hole),
            (frame(), any::<u32>(), sums, packs).prop_map(|(leaf, data_bytes, sums, packs)| {
                SpanEntry::Leaf {
                    leaf,
                    data_bytes,
                    sums,
                    packs: packs.into_iter().collect(),
                }
            }),
        ]
    }

    proptest! {
        #[test]
        fn leaves_come_back(extents in proptest::collection::vec(extent(), 0..40)) {
            let length = extents.iter().map(|extent| u64::from(extent.length())).sum();
            let bytes = encode_leaf(&extents);
            prop_assert_eq!(decode_leaf(&bytes, length), Some(extents));
            prop_assert_eq!(decode_leaf(&bytes, length + 1), None);
        }

        #[test]
        fn nodes_come_back(
            entries in proptest::collection::vec(entry(), 0..40),
            children in proptest::collection::vec(proptest::option::of(frame()), 0..40),
            level in 1_u8..9,
        ) {
            prop_assert_eq!(decode_span_node(&encode_span_node(&entries)), Some(entries));
            let bytes = encode_inner_node(level, &children);
            prop_assert_eq!(decode_inner_node(&bytes, level), Some(children));
            prop_assert_eq!(decode_inner_node(&bytes, level + 1), None);
        }

        #[test]
        fn rubbish_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (decode_leaf(&bytes, 0), decode_span_node(&bytes), decode_inner_node(&bytes, 1));
        }
    }
}
