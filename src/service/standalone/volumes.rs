//! Volumes of the standalone catalogue (Cinder reference, 8.3).

use crate::db::standalone::volumes::Changes;
use crate::db::standalone::{snapshots, volumes};
use crate::db::{self, DbError};
use crate::identity::RequestContext;
use crate::identity::policy::Rule;
use crate::model::backup::{BackupEvent, BackupStatus};
use crate::model::column::Json;
use crate::model::error::{Error, MALFORMED};
use crate::model::id::{BackupId, RecordId, SnapshotId, VolumeId};
use crate::model::job::{JobArgs, RestoreTarget};
use crate::model::message::{Action, Detail, Message};
use crate::model::page::{Filter, Listed, Page};
use crate::model::snapshot::SnapshotStatus;
use crate::model::standalone::attachment::Attachment;
use crate::model::standalone::volume::Volume;
use crate::model::standalone::volume_type::VolumeType;
use crate::model::volume::VolumeStatus;
use crate::service::standalone::snapshots::{give_up, refuse_unavailable};
use crate::service::standalone::types::{is_served, usable_type};
use crate::service::{Metadata, Services, asker, check_marker};
use crate::volume::catalog::standalone::demand::Demand;

/// A request for a volume.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CreateVolume {
    /// GiB; may be left out with a source.
    pub size_gib: Option<i64>,
    pub name: Option<String>,
    pub description: Option<String>,
    /// Id or name.
    pub volume_type: Option<String>,
    pub availability_zone: Option<String>,
    pub metadata: Metadata,
    pub snapshot_id: Option<SnapshotId>,
    pub source_volume_id: Option<VolumeId>,
    /// A backup to fill it with.
    pub backup_id: Option<BackupId>,
    /// A group to put it into; it must be made for the volume's type.
    pub group_id: Option<RecordId>,
}

/// A volume with what is shown of it.
#[derive(Debug, Clone)]
pub struct VolumeDetail {
    pub volume: Volume,
    pub volume_type: String,
    pub attachments: Vec<Attachment>,
}

/// Volumes, and how many match in all, if that was asked for.
#[derive(Debug, Clone)]
pub struct VolumeList {
    pub volumes: Listed<VolumeDetail>,
    pub count: Option<i64>,
}

fn not_restorable() -> Error {
    let message = "Originating backup status must be one of 'available' values";
    Error::invalid("backup", message)
}

/// States in which a volume may be deleted.
const DELETABLE: [VolumeStatus; 6] = [
    VolumeStatus::Available,
    VolumeStatus::Error,
    VolumeStatus::ErrorRestoring,
    VolumeStatus::ErrorExtending,
    VolumeStatus::ErrorManaging,
    VolumeStatus::ErrorDeleting,
];

/// The volume as it is now, which others that ask so wait for until the transaction ends. What the caller may do was
/// asked of the project that it was seen in: if it has gone over to another one meanwhile, it is not found.
pub(super) fn locked_volume(c: &mut db::DbConnection, seen: &Volume) -> Result<Volume, Error> {
    db::lock(c, seen.id.as_str())?;
    volumes::find(c, &seen.id)?
        .filter(|row| row.project_id == seen.project_id)
        .ok_or_else(|| Error::not_found("Volume", &seen.id))
}

/// Whether quotas count a volume as it was when it was looked at.
fn is_as_counted(now: &Volume, seen: &Volume) -> bool {
    now.size_gib == seen.size_gib && now.volume_type_id == seen.volume_type_id
}

/// Refuses to detach a volume while a backup takes it: the backup gives it back in the state in which it was.
pub(super) fn refuse_backed_up(volume: &Volume) -> Result<(), Error> {
    if volume.status == VolumeStatus::BackingUp {
        let id = &volume.id;
        let message = format!("Volume {id} is being backed up; detach it when that is done.");
        Err(Error::invalid("volume", message))
    } else {
        Ok(())
    }
}

impl Services {
    /// The volume, if the caller may see it.
    pub(crate) fn visible_volume(
        &self,
        ctx: &RequestContext,
        id: &VolumeId,
    ) -> Result<Volume, Error> {
        let volume = self
            .catalog
            .standalone()?
            .volume(id)?
            .filter(|volume| ctx.sees(&volume.project_id))
            .ok_or_else(|| Error::not_found("Volume", id))?;
        ctx.authorize(Rule::VolumeShow, &volume.project_id)?;
        Ok(volume)
    }

