//! Why a catalogue did not do as asked.

use crate::db::DbError;
use crate::model::error::Error;
use crate::model::volume::VolumeStatus;
use crate::volume::VolumeError;
use crate::volume::cinder::CinderError;

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
    #[error(transparent)]
    Cinder(#[from] CinderError),
    #[error("cinder has not made the volume yet")]
    NotMadeYet,
    /// Another service keeps the volumes, and makes and deletes them.
    #[error("the volumes are kept by a Cinder (volumes.mode), not by this service")]
    NotOurs,
    #[error("no Cinder is set up: set volumes.mode to \"cinder\", and cinder.url")]
    NoCinder,
}

impl CatalogError {
    /// Whether the same may succeed later.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Db(error) => !error.is_lasting(),
            Self::Cinder(error) => error.is_temporary(),
            Self::Volume(error) => error.is_temporary(),
            Self::NotMadeYet => true,
            Self::NoVolume
            | Self::NoSnapshot
            | Self::VolumeState(_)
            | Self::BeingCopied
            | Self::SnapshotState(_)
            | Self::Refused(_)
            | Self::NotOurs
            | Self::NoCinder => false,
        }
    }
}
