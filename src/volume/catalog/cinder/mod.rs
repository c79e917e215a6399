//! The catalogue of a real Cinder, whose volumes lie in Ceph or in backends that os-brick knows.
//!
//! Cinder says whose a volume is and where it lies; the bytes are read from Ceph, or from a copy that is connected to this
//! machine (`temporary`). What a job holds stands in our database before anything is changed at Cinder or in Ceph, and is
//! ended there last.
//!
//! A backup changes nothing of a volume at Cinder: it reads a snapshot in Ceph of its own, or that copy, so the volume
//! stays free. A restore puts its target into `restoring-backup`, so that no user attaches or deletes it meanwhile.

pub mod check;
mod restore;
mod temporary;

use crate::clock::Clock;
use crate::config;
use crate::db::volume_holds::{self, Holding};
use crate::db::{self, Db, DbConnection, DbError, temporaries};
use crate::model::error::{Error, chain};
use crate::model::id::{JobId, ProjectId, SnapshotId, VolumeId};
use crate::model::job::{JobState, Lease};
use crate::model::progress::Progress;
use crate::model::snapshot::{SnapshotStatus, SourceSnapshot};
use crate::model::time::Timestamp;
use crate::model::volume::{
    HeldVolume, RestoredFrom, SavedVolume, SourceVolume, VolumeStatus, bytes_of,
};
use crate::volume::brick::Brick;
use crate::volume::catalog::{CatalogError, Hold};
use crate::volume::cinder::{CinderError, CinderSnapshot, CinderVolume, Client};
use crate::volume::rbd::Backend;
use crate::volume::{Source, VolumeReader};
use std::collections::BTreeMap;
use tokio::runtime::Handle;

/// Metadata of a volume whose restore was not accepted yet. It tells a volume that no restore waits for.
const MARKER_KEY: &str = "embervault_restore";
/// What Cinder adds to the metadata of a volume that it shows: states of the volume, and nothing that its owner set.
const STATES: [&str; 2] = ["readonly", "attached_mode"];

/// Volumes of a Cinder; its calls are described at the port. Cheap to clone.
#[derive(Clone)]
pub struct Cinder {
    db: Db,
    clock: Clock,
    client: Client,
    backends: BTreeMap<String, Backend>,
    /// For backends that are not in Ceph, if there are any.
    brick: Option<Brick>,
    pub(super) availability_zone: String,
}

impl Cinder {
    pub(super) fn open(
        db: Db,
        clock: Clock,
        config: &config::Config,
        handle: Handle,
    ) -> Result<Self, CatalogError> {
        let settings = &config.cinder;
        let client = Client::new(settings, &config.identity.keystone, clock.clone(), handle)?;
        let backend =
            |(name, rbd): (&String, &config::Rbd)| (name.clone(), Backend::new(rbd.clone()));
        Ok(Self {
            db,
            clock,
            client,
            brick: connectors(config),
            backends: settings.rbd.iter().map(backend).collect(),
            availability_zone: config.volumes.availability_zone.clone(),
        })
    }

