//! Actions of clients and Nova on a volume (Cinder reference, 8.3).

use crate::db;
use crate::db::standalone::{snapshots, types, volumes};
use crate::identity::RequestContext;
use crate::identity::policy::Rule;
use crate::model::column::Json;
use crate::model::error::Error;
use crate::model::id::{AttachmentId, VolumeId, VolumeTypeId};
use crate::model::job::JobArgs;
use crate::model::standalone::attachment::Attachment;
use crate::model::standalone::volume::Volume;
use crate::model::volume::{AttachMode, AttachStatus, VolumeStatus};
use crate::service::standalone::types::is_served;
use crate::service::standalone::volumes::{locked_volume, refuse_backed_up};
use crate::service::{Metadata, Services};
use crate::volume::catalog::standalone::demand::Demand;

/// Most attachments of a volume. One is the rule; one that is made by hand may come beside it.
const ATTACHMENTS_MAX: usize = 16;

/// How a volume is attached by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    pub instance_id: Option<String>,
    pub host: Option<String>,
    pub mountpoint: String,
    pub mode: AttachMode,
}

/// The states that an administrator sets by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResetVolume {
    pub status: Option<VolumeStatus>,
    pub attach_status: Option<AttachStatus>,
}

impl Services {
    /// A visible volume on which a rule allows something.
    fn volume_for(&self, ctx: &RequestContext, id: &VolumeId, rule: Rule) -> Result<Volume, Error> {
        let volume = self.visible_volume(ctx, id)?;
        ctx.authorize(rule, &volume.project_id)?;
        Ok(volume)
    }

    /// Moves a volume between states, or refuses with the states that would do.
    pub fn move_volume(
        &self,
        ctx: &RequestContext,
        id: &VolumeId,
        rule: Rule,
        from: &[VolumeStatus],
        to: VolumeStatus,
    ) -> Result<(), Error> {
        let volume = self.volume_for(ctx, id, rule)?;
        let now = self.clock.now();
        self.db.write(|c| {
            let row = uncopied(c, &volume)?;
            let is_attached = !volumes::attachments_of(c, vec![id.clone()])?.is_empty();
            if to == VolumeStatus::Available && is_attached {
                let message = format!("Volume {id} is attached.");
                return Err(Error::invalid("volume", message));
            }
            if volumes::transition(c, id, from, to, None, now)? {
                Ok(())
            } else {
                Err(wrong_state(&row, from))
            }
        })
    }

    /// Sets states by hand, for administrators. A job that holds the volume goes on; its release
    /// finds the hold gone and leaves the state as it was set.
    pub fn reset_volume(
        &self,
        ctx: &RequestContext,
        id: &VolumeId,
        wanted: ResetVolume,
    ) -> Result<(), Error> {
        let volume = self.volume_for(ctx, id, Rule::VolumeResetStatus)?;
        let now = self.clock.now();
        self.db.write(|c| {
            locked_volume(c, &volume)?;
            let attachments = volumes::attachments_of(c, vec![id.clone()])?;
            if wanted.status == Some(VolumeStatus::InUse) && attachments.is_empty() {
                let message =
                    "Cannot reset-state to in-use because volume does not have any attachments.";
                return Err(Error::Invalid(message.to_owned()));
            }
            if wanted.attach_status == Some(AttachStatus::Detached) {
                volumes::remove_attachments(c, id)?;
            }
            if let Some(status) = wanted.status {
                volumes::transition(c, id, VolumeStatus::ALL, status, None, now)?;
            }
            Ok(())
        })
    }

    /// Notes that the volume was attached.
    pub fn attach_volume(
        &self,
        ctx: &RequestContext,
        id: &VolumeId,
        how: Attach,
    ) -> Result<(), Error> {
        let volume = self.volume_for(ctx, id, Rule::VolumeAttach)?;
        let now = self.clock.now();
        let row = Attachment {
            id: AttachmentId::random(),
            volume_id: id.clone(),
            project_id: volume.project_id.clone(),
            instance_id: how.instance_id,
            host: how.host,
            mountpoint: Some(how.mountpoint),
            mode: how.mode,
            status: AttachStatus::Attached,
            connector: None,
            attached_at: Some(now),
            created_at: now,
        };
        let from = [
            VolumeStatus::Available,
            VolumeStatus::Attaching,
            VolumeStatus::Reserved,
        ];
        self.db.write(|c| {
            let locked = uncopied(c, &volume)?;
            if volumes::attachments_of(c, vec![id.clone()])?.len() >= ATTACHMENTS_MAX {
                let message = format!("Volume {id} has {ATTACHMENTS_MAX} attachments already.");
                return Err(Error::invalid("volume", message));
            }
            if !volumes::transition(c, id, &from, VolumeStatus::InUse, None, now)? {
                return Err(wrong_state(&locked, &from));
            }
            Ok(volumes::insert_attachment(c, &row)?)
        })
    }

    /// Notes that the volume was detached; without an attachment's id, all attachments end.
    pub fn detach_volume(
        &self,
        ctx: &RequestContext,
        id: &VolumeId,
        rule: Rule,
        attachment: Option<&str>,
    ) -> Result<(), Error> {
        let volume = self.volume_for(ctx, id, rule)?;
        let now = self.clock.now();
        self.db.write(|c| {
            refuse_backed_up(&locked_volume(c, &volume)?)?;
            for row in volumes::attachments_of(c, vec![id.clone()])? {
                if attachment.is_none_or(|wanted| wanted == row.id.as_str()) {
                    volumes::remove_attachment(c, &row.id)?;
                }
            }
            if volumes::attachments_of(c, vec![id.clone()])?.is_empty() {
                let from = [
                    VolumeStatus::InUse,
                    VolumeStatus::Detaching,
                    VolumeStatus::Attaching,
                    VolumeStatus::Reserved,
                ];
                volumes::transition(c, id, &from, VolumeStatus::Available, None, now)?;
            }
            Ok(())
        })
    }

