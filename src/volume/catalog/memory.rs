//! The second catalogue, for tests: volumes in memory, and not a row in the database. What works with it asks
//! the port alone.

use crate::model::id::{JobId, VolumeId};
use crate::model::job::{Lease, RestoreTarget};
use crate::model::volume::{HeldVolume, RestoredFrom, SavedVolume, SourceVolume, VolumeStatus};
use crate::volume::catalog::{CatalogError, Hold};
use crate::volume::memory::MemoryVolume;
use crate::volume::{Source, VolumeReader, VolumeWriter};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// Volumes of some other service. A clone is the same catalogue.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<BTreeMap<VolumeId, Kept>>>);

/// One volume, as its service keeps it.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) volume: SourceVolume,
    pub(crate) saved: SavedVolume,
    pub(crate) content: MemoryVolume,
    /// The run of a job that holds it.
    holder: Option<String>,
    /// The last job that let go of it.
    released_by: Option<JobId>,
    /// The content of the volume when a backup began to read it.
    copy: Option<(JobId, MemoryVolume)>,
    /// The target of a restore, until it is complete.
    unfinished: Option<(Lease, MemoryVolume)>,
    /// Whether the restore that holds it is to make it.
    is_made_by_restore: bool,
}

impl Kept {
    pub(crate) fn new(volume: SourceVolume, saved: SavedVolume, content: Vec<u8>) -> Self {
        Self {
            volume,
            saved,
            content: MemoryVolume::of(content),
            holder: None,
            released_by: None,
            copy: None,
            unfinished: None,
            is_made_by_restore: false,
        }
    }

    /// A volume that was free could change until now.
    fn hold(
        &mut self,
        free: &[VolumeStatus],
        to: VolumeStatus,
        lease: &Lease,
    ) -> Result<Hold, CatalogError> {
        if self.released_by.as_ref() == Some(&lease.job_id) {
            return Ok(Hold::Ended);
        }
        let is_ours = self.is_held_by(lease);
        if !is_ours && !free.contains(&self.volume.status) {
            return Err(CatalogError::VolumeState(self.volume.status));
        }
        self.volume.status = to;
        self.holder = Some(lease.holder());
        Ok(Hold::Held {
            could_change: !is_ours,
        })
    }

    fn is_held_by(&self, lease: &Lease) -> bool {
        self.holder
            .as_ref()
            .is_some_and(|holder| lease.follows(holder))
    }

    /// `false`: the lease holds nothing.
    fn release(&mut self, lease: &Lease, to: VolumeStatus) -> bool {
        let is_ours = self.is_held_by(lease);
        if is_ours {
            self.volume.status = to;
            self.holder = None;
            self.released_by = Some(lease.job_id.clone());
        }
        is_ours
    }
}

