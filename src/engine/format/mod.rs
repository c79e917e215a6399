//! Every byte we store.
//!
//! # Objects
//!
//! | object | content | written |
//! |---|---|---|
//! | `format.json` | magic, format version, storage id, created | once, create-if-absent |
//! | `v/<vault>/vault.json` | parameters, wrapped key, MAC | once; replaced when the master key changes |
//! | `v/<vault>/p/<2 hex>/<pack>.<rewrite>` | data pack | unique name, never overwritten |
//! | `v/<vault>/m/<2 hex>/<pack>.<rewrite>` | meta pack: leaves, nodes, sums | same |
//! | `v/<vault>/b/<backup>` | sealed root | create-if-absent; the commit point |
//!
//! Integers are little endian. "Keyed" means with a key derived from the vault's key.
//!
//! # Pack
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic `EMBRPACK` |
//! | 8 | 2 | format version |
//! | 10 | 1 | kind: 0 data, 1 meta |
//! | 11 | 1 | 0 |
//! | 12 | 4 | rewrite |
//! | 16 | 8 | pack number |
//! | 24 | 16 | vault |
//! | 40 | 32 | salt |
//! | 72 | | sealed frames, then the sealed trailer |
//! | end − 56 | 8 | trailer offset |
//! | end − 48 | 8 | trailer length |
//! | end − 40 | 32 | BLAKE3 of all before |
//! | end − 8 | 8 | magic `EMBRTAIL` |
//!
//! A **frame** is a run of chunks compressed and sealed together: new chunks of one span in their
//! order, up to eight times the average chunk (512 KiB by default). Why: content-defined chunks of
//! 64 KiB find the most repetition, but alone they compress 3 % worse than in frames, and each would
//! need 16 bytes of id in every leaf. With frames, both sizes can be chosen freely. On
//! 2.8 GB of system files, and a second volume with nine tenths of them in another order, both at
//! zstd 3, MB:
//!
//! | chunks | frames | first | second |
//! |---|---|---|---|
//! | 128 KiB | none | 984 | 199 |
//! | 128 KiB | 512 KiB | 967 | 195 |
//! | 64 KiB | 256 KiB | 971 | 164 |
//! | 64 KiB | 512 KiB | 956 | 161 |
//! | 64 KiB | 1 MiB | 942 | 157 |
//!
//! Longer frames would make a restore of scattered pieces fetch more than it needs.
//!
//! A sealed frame is AES-256-GCM ciphertext and tag. Its key is BLAKE3 `derive_key` of the vault's
//! pack key and the salt, its nonce the ordinal (4 bytes, then 8 zeros), its associated data
//! `vault (16) · pack (8) · rewrite (4) · ordinal (4) · plain length (4) · codec (1)`. The salt is
//! random, so neither a retry nor a database restored from an old dump repeats a key. An ordinal is
//! a frame's number in its pack.
//!
//! The trailer is sealed under the trailer key and the salt, nonce `ff ff ff ff` and zeros, with
//! the 72 header bytes as associated data. Plain trailer: `frame count (4)`, then for each frame
//! `codec (1) · offset (4) · stored length (4) · plain length (4) · chunk count (4)` and for each of
//! its chunks `id (32) · kind (1) · length (4)`. Chunk sizes are thus not visible at rest. A chunk's
//! id is BLAKE3 of its plain bytes, keyed; every chunk of a frame that is opened is hashed again.
//!
//! Codec: 0 raw, 1 zstd. Chunk kinds: 0 data, 1 leaf, 2 node, 3 sums.
//!
//! A pack number is logical: compaction writes `<pack>.<n>`, n above every rewrite before, with the
//! same ordinals; a frame that it leaves out has stored and plain length 0 and no chunks. A repair
//! writes a rewrite as well, and that may hold frames which the object before it has lost. So of several
//! objects of a pack neither the lowest nor the highest is always enough: a rebuild reads all of them, and
//! takes one that holds everything the backups need.
//!
//! A **ref** names a frame: `varint pack · varint ordinal · varint plain length · check (8)`. The
//! check is the first 8 bytes of BLAKE3, keyed, over the ids of the frame's chunks; it is computed
//! from the trailer and compared whenever a frame is read, so that a pack number that was used twice
//! (after an old database was restored) is noticed. Leaves, nodes and sums are frames of one chunk.
//!
//! # Leaf (plain, then a frame in a meta pack)
//!
//! `version 1 (1) · varint frame count · refs · extents`. An extent is `varint length · varint n`:
//! n = 0 is a hole, else a slice of the n-th frame, followed by `varint offset in the frame`. A slice
//! may be any part of a frame. The lengths add up to the span's length.
//!
//! # Node (plain, then a frame in a meta pack)
//!
//! `version 1 (1) · level (1) · varint count · entries`, at most 256. Level 0 entries are spans:
//! tag 0 is a span that is one hole; tag 1 is `leaf ref · varint data bytes · sums · packs`, where
//! sums is tag 0 (none), 1 (`base ref`) or 2 (`base ref · patch ref`); packs is `varint count` and
//! the data packs the leaf needs, ascending, as differences. Entries of higher levels are tag 0 (all
//! holes) or tag 1 and a ref.
//!
//! # Sums (plain, then a frame in a meta pack)
//!
//! 8 bytes for each 4 KiB block of a span: XXH3-64 with a keyed secret; 0 for a block of zeros (a
//! hash that is 0 is written as 1). Full: `version 1 (1) · 0 (1) · sums`. Patch: `version 1 (1) · 1
//! (1) · (index (4) · sum (8))*` over the full one. Derived data: losing them costs one slower
//! incremental.
//!
//! # Root
//!
//! `magic EMBRROOT (8) · version (2) · zeros (6) · vault (16) · salt (32)`, then AES-256-GCM (nonce
//! 0, associated data: the 64 bytes before and the backup id's text) over zstd of the JSON of
//! [`crate::engine::format::manifest::Root`].
//!
//! # Write order, and what a crash leaves
//!
//! | crash after | left behind | who clears it up |
//! |---|---|---|
//! | pack row `writing` | nothing, or an object to which only that row leads | the retry: it makes a whole pack live, and abandons the row of a missing or incomplete one to garbage collection |
//! | pack uploaded, row `live` | chunks that the retry finds in the index | the retry uses them; garbage collection removes the rest |
//! | root object | a complete backup that is still `creating` in the database | the retry finds the root and makes the backup available |
//! | database commit | nothing; the backup is available | |
//!
//! If the backup is not tried again, its root is removed, then its session ends, and garbage collection removes its
//! packs. A root that could not be removed is removed by the next collection, before any pack
//! ([`crate::engine::care::collect`]).

