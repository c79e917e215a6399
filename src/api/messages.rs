//! `/messages` (Cinder reference, 8.7).

use crate::api::http::call::Call;
use crate::api::http::links::links;
use crate::api::http::list::{Collection, ListQuery};
use crate::api::http::microversion::{BASE, MESSAGE_PAGES};
use crate::api::http::reply::Reply;
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

pub(super) fn view(call: &Call<'_>, message: &Message) -> Value {
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

/// Which messages are asked for. Before there were pages the query said nothing, and no page had a next one.
pub(super) fn query(call: &Call<'_>) -> std::result::Result<ListQuery, Error> {
    let has_pages = call.version >= MESSAGE_PAGES;
    if has_pages {
        ListQuery::from_call(call, &COLLECTION)
    } else {
        ListQuery::unasked(call, &COLLECTION)
    }
}

pub(super) fn list(call: &Call<'_>) -> Result {
    let query = query(call)?;
    let services = &call.api.services;
    let found = services.list_messages(call.ctx()?, &query.filter, &query.page)?;
    let show = |row: &Message| Ok((row.id.to_string(), view(call, row)));
    query.answer(call, &COLLECTION, &found, None, show)
}

pub(super) fn show(call: &Call<'_>) -> Result {
    let id = MessageId::new(call.parameter("id"));
    let message = call.api.services.show_message(call.ctx()?, &id)?;
    Ok(Reply::json(200, json!({ "message": view(call, &message) })))
}

pub(super) fn delete(call: &Call<'_>) -> Result {
    let id = MessageId::new(call.parameter("id"));
    call.api.services.delete_message(call.ctx()?, &id)?;
    Ok(Reply::empty(204).bare())
}
