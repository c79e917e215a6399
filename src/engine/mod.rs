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
//! Deleting removes a root and its pack set; packs are reclaimed by garbage collection, whose
//! states and references ([`crate::db::packs`]) are kept from the start.

pub mod backup;
mod chunker;
mod codec;
pub mod format;
mod index;
pub mod keys;
pub mod manifest;
mod pack;
mod packer;
mod reader;
pub mod restore;
mod span;
pub mod storage;
mod sums;
#[cfg(test)]
mod tests;
pub mod vault;

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
    /// Asked to stop.
    #[error("stopped before the end")]
    Cancelled,
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
            StoreErrorKind::Exists | StoreErrorKind::Full | StoreErrorKind::Other => {
                Error::Store(error)
            }
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
            Error::Store(error) => error.kind == StoreErrorKind::Other,
            Error::Db(_) => true,
            Error::Corrupt { .. }
            | Error::Missing { .. }
            | Error::Volume(_)
            | Error::Key { .. }
            | Error::Cancelled
            | Error::Fenced => false,
        }
    }
}

/// Result of the engine.
pub type Result<T> = std::result::Result<T, Error>;

/// An error once somebody asked the job to stop.
fn check(progress: &Progress) -> Result<()> {
    match progress.is_stopped() {
        true => Err(Error::Cancelled),
        false => Ok(()),
    }
}
