//! Carries out requests: looks up, authorizes, decides, and changes rows in one transaction.
//!
//! Longer work is a job. A call blocks only for moments, or as long as a Cinder takes to answer and to make an empty
//! volume for a restore. Services and tasks never call each other: they meet in the table `jobs`.

pub mod backups;
pub mod cinder_services;
pub mod jobs;
pub mod messages;
pub mod quotas;
pub mod records;
pub mod resets;
pub mod standalone;

use crate::admission::{Admission, Asker, insert_job};
use crate::clock::Clock;
use crate::config;
use crate::db::{Db, DbConnection, DbError};
use crate::identity::RequestContext;
use crate::jobs::Wake;
use crate::model::error::Error;
use crate::model::job::{Job, JobArgs};
use crate::model::metadata::MetadataLimits;
use crate::volume::catalog::Catalog;
use std::sync::Arc;

pub use crate::model::metadata::Metadata;

/// Everything a request can need.
pub struct Services {
    pub db: Db,
    pub clock: Clock,
    pub catalog: Catalog,
    pub quota: config::Quota,
    pub metadata_limits: MetadataLimits,
    pub wake: Arc<Wake>,
    pub admission: Admission,
    /// Name of this machine, in lists of services and of volumes' hosts.
    pub host: String,
    /// The name under which this process works, if it does.
    pub worker: Option<String>,
}

impl Services {
    /// Whether the database answers, and has room on its disk.
    pub fn check_database(&self) -> Result<(), Error> {
        self.is_backup_disabled()?;
        let unavailable = |message: &str| {
            Err(Error::Unavailable {
                message: message.to_owned(),
                source: None,
            })
        };
        if !self.db.has_room() {
            return unavailable("The disk of the database is full.");
        }
        if !self.db.is_writable() {
            return unavailable("The database cannot be written.");
        }
        Ok(())
    }

    /// Changes rows and adds a job for what follows, in one transaction; then wakes the runner.
    fn write_with_job<T>(
        &self,
        ctx: &RequestContext,
        args: JobArgs,
        mut change: impl FnMut(&mut DbConnection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let job = Job::new(args, self.clock.now()).asked_by(&ctx.request_id, &ctx.project_id);
        let value = self.db.write(|c| {
            let value = change(c)?;
            insert_job(c, &job)?;
            Ok::<T, Error>(value)
        })?;
        self.wake.wake(job.queue);
        Ok(value)
    }

    /// Deletes in any state: a job that works on the subject is cancelled and then deletes it; if there is none, a new job
    /// does.
    fn delete_by_force(
        &self,
        ctx: &RequestContext,
        args: JobArgs,
        mut change: impl FnMut(&mut DbConnection) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let now = self.clock.now();
        let job = Job::new(args, now).asked_by(&ctx.request_id, &ctx.project_id);
        let queue = self.db.write(|c| {
            change(c)?;
            match crate::db::jobs::request_cancel(c, &job.subject, now)? {
                Some(live) => Ok::<_, Error>(live.queue),
                None => {
                    insert_job(c, &job)?;
                    Ok(job.queue)
                }
            }
        })?;
        self.wake.wake(queue);
        Ok(())
    }
}

/// The caller, as admission knows them.
fn asker(ctx: &RequestContext) -> Asker<'_> {
    Asker {
        project_id: &ctx.project_id,
        user_id: &ctx.user_id,
        request_id: &ctx.request_id,
    }
}

/// Checks that the row after which a page starts exists, and that the caller may see it.
fn check_marker<T>(
    found: Result<Option<T>, DbError>,
    visible: impl FnOnce(&T) -> bool,
    kind: &str,
    id: &str,
) -> Result<(), Error> {
    match found?.filter(visible) {
        Some(_) => Ok(()),
        None => Err(Error::not_found(kind, id)),
    }
}