impl Memory {
    fn kept(&self) -> MutexGuard<'_, BTreeMap<VolumeId, Kept>> {
        self.0.lock().unwrap()
    }

    /// Does something with a volume that is there.
    fn with<T>(
        &self,
        id: &VolumeId,
        work: impl FnOnce(&mut Kept) -> Result<T, CatalogError>,
    ) -> Result<T, CatalogError> {
        work(self.kept().get_mut(id).ok_or(CatalogError::NoVolume)?)
    }

    pub(crate) fn insert(&self, kept: Kept) {
        self.kept().insert(kept.volume.id.clone(), kept);
    }

    pub(crate) fn find(&self, id: &VolumeId) -> Option<Kept> {
        self.kept().get(id).cloned()
    }

    pub(super) fn hold_source(&self, lease: &Lease, id: &VolumeId) -> Result<Hold, CatalogError> {
        let (free, to) = ([VolumeStatus::Available], VolumeStatus::BackingUp);
        self.with(id, |kept| kept.hold(&free, to, lease))
    }

    pub(super) fn has_copy(&self, job: &JobId, id: &VolumeId) -> Result<bool, CatalogError> {
        self.with(id, |kept| {
            Ok(kept.copy.as_ref().is_some_and(|(of, _)| of == job))
        })
    }

    pub(super) fn open_source(&self, lease: &Lease, id: &VolumeId) -> Result<Source, CatalogError> {
        let job = &lease.job_id;
        self.with(id, |kept| {
            let copy = match kept.copy.take() {
                Some((of, copy)) if of == *job => copy,
                _ => MemoryVolume::of(kept.content.bytes()),
            };
            kept.copy = Some((job.clone(), copy.clone()));
            Ok(Source::untracked(VolumeReader::Memory(copy)))
        })
    }

    pub(super) fn end_backup(&self, lease: &Lease, id: &VolumeId) -> Result<(), CatalogError> {
        if let Some(kept) = self.kept().get_mut(id)
            && kept.release(lease, VolumeStatus::Available)
        {
            kept.copy = None;
        }
        Ok(())
    }

    pub(super) fn hold_target(
        &self,
        lease: &Lease,
        target: &RestoreTarget,
    ) -> Result<Hold, CatalogError> {
        let id = &target.volume_id;
        if let (Some(wanted), None) = (&target.create, self.find(id)) {
            let volume = SourceVolume {
                id: id.clone(),
                project_id: wanted.project_id.clone(),
                name: Some(wanted.name.clone()),
                size_gib: wanted.size_gib,
                status: VolumeStatus::Available,
                unsupported: None,
            };
            self.insert(Kept {
                is_made_by_restore: true,
                ..Kept::new(volume, SavedVolume::default(), Vec::new())
            });
        }
        let (free, to) = ([VolumeStatus::Available], VolumeStatus::RestoringBackup);
        self.with(id, |kept| kept.hold(&free, to, lease))
    }

    pub(super) fn begin_restore(&self, lease: &Lease, id: &VolumeId) -> Result<Hold, CatalogError> {
        self.with(id, |kept| {
            if kept.is_held_by(lease) {
                kept.hold(&[], VolumeStatus::RestoringBackup, lease)
            } else {
                Ok(Hold::Ended)
            }
        })
    }

    pub(super) fn open_target(
        &self,
        lease: &Lease,
        id: &VolumeId,
        bytes: u64,
    ) -> Result<VolumeWriter, CatalogError> {
        self.with(id, |kept| {
            if !kept.is_made_by_restore {
                return Ok(VolumeWriter::Memory(kept.content.clone()));
            }
            let made = MemoryVolume::of(vec![0; usize::try_from(bytes).unwrap()]);
            kept.unfinished = Some((lease.clone(), made.clone()));
            Ok(VolumeWriter::Memory(made))
        })
    }

    pub(super) fn finish_target(&self, lease: &Lease, id: &VolumeId) -> Result<(), CatalogError> {
        self.with(id, |kept| {
            if let Some((_, made)) = kept.unfinished.take_if(|(by, _)| by == lease) {
                kept.content = made;
                kept.is_made_by_restore = false;
            }
            Ok(())
        })
    }

    pub(super) fn give_target_back(
        &self,
        lease: &Lease,
        id: &VolumeId,
    ) -> Result<(), CatalogError> {
        if let Some(kept) = self.kept().get_mut(id) {
            kept.unfinished.take_if(|(by, _)| by == lease);
        }
        Ok(())
    }

    pub(super) fn end_restore(
        &self,
        lease: &Lease,
        id: &VolumeId,
        result: Result<&RestoredFrom, ()>,
    ) -> Result<(), CatalogError> {
        let to = match result {
            Ok(_) => VolumeStatus::Available,
            Err(()) => VolumeStatus::ErrorRestoring,
        };
        if let Some(kept) = self.kept().get_mut(id)
            && kept.release(lease, to)
            && let Ok(restored) = result
        {
            kept.saved = restored.saved.clone();
        }
        Ok(())
    }

    pub(super) fn held(&self) -> Result<Vec<HeldVolume>, CatalogError> {
        let kept = self.kept();
        let held = kept.values().filter_map(|kept| {
            let job = Lease::job_of(kept.holder.as_ref()?)?;
            Some(HeldVolume {
                id: kept.volume.id.clone(),
                status: kept.volume.status,
                job: Some(job),
            })
        });
        Ok(held.collect())
    }

    pub(super) fn give_back(&self, held: &HeldVolume) -> Result<(), CatalogError> {
        let Some(job_id) = held.job.clone() else {
            return Ok(());
        };
        let lease = Lease::after_all(job_id);
        if held.status == VolumeStatus::RestoringBackup {
            self.end_restore(&lease, &held.id, Err(()))
        } else {
            self.end_backup(&lease, &held.id)
        }
    }
}