    fn detail(&self, volumes: Vec<Volume>) -> Result<Vec<VolumeDetail>, Error> {
        let ids = volumes.iter().map(|volume| volume.id.clone()).collect();
        let (types, attachments) = self.db.read(|c| {
            let types = volumes::type_names(c)?;
            Ok::<_, DbError>((types, volumes::attachments_of(c, ids)?))
        })?;
        let type_name = |volume: &Volume| {
            types
                .iter()
                .find(|(id, _)| *id == volume.volume_type_id)
                .map_or_else(String::new, |(_, name)| name.clone())
        };
        Ok(volumes
            .into_iter()
            .map(|volume| VolumeDetail {
                volume_type: type_name(&volume),
                attachments: attachments
                    .iter()
                    .filter(|attachment| attachment.volume_id == volume.id)
                    .cloned()
                    .collect(),
                volume,
            })
            .collect())
    }

    fn detail_one(&self, volume: Volume) -> Result<VolumeDetail, Error> {
        let mut details = self.detail(vec![volume])?;
        Ok(details.remove(0))
    }

    /// Accepts a new volume.
    pub fn create_volume(
        &self,
        ctx: &RequestContext,
        wanted: CreateVolume,
    ) -> Result<VolumeDetail, Error> {
        ctx.authorize(Rule::VolumeCreate, &ctx.project_id)?;
        self.metadata_limits.check_new(&wanted.metadata)?;
        let volume_type = self.type_for(ctx, wanted.volume_type.as_deref())?;
        if let Some(zone) = &wanted.availability_zone
            && *zone != self.catalog.availability_zone()
        {
            let message = format!("Availability zone '{zone}' is invalid.");
            return Err(Error::Invalid(message));
        }
        if wanted.group_id.is_some() && wanted.volume_type.is_none() {
            let message = "volume_type must be provided when creating a volume in a group.";
            return Err(Error::invalid("input received", message));
        }
        let size_gib = self.size_for(ctx, &wanted)?;
        let group_id = wanted.group_id.clone();
        let is_served = is_served(&volume_type);
        let backup_id = wanted.backup_id.clone();
        let mut volume = Volume {
            id: VolumeId::random(),
            project_id: ctx.project_id.clone(),
            user_id: ctx.user_id.clone(),
            name: wanted.name,
            description: wanted.description,
            size_gib,
            status: VolumeStatus::Creating,
            previous_status: None,
            volume_type_id: volume_type.id,
            bootable: false,
            readonly: None,
            snapshot_id: wanted.snapshot_id,
            source_volume_id: wanted.source_volume_id,
            availability_zone: self.catalog.availability_zone().to_owned(),
            metadata: Json::new(wanted.metadata),
            reserved_by: None,
            released_by: None,
            group_id: group_id.as_ref().map(RecordId::to_string),
            multiattach: false,
            image_metadata: Json::default(),
            created_at: self.clock.now(),
            updated_at: None,
        };
        if !is_served {
            return self.create_unserved(ctx, volume);
        }
        if let Some(backup) = &backup_id {
            return self.create_from_backup(ctx, &mut volume, backup);
        }
        let args = JobArgs::CreateVolume {
            volume_id: volume.id.clone(),
            is_copy: volume.is_copy(),
        };
        self.write_with_job(ctx, args, |c| {
            db::lock_project(c, &ctx.project_id)?;
            self.catalog.standalone()?.check_quota(
                c,
                &ctx.project_id,
                &Demand::volume(size_gib, &volume.volume_type_id),
                true,
            )?;
            self.check_group_of(c, ctx, &volume)?;
            if let Some(snapshot) = &volume.snapshot_id {
                refuse_unavailable(c, ctx, snapshot)?;
            }
            if let Some(source) = &volume.source_volume_id {
                db::lock(c, source.as_str())?;
                let is_still = |source: Volume| {
                    [VolumeStatus::Available, VolumeStatus::InUse].contains(&source.status)
                        && ctx.sees(&source.project_id)
                        && source.size_gib <= size_gib
                };
                if !volumes::find(c, source)?.is_some_and(is_still) {
                    return Err(Error::Conflict(
                        "The source has just changed its state.".to_owned(),
                    ));
                }
            }
            Ok(volumes::insert(c, &volume)?)
        })?;
        self.detail_one(volume)
    }

