//! Volumes whose job was lost.

use crate::db::standalone::volumes;
use crate::model::job::Lease;
use crate::model::volume::{HeldVolume, VolumeStatus};
use crate::volume::catalog::CatalogError;
use crate::volume::catalog::standalone::Standalone;

impl Standalone {
    /// Volumes in a state that only a job can end, those of our own jobs included.
    pub fn held(&self) -> Result<Vec<HeldVolume>, CatalogError> {
        Ok(self.db.read(volumes::busy)?)
    }

    /// Ends a state whose job is not there.
    pub fn give_back(&self, held: &HeldVolume) -> Result<(), CatalogError> {
        let HeldVolume { id, status, job } = held;
        // A lease that is later than every run of the lost job.
        let lease = job.clone().map(|job_id| Lease {
            job_id,
            attempt: i32::MAX,
        });
        match (status, &lease) {
            (VolumeStatus::BackingUp, Some(lease)) => {
                return self.end_backup(lease, id, None, false);
            }
            (VolumeStatus::RestoringBackup, Some(lease)) => {
                return self.end_restore(lease, id, Err(()));
            }
            _ => {}
        }
        let to = match status {
            VolumeStatus::Deleting => VolumeStatus::ErrorDeleting,
            VolumeStatus::Extending => VolumeStatus::ErrorExtending,
            VolumeStatus::BackingUp => VolumeStatus::Available,
            VolumeStatus::RestoringBackup => VolumeStatus::ErrorRestoring,
            _ => VolumeStatus::Error,
        };
        let now = self.clock.now();
        self.db
            .write(|c| volumes::transition(c, id, &[*status], to, None, now))?;
        Ok(())
    }
}
