//! `/os-volume-transfer` and, since 3.55, `/volume-transfers`.

use crate::api::http::call::Call;
use crate::api::http::links::links;
use crate::api::http::list::{Collection, ListQuery};
use crate::api::http::microversion::{BASE, TRANSFER_HISTORY, TRANSFER_SNAPSHOTS};
use crate::api::http::reply::Reply;
use crate::api::http::schema::{Rule, Schema, field};
use crate::api::http::{kinds, python};
use crate::model::error::Error;
use crate::model::id::{RecordId, VolumeId};
use crate::model::standalone::stored::Stored;
use crate::model::standalone::transfer::{COLUMNS, VolumeTransfer};
use crate::service::standalone::transfers::CreateTransfer;
use serde_json::{Value, json};

type Result = std::result::Result<Reply, Error>;

static COLLECTION: Collection = Collection {
    name: "transfers",
    links: "transfers_links",
    columns: COLUMNS,
    filters: &["name", "display_name", "volume_id"],
    sorted_by_name: BASE,
};

const CREATE: Schema = Schema::under(
    "transfer",
    &[
        field("volume_id", kinds::uuid),
        field("name", kinds::trimmed_name_or_null),
        field("no_snapshots", kinds::flag).since(TRANSFER_SNAPSHOTS),
    ],
    &[Rule::Required(&["volume_id"]), Rule::NoOthers],
);
const ACCEPT: Schema = Schema::under(
    "accept",
    &[field("auth_key", auth_key)],
    &[Rule::Required(&["auth_key"]), Rule::NoOthers],
);

fn auth_key(key: &str, value: &Value) -> std::result::Result<(), Error> {
    match value {
        Value::String(_) => Ok(()),
        Value::Number(number) if !number.is_f64() => Ok(()),
        _ => Err(kinds::wrong_type(key, value, "'string', 'integer'")),
    }
}

fn id(call: &Call<'_>) -> RecordId {
    RecordId::new(call.parameter("id"))
}

/// The view that acceptance and the plain list show.
fn summary(call: &Call<'_>, row: &Stored<VolumeTransfer>) -> Value {
    json!({
        "id": row.id,
        "volume_id": row.body.volume_id,
        "name": row.name,
        "links": links(call, "os-volume-transfer", row.id.as_str()),
    })
}

fn detail(call: &Call<'_>, row: &Stored<VolumeTransfer>) -> Value {
    let mut view = summary(call, row);
    view["created_at"] = json!(row.created_at.iso());
    if call.version >= TRANSFER_SNAPSHOTS {
        view["no_snapshots"] = json!(row.body.no_snapshots);
    }
    // What was accepted is gone.
    if call.version >= TRANSFER_HISTORY {
        view["source_project_id"] = json!(row.project_id);
        view["destination_project_id"] = json!(null);
        view["accepted"] = json!(false);
    }
    view
}

pub(crate) fn create(call: &Call<'_>) -> Result {
    let fields = call.fields(&CREATE)?;
    let wanted = CreateTransfer {
        volume_id: VolumeId::new(fields.required("volume_id")),
        name: fields.text("name"),
        // Snapshots could not go along in those days.
        no_snapshots: call.version < TRANSFER_SNAPSHOTS || fields.flag("no_snapshots"),
    };
    let services = &call.api.services;
    let (row, key) = services.create_transfer(call.ctx()?, wanted)?;
    let mut view = detail(call, &row);
    view["auth_key"] = json!(key);
    Ok(Reply::json(202, json!({ "transfer": view })))
}

pub(crate) fn list(call: &Call<'_>) -> Result {
    list_as(call, summary)
}

pub(crate) fn list_detail(call: &Call<'_>) -> Result {
    list_as(call, detail)
}

fn list_as(call: &Call<'_>, view: impl Fn(&Call<'_>, &Stored<VolumeTransfer>) -> Value) -> Result {
    let query = ListQuery::from_call(call, &COLLECTION)?;
    let services = &call.api.services;
    let rows = services.list_transfers(call.ctx()?, &query.filter, &query.page)?;
    let show = |row: &Stored<VolumeTransfer>| Ok((row.id.to_string(), view(call, row)));
    query.answer(call, &COLLECTION, &rows, None, show)
}

pub(crate) fn show(call: &Call<'_>) -> Result {
    let row = call.api.services.show_transfer(call.ctx()?, &id(call))?;
    Ok(Reply::json(200, json!({ "transfer": detail(call, &row) })))
}

pub(crate) fn delete(call: &Call<'_>) -> Result {
    call.api.services.delete_transfer(call.ctx()?, &id(call))?;
    Ok(Reply::empty(202).bare())
}

pub(crate) fn accept(call: &Call<'_>) -> Result {
    let fields = call.fields(&ACCEPT)?;
    let key = fields
        .value("auth_key")
        .map_or_else(String::new, python::str);
    let services = &call.api.services;
    let row = services.accept_transfer(call.ctx()?, &id(call), &key)?;
    Ok(Reply::json(202, json!({ "transfer": summary(call, &row) })))
}