    /// An error if the connectors that the settings name cannot be used here, or if Cinder has no such backend. A Cinder
    /// that does not answer yet is no reason to refuse.
    pub(super) fn check_connectors(&self) -> Result<(), CatalogError> {
        let Some(brick) = &self.brick else {
            return Ok(());
        };
        let version = brick.look()?;
        tracing::info!(version, "os-brick connects volumes");
        match self.client.backends() {
            Ok(known) => Ok(brick.check_backends(&known)?),
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(
                    error,
                    "the backends of os-brick could not be looked for in Cinder"
                );
                Ok(())
            }
        }
    }

    pub(super) fn volume(&self, id: &VolumeId) -> Result<Option<SourceVolume>, CatalogError> {
        let found = self.client.volume(id.as_str())?;
        found.map(|found| self.source_volume(&found)).transpose()
    }

    fn source_volume(&self, found: &CinderVolume) -> Result<SourceVolume, CatalogError> {
        let status = VolumeStatus::parse(&found.status);
        let unreadable = || CinderError::Unreadable(format!("GET /volumes/{}", found.id));
        Ok(SourceVolume {
            id: VolumeId::new(&found.id),
            project_id: ProjectId::new(found.project_id.as_deref().ok_or_else(unreadable)?),
            name: found.name.clone(),
            size_gib: found.size,
            status: status.ok_or_else(unreadable)?,
            unsupported: self.unsupported(found),
        })
    }

    /// Why this service can neither read nor write a volume, if so.
    fn unsupported(&self, found: &CinderVolume) -> Option<String> {
        if found.encrypted {
            return Some("encrypted volumes cannot be backed up or restored to".to_owned());
        }
        let backend = found.backend().unwrap_or_default();
        let is_known = self.backends.contains_key(backend)
            || self
                .brick
                .as_ref()
                .is_some_and(|brick| brick.serves(backend));
        (!is_known).then(|| {
            format!(
                "its backend {backend:?} is not one of those that the backup service is set up for"
            )
        })
    }

    pub(super) fn snapshot(&self, id: &SnapshotId) -> Result<Option<SourceSnapshot>, CatalogError> {
        let found = self.client.snapshot(id.as_str())?;
        Ok(found.map(|found| source_snapshot(&found)).transpose()?)
    }

    /// Cinder's current description of a volume that a job works on.
    fn existing(&self, id: &VolumeId) -> Result<CinderVolume, CatalogError> {
        let found = self.client.volume(id.as_str())?;
        found.ok_or(CatalogError::NoVolume)
    }

    /// Where a volume lies.
    fn place(&self, volume: &CinderVolume) -> Result<Place<'_>, CatalogError> {
        if let Some(why) = self.unsupported(volume) {
            return Err(CatalogError::Refused(Error::invalid("volume", why)));
        }
        let backend = volume.backend().and_then(|name| self.backends.get(name));
        match (backend, &self.brick) {
            (Some(backend), _) => Ok(Place::Ceph(backend, volume.image())),
            (None, Some(brick)) => Ok(Place::Connected(brick)),
            (None, None) => Err(CatalogError::NoVolume),
        }
    }

    pub(super) fn saved(&self, volume: &VolumeId) -> Result<SavedVolume, CatalogError> {
        let found = self.existing(volume)?;
        Ok(SavedVolume {
            name: found.name,
            description: found.description,
            bootable: found.bootable == "true",
            metadata: of_owner(found.metadata),
            volume_type: found.volume_type,
            availability_zone: found.availability_zone,
            image_metadata: found.image_metadata,
        })
    }

    pub(super) fn hold_source(
        &self,
        c: &mut DbConnection,
        lease: &Lease,
        volume: &VolumeId,
        snapshot: Option<&SnapshotId>,
    ) -> Result<Hold, CatalogError> {
        match volume_holds::hold(c, lease, volume, snapshot, None)? {
            // Until the snapshot in Ceph is there, the volume's users go on writing.
            Holding::New | Holding::TakenOver => Ok(Hold::Held {
                could_change: snapshot.is_none(),
            }),
            Holding::Over => Ok(Hold::Ended),
            Holding::Refused if snapshot.is_some() => Err(CatalogError::SnapshotState(
                SnapshotStatus::BackingUp.as_str().to_owned(),
            )),
            Holding::Refused => Err(CatalogError::VolumeState(VolumeStatus::BackingUp)),
        }
    }

    pub(super) fn has_copy(&self, job: &JobId, volume: &VolumeId) -> Result<bool, CatalogError> {
        let found = self.existing(volume)?;
        match self.place(&found)? {
            Place::Ceph(backend, image) => Ok(backend.has_snapshot(&image, job)?),
            Place::Connected(_) => self.has_temporary(job),
        }
    }

    pub(super) fn open_source(
        &self,
        lease: &Lease,
        volume: &VolumeId,
        snapshot: Option<&SnapshotId>,
        size_gib: i64,
        since: Option<&str>,
        progress: &Progress,
    ) -> Result<Source, CatalogError> {
        let found = self.existing(volume)?;
        let source = match (self.place(&found)?, snapshot) {
            (Place::Ceph(backend, image), Some(snapshot)) => {
                backend.open_at(&image, &format!("snapshot-{snapshot}"), since)?
            }
            (Place::Ceph(backend, image), None) => {
                backend.keep(&image, &lease.job_id, self.clock.now(), since)?
            }
            (Place::Connected(brick), _) => {
                self.open_copy(brick, lease, volume, snapshot, progress)?
            }
        };
        let length = bytes_of(size_gib).map_err(|source| CatalogError::Size {
            volume: volume.clone(),
            source,
        })?;
        Ok(Source {
            reader: source.reader.limited(length)?,
            ..source
        })
    }

    pub(super) fn end_backup(
        &self,
        lease: &Lease,
        volume: &VolumeId,
        snapshot: Option<&SnapshotId>,
        succeeded: bool,
    ) -> Result<(), CatalogError> {
        self.clear(lease);
        // A snapshot that stays takes room, and the next backup of the volume removes it. A hold that stays is worse.
        if snapshot.is_none()
            && let Err(error) = self.sort_out_snapshots(lease, volume, succeeded)
        {
            let error = chain(&error);
            tracing::warn!(volume.id = %volume, error, "a snapshot that was made for a backup was not removed");
        }
        let now = self.clock.now();
        self.db.write(|c| volume_holds::release(c, lease, now))?;
        Ok(())
    }

    /// Removes the snapshots that were kept for change tracking, except those of jobs that still run and the one just
    /// made.
    fn sort_out_snapshots(
        &self,
        lease: &Lease,
        volume: &VolumeId,
        succeeded: bool,
    ) -> Result<(), CatalogError> {
        let Some(found) = self.client.volume(volume.as_str())? else {
            return Ok(());
        };
        let Place::Ceph(backend, image) = self.place(&found)? else {
            return Ok(());
        };
        let ours = self.db.read(|c| db::jobs::find(c, &lease.job_id))?;
        // A worker that was overtaken must not take the snapshot of its successor.
        let is_overtaken = ours.is_some_and(|job| job.attempt != lease.attempt);
        let mut failed: Result<(), DbError> = Ok(());
        let stays = |job: &JobId| {
            if *job == lease.job_id {
                return succeeded || is_overtaken;
            }
            if !succeeded {
                return true;
            }
            match self.db.read(|c| db::jobs::find(c, job)) {
                Ok(job) => job.is_some_and(|job| {
                    matches!(job.state, JobState::Available | JobState::Running)
                }),
                Err(error) => {
                    failed = Err(error);
                    true
                }
            }
        };
        backend.sort_out(&image, stays)?;
        Ok(failed?)
    }

    /// Gives the target what was saved of the volume that was backed up.
    fn take_over(
        &self,
        target: &CinderVolume,
        restored: &RestoredFrom,
    ) -> Result<(), CatalogError> {
        let is_bootable = target.bootable == "true";
        let taken = restored.taken_over(
            &VolumeId::new(&target.id),
            target.name.as_deref(),
            is_bootable,
        );
        if let Some((name, description)) = &taken.naming {
            self.client
                .rename(&target.id, name, description.as_deref())?;
        }
        self.client.set_metadata(&target.id, &taken.metadata)?;
        if taken.becomes_bootable {
            self.client.set_bootable(&target.id)?;
        }
        if !taken.image_metadata.is_empty() {
            let metadata = &taken.image_metadata;
            self.client.set_image_metadata(&target.id, metadata)?;
        }
        Ok(())
    }

    pub(super) fn held(&self) -> Result<Vec<HeldVolume>, CatalogError> {
        let now = self.clock.now();
        let (held, making, left) = self.db.read(|c| -> Result<_, DbError> {
            let held = volume_holds::held(c)?;
            Ok((held, volume_holds::making(c, now)?, temporaries::all(c)?))
        })?;
        let is_held = |job: &JobId| held.iter().any(|hold| hold.job == *job);
        let left: Vec<HeldVolume> = left
            .into_iter()
            .filter(|job| !is_held(job))
            .map(|job| HeldVolume {
                id: VolumeId::new(job.as_str()),
                status: VolumeStatus::Deleting,
                job: Some(job),
            })
            .collect();
        let of_hold = held.into_iter().map(|hold| HeldVolume {
            id: hold.volume,
            status: match hold.is_new {
                None => VolumeStatus::BackingUp,
                Some(_) => VolumeStatus::RestoringBackup,
            },
            job: Some(hold.job),
        });
        let of_making = making.into_iter().map(|marker| HeldVolume {
            id: VolumeId::new(marker),
            status: VolumeStatus::Creating,
            job: None,
        });
        Ok(of_hold.chain(of_making).chain(left).collect())
    }

    pub(super) fn give_back(&self, held: &HeldVolume) -> Result<(), CatalogError> {
        let Some(job) = &held.job else {
            return self.remove_made(held.id.as_str());
        };
        if held.status == VolumeStatus::Deleting {
            return self.remove_temporaries(job);
        }
        let Some(hold) = self.db.read(|c| volume_holds::find(c, job))? else {
            return Ok(());
        };
        let lease = hold.lease();
        match hold.is_new {
            Some(_) => self.end_restore(&lease, &held.id, Err(())),
            None => self.end_backup(&lease, &held.id, hold.snapshot().as_ref(), false),
        }
    }

    /// Removes the volume that was made under a marker, if it was, as its restore was never accepted.
    fn remove_made(&self, marker: &str) -> Result<(), CatalogError> {
        if !self.db.write(|c| volume_holds::begin_removal(c, marker))? {
            return Ok(());
        }
        for id in self.client.volumes_with(MARKER_KEY, marker)? {
            self.remove_volume(&id, marker)?;
        }
        self.db.write(|c| volume_holds::end_making(c, marker))?;
        Ok(())
    }

    pub(super) fn open_volume(&self, volume: &VolumeId) -> Option<VolumeReader> {
        let open = || -> Result<VolumeReader, CatalogError> {
            let found = self.existing(volume)?;
            match self.place(&found)? {
                Place::Ceph(backend, image) => Ok(backend.open_now(&image)?),
                Place::Connected(_) => Err(CatalogError::NoVolume),
            }
        };
        open().ok()
    }
}