pub mod codec;
pub mod keys;
pub mod manifest;
pub(super) mod pack;
pub(crate) mod row;
pub mod sums;
pub(super) mod trailer;

/// Version of everything described here. Version 1, before any release, had no frames.
pub const VERSION: u16 = 2;

/// First bytes of a pack.
pub const PACK_MAGIC: &[u8; 8] = b"EMBRPACK";
/// Last bytes of a pack.
pub const TAIL_MAGIC: &[u8; 8] = b"EMBRTAIL";
/// First bytes of a root.
pub const ROOT_MAGIC: &[u8; 8] = b"EMBRROOT";

/// Bytes before a pack's first chunk.
pub const PACK_HEADER_BYTES: usize = 72;
/// Bytes after a pack's trailer.
pub const PACK_FOOTER_BYTES: usize = 56;
/// Bytes before a root's sealed part.
pub const ROOT_HEADER_BYTES: usize = 64;
/// Bytes of a trailer's row of one frame, and of one chunk in it.
pub const FRAME_ROW_BYTES: usize = 17;
pub const CHUNK_ROW_BYTES: usize = 37;
/// Bytes that sealing adds.
pub const TAG_BYTES: usize = 16;
/// Bytes of a key's salt in a pack or root.
pub const SALT_BYTES: usize = 32;

/// A volume's unit of change detection.
pub const BLOCK_BYTES: usize = 4096;
/// Children of a node.
pub const NODE_CHILDREN: usize = 256;

/// The kind of a chunk, as a trailer stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ChunkKind {
    Data = 0,
    Leaf = 1,
    Node = 2,
    Sums = 3,
}

impl ChunkKind {
    /// The kind with this number.
    pub fn parse(byte: u8) -> Option<Self> {
        [Self::Data, Self::Leaf, Self::Node, Self::Sums]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}