    /// A volume of a type that no backend supports: it becomes `error`, and its user gets a message with the reason.
    fn create_unserved(
        &self,
        ctx: &RequestContext,
        mut volume: Volume,
    ) -> Result<VolumeDetail, Error> {
        volume.status = VolumeStatus::Error;
        let message = Message::new(
            ctx.project_id.clone(),
            Some(ctx.request_id.clone()),
            (Action::CreateVolume, Detail::NoHost),
            ("VOLUME", volume.id.as_str()),
            self.clock.now(),
        );
        self.db.write(|c| -> Result<(), Error> {
            db::lock_project(c, &ctx.project_id)?;
            self.catalog.standalone()?.check_quota(
                c,
                &ctx.project_id,
                &Demand::volume(volume.size_gib, &volume.volume_type_id),
                true,
            )?;
            self.check_group_of(c, ctx, &volume)?;
            volumes::insert(c, &volume)?;
            Ok(db::messages::insert(c, &message)?)
        })?;
        self.detail_one(volume)
    }

    /// Accepts a volume that is filled from a backup. It is `creating` until the restore is over
    /// (Cinder reference, 3.7).
    fn create_from_backup(
        &self,
        ctx: &RequestContext,
        volume: &mut Volume,
        backup: &BackupId,
    ) -> Result<VolumeDetail, Error> {
        let target = RestoreTarget {
            volume_id: volume.id.clone(),
            create: None,
        };
        let args = JobArgs::RestoreBackup {
            backup_id: backup.clone(),
            target,
        };
        let now = self.clock.now();
        volume.previous_status = Some(VolumeStatus::Creating);
        self.admission.admit(&asker(ctx), args, |c, lease| {
            self.catalog.standalone()?.check_quota(
                c,
                &ctx.project_id,
                &Demand::volume(volume.size_gib, &volume.volume_type_id),
                true,
            )?;
            self.check_group_of(c, ctx, volume)?;
            if !db::backups::transition(c, backup, BackupEvent::RestoreRequested, now)? {
                return Err(not_restorable());
            }
            db::backups::set_restore_volume(c, backup, &volume.id)?;
            volume.reserved_by = Some(lease.holder());
            Ok(volumes::insert(c, volume)?)
        })?;
        self.detail_one(volume.clone())
    }

    /// Refuses a volume for a group that is not the caller's, or not made for its type.
    fn check_group_of(
        &self,
        c: &mut db::DbConnection,
        ctx: &RequestContext,
        volume: &Volume,
    ) -> Result<(), Error> {
        match &volume.group_id {
            Some(id) => self.check_group(c, ctx, &RecordId::new(id), &volume.volume_type_id),
            None => Ok(()),
        }
    }

    /// Refuses to copy a volume that has changed since it was looked at: a restore or attachment that began meanwhile
    /// would tear the copy, and the quota was asked for the size and type that were seen.
    pub(crate) fn check_source(
        &self,
        connection: &mut db::DbConnection,
        seen: &Volume,
    ) -> Result<(), Error> {
        let now = locked_volume(connection, seen)?;
        if now.status == seen.status && is_as_counted(&now, seen) {
            Ok(())
        } else {
            Err(Error::Conflict(format!(
                "Volume {} has just changed its state.",
                seen.id
            )))
        }
    }

    pub(crate) fn type_for(
        &self,
        ctx: &RequestContext,
        wanted: Option<&str>,
    ) -> Result<VolumeType, Error> {
        let Some(name) = wanted else {
            return Ok(self.catalog.standalone()?.default_type()?);
        };
        self.db.read(|c| usable_type(c, ctx, name))
    }