/// Where a volume's bytes are reached.
enum Place<'a> {
    /// In Ceph, with the name of the image.
    Ceph(&'a Backend, String),
    /// On this machine, once it is connected.
    Connected(&'a Brick),
}

/// The connectors, if the settings name backends for them. Nothing is asked of them yet.
fn connectors(config: &config::Config) -> Option<Brick> {
    let settings = config.cinder.brick.clone();
    if settings.backends.is_empty() {
        return None;
    }
    let dir = settings.dir.clone();
    let dir = dir.unwrap_or_else(|| config.data_dir().join("brick"));
    let dir = std::path::absolute(&dir).unwrap_or(dir);
    Some(Brick::new(settings, dir))
}

/// The metadata that the volume's owner has set.
fn of_owner(mut metadata: BTreeMap<String, String>) -> BTreeMap<String, String> {
    metadata.retain(|key, _| !STATES.contains(&key.as_str()));
    metadata
}

fn source_snapshot(found: &CinderSnapshot) -> Result<SourceSnapshot, CinderError> {
    let unreadable = || CinderError::Unreadable(format!("GET /snapshots/{}", found.id));
    let created_at = found.created_at.as_deref().and_then(Timestamp::parse);
    Ok(SourceSnapshot {
        id: SnapshotId::new(&found.id),
        volume_id: VolumeId::new(&found.volume_id),
        project_id: ProjectId::new(found.project_id.as_deref().ok_or_else(unreadable)?),
        // No backup can be made in a state that this service does not know.
        status: SnapshotStatus::parse(&found.status).unwrap_or(SnapshotStatus::Error),
        data_timestamp: created_at.ok_or_else(unreadable)?,
    })
}
