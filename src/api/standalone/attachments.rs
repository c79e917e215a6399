//! `/attachments`

use crate::api::http::call::{Call, no_such_action};
use crate::api::http::kinds::{self, flag_word};
use crate::api::http::microversion::{ATTACHMENT_COMPLETE, ATTACHMENT_MODE};
use crate::api::http::reply::Reply;
use crate::api::http::schema::{Rule, Schema, field};
use crate::api::standalone::views::{attachment, attachment_summary};
use crate::model::error::Error;
use crate::model::id::{AttachmentId, VolumeId};
use crate::model::volume::AttachMode;
use crate::service::standalone::attachments::{AttachmentDetail, CreateAttachment};
use serde_json::{Value, json};

type Result = std::result::Result<Reply, Error>;

const CREATE: Schema = Schema::under(
    "attachment",
    &[
        field("instance_uuid", kinds::uuid_or_null),
        field("connector", kinds::object_or_null),
        field("volume_uuid", kinds::uuid),
        field("mode", mode).since(ATTACHMENT_MODE),
    ],
    &[Rule::Required(&["volume_uuid"]), Rule::NoOthers],
);
const UPDATE: Schema = Schema::under(
    "attachment",
    &[field("connector", kinds::filled_object)],
    &[Rule::Required(&["connector"]), Rule::NoOthers],
);

fn id(call: &Call<'_>) -> AttachmentId {
    AttachmentId::new(call.parameter("id"))
}

pub(crate) fn create(call: &Call<'_>) -> Result {
    let fields = call.fields(&CREATE)?;
    // An empty connector only reserves, as none does.
    let is_connector = |value: &&Value| value.as_object().is_some_and(|map| !map.is_empty());
    let mode = fields.raw("mode").and_then(AttachMode::parse);
    let wanted = CreateAttachment {
        volume_id: VolumeId::new(fields.required("volume_uuid")),
        instance_id: fields.text("instance_uuid"),
        connector: fields.value("connector").filter(is_connector).cloned(),
        mode: mode.unwrap_or(AttachMode::ReadWrite),
    };
    let detail = call.api.services.create_attachment(call.ctx()?, wanted)?;
    Ok(Reply::json(
        200,
        json!({ "attachment": attachment(&detail) }),
    ))
}

/// The attach mode; null is as good as nothing.
fn mode(key: &str, value: &Value) -> std::result::Result<(), Error> {
    match value {
        Value::Null => Ok(()),
        _ => kinds::attach_mode(key, value),
    }
}

pub(crate) fn update(call: &Call<'_>) -> Result {
    let fields = call.fields(&UPDATE)?;
    let connector = fields.value("connector").cloned().unwrap_or_default();
    let services = &call.api.services;
    let detail = services.connect_attachment(call.ctx()?, &id(call), connector)?;
    Ok(Reply::json(
        200,
        json!({ "attachment": attachment(&detail) }),
    ))
}

pub(crate) fn list(call: &Call<'_>) -> Result {
    list_as(call, attachment_summary)
}

pub(crate) fn list_detail(call: &Call<'_>) -> Result {
    list_as(call, attachment)
}

fn list_as(call: &Call<'_>, view: impl Fn(&AttachmentDetail) -> Value) -> Result {
    let all = call
        .query("all_tenants")
        .and_then(flag_word)
        .unwrap_or(false);
    let volume = call.query("volume_id").map(VolumeId::new);
    let found = call
        .api
        .services
        .list_attachments(call.ctx()?, all, volume.as_ref())?;
    let items: Vec<Value> = found.iter().map(view).collect();
    Ok(Reply::json(200, json!({ "attachments": items })))
}

pub(crate) fn show(call: &Call<'_>) -> Result {
    let detail = call.api.services.show_attachment(call.ctx()?, &id(call))?;
    Ok(Reply::json(
        200,
        json!({ "attachment": attachment(&detail) }),
    ))
}

pub(crate) fn delete(call: &Call<'_>) -> Result {
    let rest = call
        .api
        .services
        .delete_attachment(call.ctx()?, &id(call))?;
    let rest: Vec<Value> = rest.iter().map(attachment_summary).collect();
    Ok(Reply::json(200, json!({ "attachments": rest })))
}

pub(crate) fn action(call: &Call<'_>) -> Result {
    let name = call.action()?;
    if name != "os-complete" || call.version < ATTACHMENT_COMPLETE {
        return Err(no_such_action(name));
    }
    call.api
        .services
        .complete_attachment(call.ctx()?, &id(call))?;
    Ok(Reply::empty(204))
}
