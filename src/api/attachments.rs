//! `/attachments`

use crate::api::body::flag_word;
use crate::api::call::{Call, Reply};
use crate::api::microversion::{ATTACHMENT_COMPLETE, ATTACHMENT_MODE};
use crate::api::views::{attachment, attachment_summary};
use crate::model::error::Error;
use crate::model::id::{AttachmentId, VolumeId};
use crate::model::volume::AttachMode;
use crate::service::attachments::{AttachmentDetail, CreateAttachment};
use serde_json::{Value, json};

type Result = std::result::Result<Reply, Error>;

fn id(call: &Call<'_>) -> AttachmentId {
    AttachmentId::new(call.parameter("id"))
}

pub(super) fn create(call: &Call<'_>) -> Result {
    let fields = call.body()?.object("attachment")?;
    let mut known = vec!["volume_uuid", "instance_uuid", "connector"];
    if call.version >= ATTACHMENT_MODE {
        known.push("mode");
    }
    fields.only(&known)?;
    let mode = match fields.mode("mode")? {
        None => AttachMode::ReadWrite,
        Some(word) => AttachMode::parse(&word).ok_or_else(|| {
            let message = format!("'{word}' is not one of ['rw', 'ro']");
            Error::Invalid(format!(
                "Invalid input for field/attribute mode. Value: {word}. {message}"
            ))
        })?,
    };
    let wanted = CreateAttachment {
        volume_id: VolumeId::new(fields.required_uuid("volume_uuid")?),
        instance_id: fields.uuid("instance_uuid")?,
        connector: fields
            .value("connector")
            .filter(|value| is_connector(value))
            .cloned(),
        mode,
    };
    let detail = call.api.services.create_attachment(call.ctx()?, wanted)?;
    Ok(Reply::json(
        200,
        json!({ "attachment": attachment(&detail) }),
    ))
}

/// An empty connector only reserves, as none does.
fn is_connector(value: &Value) -> bool {
    value.as_object().is_some_and(|map| !map.is_empty())
}

pub(super) fn update(call: &Call<'_>) -> Result {
    let fields = call.body()?.object("attachment")?;
    fields.only(&["connector"])?;
    let connector = fields.require("connector")?;
    if !is_connector(connector) {
        return Err(Error::Invalid(
            "A connector must be an object with keys.".to_owned(),
        ));
    }
    let services = &call.api.services;
    let detail = services.connect_attachment(call.ctx()?, &id(call), connector.clone())?;
    Ok(Reply::json(
        200,
        json!({ "attachment": attachment(&detail) }),
    ))
}

pub(super) fn list(call: &Call<'_>) -> Result {
    list_as(call, attachment_summary)
}

pub(super) fn list_detail(call: &Call<'_>) -> Result {
    list_as(call, attachment)
}

fn list_as(call: &Call<'_>, view: impl Fn(&AttachmentDetail) -> Value) -> Result {
    let all = call
        .query("all_tenants")
        .and_then(flag_word)
        .unwrap_or(false);
    let found = call.api.services.list_attachments(call.ctx()?, all)?;
    let wanted = call.query("volume_id");
    let items: Vec<Value> = found
        .iter()
        .filter(|detail| wanted.is_none_or(|id| detail.attachment.volume_id.as_str() == id))
        .map(view)
        .collect();
    Ok(Reply::json(200, json!({ "attachments": items })))
}

pub(super) fn show(call: &Call<'_>) -> Result {
    let detail = call.api.services.show_attachment(call.ctx()?, &id(call))?;
    Ok(Reply::json(
        200,
        json!({ "attachment": attachment(&detail) }),
    ))
}

pub(super) fn delete(call: &Call<'_>) -> Result {
    let rest = call
        .api
        .services
        .delete_attachment(call.ctx()?, &id(call))?;
    let rest: Vec<Value> = rest.iter().map(attachment_summary).collect();
    Ok(Reply::json(200, json!({ "attachments": rest })))
}

pub(super) fn action(call: &Call<'_>) -> Result {
    let (name, _) = call.body()?.action()?;
    if name != "os-complete" || call.version < ATTACHMENT_COMPLETE {
        return Err(Error::Invalid(format!(
            "There is no such action: {name}. Verify the request body and Content-Type header and try again."
        )));
    }
    call.api
        .services
        .complete_attachment(call.ctx()?, &id(call))?;
    Ok(Reply::empty(204))
}
