//! Who owns volumes, what state they are in, and where their bytes are.
//!
//! The backup service asks here and nowhere else. Today the only catalogue is our own; one that
//! stands for a real Cinder behind us will have the same calls, and each can be repeated by the job that
//! made it. Only the two calls that hold a source or a target can share the transaction of a request
//! (`hold_source`, `hold_target`), as the catalogue is in the same database.

pub mod quota;
mod standalone;
mod transfer;

pub use standalone::Catalog;
pub use transfer::Transfer;

use crate::db::DbError;
use crate::model::error::Error;
use crate::model::volume::VolumeStatus;
use crate::volume::VolumeError;

/// Why the catalogue did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("the volume does not exist")]
    NoVolume,
    #[error("the snapshot does not exist")]
    NoSnapshot,
    /// The volume is in a state that does not allow it.
    #[error("the volume is {0}")]
    VolumeState(VolumeStatus),
    #[error("a snapshot or copy of the volume is being taken")]
    BeingCopied,
    /// The snapshot is in a state that does not allow it.
    #[error("the snapshot is {0}")]
    SnapshotState(String),
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// A quota stands against it, or something else a client must be told.
    #[error(transparent)]
    Refused(Error),
}
