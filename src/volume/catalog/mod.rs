//! The port to the cloud's volumes: whose they are, what state they are in, and where their bytes are.
//!
//! Backups (their requests, their jobs and the engine) ask [`Catalog`] and nothing else. Each call stands there
//! once; who answers is a variant: a real Cinder, or our stand-in for it. The stand-in also makes and deletes volumes,
//! for the requests and jobs in folders called `standalone`: these calls are its own and not in the port.
//!
//! # Holds
//!
//! A backup holds its source and a restore its target, from the request to the end of the job. A hold names the job and
//! its run: a later run takes it over, and an earlier one can no longer end it. A job that has released its hold, or
//! from which it was taken, gets [`Hold::Ended`]: another run may still come, as the job ends in a transaction of its
//! own after its hold. `held` finds what is held for a job that is not there any more, and `give_back` ends that hold.
//! Snapshots have `held_snapshots` and `give_snapshot_back`, and the files that jobs work in have `work_files` and
//! `remove_work_file`.
//!
//! # Which calls share a transaction, and which are repeated
//!
//! | calls | transaction | repetition |
//! |---|---|---|
//! | `hold_source`, `hold_target` | may share the caller's, so that a request is accepted or refused as a whole | by each run of the job; after its hold has ended nothing happens, and the answer is `Hold::Ended` |
//! | `begin_restore`, `open_source`, `open_target`, `finish_target`, `has_copy` | never in one: they may take long | by each run of the job |
//! | `make_target`, `unmake_target` | never in one: before and after that of `hold_target` | never; a volume whose restore was never accepted is found by `held` |
//! | `end_backup`, `end_restore`, `give_target_back` | never in one | by each run of the job; what a later run holds or has made stays |
//! | `give_back`, `give_snapshot_back`, `remove_work_file` | never in one | by any worker; nothing happens once the state has changed |
//! | `resources`, `usage` | read in the caller's, beside the quota of backups | they change nothing |
//! | `volume`, `snapshot`, `saved`, `held`, `held_snapshots`, `work_files`, `open_volume`, `availability_zone`, `check_owner` | none | they change nothing |
//!
//! A database may run a transaction twice, or throw it away after the hold. A catalogue that is not in our
//! database cannot follow: it must take the same hold twice, and a hold whose job was never inserted is found
//! and given back like that of a lost job.

pub mod cinder;
mod error;
mod hold;
#[cfg(test)]
pub mod memory;
pub mod standalone;

pub use error::CatalogError;
pub use hold::Hold;

use crate::clock::Clock;
use crate::config::{Config, Secret, VolumesMode};
use crate::db::{Db, DbConnection};
use crate::model::id::{JobId, ProjectId, SnapshotId, VolumeId};
use crate::model::job::{Lease, NewTarget, RestoreTarget, RestoreVolume};
use crate::model::progress::Progress;
use crate::model::snapshot::{HeldSnapshot, SourceSnapshot};
use crate::model::volume::{HeldVolume, RestoredFrom, SavedVolume, SourceVolume, WorkFile};
use crate::volume::{Source, Target, VolumeReader};
use cinder::Cinder;
use standalone::{Standalone, quota};
use std::collections::BTreeMap;
use tokio::runtime::Handle;

/// Who keeps the volumes. Cheap to clone.
#[derive(Clone)]
pub enum Catalog {
    Standalone(Standalone),
    Cinder(Cinder),
    #[cfg(test)]
    Memory(memory::Memory),
}

impl Catalog {
    /// Opens the catalogue that the settings name.
    pub fn open(
        db: Db,
        clock: Clock,
        config: &Config,
        handle: Handle,
    ) -> Result<Self, CatalogError> {
        match config.volumes.mode {
            VolumesMode::Standalone => Standalone::open(db, clock, config).map(Self::Standalone),
            VolumesMode::Cinder => Cinder::open(db, clock, config, handle).map(Self::Cinder),
        }
    }

    /// Opens the stand-in, where the settings name it.
    pub fn open_standalone(
        db: Db,
        clock: Clock,
        config: &Config,
    ) -> Result<Standalone, CatalogError> {
        match config.volumes.mode {
            VolumesMode::Standalone => Standalone::open(db, clock, config),
            VolumesMode::Cinder => Err(CatalogError::NotOurs),
        }
    }

    /// The Cinder, where the settings name one.
    pub fn open_cinder(
        db: Db,
        clock: Clock,
        config: &Config,
        handle: Handle,
    ) -> Result<Cinder, CatalogError> {
        match config.volumes.mode {
            VolumesMode::Standalone => Err(CatalogError::NoCinder),
            VolumesMode::Cinder => Cinder::open(db, clock, config, handle),
        }
    }

