//! `/group_snapshots`, since 3.14.

use crate::api::call::{Call, Reply};
use crate::api::groups::status;
use crate::api::list::{Collection, ListQuery};
use crate::api::microversion::{BASE, GROUP_PROJECT, GROUP_SNAPSHOT_RESET};
use crate::api::volume_actions::no_such_action;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::group::{GroupSnapshot, SNAPSHOT_COLUMNS};
use crate::model::id::RecordId;
use crate::model::stored::Stored;
use serde_json::{Value, json};

type Result = std::result::Result<Reply, Error>;

static COLLECTION: Collection = Collection {
    name: "group_snapshots",
    links: "group_snapshot_links",
    columns: SNAPSHOT_COLUMNS,
    filters: &["name", "status", "group_id"],
    sorted_by_name: BASE,
};

fn id(call: &Call<'_>) -> RecordId {
    RecordId::new(call.parameter("id"))
}

/// What the plain list shows.
fn summary(_: &Call<'_>, row: &Stored<GroupSnapshot>) -> Value {
    json!({ "id": row.id, "name": row.name })
}

fn detail(call: &Call<'_>, row: &Stored<GroupSnapshot>) -> Value {
    let mut view = json!({
        "id": row.id,
        "name": row.name,
        "created_at": row.created_at.iso(),
        "status": row.status,
        "description": row.body.description,
        "group_id": row.body.group_id,
        "group_type_id": row.body.group_type_id,
    });
    let shows_project = call.ctx.as_ref().is_some_and(|ctx| {
        ctx.authorize(Rule::GroupSnapshotProjectAttribute, &row.project_id)
            .is_ok()
    });
    if call.version >= GROUP_PROJECT && shows_project {
        view["project_id"] = json!(row.project_id);
    }
    view
}

pub(super) fn create(call: &Call<'_>) -> Result {
    let fields = call.body()?.object("group_snapshot")?;
    fields.only(&["group_id", "name", "description"])?;
    let group_id = RecordId::new(fields.required_uuid("group_id")?);
    let name = fields.text("name")?.flatten();
    let description = fields.description("description")?.flatten();
    let services = &call.api.services;
    let row = services.create_group_snapshot(call.ctx()?, &group_id, name, description)?;
    let mut view = summary(call, &row);
    view["group_type_id"] = json!(row.body.group_type_id);
    Ok(Reply::json(202, json!({ "group_snapshot": view })))
}

pub(super) fn list(call: &Call<'_>) -> Result {
    list_as(call, summary)
}

pub(super) fn list_detail(call: &Call<'_>) -> Result {
    list_as(call, detail)
}

fn list_as(call: &Call<'_>, view: impl Fn(&Call<'_>, &Stored<GroupSnapshot>) -> Value) -> Result {
    let query = ListQuery::from_call(call, &COLLECTION)?;
    let services = &call.api.services;
    let rows = services.list_group_snapshots(call.ctx()?, &query.filter, &query.page)?;
    let last = rows.last().map(|row| row.id.to_string());
    let items = rows.iter().map(|row| view(call, row)).collect();
    let answer = query.answer(call, &COLLECTION, items, last, None);
    Ok(Reply::json(200, answer))
}

pub(super) fn show(call: &Call<'_>) -> Result {
    let services = &call.api.services;
    let row = services.show_group_snapshot(call.ctx()?, &id(call))?;
    let view = detail(call, &row);
    Ok(Reply::json(200, json!({ "group_snapshot": view })))
}

pub(super) fn delete(call: &Call<'_>) -> Result {
    let services = &call.api.services;
    services.delete_group_snapshot(call.ctx()?, &id(call))?;
    Ok(Reply::empty(202))
}

pub(super) fn action(call: &Call<'_>) -> Result {
    let (name, value) = call.body()?.action()?;
    if name != "reset_status" || call.version < GROUP_SNAPSHOT_RESET {
        return Err(no_such_action(name));
    }
    let services = &call.api.services;
    services.reset_group_snapshot_status(call.ctx()?, &id(call), status(value)?)?;
    Ok(Reply::empty(202))
}
