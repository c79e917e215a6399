//! `/messages` (Cinder reference, 8.7).

use crate::api::call::{Call, Reply};
use crate::api::list::{Collection, ListQuery};
use crate::api::microversion::BASE;
use crate::api::views::links;
use crate::model::error::Error;
use crate::model::id::MessageId;
use crate::model::message::{COLUMNS, Message};
use serde_json::{Value, json};

type Result = std::result::Result<Reply, Error>;

pub(super) static COLLECTION: Collection = Collection {
    name: "messages",
    links: "messages_links",
    columns: COLUMNS,
    filters: &[
        "resource_uuid",
        "resource_type",
        "event_id",
        "request_id",
        "message_level",
    ],
    sorted_by_name: BASE,
};

fn view(call: &Call<'_>, message: &Message) -> Value {
    let mut view = json!({
        "id": message.id,
        "event_id": message.event_id,
        "user_message": message.text(),
        "message_level": message.level,
        "created_at": message.created_at.iso(),
        "guaranteed_until": message.expires_at.iso(),
        "request_id": message.request_id,
        "links": links(call, "messages", message.id.as_str()),
    });
    if let (Some(kind), Some(id)) = (&message.resource_type, &message.resource_uuid) {
        view["resource_type"] = json!(kind);
        view["resource_uuid"] = json!(id);
    }
    view
}

pub(super) fn list(call: &Call<'_>) -> Result {
    let query = ListQuery::from_call(call, &COLLECTION)?;
    let services = &call.api.services;
    let found = services.list_messages(call.ctx()?, &query.filter, &query.page)?;
    let last = found.last().map(|message| message.id.to_string());
    let items = found.iter().map(|message| view(call, message)).collect();
    let answer = query.answer(call, &COLLECTION, items, last, None);
    Ok(Reply::json(200, answer))
}

pub(super) fn show(call: &Call<'_>) -> Result {
    let id = MessageId::new(call.parameter("id"));
    let message = call.api.services.show_message(call.ctx()?, &id)?;
    Ok(Reply::json(200, json!({ "message": view(call, &message) })))
}

pub(super) fn delete(call: &Call<'_>) -> Result {
    let id = MessageId::new(call.parameter("id"));
    call.api.services.delete_message(call.ctx()?, &id)?;
    Ok(Reply::empty(204))
}
