//! Work that nobody does any more, because its job is not there: ended as if the job had failed, so
//! that no state lasts for ever whatever happens to rows.

use crate::db::{self, DbError, orphans};
use crate::model::backup::{BackupEvent, BackupStatus};
use crate::model::id::{BackupId, JobId, VolumeId};
use crate::model::job::{Job, JobArgs, Lease};
use crate::model::volume::VolumeStatus;
use crate::tasks::{TaskError, Tasks};

const REASON: &str = "Its job was lost.";

/// Something that waits for a job that is not there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Orphan {
    Session(JobId),
    Backup(BackupId, BackupStatus),
    Volume(VolumeId, VolumeStatus, Option<JobId>),
}

impl Tasks {
    /// What seems to be orphaned now. Only what is so for a while is: a job may just be coming.
    pub fn orphans(&self) -> Result<Vec<Orphan>, DbError> {
        self.db.read(|c| {
            let mut found: Vec<Orphan> = orphans::sessions(c)?
                .into_iter()
                .map(Orphan::Session)
                .collect();
            let backups = orphans::backups(c)?;
            found.extend(
                backups
                    .into_iter()
                    .map(|(id, status)| Orphan::Backup(id, status)),
            );
            let volumes = orphans::volumes(c)?;
            found.extend(
                volumes
                    .into_iter()
                    .map(|(id, status, job)| Orphan::Volume(id, status, job)),
            );
            Ok(found)
        })
    }

    /// Ends it.
    pub fn settle_orphan(&self, orphan: &Orphan) -> Result<(), TaskError> {
        tracing::error!(?orphan, "its job is not there; ending it");
        let now = self.clock.now();
        match orphan {
            Orphan::Session(job) => self
                .db
                .write(|c| db::packs::end_session(c, job).map_err(DbError::from))?,
            // What was begun is gone through again.
            Orphan::Backup(id, BackupStatus::Deleting) => {
                let args = JobArgs::DeleteBackup {
                    backup_id: id.clone(),
                };
                let job = Job::new(args, now);
                self.db
                    .write(|c| db::jobs::insert(c, &job).map_err(DbError::from))?;
            }
            Orphan::Backup(id, _) => self.db.write(|c| -> Result<(), DbError> {
                if db::backups::transition(c, id, BackupEvent::Failed, now)? {
                    db::backups::set_fail_reason(c, id, REASON)?;
                }
                Ok(())
            })?,
            Orphan::Volume(id, status, job) => self.settle_volume(id, *status, job.as_ref())?,
        }
        Ok(())
    }

    fn settle_volume(
        &self,
        id: &VolumeId,
        status: VolumeStatus,
        job: Option<&JobId>,
    ) -> Result<(), TaskError> {
        // Follows every run of the job that is gone.
        let lease = job.map(|job| Lease {
            job_id: job.clone(),
            attempt: i32::MAX,
        });
        match (status, &lease) {
            (VolumeStatus::BackingUp, Some(lease)) => {
                return Ok(self.catalog.end_backup(lease, id, None, false)?);
            }
            (VolumeStatus::RestoringBackup, Some(lease)) => {
                return Ok(self.catalog.end_restore(lease, id, Err(()))?);
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
        self.db.write(|c| {
            db::volumes::transition(c, id, &[status], to, None, now).map_err(DbError::from)
        })?;
        Ok(())
    }
}