    /// The size of a new volume: at least that of its source.
    fn size_for(&self, ctx: &RequestContext, wanted: &CreateVolume) -> Result<i64, Error> {
        if let Some(id) = &wanted.backup_id {
            return self.size_for_backup(ctx, id, wanted.size_gib);
        }
        let source = match (&wanted.snapshot_id, &wanted.source_volume_id) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid(
                    "input received",
                    "Only one source may be given.",
                ));
            }
            (Some(id), None) => {
                let snapshot = self.visible_snapshot(ctx, id)?;
                if snapshot.status != SnapshotStatus::Available {
                    let message = "Originating snapshot status must be one of 'available' values";
                    return Err(Error::invalid("snapshot", message));
                }
                Some(("snapshot", snapshot.size_gib))
            }
            (None, Some(id)) => {
                let volume = self.visible_volume(ctx, id)?;
                if !matches!(volume.status, VolumeStatus::Available | VolumeStatus::InUse) {
                    let message = "Unable to create a volume from a volume that is not available.";
                    return Err(Error::invalid("volume", message));
                }
                Some(("source volume", volume.size_gib))
            }
            (None, None) => None,
        };
        match (wanted.size_gib, source) {
            (Some(size), Some((kind, least))) if size < least => Err(Error::invalid(
                "input received",
                format!(
                    "Volume size '{size}'GB cannot be smaller than the {kind} size {least}GB. They must be >= {kind} size."
                ),
            )),
            (Some(size), _) => Ok(size),
            (None, Some((_, size))) => Ok(size),
            // Cinder's own words for a volume without size and source.
            (None, None) => Err(Error::Invalid(MALFORMED.to_owned())),
        }
    }

    fn size_for_backup(
        &self,
        ctx: &RequestContext,
        id: &BackupId,
        wanted: Option<i64>,
    ) -> Result<i64, Error> {
        let backup = self.visible_backup(ctx, id)?;
        if backup.status != BackupStatus::Available {
            return Err(not_restorable());
        }
        let least = backup.size_gib;
        match wanted {
            Some(size) if size < least => Err(Error::invalid(
                "input received",
                format!(
                    "Volume size {size}GB cannot be smaller than the backup size {least}GB. It must be >= backup size."
                ),
            )),
            size => Ok(size.unwrap_or(least)),
        }
    }

    /// One page of the volumes the caller may see.
    pub fn list_volumes(
        &self,
        ctx: &RequestContext,
        filter: &Filter,
        page: &Page,
        with_count: bool,
    ) -> Result<VolumeList, Error> {
        ctx.authorize(Rule::VolumeList, &ctx.project_id)?;
        let (volumes, count) = self.db.read(|c| {
            if let Some(marker) = &page.marker {
                let found = volumes::find(c, &VolumeId::new(marker));
                check_marker(
                    found,
                    |volume| ctx.sees(&volume.project_id),
                    "Volume",
                    marker,
                )?;
            }
            let volumes = volumes::list(c, filter, page)?;
            let count = if with_count {
                Some(volumes::count(c, filter)?)
            } else {
                None
            };
            Ok::<_, Error>((volumes, count))
        })?;
        let volumes = Listed {
            rows: self.detail(volumes.rows)?,
            is_cut: volumes.is_cut,
        };
        Ok(VolumeList { volumes, count })
    }

    /// One volume.
    pub fn show_volume(&self, ctx: &RequestContext, id: &VolumeId) -> Result<VolumeDetail, Error> {
        let volume = self.visible_volume(ctx, id)?;
        self.detail_one(volume)
    }

    /// Changes what a rule allows to be changed.
    pub fn update_volume(
        &self,
        ctx: &RequestContext,
        id: &VolumeId,
        rule: Rule,
        changes: &Changes,
    ) -> Result<VolumeDetail, Error> {
        let volume = self.visible_volume(ctx, id)?;
        ctx.authorize(rule, &volume.project_id)?;
        let now = self.clock.now();
        self.db.write(|c| -> Result<(), Error> {
            let row = locked_volume(c, &volume)?;
            if let Some(metadata) = &changes.metadata {
                self.metadata_limits.check(&row.metadata, metadata)?;
            }
            Ok(volumes::update(c, id, changes, now)?)
        })?;
        self.show_volume(ctx, id)
    }

    /// Changes metadata by a function of what is there, in one step.
    pub fn change_volume_metadata(
        &self,
        ctx: &RequestContext,
        id: &VolumeId,
        mut change: impl FnMut(&mut Metadata) -> Result<(), Error>,
    ) -> Result<Metadata, Error> {
        let volume = self.visible_volume(ctx, id)?;
        ctx.authorize(Rule::VolumeMetadataUpdate, &volume.project_id)?;
        let now = self.clock.now();
        self.db.write(|c| {
            let row = locked_volume(c, &volume)?;
            let mut metadata = (*row.metadata).clone();
            change(&mut metadata)?;
            self.metadata_limits.check(&row.metadata, &metadata)?;
            let changes = Changes {
                metadata: Some(metadata.clone()),
                ..Changes::default()
            };
            volumes::update(c, id, &changes, now)?;
            Ok(metadata)
        })
    }

    /// Accepts a deletion, with `cascade` that of its snapshots too.
    pub fn delete_volume(
        &self,
        ctx: &RequestContext,
        id: &VolumeId,
        cascade: bool,
    ) -> Result<(), Error> {
        let volume = self.visible_volume(ctx, id)?;
        ctx.authorize(Rule::VolumeDelete, &volume.project_id)?;
        let now = self.clock.now();
        self.write_with_jobs(ctx, |c| {
            let row = locked_volume(c, &volume)?;
            if volumes::is_being_copied(c, id)? {
                let message = format!("A snapshot or copy of volume {id} is being taken.");
                return Err(Error::invalid("volume", message));
            }
            let mut snapshots = snapshots::of_volume(c, id)?;
            if cascade {
                snapshots.retain(|snapshot| snapshot.status != SnapshotStatus::Deleting);
            }
            // Those that a transfer has left with the volume's last project are not the caller's to delete.
            let may_go = cascade && snapshots.iter().all(|row| ctx.sees(&row.project_id));
            let has_attachments = !volumes::attachments_of(c, vec![id.clone()])?.is_empty();
            let to = VolumeStatus::Deleting;
            if (!snapshots.is_empty() && !may_go)
                || has_attachments
                || row.group_id.is_some()
                || !volumes::transition(c, id, &DELETABLE, to, None, now)?
            {
                return Err(Error::invalid(
                    "volume",
                    "Volume status must be available or error or error_restoring or error_extending \
                     or error_managing and must not be migrating, attached, belong to a group, have \
                     snapshots, awaiting a transfer, or be disassociated from snapshots after volume \
                     transfer.",
                ));
            }
            let mut jobs = Vec::new();
            // In one order, so that two that do so never wait for each other.
            snapshots.sort_by(|one, other| one.id.cmp(&other.id));
            for snapshot in snapshots {
                ctx.authorize(Rule::SnapshotShow, &snapshot.project_id)?;
                ctx.authorize(Rule::SnapshotDelete, &snapshot.project_id)?;
                give_up(c, &snapshot, now)?;
                jobs.push(JobArgs::DeleteSnapshot {
                    snapshot_id: snapshot.id,
                });
            }
            jobs.push(JobArgs::DeleteVolume {
                volume_id: id.clone(),
            });
            Ok(((), jobs))
        })
    }

    /// Accepts an extension to a larger size in GiB.
    pub fn extend_volume(
        &self,
        ctx: &RequestContext,
        id: &VolumeId,
        size_gib: i64,
        may_be_in_use: bool,
    ) -> Result<(), Error> {
        let volume = self.visible_volume(ctx, id)?;
        ctx.authorize(Rule::VolumeExtend, &volume.project_id)?;
        if size_gib <= volume.size_gib {
            let message = format!(
                "New size for extend must be greater than current size. (current: {}, extended: {size_gib}).",
                volume.size_gib
            );
            return Err(Error::invalid("input received", message));
        }
        let now = self.clock.now();
        let args = JobArgs::ExtendVolume {
            volume_id: id.clone(),
            size_gib,
        };
        self.write_with_job(ctx, args, |c| {
            db::lock_project(c, &volume.project_id)?;
            let demand = Demand::growth(volume.size_gib, size_gib, &volume.volume_type_id);
            self.catalog
                .standalone()?
                .check_quota(c, &volume.project_id, &demand, true)?;
            let row = locked_volume(c, &volume)?;
            if !is_as_counted(&row, &volume) {
                return Err(Error::Conflict(format!("Volume {id} has just changed.")));
            }
            let from: &[VolumeStatus] = if may_be_in_use {
                &[VolumeStatus::Available, VolumeStatus::InUse]
            } else {
                &[VolumeStatus::Available]
            };
            if volumes::transition(c, id, from, VolumeStatus::Extending, None, now)? {
                // Others that are asked for before the job has ended are within the quota, too.
                return Ok(volumes::count_growth(c, id, size_gib - row.size_gib)?);
            }
            let message = format!(
                "Volume {id} status must be '{{'status': 'available'}}' to extend, \
                 currently {}.",
                row.status
            );
            Err(Error::invalid("volume", message))
        })
    }
}
