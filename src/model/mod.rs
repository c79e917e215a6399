//! Nouns of the service, their states and their errors. No I/O, no clock, no thread.
//!
//! | word | is |
//! |---|---|
//! | backup | Cinder's resource: a volume's content at one moment, complete in itself |
//! | volume, snapshot, attachment, volume type | Cinder's resources, owned by the volume catalogue |
//! | storage | a configured place for objects: one bucket, container or directory |
//! | vault | one project's keys and chunks in one storage; the deduplication domain |
//! | pack | many sealed chunks in one object; a compaction or repair writes another object for it |
//! | job | durable work item; claimed under a lease |
//! | session | the right of one job to write packs |
//!
//! [`crate::engine`] defines the words of the engine.

pub mod backup;
pub mod check;
pub mod column;
pub mod description;
pub mod error;
pub mod id;
pub mod job;
pub mod message;
pub mod metadata;
pub mod number;
pub mod pack;
pub mod page;
pub mod progress;
pub mod quota;
pub mod record;
pub mod role;
pub mod schema;
pub mod service;
pub mod snapshot;
pub mod standalone;
pub mod time;
pub mod vault;
pub mod version;
pub mod volume;
