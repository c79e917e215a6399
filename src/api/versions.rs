//! Version documents of block storage and identity, and the health check.

use crate::api::http::call::Call;
use crate::api::http::microversion::{BASE, LATEST, Microversion};
use crate::api::http::reply::{Form, Reply};
use crate::model::error::Error;
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::LazyLock;

type Result = std::result::Result<Reply, Error>;

/// The document of an API that speaks these versions.
pub(super) fn block_storage(call: &Call<'_>, least: Microversion, most: Microversion) -> Value {
    json!({ "versions": [{
        "id": "v3.0",
        "status": "CURRENT",
        "version": most.to_string(),
        "min_version": least.to_string(),
        "updated": "2023-08-31T00:00:00Z",
        "links": [
            { "rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/" },
            { "rel": "self", "href": format!("{}/v3/", call.base) },
        ],
        "media-types": [{
            "base": "application/json",
            "type": "application/vnd.openstack.volume+json;version=3",
        }],
    }] })
}

/// `GET /`: all versions, in the form of a choice.
pub(super) fn root(call: &Call<'_>) -> Result {
    Ok(Reply::json(300, block_storage(call, BASE, LATEST)))
}

/// `GET /v3/`
pub(super) fn v3(call: &Call<'_>) -> Result {
    Ok(Reply::json(200, block_storage(call, BASE, LATEST)))
}

/// `GET /v3`
pub(super) fn to_v3(call: &Call<'_>) -> Result {
    let reply = Reply::empty(302).in_form(Form::Plain("text/plain; charset=utf8"));
    Ok(reply.with_header("Location", format!("{}/v3/", call.base)))
}

fn identity_v3(call: &Call<'_>) -> Value {
    json!({
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{ "rel": "self", "href": format!("{}/identity/v3/", call.base) }],
        "media-types": [{
            "base": "application/json",
            "type": "application/vnd.openstack.identity-v3+json",
        }],
    })
}

/// `GET /identity`
pub(super) fn identity(call: &Call<'_>) -> Result {
    Ok(Reply::json(
        300,
        json!({ "versions": { "values": [identity_v3(call)] } }),
    ))
}

/// `GET /identity/v3`
pub(super) fn identity_version(call: &Call<'_>) -> Result {
    Ok(Reply::json(200, json!({ "version": identity_v3(call) })))
}

/// `GET /healthcheck`
pub(super) fn healthcheck(call: &Call<'_>) -> Result {
    // A service that cannot read its database is of no use.
    call.api.services.check_database()?;
    let is_json = call
        .accept
        .as_deref()
        .is_some_and(|accept| accept.contains("json"));
    Ok(if is_json {
        Reply::json(200, json!({ "detailed": false, "reasons": ["OK"] }))
            .in_form(Form::Plain("application/json"))
    } else {
        Reply::written(200, "OK").in_form(Form::Plain("text/plain; charset=UTF-8"))
    })
}

/// `HEAD /healthcheck`
pub(super) fn is_healthy(call: &Call<'_>) -> Result {
    healthcheck(call)?;
    Ok(Reply::empty(204).in_form(Form::Silent))
}

/// The description of this API. It is made into JSON only once, and all answers share it, as clients need no token to
/// ask for it.
static OPENAPI: LazyLock<Option<Bytes>> = LazyLock::new(|| {
    let document: Option<Value> =
        serde_saphyr::from_str(include_str!("../../api-ref/openapi.yaml")).ok();
    document.map(|document| document.to_string().into())
});

/// `GET /openapi.json`
pub(super) fn openapi(_: &Call<'_>) -> Result {
    match &*OPENAPI {
        Some(text) => {
            let reply = Reply::written(200, text.clone());
            Ok(reply.in_form(Form::Plain("application/json")))
        }
        None => Err(Error::internal("openapi.yaml is not YAML")),
    }
}
