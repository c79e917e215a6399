//! Administrators may reset a backup in any state, or delete it by force (Cinder
//! reference, 3.10).

use crate::admission::insert_job;
use crate::db;
use crate::identity::RequestContext;
use crate::identity::policy::Rule;
use crate::model::backup::{BackupEvent, BackupStatus};
use crate::model::error::Error;
use crate::model::id::BackupId;
use crate::model::job::{Job, JobArgs};
use crate::service::Services;

impl Services {
    /// Makes a backup `error` at once, or `available` if its data is found. A job that works on it is cancelled.
    pub fn reset_backup(
        &self,
        ctx: &RequestContext,
        id: &BackupId,
        status: BackupStatus,
    ) -> Result<(), Error> {
        let (backup, _) = self.show_backup(ctx, id)?;
        ctx.authorize(Rule::BackupResetStatus, &backup.project_id)?;
        self.check_backup_service()?;
        let now = self.clock.now();
        let args = JobArgs::ResetBackup {
            backup_id: id.clone(),
        };
        let check = Job::new(args, now).asked_by(&ctx.request_id, &ctx.project_id);
        let queue = self.db.write(|c| {
            let backup = db::backups::find(c, id)?.ok_or_else(|| Error::not_found("Backup", id))?;
            let live = db::jobs::live_for(c, id.as_str())?;
            if live.is_some() && backup.status == BackupStatus::Deleting {
                return Err(Error::invalid("backup", "The backup is being deleted."));
            }
            // A backup that was never finished has no data.
            let can_be_sound = backup.pack_set.is_some() && status == BackupStatus::Available;
            match (can_be_sound, live) {
                // The data of a backup that is being restored was there a moment ago.
                (true, Some(job)) if backup.status == BackupStatus::Restoring => {
                    db::jobs::request_cancel(c, id.as_str(), now)?;
                    db::backups::transition(c, id, BackupEvent::DeclaredAvailable, now)?;
                    Ok(job.queue)
                }
                // A job is looking for the data already.
                (true, Some(job)) => Ok(job.queue),
                (true, None) => {
                    insert_job(c, &check)?;
                    Ok(check.queue)
                }
                (false, job) => {
                    db::jobs::request_cancel(c, id.as_str(), now)?;
                    db::backups::transition(c, id, BackupEvent::DeclaredFailed, now)?;
                    if backup.status == BackupStatus::Creating {
                        db::backups::disown(c, id)?;
                    }
                    if status == BackupStatus::Available {
                        let reason = "It was never finished, so it cannot be reset to available.";
                        db::backups::set_fail_reason(c, id, reason)?;
                    }
                    Ok(job.map_or(check.queue, |job| job.queue))
                }
            }
        })?;
        self.wake.wake(queue);
        Ok(())
    }

    /// Accepts a deletion in any state. A job that works on the backup is cancelled and then deletes it.
    pub fn force_delete_backup(&self, ctx: &RequestContext, id: &BackupId) -> Result<(), Error> {
        let (backup, _) = self.show_backup(ctx, id)?;
        ctx.authorize(Rule::BackupForceDelete, &backup.project_id)?;
        ctx.authorize(Rule::BackupDelete, &backup.project_id)?;
        self.check_backup_service()?;
        let now = self.clock.now();
        let args = JobArgs::DeleteBackup {
            backup_id: id.clone(),
        };
        self.delete_by_force(ctx, args, |c| {
            db::lock(c, backup.root_name().as_str())?;
            if db::backups::transition(c, id, BackupEvent::ForceDeleteRequested, now)? {
                Ok(())
            } else {
                Err(Error::not_found("Backup", id))
            }
        })
    }
}
