//! The upkeep of a vault: which packs are in use and which are damaged; garbage collection, compaction, verification,
//! repair and rebuild. Nothing here knows of [`write`](crate::engine::write).

pub mod census;
pub mod collect;
pub mod compact;
pub mod frames;
pub(super) mod live;
pub mod rebuild;
pub mod repair;
mod switch;
pub mod verify;