    /// An error if volumes that have to be connected to this machine cannot be. For processes that run jobs.
    pub fn check_connectors(&self) -> Result<(), CatalogError> {
        match self {
            Self::Cinder(cinder) => cinder.check_connectors(),
            _ => Ok(()),
        }
    }

    /// Whether volumes are made and deleted here.
    pub fn is_standalone(&self) -> bool {
        matches!(self, Self::Standalone(_))
    }

    /// The stand-in, for its own requests and jobs; an error if volumes are kept elsewhere.
    pub fn standalone(&self) -> Result<&Standalone, CatalogError> {
        match self {
            Self::Standalone(standalone) => Ok(standalone),
            Self::Cinder(_) => Err(CatalogError::NotOurs),
            #[cfg(test)]
            Self::Memory(_) => Err(CatalogError::NotOurs),
        }
    }

    /// The zone that volumes and backups are in.
    pub fn availability_zone(&self) -> &str {
        match self {
            Self::Standalone(standalone) => &standalone.availability_zone,
            Self::Cinder(cinder) => &cinder.availability_zone,
            #[cfg(test)]
            Self::Memory(_) => "nova",
        }
    }

    /// Resources with quotas of their own, beside those that every cloud has.
    pub fn resources(&self, c: &mut DbConnection) -> Result<Vec<String>, CatalogError> {
        match self {
            Self::Standalone(_) => Ok(quota::resources(c)?),
            Self::Cinder(_) => Ok(Vec::new()),
            #[cfg(test)]
            Self::Memory(_) => Ok(Vec::new()),
        }
    }

    /// A project's usage of the cloud's resources, without backups.
    pub fn usage(
        &self,
        c: &mut DbConnection,
        project: &ProjectId,
    ) -> Result<BTreeMap<String, i64>, CatalogError> {
        match self {
            Self::Standalone(_) => Ok(quota::usage(c, project)?),
            Self::Cinder(_) => Ok(BTreeMap::new()),
            #[cfg(test)]
            Self::Memory(_) => Ok(BTreeMap::new()),
        }
    }

    /// The volume, whosever it is.
    pub fn volume(&self, id: &VolumeId) -> Result<Option<SourceVolume>, CatalogError> {
        match self {
            Self::Standalone(standalone) => Ok(standalone.volume(id)?.map(SourceVolume::from)),
            Self::Cinder(cinder) => cinder.volume(id),
            #[cfg(test)]
            Self::Memory(memory) => Ok(memory.find(id).map(|kept| kept.volume)),
        }
    }

    /// The snapshot, whosever it is.
    pub fn snapshot(&self, id: &SnapshotId) -> Result<Option<SourceSnapshot>, CatalogError> {
        match self {
            Self::Standalone(standalone) => Ok(standalone.snapshot(id)?.map(SourceSnapshot::from)),
            Self::Cinder(cinder) => cinder.snapshot(id),
            #[cfg(test)]
            Self::Memory(_) => Ok(None),
        }
    }

    /// Name, description and metadata that a restored volume will take over from this one.
    pub fn saved(&self, volume: &VolumeId) -> Result<SavedVolume, CatalogError> {
        match self {
            Self::Standalone(standalone) => standalone.saved(volume),
            Self::Cinder(cinder) => cinder.saved(volume),
            #[cfg(test)]
            Self::Memory(memory) => Ok(memory
                .find(volume)
                .map(|kept| kept.saved)
                .unwrap_or_default()),
        }
    }

    /// Holds the volume, or the snapshot if one is named, for a backup.
    pub fn hold_source(
        &self,
        c: &mut DbConnection,
        lease: &Lease,
        volume: &VolumeId,
        snapshot: Option<&SnapshotId>,
        force: bool,
    ) -> Result<Hold, CatalogError> {
        match self {
            Self::Standalone(standalone) => {
                standalone.hold_source(c, lease, volume, snapshot, force)
            }
            Self::Cinder(cinder) => cinder.hold_source(c, lease, volume, snapshot),
            #[cfg(test)]
            Self::Memory(_) if snapshot.is_some() => Err(CatalogError::NoSnapshot),
            #[cfg(test)]
            Self::Memory(memory) => memory.hold_source(lease, volume),
        }
    }

    /// Refuses a volume or snapshot, which is held, that has gone over to another project since it was looked at. A
    /// Cinder answers for its own.
    pub fn check_owner(
        &self,
        c: &mut DbConnection,
        volume: &SourceVolume,
        snapshot: Option<&SourceSnapshot>,
    ) -> Result<(), CatalogError> {
        match self {
            Self::Standalone(standalone) => standalone.check_owner(c, volume, snapshot),
            Self::Cinder(_) => Ok(()),
            #[cfg(test)]
            Self::Memory(_) => Ok(()),
        }
    }

