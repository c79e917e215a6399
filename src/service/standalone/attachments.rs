//! Attachments: how a client on this machine gets at a volume's bytes (Cinder reference, 8.6).

use crate::db::standalone::volumes;
use crate::db::{self, DbConnection};
use crate::identity::RequestContext;
use crate::identity::policy::Rule;
use crate::model::column::Json;
use crate::model::error::Error;
use crate::model::id::{AttachmentId, VolumeId};
use crate::model::standalone::attachment::Attachment;
use crate::model::volume::{AttachMode, AttachStatus, VolumeStatus};
use crate::service::Services;
use crate::service::standalone::volumes::{locked_volume, refuse_backed_up};
use serde_json::{Value, json};
use std::path::PathBuf;

/// A request for an attachment.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateAttachment {
    pub volume_id: VolumeId,
    pub instance_id: Option<String>,
    /// The connector of the attaching side; without it the volume is only reserved.
    pub connector: Option<Value>,
    pub mode: AttachMode,
}

/// Longest name of a host, as Cinder's.
const HOST_CHARACTERS_MAX: usize = 255;

/// Of what the attaching side says of itself the host is kept, and nothing else is ever asked for.
fn kept(connector: &Value) -> Result<(Option<String>, Json<Value>), Error> {
    let host = connector.get("host").and_then(Value::as_str);
    match host {
        Some(host) if host.chars().count() > HOST_CHARACTERS_MAX => Err(Error::invalid(
            "input received",
            format!("The connector's host has more than {HOST_CHARACTERS_MAX} characters."),
        )),
        _ => Ok((host.map(str::to_owned), Json::new(json!({ "host": host })))),
    }
}

/// An attachment, and where the bytes are once there is a connector.
#[derive(Debug, Clone, PartialEq)]
pub struct AttachmentDetail {
    pub attachment: Attachment,
    pub device_path: Option<PathBuf>,
}

/// Refuses if the attachment has ended meanwhile. None of its volume ends before the transaction does.
fn locked_attachment(c: &mut DbConnection, seen: &Attachment) -> Result<(), Error> {
    db::lock(c, seen.volume_id.as_str())?;
    match volumes::find_attachment(c, &seen.id)? {
        Some(_) => Ok(()),
        None => Err(no_attachment(&seen.id)),
    }
}

fn no_attachment(id: &AttachmentId) -> Error {
    Error::NotFound(format!(
        "Volume attachment could not be found with filter: attachment_id = {id}."
    ))
}

impl Services {
    fn with_device(&self, attachment: Attachment) -> Result<AttachmentDetail, Error> {
        let path = self
            .catalog
            .standalone()?
            .volume_path(&attachment.volume_id);
        Ok(AttachmentDetail {
            device_path: attachment.connector.is_some().then_some(path),
            attachment,
        })
    }

    fn visible_attachment(
        &self,
        ctx: &RequestContext,
        id: &AttachmentId,
    ) -> Result<Attachment, Error> {
        self.db
            .read(|c| volumes::find_attachment(c, id))?
            .filter(|attachment| ctx.sees(&attachment.project_id))
            .ok_or_else(|| no_attachment(id))
    }

    /// Reserves a volume, and with a connector opens it.
    pub fn create_attachment(
        &self,
        ctx: &RequestContext,
        wanted: CreateAttachment,
    ) -> Result<AttachmentDetail, Error> {
        let volume = self.visible_volume(ctx, &wanted.volume_id)?;
        ctx.authorize(Rule::AttachmentCreate, &volume.project_id)?;
        let now = self.clock.now();
        let (host, connector) = match &wanted.connector {
            Some(connector) => kept(connector).map(|(host, kept)| (host, Some(kept)))?,
            None => (None, None),
        };
        let is_open = connector.is_some();
        let row = Attachment {
            id: AttachmentId::random(),
            volume_id: volume.id.clone(),
            project_id: volume.project_id.clone(),
            instance_id: wanted.instance_id,
            host,
            mountpoint: None,
            mode: wanted.mode,
            status: if is_open {
                AttachStatus::Attaching
            } else {
                AttachStatus::Reserved
            },
            connector,
            attached_at: None,
            created_at: now,
        };
        let to = if is_open {
            VolumeStatus::Attaching
        } else {
            VolumeStatus::Reserved
        };
        self.db.write(|c| {
            let from = [VolumeStatus::Available];
            let locked = locked_volume(c, &volume)?;
            if volumes::is_being_copied(c, &volume.id)? {
                let message = format!("A snapshot or copy of volume {} is being taken.", volume.id);
                return Err(Error::invalid("volume", message));
            }
            if !volumes::transition(c, &volume.id, &from, to, None, now)? {
                let message = format!(
                    "Volume {} status must be available or downloading to reserve, but the current status is {}.",
                    volume.id, locked.status
                );
                return Err(Error::invalid("volume", message));
            }
            Ok(volumes::insert_attachment(c, &row)?)
        })?;
        self.with_device(row)
    }

