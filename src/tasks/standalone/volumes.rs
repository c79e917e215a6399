//! The jobs of the standalone catalogue's volumes.

use crate::db::standalone::volumes;
use crate::db::{self, DbConnection};
use crate::jobs::Claimed;
use crate::model::id::VolumeId;
use crate::model::job::{JobState, VolumeWork};
use crate::model::message::{Action, Detail, Message};
use crate::model::standalone::volume::Volume;
use crate::model::volume::VolumeStatus;
use crate::tasks::{TaskError, Tasks};

impl Tasks {
    fn volume_in(&self, id: &VolumeId, status: VolumeStatus) -> Result<Volume, TaskError> {
        self.catalog
            .standalone()?
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
            let row = volumes::find(c, id)?;
            // An extended volume may have been in use, and still be.
            let was_in_use =
                row.is_some_and(|row| row.previous_status == Some(VolumeStatus::InUse));
            let to = if was_in_use {
                VolumeStatus::InUse
            } else {
                VolumeStatus::Available
            };
            let moved = volumes::transition(c, id, &[from], to, None, now)?;
            if !moved {
                return Err(TaskError::Subject("the volume has changed its state"));
            }
            if size_gib.is_some() {
                let changes = volumes::Changes {
                    size_gib,
                    ..volumes::Changes::default()
                };
                volumes::update(c, id, &changes, now)?;
            }
            Ok(())
        })
    }

    pub(crate) fn attempt_volume(
        &self,
        claimed: &Claimed,
        id: &VolumeId,
        work: VolumeWork,
    ) -> Result<(), TaskError> {
        match work {
            VolumeWork::Create => self.create_volume(claimed, id),
            VolumeWork::Delete => self.remove_volume(claimed, id, JobState::Completed),
            VolumeWork::Extend { size_gib } => self.extend_volume(claimed, id, size_gib),
        }
    }

    fn create_volume(&self, claimed: &Claimed, id: &VolumeId) -> Result<(), TaskError> {
        let volume = self.volume_in(id, VolumeStatus::Creating)?;
        let (lease, progress) = (&claimed.lease, &claimed.progress);
        let catalog = self.catalog.standalone()?;
        catalog.make_volume(&volume, lease, progress)?;
        self.volume_done(claimed, id, VolumeStatus::Creating, None)
    }

    fn extend_volume(
        &self,
        claimed: &Claimed,
        id: &VolumeId,
        size_gib: i64,
    ) -> Result<(), TaskError> {
        self.volume_in(id, VolumeStatus::Extending)?;
        self.catalog.standalone()?.extend_volume(id, size_gib)?;
        self.volume_done(claimed, id, VolumeStatus::Extending, Some(size_gib))
    }

    /// Removes file and row, and ends the job so.
    pub(crate) fn remove_volume(
        &self,
        claimed: &Claimed,
        id: &VolumeId,
        end: JobState,
    ) -> Result<(), TaskError> {
        self.catalog.standalone()?.remove_volume(id)?;
        self.settle_as(&claimed.lease, end, |c| Ok(volumes::remove(c, id)?))
    }

    /// Part of the transaction that ends the job.
    pub(crate) fn volume_not_removed(
        &self,
        connection: &mut DbConnection,
        id: &VolumeId,
    ) -> db::DbResult<()> {
        let (from, to) = ([VolumeStatus::Deleting], VolumeStatus::ErrorDeleting);
        volumes::transition(connection, id, &from, to, None, self.clock.now())?;
        Ok(())
    }

    pub(crate) fn volume_failed(
        &self,
        claimed: &Claimed,
        id: &VolumeId,
        work: VolumeWork,
        reason: &str,
    ) -> Result<(), TaskError> {
        let to = match work {
            VolumeWork::Create => VolumeStatus::Error,
            VolumeWork::Delete => VolumeStatus::ErrorDeleting,
            VolumeWork::Extend { .. } => VolumeStatus::ErrorExtending,
        };
        let from = [
            VolumeStatus::Creating,
            VolumeStatus::Deleting,
            VolumeStatus::Extending,
        ];
        let what = match work {
            VolumeWork::Create => Some((Action::CreateVolume, Detail::VolumeFailed)),
            VolumeWork::Delete => None,
            VolumeWork::Extend { .. } => Some((Action::ExtendVolume, Detail::ExtendFailed)),
        };
        let now = self.clock.now();
        let row = self.catalog.standalone()?.volume(id)?;
        self.discard(claimed, reason, |c| {
            volumes::transition(c, id, &from, to, None, now)?;
            let (Some(row), Some(what)) = (&row, what) else {
                return Ok(());
            };
            let (project, request) = (row.project_id.clone(), claimed.job.request_id.clone());
            let message = Message::new(project, request, what, ("VOLUME", id.as_str()), now);
            db::messages::insert(c, &message)
        })
    }
}
