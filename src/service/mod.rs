//! What a request does: looks up, authorizes, decides, and changes rows in one transaction.
//!
//! Every call blocks for moments at most; whatever takes longer is a job. Services and tasks never
//! call each other: they meet in the `jobs` table.

pub mod attachments;
pub mod backups;
pub mod group_snapshots;
pub mod group_types;
pub mod groups;
pub mod jobs;
pub mod messages;
pub mod programs;
pub mod qos;
pub mod quotas;
pub mod records;
pub mod resets;
pub mod snapshots;
mod stored;
pub mod transfers;
pub mod types;
pub mod volume_actions;
pub mod volumes;

use crate::clock::Clock;
use crate::config;
use crate::db::{Db, DbConnection, DbError};
use crate::identity::RequestContext;
use crate::jobs::Wake;
use crate::model::error::Error;
use crate::model::id::StorageId;
use crate::model::job::{Job, JobArgs};
use crate::volume::catalog::{Catalog, CatalogError};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Everything a request can need.
pub struct Services {
    pub db: Db,
    pub clock: Clock,
    pub catalog: Catalog,
    pub quota: config::Quota,
    pub wake: Arc<Wake>,
    /// Where new backups go.
    pub default_storage: StorageId,
    /// Name of this machine, in lists of services and of volumes' hosts.
    pub host: String,
}

/// User metadata: keys and values of at most 255 characters.
pub type Metadata = BTreeMap<String, String>;

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

    /// Changes rows and adds a job for what follows, in one transaction; then tells the runner.
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
        self.wake.wake(job.lane);
        Ok(value)
    }

    /// Deletes in any state: work on the subject is cancelled and then deletes it; where there is
    /// none, a job does.
    fn delete_by_force(
        &self,
        ctx: &RequestContext,
        args: JobArgs,
        mut change: impl FnMut(&mut DbConnection) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let now = self.clock.now();
        let job = Job::new(args, now).asked_by(&ctx.request_id, &ctx.project_id);
        let lane = self.db.write(|c| {
            change(c)?;
            match crate::db::jobs::request_cancel(c, &job.subject, now)? {
                Some(live) => Ok::<_, Error>(live.lane),
                None => {
                    insert_job(c, &job)?;
                    Ok(job.lane)
                }
            }
        })?;
        self.wake.wake(lane);
        Ok(())
    }
}

/// Adds a job, unless its subject has a live one.
fn insert_job(c: &mut DbConnection, job: &Job) -> Result<(), Error> {
    crate::db::jobs::insert(c, job).map_err(|error| match crate::db::is_duplicate(&error) {
        true => Error::Conflict("Another operation on the resource is under way.".to_owned()),
        false => error.into(),
    })
}

impl From<CatalogError> for Error {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::NoVolume => Error::NotFound("Volume could not be found.".to_owned()),
            CatalogError::NoSnapshot => Error::NotFound("Snapshot could not be found.".to_owned()),
            CatalogError::VolumeState(_)
            | CatalogError::BeingCopied
            | CatalogError::SnapshotState(_) => Error::invalid("volume", error),
            CatalogError::Db(error) => error.into(),
            CatalogError::Volume(_) => Error::internal(error),
            CatalogError::Refused(error) => error,
        }
    }
}

/// The row a page starts after must exist where the caller may see it.
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
