//! The answer to a job that asks for a hold.

use crate::volume::catalog::CatalogError;

/// The answer to a job that asks for a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a job that holds nothing must not work"]
pub enum Hold {
    /// The job holds the volume or snapshot.
    Held {
        /// Whether the bytes could change until now: of a volume that was not held, or that is in use, as its users
        /// go on writing.
        could_change: bool,
    },
    /// The job holds nothing any more: an earlier run has released it, or the hold was taken from it. The volume's
    /// owner may use it by now, so the job must neither read nor write it.
    Ended,
}

impl Hold {
    /// Whether the bytes could change until now. An error if the job holds nothing.
    pub fn could_change(self) -> Result<bool, CatalogError> {
        match self {
            Self::Held { could_change } => Ok(could_change),
            Self::Ended => Err(CatalogError::HoldEnded),
        }
    }
}
