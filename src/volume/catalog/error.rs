//! Why a catalogue did not do as asked.

use crate::db::DbError;
use crate::model::error::Error;
use crate::model::id::VolumeId;
use crate::model::number::ImpossibleNumber;
use crate::model::volume::VolumeStatus;
use crate::volume::VolumeError;
use crate::volume::brick::BrickError;
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
    #[error("the job no longer holds the volume")]
    HoldEnded,
    /// The job was asked to stop, between two pieces of a copy.
    #[error("the copy was stopped")]
    Stopped,
    /// The lease was not renewed in time: this run may not make anything any more.
    #[error("the job's lease could not be renewed in time")]
    Overdue,
    /// The snapshot is in a state that does not allow it.
    #[error("the snapshot is {0}")]
    SnapshotState(String),
    /// A size that no volume can have: a row was changed by hand, or is damaged.
    #[error("volume {volume} has no size")]
    Size {
        volume: VolumeId,
        source: ImpossibleNumber,
    },
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// A quota forbids it, or another reason that the client must see.
    #[error(transparent)]
    Refused(Error),
    #[error(transparent)]
    Cinder(#[from] CinderError),
    #[error("cinder has not made the volume yet")]
    NotMadeYet,
    /// A copy of the source that Cinder was to make for a backup.
    #[error("cinder has not made a {0} to back up from: it is {1}")]
    NotCopied(&'static str, String),
    #[error("cinder.brick")]
    Brick(#[from] BrickError),
    /// What failed names files and machines of the operator, so only the log says it.
    #[error(
        "the volume could not be connected to the backup service; the service's log has the reason"
    )]
    NotConnected,
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
            Self::Brick(error) => error.is_temporary(),
            Self::NotMadeYet | Self::NotConnected | Self::Overdue => true,
            Self::NoVolume
            | Self::NoSnapshot
            | Self::VolumeState(_)
            | Self::BeingCopied
            | Self::HoldEnded
            | Self::Stopped
            | Self::SnapshotState(_)
            | Self::Size { .. }
            | Self::Refused(_)
            | Self::NotCopied(..)
            | Self::NotOurs
            | Self::NoCinder => false,
        }
    }
}
