//! Packs as the database knows them: the authority on what the store holds.

use crate::model::column::text_enum;
use crate::model::id::JobId;
use crate::model::number::{ByteCount, Count, FrameBytes, Ordinal, PackNumber, Rewrite};
use crate::model::schema::{chunks, packs};
use diesel::prelude::*;

text_enum! {
    /// `writing → live → condemned → deleting → gone`, and `condemned → live`.
    PackState {
        Writing => "writing",
        Live => "live",
        Condemned => "condemned",
        Deleting => "deleting",
        Gone => "gone",
    }
}

text_enum! {
    /// The kind of a pack's frames, and so the folder it lies in.
    PackKind {
        /// Chunks of volumes: `p/`.
        Data => "data",
        /// Leaves, nodes and sums: `m/`.
        Meta => "meta",
    }
}

/// One row of `packs`; its key is vault and number.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = packs)]
pub struct Pack {
    pub vault: i64,
    pub number: PackNumber,
    pub rewrite: Rewrite,
    pub kind: PackKind,
    pub state: PackState,
    /// The session that wrote it, until that session ends.
    pub session: Option<JobId>,
    pub stored_bytes: ByteCount,
    pub chunk_count: Count,
    /// 0 if they were not counted.
    pub frame_count: Count,
}

/// One row of the advisory deduplication index.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = chunks, treat_none_as_default_value = false)]
pub struct IndexedChunk {
    pub vault: i64,
    /// 32 bytes.
    pub id: Vec<u8>,
    pub pack: PackNumber,
    /// Of the frame it lies in.
    pub ordinal: Ordinal,
    /// Plain bytes.
    pub length: FrameBytes,
    /// Where it begins in the frame's plain bytes.
    pub frame_offset: FrameBytes,
    /// Plain bytes of the frame.
    pub frame_length: FrameBytes,
    /// The 8 bytes by which manifests know the frame, little endian.
    pub frame_check: i64,
}
