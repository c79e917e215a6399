//! Backups: create, list, show, update, delete, restore (Cinder reference, sections 3 to 5).

use crate::db::backups::Changes;
use crate::db::{self, DbError};
use crate::identity::RequestContext;
use crate::identity::policy::Rule;
use crate::model::backup::{Backup, BackupEvent, BackupStatus};
use crate::model::column::Json;
use crate::model::error::Error;
use crate::model::id::{BackupId, SnapshotId, VolumeId};
use crate::model::job::{BackupSource, Job, JobArgs, Lease, RestoreTarget, RestoreVolume};
use crate::model::page::{Filter, Page};
use crate::model::snapshot::{Snapshot, SnapshotStatus};
use crate::model::volume::{Volume, VolumeStatus};
use crate::service::{Metadata, Services, check_marker, insert_job};
use crate::volume::catalog::CatalogError;
use std::collections::HashSet;

/// What a client wants to be backed up, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateBackup {
    pub volume_id: VolumeId,
    pub snapshot_id: Option<SnapshotId>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub container: Option<String>,
    pub availability_zone: Option<String>,
    pub metadata: Metadata,
    pub incremental: bool,
    pub force: bool,
}

/// Where a client wants a backup to be restored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RestoreBackup {
    /// An existing volume; `None` makes a new one.
    pub volume_id: Option<VolumeId>,
    /// Name of the new volume.
    pub name: Option<String>,
}

/// Where a restore goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restoring {
    pub volume_id: VolumeId,
    pub volume_name: String,
}

/// Backups, and which of them are the parent of another.
#[derive(Debug, Clone)]
pub struct BackupList {
    pub backups: Vec<Backup>,
    pub parents: HashSet<BackupId>,
    /// How many match in all, if that was asked for.
    pub count: Option<i64>,
}

impl Services {
    /// Accepts a backup: in one transaction the volume is held for the job, the quota is checked, and row and
    /// job are born.
    pub fn create_backup(
        &self,
        ctx: &RequestContext,
        wanted: CreateBackup,
    ) -> Result<Backup, Error> {
        let volume = self.visible_volume(ctx, &wanted.volume_id)?;
        ctx.authorize(Rule::BackupCreate, &volume.project_id)?;
        let snapshot = match &wanted.snapshot_id {
            Some(id) => Some(self.snapshot_of(ctx, id, &volume)?),
            None => None,
        };
        match &snapshot {
            Some(snapshot) => check_snapshot(snapshot)?,
            None => check_volume(&volume, wanted.force)?,
        }
        let now = self.clock.now();
        let owner = (ctx.project_id.clone(), ctx.user_id.clone());
        let storage = self.default_storage.clone();
        let mut backup = Backup {
            volume_id: wanted.volume_id.clone(),
            snapshot_id: wanted.snapshot_id.clone(),
            name: wanted.name,
            description: wanted.description,
            size_gib: volume.size_gib,
            availability_zone: wanted.availability_zone,
            container: wanted.container,
            metadata: Json::new(wanted.metadata),
            data_timestamp: Some(
                snapshot
                    .as_ref()
                    .map_or(now, |snapshot| snapshot.created_at),
            ),
            updated_at: Some(now),
            ..Backup::blank(BackupId::random(), owner, storage, now)
        };
        let source = BackupSource {
            volume_id: wanted.volume_id.clone(),
            snapshot_id: wanted.snapshot_id.clone(),
        };
        let args = JobArgs::CreateBackup {
            backup_id: backup.id.clone(),
            source,
            force: wanted.force,
        };
        let job = Job::new(args, now).asked_by(&ctx.request_id, &ctx.project_id);
        let lease = Lease::unclaimed(&job.id);
        self.db.write(|c| -> Result<(), Error> {
            db::lock_project(c, &ctx.project_id)?;
            // What is bound to fail counts for no quota: the hold comes first, and all of it or nothing.
            let (volume_id, snapshot_id) = (&wanted.volume_id, wanted.snapshot_id.as_ref());
            self.catalog
                .hold_source(c, &lease, volume_id, snapshot_id, wanted.force)
                .map_err(|error| refused_source(error, volume_id))?;
            self.check_backup_quota(c, ctx, volume.size_gib)?;
            if wanted.incremental {
                backup.parent_id = Some(self.parent_of(c, ctx, &backup, snapshot.as_ref())?);
            }
            db::backups::insert(c, &backup)?;
            insert_job(c, &job)
        })?;
        self.wake.wake(job.lane);
        Ok(backup)
    }

