//! Why a catalogue did not do as asked.

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
    /// A quota forbids it, or another reason that the client must see.
    #[error(transparent)]
    Refused(Error),
    /// Another service keeps the volumes, and makes and deletes them.
    #[error("this service does not manage these volumes")]
    NotOurs,
}
