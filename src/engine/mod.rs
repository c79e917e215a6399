//! The deduplicating repository: what turns a volume into objects and back.
//!
//! Promises: a backup is complete in itself; a root in the store means that all it needs is in
//! the store; nothing is relied upon before its reference is committed; every chunk is verified
//! when it is read; memory is bounded whatever the volume's size. The engine knows nothing of
//! HTTP, of jobs, or of who may do what. [`mod@format`] is the truth about stored bytes.
//!
//! # Who may run beside whom, in one vault
//!
//! | | backup | restore | delete |
//! |---|---|---|---|
//! | **backup** | yes: each session writes its own packs; a chunk may be stored twice | yes: restore only reads | yes: the session references the parent's packs |
//! | **restore** | | yes | the backup's state forbids it |
//! | **delete** | | | yes: each removes its own root |
//!
//! Deleting removes a root and its pack set; packs are reclaimed by [`collect`], beside all of
//! these. Two collectors of one vault do not harm each other: a later generation fences an earlier one.
//! Verification only reads, and notes what it finds; a repair begins a generation of its own.
//!
//! # One span
//!
//! Full and incremental backups go one way ([`mod@backup`], `span`, `stage`). Each 4 KiB block of
//! the span, or of the parts that the source says have changed, is hashed and compared with the
//! parent's sum; of a full backup's parent all sums are zero. What differs is staged in runs. Long
//! runs are cut into chunks and looked up; short ones between old data are gathered, as a chunk for
//! each would cost more than it could save. New chunks are compressed and sealed together in frames,
//! and the parent's extents are split around the result ([`splice`]). Where a span has become so
//! scattered that its restore would fetch much more than it needs, the least used frames are stored
//! again, within a budget proportional to what changed.
//!
//! # Where the time of a full backup goes
//!
//! `perf record` of `embervault bench` on a 4 GiB ext4 image with 2.8 GB of files, zstd 3, two
//! cores, directory storage; shares of CPU time:
//!
//! | share | what |
//! |---|---|
//! | 67 % | zstd |
//! | 8 % | FastCDC |
//! | 6 % | BLAKE3: chunk ids, and the packs' digests |
//! | 4 % | reading the volume out of the page cache |
//! | 3 % | writing packs into it |
//! | 2 % | zero test and sums of blocks |
//! | 1 % | AES-256-GCM |
//! | 9 % | copying, page faults, the index, everything else |
//!
//! `cargo bench --bench stages` has each of them alone.

pub mod backup;
pub mod chunker;
pub mod codec;
pub mod collect;
pub mod compact;
pub mod format;
pub mod frames;
mod index;
pub mod keys;
mod live;
pub mod manifest;
mod pack;
mod packer;
mod parallel;
mod reader;
pub mod rebuild;
pub mod repair;
pub mod restore;
mod span;
pub mod splice;
mod stage;
pub mod storage;
pub mod sums;
#[cfg(test)]
mod tests;
mod tree;
pub mod vault;
pub mod verify;

use crate::db::DbError;
use crate::model::progress::Progress;
use crate::store::{StoreError, StoreErrorKind};
use crate::volume::VolumeError;

/// Failure of the engine. The text names the object and is fit for a backup's `fail_reason`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What is stored is not what was written.
    #[error("{object} is corrupt: {detail}")]
    Corrupt { object: String, detail: String },
    /// Something that must be stored is not.
    #[error("{object} is missing")]
    Missing { object: String },
    /// The backup storage has acknowledged an object that is not there.
    #[error("{object} was acknowledged by the backup storage and is not there")]
    Lost { object: String },
    /// An object has the name that a new one was to have.
    #[error("{object} exists already: the database is older than the storage")]
    Taken { object: String },
    /// The backup storage failed.
    #[error(transparent)]
    Store(StoreError),
    /// The database failed.
    #[error("the database failed")]
    Db(#[from] DbError),
    /// The volume could not be read or written.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The wrapped key cannot be opened with this master key.
    #[error("the master key does not open {object}")]
    Key { object: String },
    /// The store holds backups that the database does not know.
    #[error(
        "vault {vault} holds {count} backups that the database does not know, {first} among them, so nothing is reclaimed: run `embervault vault rebuild`"
    )]
    UnknownRoots {
        vault: String,
        count: usize,
        first: String,
    },
    /// What the root of a backup needs cannot be told.
    #[error(
        "{object} could not be read when the database was made again, so nothing is reclaimed: put it right and run `embervault vault rebuild`, or delete the backup"
    )]
    UnreadableRoot { object: String },
    /// A defect of ours: a thread panicked. What is stored is not in doubt.
    #[error("{0} failed: its thread panicked")]
    Panicked(&'static str),
    /// Asked to stop.
    #[error("stopped before the end")]
    Cancelled,
    /// The lease was not renewed in time: nothing may be touched any more.
    #[error("the job's lease could not be renewed in time")]
    Overdue,
    /// The session was overtaken by another.
    #[error("another worker has taken over")]
    Fenced,
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error.kind {
            StoreErrorKind::Missing => Error::Missing {
                object: error.object,
            },
            StoreErrorKind::Truncated => Error::Corrupt {
                object: error.object,
                detail: "it is truncated".to_owned(),
            },
            StoreErrorKind::Exists
            | StoreErrorKind::Full
            | StoreErrorKind::Denied
            | StoreErrorKind::Other => Error::Store(error),
        }
    }
}

impl Error {
    fn corrupt(object: impl std::fmt::Display, detail: impl std::fmt::Display) -> Self {
        Error::Corrupt {
            object: object.to_string(),
            detail: detail.to_string(),
        }
    }

    /// Whether trying again later may help.
    pub fn is_temporary(&self) -> bool {
        match self {
            // Credentials may be put right while the job waits.
            Error::Store(error) => {
                matches!(error.kind, StoreErrorKind::Other | StoreErrorKind::Denied)
            }
            Error::Db(_)
            | Error::Lost { .. }
            | Error::Taken { .. }
            | Error::Panicked(_)
            | Error::Overdue => true,
            Error::Corrupt { .. }
            | Error::Missing { .. }
            | Error::Volume(_)
            | Error::Key { .. }
            | Error::UnknownRoots { .. }
            | Error::UnreadableRoot { .. }
            | Error::Cancelled
            | Error::Fenced => false,
        }
    }
}

/// Result of the engine.
pub type Result<T> = std::result::Result<T, Error>;

/// An error once the job was asked to stop, or may not go on.
fn check(progress: &Progress) -> Result<()> {
    if progress.is_asked_to_stop() {
        return Err(Error::Cancelled);
    }
    if progress.is_overdue() {
        return Err(Error::Overdue);
    }
    Ok(())
}
