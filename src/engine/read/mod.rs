//! From a root to the bytes of a volume: frames, the tree over the spans, and the restore.

pub(super) mod reader;
pub mod restore;
pub(super) mod tree;
