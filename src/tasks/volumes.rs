//! The jobs of the standalone catalogue's volumes.

use crate::db::{self, DbError};
use crate::jobs::Claimed;
use crate::model::id::VolumeId;
use crate::model::job::{JobArgs, JobState};
use crate::model::message::{Action, Detail, Message};
use crate::model::volume::{Volume, VolumeStatus};
use crate::tasks::{TaskError, Tasks};

impl Tasks {
    fn volume_in(&self, id: &VolumeId, status: VolumeStatus) -> Result<Volume, TaskError> {
        self.catalog
            .volume(id)?
            .filter(|volume| volume.status == status)
            .ok_or(TaskError::Subject("the volume has changed its state"))
    }

    fn volume_done(
        &self,
        claimed: &Claimed,
        id: &VolumeId,
        from: VolumeStatus,
        size_gib: Option<i64>,
    ) -> Result<(), TaskError> {
        let now = self.clock.now();
        self.settle(&claimed.lease, |c| {
            let row = db::volumes::find(c, id).map_err(DbError::from)?;
            // An extended volume may have been in use, and still be.
            let was_in_use =
                row.is_some_and(|row| row.previous_status == Some(VolumeStatus::InUse));
            let to = match was_in_use {
                true => VolumeStatus::InUse,
                false => VolumeStatus::Available,
            };
            let moved = db::volumes::transition(c, id, &[from], to, None, now);
            if !moved.map_err(DbError::from)? {
                return Err(TaskError::Subject("the volume has changed its state"));
            }
            if size_gib.is_some() {
                let changes = db::volumes::Changes {
                    size_gib,
                    ..db::volumes::Changes::default()
                };
                db::volumes::update(c, id, &changes, now).map_err(DbError::from)?;
            }
            Ok(())
        })
    }

    pub(super) fn create_volume(&self, claimed: &Claimed, id: &VolumeId) -> Result<(), TaskError> {
        let volume = self.volume_in(id, VolumeStatus::Creating)?;
        self.catalog.make_volume(&volume)?;
        self.volume_done(claimed, id, VolumeStatus::Creating, None)
    }

    pub(super) fn extend_volume(
        &self,
        claimed: &Claimed,
        id: &VolumeId,
        size_gib: i64,
    ) -> Result<(), TaskError> {
        self.volume_in(id, VolumeStatus::Extending)?;
        self.catalog.extend_volume(id, size_gib)?;
        self.volume_done(claimed, id, VolumeStatus::Extending, Some(size_gib))
    }

    /// Removes file and row, and ends the job so.
    pub(super) fn remove_volume(
        &self,
        claimed: &Claimed,
        id: &VolumeId,
        end: JobState,
    ) -> Result<(), TaskError> {
        self.catalog.remove_volume(id)?;
        self.settle_as(&claimed.lease, end, |c| {
            Ok(db::volumes::remove(c, id).map_err(DbError::from)?)
        })
    }

    pub(super) fn volume_failed(
        &self,
        claimed: &Claimed,
        id: &VolumeId,
        reason: &str,
    ) -> Result<(), TaskError> {
        let to = match &*claimed.job.args {
            JobArgs::DeleteVolume { .. } => VolumeStatus::ErrorDeleting,
            JobArgs::ExtendVolume { .. } => VolumeStatus::ErrorExtending,
            _ => VolumeStatus::Error,
        };
        let from = [
            VolumeStatus::Creating,
            VolumeStatus::Deleting,
            VolumeStatus::Extending,
        ];
        let what = match &*claimed.job.args {
            JobArgs::CreateVolume { .. } => Some((Action::CreateVolume, Detail::VolumeFailed)),
            JobArgs::ExtendVolume { .. } => Some((Action::ExtendVolume, Detail::ExtendFailed)),
            _ => None,
        };
        let now = self.clock.now();
        let row = self.catalog.volume(id)?;
        self.discard(claimed, reason, |c| {
            db::volumes::transition(c, id, &from, to, None, now)?;
            let (Some(row), Some(what)) = (&row, what) else {
                return Ok(());
            };
            let (project, request) = (row.project_id.clone(), claimed.job.request_id.clone());
            let message = Message::new(project, request, what, ("VOLUME", id.as_str()), now);
            db::messages::insert(c, &message)
        })
    }
}