    /// Opens a reserved volume for a connector.
    pub fn connect_attachment(
        &self,
        ctx: &RequestContext,
        id: &AttachmentId,
        connector: Value,
    ) -> Result<AttachmentDetail, Error> {
        let attachment = self.visible_attachment(ctx, id)?;
        ctx.authorize(Rule::AttachmentUpdate, &attachment.project_id)?;
        let now = self.clock.now();
        let (_, connector) = kept(&connector)?;
        self.db.write(|c| {
            locked_attachment(c, &attachment)?;
            let from = [
                VolumeStatus::Reserved,
                VolumeStatus::Attaching,
                VolumeStatus::InUse,
            ];
            if !volumes::transition(
                c,
                &attachment.volume_id,
                &from,
                VolumeStatus::Attaching,
                None,
                now,
            )? {
                let message = "The volume is not reserved for this attachment.";
                return Err(Error::invalid("volume", message));
            }
            let status = AttachStatus::Attaching;
            Ok(volumes::update_attachment(
                c,
                id,
                status,
                Some(&connector),
                None,
            )?)
        })?;
        self.with_device(self.visible_attachment(ctx, id)?)
    }

    /// Marks a volume as in use: the other side has it open.
    pub fn complete_attachment(
        &self,
        ctx: &RequestContext,
        id: &AttachmentId,
    ) -> Result<(), Error> {
        let attachment = self.visible_attachment(ctx, id)?;
        ctx.authorize(Rule::AttachmentComplete, &attachment.project_id)?;
        let now = self.clock.now();
        self.db.write(|c| {
            locked_attachment(c, &attachment)?;
            let from = [VolumeStatus::Attaching, VolumeStatus::InUse];
            if !volumes::transition(
                c,
                &attachment.volume_id,
                &from,
                VolumeStatus::InUse,
                None,
                now,
            )? {
                let message = "Unable to update attachment: the volume is not attaching.";
                return Err(Error::invalid("volume", message));
            }
            Ok(volumes::update_attachment(
                c,
                id,
                AttachStatus::Attached,
                None,
                Some(now),
            )?)
        })
    }

    /// Ends an attachment; the volume becomes available with the last one. Gives those left.
    pub fn delete_attachment(
        &self,
        ctx: &RequestContext,
        id: &AttachmentId,
    ) -> Result<Vec<AttachmentDetail>, Error> {
        let attachment = self.visible_attachment(ctx, id)?;
        ctx.authorize(Rule::AttachmentDelete, &attachment.project_id)?;
        let now = self.clock.now();
        let volume = &attachment.volume_id;
        let rest = self.db.write(|c| -> Result<_, Error> {
            // Of two that end at once, the second finds that it is the last.
            db::lock(c, volume.as_str())?;
            let row = volumes::find(c, volume)?;
            row.as_ref().map_or(Ok(()), refuse_backed_up)?;
            volumes::remove_attachment(c, id)?;
            let rest = volumes::attachments_of(c, vec![volume.clone()])?;
            if rest.is_empty() {
                let from = [
                    VolumeStatus::InUse,
                    VolumeStatus::Attaching,
                    VolumeStatus::Reserved,
                    VolumeStatus::Detaching,
                ];
                volumes::transition(c, volume, &from, VolumeStatus::Available, None, now)?;
            }
            Ok(rest)
        })?;
        rest.into_iter().map(|row| self.with_device(row)).collect()
    }

    /// One attachment.
    pub fn show_attachment(
        &self,
        ctx: &RequestContext,
        id: &AttachmentId,
    ) -> Result<AttachmentDetail, Error> {
        let attachment = self.visible_attachment(ctx, id)?;
        ctx.authorize(Rule::AttachmentShow, &attachment.project_id)?;
        self.with_device(attachment)
    }

    /// Attachments of the caller's project, or for administrators of all; of one volume alone, if it is given.
    pub fn list_attachments(
        &self,
        ctx: &RequestContext,
        all: bool,
        volume: Option<&VolumeId>,
    ) -> Result<Vec<AttachmentDetail>, Error> {
        ctx.authorize(Rule::AttachmentShow, &ctx.project_id)?;
        let project = if all && ctx.is_admin() {
            None
        } else {
            Some(&ctx.project_id)
        };
        let rows = self
            .db
            .read(|c| volumes::list_attachments(c, project, volume))?;
        rows.into_iter().map(|row| self.with_device(row)).collect()
    }
}
