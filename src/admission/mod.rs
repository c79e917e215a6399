//! The one way in for backups, imports and restores. In one transaction the source or target is held, the quota is
//! checked, and row and job are inserted; then the runner is woken. A refusal undoes all of it.
//!
//! Admission knows a project and a user, not a request: a job can admit work too. Its callers have decided that the
//! user may see the volume or backup, and may do this to it.
//!
//! A catalogue in the same database gives its hold back with the transaction. One that is elsewhere cannot; how such a
//! hold ends stands in [`crate::volume::catalog`].

pub mod create;
pub mod import;
pub mod restore;

use crate::clock::Clock;
use crate::config;
use crate::db::{self, Db, DbConnection};
use crate::jobs::Wake;
use crate::model::error::Error;
use crate::model::id::{ProjectId, StorageId, UserId};
use crate::model::job::{Job, JobArgs, Lease};
use crate::volume::catalog::{Catalog, CatalogError};
use crate::volume::cinder::CinderError;
use std::sync::Arc;

/// All that admission needs.
pub struct Admission {
    pub db: Db,
    pub clock: Clock,
    pub catalog: Catalog,
    pub quota: config::Quota,
    pub wake: Arc<Wake>,
    /// Where new backups go.
    pub default_storage: StorageId,
}

/// On whose behalf something is admitted.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    pub project_id: &'a ProjectId,
    pub user_id: &'a UserId,
    /// The name under which logs and messages know what was asked.
    pub request_id: &'a str,
}

impl Admission {
    /// Changes rows and adds the job in one transaction, one at a time for each project; then wakes the runner.
    /// The first run of the job takes over all that is held under the lease.
    pub fn admit<T>(
        &self,
        asker: &Asker<'_>,
        args: JobArgs,
        mut change: impl FnMut(&mut DbConnection, &Lease) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let job = Job::new(args, self.clock.now()).asked_by(asker.request_id, asker.project_id);
        let lease = Lease::unclaimed(&job.id);
        let admitted = self.db.write(|c| -> Result<T, Error> {
            db::lock_project(c, asker.project_id)?;
            let admitted = change(c, &lease)?;
            insert_job(c, &job)?;
            Ok(admitted)
        })?;
        self.wake.wake(job.queue);
        Ok(admitted)
    }

    /// Refuses a backup of this size that the project's quota has no room for.
    fn check_quota(
        &self,
        c: &mut DbConnection,
        project: &ProjectId,
        size_gib: i64,
    ) -> Result<(), Error> {
        let (backups, used) = db::backups::usage(c, project)?;
        let quota = db::quotas::limits(c, Some(project), &self.quota)?;
        // Of both, the gigabytes win: Cinder goes through the names in order.
        if !quota.allows("backup_gigabytes", used + size_gib) {
            return Err(Error::OverQuota {
                class: Some("VolumeBackupSizeExceedsAvailableQuota"),
                message: format!(
                    "Requested backup exceeds allowed Backup gigabytes quota. Requested {size_gib}G, \
                     quota is {}G and {used}G has been consumed.",
                    quota.limit("backup_gigabytes")
                ),
            });
        }
        if !quota.allows("backups", backups + 1) {
            return Err(Error::OverQuota {
                class: Some("BackupLimitExceeded"),
                message: format!(
                    "Maximum number of backups allowed ({}) exceeded",
                    quota.limit("backups")
                ),
            });
        }
        Ok(())
    }
}

/// Adds a job, unless its subject has a live one.
pub fn insert_job(c: &mut DbConnection, job: &Job) -> Result<(), Error> {
    db::jobs::insert(c, job).map_err(|error| {
        if db::is_duplicate(&error) {
            Error::Conflict("Another operation on the resource is under way.".to_owned())
        } else {
            error.into()
        }
    })
}

impl From<CatalogError> for Error {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::NoVolume => Error::NotFound("Volume could not be found.".to_owned()),
            CatalogError::NoSnapshot => Error::NotFound("Snapshot could not be found.".to_owned()),
            CatalogError::VolumeState(_)
            | CatalogError::BeingCopied
            | CatalogError::HoldEnded
            | CatalogError::SnapshotState(_) => Error::invalid("volume", error),
            CatalogError::Db(error) => error.into(),
            CatalogError::Size { .. }
            | CatalogError::Volume(_)
            | CatalogError::Stopped
            | CatalogError::Overdue
            | CatalogError::NotCopied(..)
            | CatalogError::Brick(_)
            | CatalogError::NotConnected
            | CatalogError::NotOurs
            | CatalogError::NoCinder => Error::internal(error),
            CatalogError::NotMadeYet => Error::Unavailable {
                message: "The block storage service has not made the volume yet.".to_owned(),
                source: Some(Box::new(error)),
            },
            CatalogError::Cinder(error) => of_cinder(error),
            CatalogError::Refused(error) => error,
        }
    }
}

/// The error for a request that Cinder has refused or failed. If Cinder refused the user, the user gets the same
/// answer.
fn of_cinder(error: CinderError) -> Error {
    match error {
        CinderError::Refused {
            status: 413,
            message,
            ..
        } => Error::OverQuota {
            class: None,
            message,
        },
        CinderError::Refused {
            status: 400,
            message,
            ..
        } => Error::Invalid(message),
        error if error.is_temporary() => Error::Unavailable {
            message: "The block storage service is unavailable.".to_owned(),
            source: Some(Box::new(error)),
        },
        error => Error::internal(error),
    }
}
