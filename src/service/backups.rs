//! Backups: create, list, show, update, delete, restore (Cinder reference, sections 3 to 5).

use crate::admission::create::CreateBackup;
use crate::admission::restore::target_not_available;
use crate::db;
use crate::db::backups::Changes;
use crate::identity::RequestContext;
use crate::identity::policy::Rule;
use crate::model::backup::{Backup, BackupEvent, BackupStatus};
use crate::model::error::{Error, chain};
use crate::model::id::{BackupId, SnapshotId, VolumeId};
use crate::model::job::{JobArgs, NewTarget, RestoreTarget, RestoreVolume};
use crate::model::message::{Action, Detail, Message};
use crate::model::page::{Filter, Listed, Page};
use crate::model::snapshot::SourceSnapshot;
use crate::model::volume::{SourceVolume, VolumeStatus};
use crate::service::{Services, asker, check_marker};
use std::collections::HashSet;

/// Where a client wants a backup to be restored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RestoreBackup {
    /// An existing volume; `None` makes a new one.
    pub volume_id: Option<VolumeId>,
    /// Name of the new volume.
    pub name: Option<String>,
    pub new: NewTarget,
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
    pub backups: Listed<Backup>,
    pub parents: HashSet<BackupId>,
    /// How many match in all, if that was asked for.
    pub count: Option<i64>,
}

impl Services {
    /// Accepts a backup of a volume, or of a snapshot of it.
    pub fn create_backup(
        &self,
        ctx: &RequestContext,
        wanted: CreateBackup,
    ) -> Result<Backup, Error> {
        let volume = self.visible_source(ctx, &wanted.volume_id)?;
        ctx.authorize(Rule::BackupCreate, &volume.project_id)?;
        self.metadata_limits.check_new(&wanted.metadata)?;
        let snapshot = match &wanted.snapshot_id {
            Some(id) => Some(self.snapshot_of(ctx, id, &volume)?),
            None => None,
        };
        self.admission
            .create_backup(&asker(ctx), wanted, &volume, snapshot.as_ref())
    }

    /// The volume to back up or to restore to, if the caller may see it.
    fn visible_source(&self, ctx: &RequestContext, id: &VolumeId) -> Result<SourceVolume, Error> {
        let volume = self
            .catalog
            .volume(id)?
            .filter(|volume| ctx.sees(&volume.project_id))
            .ok_or_else(|| Error::not_found("Volume", id))?;
        ctx.authorize(Rule::VolumeShow, &volume.project_id)?;
        Ok(volume)
    }