    fn parent_of(
        &self,
        connection: &mut db::DbConnection,
        ctx: &RequestContext,
        backup: &Backup,
        snapshot: Option<&Snapshot>,
    ) -> Result<BackupId, Error> {
        let parent = db::backups::parent_for(
            connection,
            &backup.volume_id,
            &ctx.project_id,
            &self.default_storage,
            snapshot.map(|snapshot| snapshot.created_at),
        )?;
        parent.map(|parent| parent.id).ok_or_else(|| {
            Error::invalid(
                "backup",
                "No backups available to do an incremental backup.",
            )
        })
    }

    pub(crate) fn check_backup_quota(
        &self,
        connection: &mut db::DbConnection,
        ctx: &RequestContext,
        size_gib: i64,
    ) -> Result<(), Error> {
        let (backups, used) = db::backups::usage(connection, &ctx.project_id)?;
        let quota = db::quotas::limits(connection, Some(&ctx.project_id), &self.quota)?;
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

    fn snapshot_of(
        &self,
        ctx: &RequestContext,
        id: &SnapshotId,
        volume: &Volume,
    ) -> Result<Snapshot, Error> {
        let snapshot = self
            .catalog
            .snapshot(id)?
            .filter(|snapshot| ctx.sees(&snapshot.project_id))
            .ok_or_else(|| Error::not_found("Snapshot", id))?;
        match snapshot.volume_id == volume.id {
            true => Ok(snapshot),
            false => Err(Error::invalid(
                "volume",
                format!(
                    "Volume {} does not match with snapshot.volume_id {}.",
                    volume.id, snapshot.volume_id
                ),
            )),
        }
    }

    /// One page of the backups the caller may see.
    pub fn list_backups(
        &self,
        ctx: &RequestContext,
        filter: &Filter,
        page: &Page,
        with_count: bool,
    ) -> Result<BackupList, Error> {
        ctx.authorize(Rule::BackupList, &ctx.project_id)?;
        self.db.read(|c| {
            if let Some(marker) = &page.marker {
                let found = db::backups::find(c, &BackupId::new(marker)).map_err(DbError::from);
                check_marker(
                    found,
                    |backup| ctx.sees(&backup.project_id),
                    "Backup",
                    marker,
                )?;
            }
            let backups = db::backups::list(c, filter, page)?;
            let ids = backups.iter().map(|backup| backup.id.clone()).collect();
            Ok(BackupList {
                parents: db::backups::parents_among(c, ids)?,
                backups,
                count: match with_count {
                    true => Some(db::backups::count(c, filter)?),
                    false => None,
                },
            })
        })
    }

    /// One backup, and whether another was made against it.
    pub fn show_backup(
        &self,
        ctx: &RequestContext,
        id: &BackupId,
    ) -> Result<(Backup, bool), Error> {
        let backup = self.visible_backup(ctx, id)?;
        let parents = self
            .db
            .read(|c| db::backups::parents_among(c, vec![id.clone()]).map_err(DbError::from))?;
        Ok((backup, parents.contains(id)))
    }

    pub(crate) fn visible_backup(
        &self,
        ctx: &RequestContext,
        id: &BackupId,
    ) -> Result<Backup, Error> {
        let backup = self
            .db
            .read(|c| db::backups::find(c, id).map_err(DbError::from))?
            .filter(|backup| ctx.sees(&backup.project_id))
            .ok_or_else(|| Error::not_found("Backup", id))?;
        ctx.authorize(Rule::BackupShow, &backup.project_id)?;
        Ok(backup)
    }

    /// Changes name, description or metadata.
    pub fn update_backup(
        &self,
        ctx: &RequestContext,
        id: &BackupId,
        changes: &Changes,
    ) -> Result<Backup, Error> {
        let backup = self.visible_backup(ctx, id)?;
        ctx.authorize(Rule::BackupUpdate, &backup.project_id)?;
        let now = self.clock.now();
        self.db
            .write(|c| db::backups::update(c, id, changes, now).map_err(DbError::from))?;
        self.visible_backup(ctx, id)
    }

    /// Accepts a deletion. Backups do not depend on each other, so a parent may go.
    pub fn delete_backup(&self, ctx: &RequestContext, id: &BackupId) -> Result<(), Error> {
        let backup = self.visible_backup(ctx, id)?;
        ctx.authorize(Rule::BackupDelete, &backup.project_id)?;
        let deletable = [BackupStatus::Available, BackupStatus::Error];
        let refused = || Error::invalid("backup", "Backup status must be available or error");
        if !deletable.contains(&backup.status) {
            return Err(refused());
        }
        self.check_backup_service()?;
        let now = self.clock.now();
        let args = JobArgs::DeleteBackup {
            backup_id: id.clone(),
        };
        self.write_with_job(ctx, args, |c| {
            // Whoever takes the same data in now sees the deletion, or is seen by it.
            db::lock(c, backup.root_name().as_str())?;
            match db::backups::transition(c, id, BackupEvent::DeleteRequested, now)? {
                true => Ok(()),
                false => Err(refused()),
            }
        })
    }

    /// Accepts a restore: to an existing volume, or to one that is made for it.
    pub fn restore_backup(
        &self,
        ctx: &RequestContext,
        id: &BackupId,
        wanted: RestoreBackup,
    ) -> Result<Restoring, Error> {
        let backup = self.visible_backup(ctx, id)?;
        ctx.authorize(Rule::BackupRestore, &backup.project_id)?;
        if backup.status != BackupStatus::Available {
            return Err(Error::invalid("backup", "Backup status must be available"));
        }
        let (target, restoring) = self.restore_target(ctx, &backup, wanted)?;
        self.check_backup_service()?;
        let now = self.clock.now();
        let args = JobArgs::RestoreBackup {
            backup_id: id.clone(),
            target: target.clone(),
        };
        let job = Job::new(args, now).asked_by(&ctx.request_id, &ctx.project_id);
        let lease = Lease::unclaimed(&job.id);
        self.db.write(|c| -> Result<(), Error> {
            db::lock_project(c, &ctx.project_id)?;
            if !db::backups::transition(c, id, BackupEvent::RestoreRequested, now)? {
                return Err(Error::invalid("backup", "Backup status must be available"));
            }
            self.catalog
                .hold_target(c, &lease, &target)
                .map_err(|error| refused_target(error, &target.volume_id))?;
            db::backups::set_restore_volume(c, id, &target.volume_id)?;
            insert_job(c, &job)
        })?;
        self.wake.wake(job.lane);
        Ok(restoring)
    }

    fn restore_target(
        &self,
        ctx: &RequestContext,
        backup: &Backup,
        wanted: RestoreBackup,
    ) -> Result<(RestoreTarget, Restoring), Error> {
        let Some(id) = wanted.volume_id else {
            let volume = RestoreVolume {
                project_id: ctx.project_id.clone(),
                user_id: ctx.user_id.clone(),
                name: wanted
                    .name
                    .unwrap_or_else(|| format!("restore_backup_{}", backup.id)),
                size_gib: backup.size_gib,
            };
            let volume_id = VolumeId::random();
            let restoring = Restoring {
                volume_id: volume_id.clone(),
                volume_name: volume.name.clone(),
            };
            let create = Some(volume);
            return Ok((RestoreTarget { volume_id, create }, restoring));
        };
        let volume = self.visible_volume(ctx, &id)?;
        if volume.status != VolumeStatus::Available {
            return Err(target_not_available());
        }
        if volume.size_gib < backup.size_gib {
            let message = format!(
                "volume size {} is too small to restore backup of size {}.",
                volume.size_gib, backup.size_gib
            );
            return Err(Error::invalid("volume", message));
        }
        let restoring = Restoring {
            volume_id: id.clone(),
            volume_name: volume.name.unwrap_or_default(),
        };
        let target = RestoreTarget {
            volume_id: id,
            create: None,
        };
        Ok((target, restoring))
    }
}

fn check_snapshot(snapshot: &Snapshot) -> Result<(), Error> {
    match snapshot.status {
        SnapshotStatus::Available => Ok(()),
        status => Err(Error::invalid(
            "snapshot",
            snapshot_message(status.as_str()),
        )),
    }
}

fn snapshot_message(status: &str) -> String {
    format!("Snapshot to be backed up must be available, but the current status is \"{status}\".")
}

fn check_volume(volume: &Volume, force: bool) -> Result<(), Error> {
    match volume.status {
        VolumeStatus::Available => Ok(()),
        VolumeStatus::InUse if force => Ok(()),
        VolumeStatus::InUse => Err(Error::invalid(
            "volume",
            "Backing up an in-use volume must use the force flag.",
        )),
        status => Err(Error::invalid("volume", volume_message(status))),
    }
}

fn volume_message(status: VolumeStatus) -> String {
    format!(
        "Volume to be backed up must be available or in-use, but the current status is \"{status}\"."
    )
}

fn target_not_available() -> Error {
    Error::invalid("volume", "Volume to be restored to must be available")
}

/// Somebody else was faster: Cinder's answer for the state the source is in now.
fn refused_source(error: CatalogError, volume: &VolumeId) -> Error {
    match error {
        CatalogError::NoVolume => Error::not_found("Volume", volume),
        CatalogError::VolumeState(status) => Error::invalid("volume", volume_message(status)),
        CatalogError::SnapshotState(status) => {
            Error::invalid("snapshot", snapshot_message(&status))
        }
        other => other.into(),
    }
}

fn refused_target(error: CatalogError, volume: &VolumeId) -> Error {
    match error {
        CatalogError::NoVolume => Error::not_found("Volume", volume),
        CatalogError::VolumeState(_) | CatalogError::BeingCopied => target_not_available(),
        other => other.into(),
    }
}
