//! Cinder's answer with a part of ours in it.

use crate::api::http::budget::Hold;
use crate::api::http::call::Call;
use crate::api::http::gateway::error_of;
use crate::api::http::reply::{Content, Reply};
use crate::api::routes::Handler;
use crate::model::error::{Cause, Error};
use crate::volume::cinder::{Head, WholeAnswer};
use bytes::Bytes;
use http::header::ACCEPT_ENCODING;
use serde_json::{Map, Value};
use tokio::runtime::Handle;

/// When a client may try again for whom there was no memory.
const RETRY_SECONDS: u64 = 5;

/// Cinder's answer to the request as the client sent it.
pub(super) fn ask(call: &Call<'_>) -> Result<WholeAnswer, Error> {
    let (head, body) = passed(call)?;
    send(call, head.clone(), body.clone())
}

/// Cinder's answer to another request of the same client.
pub(super) fn ask_for(
    call: &Call<'_>,
    change: impl FnOnce(&mut Head),
    body: Bytes,
) -> Result<WholeAnswer, Error> {
    let mut head = passed(call)?.0.clone();
    change(&mut head);
    send(call, head, body)
}

fn passed<'c>(call: &'c Call<'_>) -> Result<&'c (Head, Bytes), Error> {
    let passed = call.passed.as_ref();
    passed.ok_or_else(|| Error::Invalid("Malformed request url".to_owned()))
}

fn send(call: &Call<'_>, mut head: Head, body: Bytes) -> Result<WholeAnswer, Error> {
    let gateway = call.api.gateway.as_ref();
    let gateway = gateway.ok_or_else(|| Error::internal("there is no gateway"))?;
    // It is read here.
    head.headers.remove(ACCEPT_ENCODING);
    gateway.upstream.ask(&head, body).map_err(error_of)
}

/// Cinder's answer as it is.
pub(super) fn as_it_is(answer: WholeAnswer) -> Reply {
    Reply::passed(answer.status, answer.headers, answer.body)
}

/// Cinder's answer, changed if Cinder has done as asked.
pub(super) fn merged(
    answer: WholeAnswer,
    change: impl FnOnce(&mut Value) -> Result<(), Error>,
) -> Result<Reply, Error> {
    if !has_succeeded(&answer) {
        return Ok(as_it_is(answer));
    }
    let mut value = read(&answer.body)?;
    change(&mut value)?;
    let body = value.to_string().into();
    Ok(Reply::passed(answer.status, answer.headers, body))
}

pub(super) fn has_succeeded(answer: &WholeAnswer) -> bool {
    (200..300).contains(&answer.status)
}

/// A document of Cinder's.
pub(super) fn read(body: &Bytes) -> Result<Value, Error> {
    serde_json::from_slice(body).map_err(|error| not_understood(Some(Box::new(error))))
}

fn not_understood(source: Option<Cause>) -> Error {
    Error::BadAnswer {
        message: "Cinder's answer is not understood.".to_owned(),
        source,
    }
}

/// The memory in which a list is put together, as soon as it is free. It is taken only when Cinder has answered: who waits
/// for Cinder keeps none of it from others. Blocks.
pub(super) fn room(call: &Call<'_>) -> Result<Hold, Error> {
    let (memory, callers) = (&call.api.memory, call.ctx()?.names());
    let taking = memory.lists.take(&callers, memory.parts.list);
    let room = Handle::current().block_on(taking);
    room.ok_or(Error::TooMany {
        retry_after: RETRY_SECONDS,
    })
}

/// The object at this place of Cinder's answer.
pub(super) fn object<'v>(
    value: &'v mut Value,
    place: &str,
) -> Result<&'v mut Map<String, Value>, Error> {
    let object = value.pointer_mut(place).and_then(Value::as_object_mut);
    object.ok_or_else(|| not_understood(None))
}

/// The list of objects under a key of Cinder's answer.
pub(super) fn rows<'v>(value: &'v mut Value, key: &str) -> Result<&'v mut Vec<Value>, Error> {
    let rows = value.get_mut(key).and_then(Value::as_array_mut);
    rows.filter(|rows| rows.iter().all(Value::is_object))
        .ok_or_else(|| not_understood(None))
}

/// What we alone would answer.
pub(super) fn own(call: &Call<'_>, handler: Handler) -> Result<Value, Error> {
    match handler(call)?.body {
        Some(Content::Json(value)) => Ok(value),
        Some(Content::Written(text)) => serde_json::from_slice(&text).map_err(Error::internal),
        None => Ok(Value::Null),
    }
}

/// Puts these values of one object into another.
pub(super) fn put(into: &mut Map<String, Value>, from: &Value, keys: &[&str]) {
    for key in keys {
        if let Some(value) = from.get(*key) {
            into.insert((*key).to_owned(), value.clone());
        }
    }
}