    /// Refuses who may not connect to a volume, or from it.
    pub fn check_connection(
        &self,
        ctx: &RequestContext,
        id: &VolumeId,
        rule: Rule,
    ) -> Result<Volume, Error> {
        self.volume_for(ctx, id, rule)
    }

    /// Gives a volume another type. Standalone volumes are the same whatever their type.
    pub fn retype_volume(
        &self,
        ctx: &RequestContext,
        id: &VolumeId,
        new_type: &str,
    ) -> Result<(), Error> {
        let volume = self.volume_for(ctx, id, Rule::VolumeRetype)?;
        let wanted = self.type_for(ctx, Some(new_type))?;
        let now = self.clock.now();
        self.db.write(|c| {
            db::lock_project(c, &volume.project_id)?;
            db::lock_shared(c, types::CHANGED)?;
            let Some(row) = types::find(c, &wanted.id)? else {
                let message = "The volume type has just been deleted.";
                return Err(Error::Conflict(message.to_owned()));
            };
            let volume = locked_volume(c, &volume)?;
            refuse_grouped(&volume)?;
            if row.id == volume.volume_type_id {
                let message = "New volume_type same as original: retyping it changes nothing.";
                return Err(Error::invalid("input received", message));
            }
            if !is_served(&row) {
                let message = "No backend serves volumes of the new type.";
                return Err(Error::invalid("input received", message));
            }
            let allowed = [VolumeStatus::Available, VolumeStatus::InUse];
            if !allowed.contains(&volume.status) {
                return Err(wrong_state(&volume, &allowed));
            }
            self.check_retype(c, &volume, &row.id)?;
            Ok(volumes::set_type(c, id, &row.id, now)?)
        })
    }

    /// Refuses a type of which the volume's project may not have so much. The project's lock is held. Its snapshots
    /// are counted by the type of their volume, so that they go over with it.
    fn check_retype(
        &self,
        c: &mut db::DbConnection,
        volume: &Volume,
        new_type: &VolumeTypeId,
    ) -> Result<(), Error> {
        let project = &volume.project_id;
        let snapshots = snapshots::of_volume(c, &volume.id)?.into_iter();
        let sizes: Vec<i64> = snapshots
            .filter(|row| row.project_id == *project)
            .map(|row| row.size_gib)
            .collect();
        let demand = Demand::retyped(volume.size_gib, &sizes, new_type);
        let catalog = self.catalog.standalone()?;
        catalog.check_quota(c, project, &demand, true)
    }

    /// Changes what is known of a volume's image, and gives the result.
    pub fn change_image_metadata(
        &self,
        ctx: &RequestContext,
        id: &VolumeId,
        mut change: impl FnMut(&mut Metadata) -> Result<(), Error>,
    ) -> Result<Metadata, Error> {
        let volume = self.volume_for(ctx, id, Rule::VolumeImageMetadata)?;
        self.db.write(|c| {
            let row = locked_volume(c, &volume)?;
            let mut metadata = (*row.image_metadata).clone();
            change(&mut metadata)?;
            self.metadata_limits.check(&row.image_metadata, &metadata)?;
            volumes::set_image_metadata(c, id, &Json::new(metadata.clone()))?;
            Ok(metadata)
        })
    }

    /// Accepts a deletion in any state. Which rule allows it depends on how it was asked for.
    pub fn force_delete_volume(
        &self,
        ctx: &RequestContext,
        id: &VolumeId,
        rule: Rule,
    ) -> Result<(), Error> {
        let volume = self.volume_for(ctx, id, rule)?;
        let now = self.clock.now();
        let args = JobArgs::DeleteVolume {
            volume_id: id.clone(),
        };
        self.delete_by_force(ctx, args, |c| {
            locked_volume(c, &volume)?;
            if snapshots::any_of(c, id)? {
                let message = format!("Volume {id} still has snapshots.");
                return Err(Error::invalid("volume", message));
            }
            let to = VolumeStatus::Deleting;
            volumes::transition(c, id, VolumeStatus::ALL, to, None, now)?;
            Ok(volumes::remove_attachments(c, id)?)
        })
    }
}

/// The volume as it is now, unless it is being copied. A new copy waits until the transaction ends.
fn uncopied(c: &mut db::DbConnection, seen: &Volume) -> Result<Volume, Error> {
    let row = locked_volume(c, seen)?;
    let id = &row.id;
    if volumes::is_being_copied(c, id)? {
        let message = format!("A snapshot or copy of volume {id} is being taken.");
        return Err(Error::invalid("volume", message));
    }
    Ok(row)
}

/// Refuses a volume in a group, which is made for some types.
fn refuse_grouped(volume: &Volume) -> Result<(), Error> {
    match volume.group_id {
        Some(_) => Err(Error::invalid(
            "volume",
            "a volume in a group cannot be retyped.",
        )),
        None => Ok(()),
    }
}

fn wrong_state(volume: &Volume, wanted: &[VolumeStatus]) -> Error {
    let words: Vec<&str> = wanted.iter().map(VolumeStatus::as_str).collect();
    let message = format!(
        "Volume {} status must be {}, but current status is: {}.",
        volume.id,
        words.join(" or "),
        volume.status
    );
    Error::invalid("volume", message)
}
