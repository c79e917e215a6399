//! The targets of restores: volumes that are made at Cinder, or taken from their owner meanwhile.

use crate::config::Secret;
use crate::db::volume_holds::{self, Holding, VolumeHold};
use crate::db::{DbConnection, DbError};
use crate::model::error::Error;
use crate::model::id::VolumeId;
use crate::model::job::{Lease, NewTarget, RestoreTarget, RestoreVolume};
use crate::model::volume::{RestoredFrom, VolumeStatus};
use crate::volume::Target;
use crate::volume::catalog::cinder::{Cinder, MARKER_KEY, Place};
use crate::volume::catalog::{CatalogError, Hold};
use crate::volume::cinder::{CinderError, CinderVolume, NewVolume};
use std::time::{Duration, Instant};

/// How long a request or a run of a job waits for a volume that Cinder makes. A job is then tried again.
const CREATION_PATIENCE: Duration = Duration::from_secs(20);
const CREATION_PAUSE: Duration = Duration::from_millis(500);

impl Cinder {
    /// Makes a volume for a restore, as the tenant who asks: in its project, and in its quota. A marker is stored
    /// first. By it a volume is found whose restore was never accepted. Of the recorded type and zone, those that the
    /// cloud refuses are left out, and out of `restore` too.
    pub(in crate::volume::catalog) fn make_target(
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
    pub(in crate::volume::catalog) fn unmake_target(
        &self,
        volume: &VolumeId,
    ) -> Result<(), CatalogError> {
        match self.db.read(|c| volume_holds::marker_of(c, volume))? {
            Some(marker) => self.remove_made(&marker),
            // The restore was accepted, though its answer was lost.
            None => Ok(()),
        }
    }

    /// Removes a volume that was made under a marker, and that no restore has written. One that Cinder has not made yet
    /// stays for now: its backend would go on with it.
    pub(super) fn remove_volume(&self, id: &str, marker: &str) -> Result<(), CatalogError> {
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

    pub(in crate::volume::catalog) fn hold_target(
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

    pub(in crate::volume::catalog) fn begin_restore(
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

    pub(in crate::volume::catalog) fn open_target(
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

    pub(in crate::volume::catalog) fn end_restore(
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
}

/// Whether a machine has the volume, or is about to get it or to let go of it.
pub(super) fn is_at_a_machine(found: &CinderVolume) -> bool {
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