    /// Whether an earlier run of the job has made a copy of the volume, which it is read from.
    pub fn has_copy(&self, job: &JobId, volume: &VolumeId) -> Result<bool, CatalogError> {
        match self {
            Self::Standalone(standalone) => standalone.has_copy(job, volume),
            Self::Cinder(cinder) => cinder.has_copy(job, volume),
            #[cfg(test)]
            Self::Memory(memory) => memory.has_copy(job, volume),
        }
    }

    /// Opens what a held volume or snapshot contains, up to its size, at one moment; with what changed since an
    /// earlier backup, given by its change id, if that is known. An error once the run was asked to stop, or its lease
    /// is over, where that takes long.
    pub fn open_source(
        &self,
        lease: &Lease,
        volume: &VolumeId,
        snapshot: Option<&SnapshotId>,
        size_gib: i64,
        since: Option<&str>,
        progress: &Progress,
    ) -> Result<Source, CatalogError> {
        match self {
            Self::Standalone(standalone) => {
                standalone.open_source(lease, volume, snapshot, size_gib, since, progress)
            }
            Self::Cinder(cinder) => {
                cinder.open_source(lease, volume, snapshot, size_gib, since, progress)
            }
            #[cfg(test)]
            Self::Memory(memory) => memory.open_source(lease, volume),
        }
    }

    /// Ends a backup's hold: the volume goes back to its state.
    pub fn end_backup(
        &self,
        lease: &Lease,
        volume: &VolumeId,
        snapshot: Option<&SnapshotId>,
        succeeded: bool,
    ) -> Result<(), CatalogError> {
        match self {
            Self::Standalone(standalone) => {
                standalone.end_backup(lease, volume, snapshot, succeeded)
            }
            Self::Cinder(cinder) => cinder.end_backup(lease, volume, snapshot, succeeded),
            #[cfg(test)]
            Self::Memory(memory) => memory.end_backup(lease, volume),
        }
    }

    /// Makes the volume of a restore that is about to be asked for, where it has to be there before: as the user, with
    /// the token of the request. A type or a zone that the cloud does not have is left out of it, and of what is wanted.
    pub fn make_target(
        &self,
        token: Option<&Secret>,
        wanted: &mut RestoreVolume,
        new: &NewTarget,
    ) -> Result<VolumeId, CatalogError> {
        match self {
            // The restore itself makes it.
            Self::Standalone(_) => Ok(VolumeId::random()),
            Self::Cinder(cinder) => cinder.make_target(token, wanted, new),
            #[cfg(test)]
            Self::Memory(_) => Ok(VolumeId::random()),
        }
    }

    /// Removes a volume that was made for a restore which was then refused.
    pub fn unmake_target(&self, volume: &VolumeId) -> Result<(), CatalogError> {
        match self {
            Self::Standalone(_) => Ok(()),
            Self::Cinder(cinder) => cinder.unmake_target(volume),
            #[cfg(test)]
            Self::Memory(_) => Ok(()),
        }
    }

    /// Holds the target of a restore, as a request does that is accepted: an existing volume, or one that is made
    /// for it.
    pub fn hold_target(
        &self,
        c: &mut DbConnection,
        lease: &Lease,
        target: &RestoreTarget,
    ) -> Result<Hold, CatalogError> {
        match self {
            Self::Standalone(standalone) => standalone.hold_target(c, lease, target),
            Self::Cinder(cinder) => cinder.hold_target(c, lease, target),
            #[cfg(test)]
            Self::Memory(memory) => memory.hold_target(lease, target),
        }
    }

    /// Takes over the target that the request of a restore holds. A target that is not held any more is not held
    /// again, and one that was made and is gone is not made again.
    pub fn begin_restore(
        &self,
        lease: &Lease,
        target: &RestoreTarget,
    ) -> Result<Hold, CatalogError> {
        match self {
            Self::Standalone(standalone) => standalone.begin_restore(lease, target),
            Self::Cinder(cinder) => cinder.begin_restore(lease, target),
            #[cfg(test)]
            Self::Memory(memory) => memory.begin_restore(lease, &target.volume_id),
        }
    }

    /// Opens a held target, and makes what the restore is to make: with the volume's size, or as many bytes as
    /// the backup has if they are more. With what changed since it held the content of the backup, given by its change id,
    /// if that is known. An error if there is no room for the data.
    pub fn open_target(
        &self,
        lease: &Lease,
        volume: &VolumeId,
        bytes: u64,
        data_bytes: u64,
        since: Option<&str>,
    ) -> Result<Target, CatalogError> {
        match self {
            Self::Standalone(standalone) => standalone
                .open_target(lease, volume, bytes, data_bytes)
                .map(Target::untracked),
            Self::Cinder(cinder) => cinder.open_target(lease, volume, since),
            #[cfg(test)]
            Self::Memory(memory) => memory
                .open_target(lease, volume, bytes)
                .map(Target::untracked),
        }
    }

