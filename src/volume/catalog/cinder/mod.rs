//! The catalogue of a real Cinder, whose volumes lie in Ceph or in backends that os-brick knows.
//!
//! Cinder says whose a volume is and where it lies; the bytes are read from Ceph, or from a copy that is connected to this
//! machine (`temporary`). What a job holds stands in our
//! database before anything is changed at Cinder or in Ceph, and is ended there last.
//!
//! A backup changes nothing at Cinder: it reads a snapshot in Ceph of its own, so the volume stays free. A restore puts
//! its target into `restoring-backup`, so that no user attaches or deletes it meanwhile.

pub mod check;
mod temporary;

use crate::clock::Clock;
use crate::config::{self, Secret};
use crate::db::volume_holds::{self, Holding, VolumeHold};
use crate::db::{self, Db, DbConnection, DbError, temporaries};
use crate::model::error::{Error, chain};
use crate::model::id::{JobId, ProjectId, SnapshotId, VolumeId};
use crate::model::job::{JobState, Lease, NewTarget, RestoreTarget, RestoreVolume};
use crate::model::progress::Progress;
use crate::model::snapshot::{SnapshotStatus, SourceSnapshot};
use crate::model::time::Timestamp;
use crate::model::volume::{
    HeldVolume, RestoredFrom, SavedVolume, SourceVolume, VolumeStatus, bytes_of,
};
use crate::volume::brick::{Brick, BrickError};
use crate::volume::catalog::{CatalogError, Hold};
use crate::volume::cinder::{CinderError, CinderSnapshot, CinderVolume, Client, NewVolume};
use crate::volume::rbd::Backend;
use crate::volume::{Source, Target, VolumeReader};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Metadata of a volume whose restore was not accepted yet. It tells a volume that no restore waits for.
const MARKER_KEY: &str = "embervault_restore";
/// What Cinder adds to the metadata of a volume that it shows: states of the volume, and nothing that its owner set.
const STATES: [&str; 2] = ["readonly", "attached_mode"];
/// How long a request or a run of a job waits for a volume that Cinder makes. A job is then tried again.
const CREATION_PATIENCE: Duration = Duration::from_secs(20);
const CREATION_PAUSE: Duration = Duration::from_millis(500);

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
        let brick = open_brick(config, &client)?;
        Ok(Self {
            db,
            clock,
            client,
            brick,
            backends: settings.rbd.iter().map(backend).collect(),
            availability_zone: config.volumes.availability_zone.clone(),
        })
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

    /// Makes a volume for a restore, as the tenant who asks: in its project, and in its quota. A marker is stored
    /// first. By it a volume is found whose restore was never accepted. Of the recorded type and zone, those that the
    /// cloud refuses are left out, and out of `restore` too.
    pub(super) fn make_target(
        &self,
        token: Option<&Secret>,
        restore: &mut RestoreVolume,
        new: &NewTarget,
    ) -> Result<VolumeId, CatalogError> {
        let token = token.ok_or(CatalogError::NotOurs)?;
        let marker = uuid::Uuid::new_v4().to_string();
        let now = self.clock.now();
        self.db
            .write(|c| volume_holds::begin_making(c, &marker, now))?;
        let made = match self.create_volume(token, restore, new, &marker) {
            Ok(id) => VolumeId::new(&id),
            Err(error) => {
                // Unless Cinder refused, it may have made the volume, so the marker stays.
                if matches!(
                    error,
                    CinderError::Refused {
                        status: 400..=499,
                        ..
                    }
                ) {
                    self.db.write(|c| volume_holds::end_making(c, &marker))?;
                }
                return Err(of_tenant(error));
            }
        };
        let is_wanted = self
            .db
            .write(|c| volume_holds::note_made(c, &marker, &made))?;
        if !is_wanted {
            return Err(CatalogError::NoVolume);
        }
        match self.set_aside(&made) {
            // It cannot be used before it is made. The job waits on, and sets it aside.
            Ok(()) | Err(CatalogError::NotMadeYet) => Ok(made),
            Err(error) => {
                // What cannot be removed now is found by its marker.
                self.unmake_target(&made).ok();
                Err(error)
            }
        }
    }

    /// With the recorded type and zone; without one of them, if Cinder does not have it or not for this tenant; without
    /// both. What the user asks for is not left out.
    fn create_volume(
        &self,
        token: &Secret,
        restore: &mut RestoreVolume,
        new: &NewTarget,
        marker: &str,
    ) -> Result<String, CinderError> {
        let (asked_type, asked_zone) =
            (new.volume_type.as_deref(), new.availability_zone.as_deref());
        let of_type = restore.volume_type.take().filter(|_| asked_type.is_none());
        let zone = restore
            .availability_zone
            .take()
            .filter(|_| asked_zone.is_none());
        let mut metadata = new.metadata.clone();
        metadata.insert(MARKER_KEY.to_owned(), marker.to_owned());
        let mut turns = vec![(of_type.clone(), zone.clone())];
        for turn in [(of_type, None), (None, zone), (None, None)] {
            if !turns.contains(&turn) {
                turns.push(turn);
            }
        }
        let last = turns.len() - 1;
        for (number, (of_type, zone)) in turns.into_iter().enumerate() {
            let wanted = NewVolume {
                project_id: restore.project_id.as_str(),
                name: &restore.name,
                description: new.description.as_deref(),
                size: restore.size_gib,
                metadata: metadata.clone(),
                volume_type: asked_type.or(of_type.as_deref()),
                availability_zone: asked_zone.or(zone.as_deref()),
            };
            match self.client.create_volume(token, &wanted) {
                Err(CinderError::Refused {
                    status: 400 | 404, ..
                }) if number < last => {}
                made => {
                    restore.volume_type = wanted.volume_type.map(str::to_owned);
                    restore.availability_zone = wanted.availability_zone.map(str::to_owned);
                    return made;
                }
            }
        }
        Err(CinderError::Unreadable("POST /volumes".to_owned()))
    }

    /// Puts a new volume into the state of a target, so that no user uses it before it is filled.
    fn set_aside(&self, volume: &VolumeId) -> Result<(), CatalogError> {
        let status = self.when_made(volume)?.status;
        match VolumeStatus::parse(&status) {
            Some(VolumeStatus::Available) => {}
            other => {
                return Err(CatalogError::VolumeState(
                    other.unwrap_or(VolumeStatus::Error),
                ));
            }
        }
        let restoring = VolumeStatus::RestoringBackup.as_str();
        Ok(self.client.reset_status(volume.as_str(), restoring)?)
    }

    /// Removes a volume that was made for a restore which was then refused.
    pub(super) fn unmake_target(&self, volume: &VolumeId) -> Result<(), CatalogError> {
        match self.db.read(|c| volume_holds::marker_of(c, volume))? {
            Some(marker) => self.remove_made(&marker),
            // The restore was accepted, though its answer was lost.
            None => Ok(()),
        }
    }

    /// Removes a volume that was made under a marker, and that no restore has written. One that Cinder has not made yet
    /// stays for now: its backend would go on with it.
    fn remove_volume(&self, id: &str, marker: &str) -> Result<(), CatalogError> {
        let Some(found) = self.client.volume(id)? else {
            return Ok(());
        };
        // A Cinder that passes over the filter of the list has named other volumes too.
        if found.metadata.get(MARKER_KEY).map(String::as_str) != Some(marker) {
            return Ok(());
        }
        if found.status == VolumeStatus::Creating.as_str() {
            return Err(CatalogError::NotMadeYet);
        }
        // Its owner has taken it for a volume like others.
        if is_at_a_machine(&found) {
            return Ok(());
        }
        // Cinder deletes none that is being restored.
        match self.client.reset_status(id, VolumeStatus::Error.as_str()) {
            Err(CinderError::Refused { status: 404, .. }) => Ok(()),
            reset => Ok(reset.and_then(|()| self.client.delete_volume(id))?),
        }
    }

    pub(super) fn hold_target(
        &self,
        c: &mut DbConnection,
        lease: &Lease,
        target: &RestoreTarget,
    ) -> Result<Hold, CatalogError> {
        let volume = &target.volume_id;
        let is_new = target.create.is_some();
        let holding = volume_holds::hold(c, lease, volume, None, Some(is_new))?;
        if is_new && holding == Holding::New && !volume_holds::take_made(c, volume)? {
            return Err(CatalogError::NoVolume);
        }
        match holding {
            Holding::New => Ok(Hold::Held { could_change: true }),
            Holding::TakenOver => Ok(Hold::Held {
                could_change: false,
            }),
            Holding::Over => Ok(Hold::Ended),
            Holding::Refused => Err(CatalogError::VolumeState(VolumeStatus::RestoringBackup)),
        }
    }

    pub(super) fn begin_restore(
        &self,
        lease: &Lease,
        target: &RestoreTarget,
    ) -> Result<Hold, CatalogError> {
        if !self.db.write(|c| volume_holds::take_over(c, lease))? {
            return Ok(Hold::Ended);
        }
        self.set_restoring(lease, target)?;
        Ok(Hold::Held {
            could_change: false,
        })
    }

    /// Puts a target that is held into `restoring-backup`, unless it is in that state by this job already.
    fn set_restoring(&self, lease: &Lease, target: &RestoreTarget) -> Result<(), CatalogError> {
        let volume = &target.volume_id;
        let found = self.when_made(volume)?;
        let status = VolumeStatus::parse(&found.status).unwrap_or(VolumeStatus::Error);
        self.place(&found)?;
        match status {
            VolumeStatus::Available => {
                let is_noted = self
                    .db
                    .write(|c| volume_holds::note_status(c, lease, status))?;
                if !is_noted {
                    return Err(CatalogError::VolumeState(status));
                }
                let restoring = VolumeStatus::RestoringBackup.as_str();
                self.client.reset_status(volume.as_str(), restoring)?;
            }
            // An earlier run has changed it, and may not have looked any further.
            VolumeStatus::RestoringBackup if self.has_changed_status(lease)? => {}
            status => return Err(CatalogError::VolumeState(status)),
        }
        self.check_unattached(lease, volume)
    }

    /// An error if a machine has the volume, or is about to get it. Cinder changes the state whatever it is, so an
    /// attachment may have come just before; one that was begun goes on, and does not look at the state again.
    fn check_unattached(&self, lease: &Lease, volume: &VolumeId) -> Result<(), CatalogError> {
        let attachments = self.client.attachments(volume.as_str())?;
        if attachments.is_empty() {
            return Ok(());
        }
        let status = if attachments.iter().any(|state| state == "attached") {
            VolumeStatus::InUse
        } else {
            VolumeStatus::Reserved
        };
        self.client.reset_status(volume.as_str(), status.as_str())?;
        self.db.write(|c| volume_holds::forget_status(c, lease))?;
        Err(CatalogError::VolumeState(status))
    }

    fn has_changed_status(&self, lease: &Lease) -> Result<bool, DbError> {
        let hold = self.db.read(|c| volume_holds::find(c, &lease.job_id))?;
        Ok(hold.is_some_and(|hold| hold.status_before.is_some()))
    }

    /// The volume, once Cinder has made it.
    fn when_made(&self, volume: &VolumeId) -> Result<CinderVolume, CatalogError> {
        let began = Instant::now();
        loop {
            let found = self.existing(volume)?;
            if found.status != VolumeStatus::Creating.as_str() {
                return Ok(found);
            }
            if began.elapsed() > CREATION_PATIENCE {
                return Err(CatalogError::NotMadeYet);
            }
            std::thread::sleep(CREATION_PAUSE);
        }
    }

    pub(super) fn open_target(
        &self,
        lease: &Lease,
        volume: &VolumeId,
        since: Option<&str>,
    ) -> Result<Target, CatalogError> {
        let found = self.existing(volume)?;
        match self.place(&found)? {
            Place::Ceph(backend, image) => Ok(backend.open_target(&image, since)?),
            Place::Connected(brick) => self.open_connected(brick, lease, volume),
        }
    }

    pub(super) fn end_restore(
        &self,
        lease: &Lease,
        volume: &VolumeId,
        result: Result<&RestoredFrom, ()>,
    ) -> Result<(), CatalogError> {
        let hold = self.db.read(|c| volume_holds::find(c, &lease.job_id))?;
        let Some(hold) = hold.filter(|hold| hold.is_held_by(lease)) else {
            return Ok(());
        };
        self.clear(lease);
        if let Some(found) = self.client.volume(volume.as_str())? {
            self.leave_target(&hold, &found, result)?;
        }
        let now = self.clock.now();
        self.db.write(|c| volume_holds::release(c, lease, now))?;
        Ok(())
    }

    /// Puts the target into the state in which its owner finds it.
    fn leave_target(
        &self,
        hold: &VolumeHold,
        found: &CinderVolume,
        result: Result<&RestoredFrom, ()>,
    ) -> Result<(), CatalogError> {
        let is_changed = hold.status_before.is_some();
        let status = match result {
            Ok(restored) => {
                self.take_over(found, restored)?;
                VolumeStatus::Available
            }
            // Its owner must not take a volume that is filled only in part for a whole one.
            Err(()) if is_changed || hold.is_new == Some(true) => VolumeStatus::ErrorRestoring,
            Err(()) => return Ok(()),
        };
        // After that the volume is its owner's again, so this comes last. One that a machine has stays as it is:
        // otherwise the machine could not let go of it.
        if found.status != status.as_str() && !is_at_a_machine(found) {
            self.client.reset_status(&found.id, status.as_str())?;
        }
        Ok(())
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

/// The connectors, if the settings name backends for them; an error if they cannot be used, or if Cinder has no such
/// backend. A Cinder that does not answer yet is no reason to refuse.
fn open_brick(config: &config::Config, client: &Client) -> Result<Option<Brick>, CatalogError> {
    let settings = config.cinder.brick.clone();
    if settings.backends.is_empty() {
        return Ok(None);
    }
    let dir = settings.dir.clone();
    let dir = dir.unwrap_or_else(|| config.data_dir().join("brick"));
    let dir = std::path::absolute(&dir).unwrap_or(dir);
    let brick = Brick::new(settings, dir);
    let version = brick.look()?;
    tracing::info!(version, "os-brick connects volumes");
    match client.backends() {
        Ok(known) => {
            if let Some(backend) = brick.backends().find(|name| !known.contains(name)) {
                let (backend, known) = (backend.clone(), known.join(", "));
                return Err(BrickError::Unknown { backend, known }.into());
            }
        }
        Err(error) => {
            let error = chain(&error);
            tracing::warn!(
                error,
                "the backends of os-brick could not be looked for in Cinder"
            );
        }
    }
    Ok(Some(brick))
}

/// The metadata that the volume's owner has set.
fn of_owner(mut metadata: BTreeMap<String, String>) -> BTreeMap<String, String> {
    metadata.retain(|key, _| !STATES.contains(&key.as_str()));
    metadata
}

/// Whether a machine has the volume, or is about to get it or to let go of it.
fn is_at_a_machine(found: &CinderVolume) -> bool {
    use VolumeStatus::{Attaching, Detaching, InUse, Reserved};
    let status = VolumeStatus::parse(&found.status);
    status.is_some_and(|status| [InUse, Reserved, Attaching, Detaching].contains(&status))
}

/// Where Cinder refuses the user who restores, the user gets the same answer.
fn of_tenant(error: CinderError) -> CatalogError {
    let refused = match &error {
        CinderError::Refused { status: 401, .. } => Error::Unauthenticated,
        CinderError::Refused { status: 403, .. } => Error::Forbidden("volume:create"),
        CinderError::Refused {
            status: 404,
            message,
            ..
        } => Error::NotFound(message.clone()),
        _ => return error.into(),
    };
    CatalogError::Refused(refused)
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
