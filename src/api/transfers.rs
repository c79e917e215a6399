//! `/os-volume-transfer` and, since 3.55, `/volume-transfers`.

use crate::api::call::{Call, Reply};
use crate::api::list::{Collection, ListQuery};
use crate::api::microversion::{BASE, TRANSFER_HISTORY, TRANSFER_SNAPSHOTS};
use crate::api::views::links;
use crate::model::error::Error;
use crate::model::id::{RecordId, VolumeId};
use crate::model::stored::Stored;
use crate::model::transfer::{COLUMNS, VolumeTransfer};
use crate::service::transfers::CreateTransfer;
use serde_json::{Value, json};

type Result = std::result::Result<Reply, Error>;

static COLLECTION: Collection = Collection {
    name: "transfers",
    links: "transfers_links",
    columns: COLUMNS,
    filters: &["name", "display_name", "volume_id"],
    sorted_by_name: BASE,
};

fn id(call: &Call<'_>) -> RecordId {
    RecordId::new(call.parameter("id"))
}

/// What acceptance and the plain list show.
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

pub(super) fn create(call: &Call<'_>) -> Result {
    let fields = call.body()?.object("transfer")?;
    let knows_snapshots = call.version >= TRANSFER_SNAPSHOTS;
    fields.only(match knows_snapshots {
        true => &["volume_id", "name", "no_snapshots"],
        false => &["volume_id", "name"],
    })?;
    let wanted = CreateTransfer {
        volume_id: VolumeId::new(fields.required_uuid("volume_id")?),
        name: fields.text("name")?.flatten(),
        // Snapshots could not go along in those days.
        no_snapshots: !knows_snapshots || fields.flag("no_snapshots")?,
    };
    let services = &call.api.services;
    let (row, key) = services.create_transfer(call.ctx()?, wanted)?;
    let mut view = detail(call, &row);
    view["auth_key"] = json!(key);
    Ok(Reply::json(202, json!({ "transfer": view })))
}

pub(super) fn list(call: &Call<'_>) -> Result {
    list_as(call, summary)
}

pub(super) fn list_detail(call: &Call<'_>) -> Result {
    list_as(call, detail)
}

fn list_as(call: &Call<'_>, view: impl Fn(&Call<'_>, &Stored<VolumeTransfer>) -> Value) -> Result {
    let query = ListQuery::from_call(call, &COLLECTION)?;
    let services = &call.api.services;
    let rows = services.list_transfers(call.ctx()?, &query.filter, &query.page)?;
    let last = rows.last().map(|row| row.id.to_string());
    let items = rows.iter().map(|row| view(call, row)).collect();
    let answer = query.answer(call, &COLLECTION, items, last, None);
    Ok(Reply::json(200, answer))
}

pub(super) fn show(call: &Call<'_>) -> Result {
    let row = call.api.services.show_transfer(call.ctx()?, &id(call))?;
    Ok(Reply::json(200, json!({ "transfer": detail(call, &row) })))
}

pub(super) fn delete(call: &Call<'_>) -> Result {
    call.api.services.delete_transfer(call.ctx()?, &id(call))?;
    Ok(Reply::empty(202))
}

pub(super) fn accept(call: &Call<'_>) -> Result {
    let fields = call.body()?.object("accept")?;
    fields.only(&["auth_key"])?;
    let key = fields.required_text("auth_key")?;
    let services = &call.api.services;
    let row = services.accept_transfer(call.ctx()?, &id(call), &key)?;
    Ok(Reply::json(202, json!({ "transfer": summary(call, &row) })))
}
