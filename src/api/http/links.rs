//! Links and moments, as views show them.

use crate::api::http::call::Call;
use crate::model::time::Timestamp;
use serde_json::{Value, json};

pub(crate) fn iso(moment: &Option<Timestamp>) -> Value {
    json!(moment.map(Timestamp::iso))
}

/// The two links of a resource.
pub(crate) fn links(call: &Call<'_>, collection: &str, id: &str) -> Value {
    json!([
        { "rel": "self", "href": format!("{}/{collection}/{id}", call.resource_base(false)) },
        { "rel": "bookmark", "href": format!("{}/{collection}/{id}", call.resource_base(true)) },
    ])
}
