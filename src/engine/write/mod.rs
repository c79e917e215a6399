//! From a volume to packs and a root. Nothing here knows of [`care`](crate::engine::care).
//!
//! `backup` drives one backup; `shared` has what its threads share, `parent` the backup that it is made against. One
//! thread works on one span at a time: `span` finds what changed, `stage` cuts it (`chunker`) and looks it up
//! (`index`), `splice` puts it between the parent's extents. `packer` fills packs, `session` uploads them, `tree` stores
//! the nodes.

pub mod backup;
pub mod chunker;
pub(super) mod index;
pub(super) mod packer;
pub(super) mod parent;
pub(super) mod session;
pub(super) mod shared;
pub(super) mod span;
pub mod splice;
pub(super) mod stage;
pub(super) mod tree;