    /// Makes the data that this run has written the volume's content, unless another run was first.
    pub fn finish_target(&self, lease: &Lease, volume: &VolumeId) -> Result<(), CatalogError> {
        match self {
            Self::Standalone(standalone) => standalone.finish_target(lease, volume),
            // The target was written in place.
            Self::Cinder(_) => Ok(()),
            #[cfg(test)]
            Self::Memory(memory) => memory.finish_target(lease, volume),
        }
    }

    /// Gives back the room that this run has taken for a volume that it could not make.
    pub fn give_target_back(&self, lease: &Lease, volume: &VolumeId) -> Result<(), CatalogError> {
        match self {
            Self::Standalone(standalone) => standalone.give_target_back(lease, volume),
            Self::Cinder(_) => Ok(()),
            #[cfg(test)]
            Self::Memory(memory) => memory.give_target_back(lease, volume),
        }
    }

    /// Ends a restore's hold on its target: with the saved metadata, or in `error_restoring`.
    pub fn end_restore(
        &self,
        lease: &Lease,
        volume: &VolumeId,
        result: Result<&RestoredFrom, ()>,
    ) -> Result<(), CatalogError> {
        match self {
            Self::Standalone(standalone) => standalone.end_restore(lease, volume, result),
            Self::Cinder(cinder) => cinder.end_restore(lease, volume, result),
            #[cfg(test)]
            Self::Memory(memory) => memory.end_restore(lease, volume, result),
        }
    }

    /// The volumes that are in a state that only a job can end.
    pub fn held(&self) -> Result<Vec<HeldVolume>, CatalogError> {
        match self {
            Self::Standalone(standalone) => standalone.held(),
            Self::Cinder(cinder) => cinder.held(),
            #[cfg(test)]
            Self::Memory(memory) => memory.held(),
        }
    }

    /// Ends a state whose job is not there, as if that job had failed.
    pub fn give_back(&self, held: &HeldVolume) -> Result<(), CatalogError> {
        match self {
            Self::Standalone(standalone) => standalone.give_back(held),
            Self::Cinder(cinder) => cinder.give_back(held),
            #[cfg(test)]
            Self::Memory(memory) => memory.give_back(held),
        }
    }

    /// The snapshots that are in a state that only a job can end.
    pub fn held_snapshots(&self) -> Result<Vec<HeldSnapshot>, CatalogError> {
        match self {
            Self::Standalone(standalone) => standalone.held_snapshots(),
            // A backup does not change the state of a snapshot at Cinder.
            Self::Cinder(_) => Ok(Vec::new()),
            #[cfg(test)]
            Self::Memory(_) => Ok(Vec::new()),
        }
    }

    /// Ends a snapshot's state whose job is not there, as if that job had failed.
    pub fn give_snapshot_back(&self, held: &HeldSnapshot) -> Result<(), CatalogError> {
        match self {
            Self::Standalone(standalone) => standalone.give_snapshot_back(held),
            Self::Cinder(_) => Err(CatalogError::NoSnapshot),
            #[cfg(test)]
            Self::Memory(_) => Err(CatalogError::NoSnapshot),
        }
    }

    /// The files that jobs work in.
    pub fn work_files(&self) -> Result<Vec<WorkFile>, CatalogError> {
        match self {
            Self::Standalone(standalone) => standalone.work_files(),
            Self::Cinder(_) => Ok(Vec::new()),
            #[cfg(test)]
            Self::Memory(_) => Ok(Vec::new()),
        }
    }

    /// Removes a file whose job is not there.
    pub fn remove_work_file(&self, left: &WorkFile) -> Result<(), CatalogError> {
        match self {
            Self::Standalone(standalone) => standalone.remove_work_file(left),
            Self::Cinder(_) => Ok(()),
            #[cfg(test)]
            Self::Memory(_) => Ok(()),
        }
    }

    /// The current content of a volume, if it is there. The volume need not be held, so it may change under the reader.
    pub fn open_volume(&self, volume: &VolumeId) -> Option<VolumeReader> {
        match self {
            Self::Standalone(standalone) => standalone.open_volume(volume),
            Self::Cinder(cinder) => cinder.open_volume(volume),
            #[cfg(test)]
            Self::Memory(memory) => memory
                .find(volume)
                .map(|kept| VolumeReader::Memory(kept.content)),
        }
    }
}
