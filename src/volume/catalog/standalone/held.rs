//! Volumes and snapshots whose job was lost.

use crate::db::standalone::{snapshots, volumes};
use crate::model::job::Lease;
use crate::model::snapshot::{HeldSnapshot, SnapshotStatus};
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
        let lease = job.clone().map(Lease::after_all);
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

    /// Snapshots in a state that only a job can end, those of our own jobs included.
    pub fn held_snapshots(&self) -> Result<Vec<HeldSnapshot>, CatalogError> {
        Ok(self.db.read(snapshots::busy)?)
    }

    /// Ends a snapshot's state whose job is not there.
    pub fn give_snapshot_back(&self, held: &HeldSnapshot) -> Result<(), CatalogError> {
        let HeldSnapshot {
            id,
            volume_id,
            status,
            job,
        } = held;
        if let (SnapshotStatus::BackingUp, Some(job)) = (status, job) {
            let lease = Lease::after_all(job.clone());
            return self.end_backup(&lease, volume_id, Some(id), false);
        }
        let to = match status {
            SnapshotStatus::Deleting => SnapshotStatus::ErrorDeleting,
            SnapshotStatus::BackingUp => SnapshotStatus::Available,
            _ => SnapshotStatus::Error,
        };
        let now = self.clock.now();
        self.db
            .write(|c| snapshots::transition(c, id, &[*status], to, None, now))?;
        Ok(())
    }
}