    fn snapshot_of(
        &self,
        ctx: &RequestContext,
        id: &SnapshotId,
        volume: &SourceVolume,
    ) -> Result<SourceSnapshot, Error> {
        let snapshot = self
            .catalog
            .snapshot(id)?
            .filter(|snapshot| ctx.sees(&snapshot.project_id))
            .ok_or_else(|| Error::not_found("Snapshot", id))?;
        if snapshot.volume_id == volume.id {
            Ok(snapshot)
        } else {
            Err(Error::invalid(
                "volume",
                format!(
                    "Volume {} does not match with snapshot.volume_id {}.",
                    volume.id, snapshot.volume_id
                ),
            ))
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
                let found = db::backups::find(c, &BackupId::new(marker));
                check_marker(
                    found,
                    |backup| ctx.sees(&backup.project_id),
                    "Backup",
                    marker,
                )?;
            }
            let backups = db::backups::list(c, filter, page)?;
            let ids = backups.rows.iter().map(|row| row.id.clone()).collect();
            Ok(BackupList {
                parents: db::backups::parents_among(c, ids)?,
                backups,
                count: if with_count {
                    Some(db::backups::count(c, filter)?)
                } else {
                    None
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
            .read(|c| db::backups::parents_among(c, vec![id.clone()]))?;
        Ok((backup, parents.contains(id)))
    }

    pub(crate) fn visible_backup(
        &self,
        ctx: &RequestContext,
        id: &BackupId,
    ) -> Result<Backup, Error> {
        let backup = self
            .db
            .read(|c| db::backups::find(c, id))?
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
        self.db.write(|c| -> Result<(), Error> {
            if let Some(metadata) = &changes.metadata {
                db::lock(c, id.as_str())?;
                let row =
                    db::backups::find(c, id)?.ok_or_else(|| Error::not_found("Backup", id))?;
                self.metadata_limits.check(&row.metadata, metadata)?;
            }
            Ok(db::backups::update(c, id, changes, now)?)
        })?;
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
            // An import of the same data takes this lock too. So it sees this deletion, or this deletion's job sees the
            // import.
            db::lock(c, backup.root_name().as_str())?;
            if db::backups::transition(c, id, BackupEvent::DeleteRequested, now)? {
                Ok(())
            } else {
                Err(refused())
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
        let (target, existing, restoring) = self.restore_target(ctx, &backup, wanted)?;
        let admitted = self.check_backup_service().and_then(|()| {
            self.admission
                .restore_backup(&asker(ctx), id, &target, existing.as_ref())
        });
        match (&admitted, &target.create) {
            (Err(_), Some(_)) => self.unmake_target(&target.volume_id),
            (Ok(()), Some(made)) => self.tell_what_is_gone(ctx, &backup, made),
            (_, None) => {}
        }
        admitted.map(|()| restoring)
    }

    /// Tells the user if the new volume has another type, or is in another zone, than the one that was backed up. The
    /// restore goes on without the message too.
    fn tell_what_is_gone(&self, ctx: &RequestContext, backup: &Backup, made: &RestoreVolume) {
        let has_lost =
            |wanted: &Option<String>, had: &Option<String>| wanted.is_some() && had.is_none();
        let is_type_gone = has_lost(&backup.volume_type, &made.volume_type);
        let detail = match (
            is_type_gone,
            has_lost(&backup.volume_zone, &made.availability_zone),
        ) {
            (false, false) => return,
            (true, false) => Detail::TypeGone,
            (false, true) => Detail::ZoneGone,
            (true, true) => Detail::TypeAndZoneGone,
        };
        let message = Message::new(
            ctx.project_id.clone(),
            Some(ctx.request_id.clone()),
            (Action::RestoreBackup, detail),
            ("VOLUME_BACKUP", backup.id.as_str()),
            self.clock.now(),
        );
        if let Err(error) = self.db.write(|c| db::messages::insert(c, &message)) {
            let error = chain(&error);
            tracing::warn!(backup.id = %backup.id, error, "no message says that the new volume has another type or zone");
        }
    }

    /// Removes the volume that was made for a refused restore. If that fails, it is found and removed later.
    fn unmake_target(&self, volume: &VolumeId) {
        if let Err(error) = self.catalog.unmake_target(volume) {
            let error = chain(&error);
            tracing::warn!(volume.id = %volume, error, "the volume of a refused restore was not removed yet");
        }
    }

    fn restore_target(
        &self,
        ctx: &RequestContext,
        backup: &Backup,
        wanted: RestoreBackup,
    ) -> Result<(RestoreTarget, Option<SourceVolume>, Restoring), Error> {
        let Some(id) = wanted.volume_id else {
            let size_gib = wanted.new.size_gib.unwrap_or(backup.size_gib);
            if size_gib < backup.size_gib {
                let message = format!(
                    "Volume size {size_gib}GB cannot be smaller than the backup size {}GB. It must be >= backup size.",
                    backup.size_gib
                );
                return Err(Error::invalid("input received", message));
            }
            let mut volume = RestoreVolume {
                project_id: ctx.project_id.clone(),
                user_id: ctx.user_id.clone(),
                name: wanted
                    .name
                    .unwrap_or_else(|| format!("restore_backup_{}", backup.id)),
                size_gib,
                volume_type: backup.volume_type.clone(),
                availability_zone: backup.volume_zone.clone(),
            };
            let token = ctx.token.as_ref();
            let volume_id = self.catalog.make_target(token, &mut volume, &wanted.new)?;
            let restoring = Restoring {
                volume_id: volume_id.clone(),
                volume_name: volume.name.clone(),
            };
            let create = Some(volume);
            return Ok((RestoreTarget { volume_id, create }, None, restoring));
        };
        let volume = self.visible_source(ctx, &id)?;
        if volume.status != VolumeStatus::Available {
            return Err(target_not_available());
        }
        if let Some(why) = &volume.unsupported {
            return Err(Error::invalid("volume", why));
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
            volume_name: volume.name.clone().unwrap_or_default(),
        };
        let target = RestoreTarget {
            volume_id: id,
            create: None,
        };
        Ok((target, Some(volume), restoring))
    }
}
