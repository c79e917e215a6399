//! `/group_snapshots`, since 3.14.

use crate::api::http::call::{Call, no_such_action};
use crate::api::http::list::{Collection, ListQuery};
use crate::api::http::microversion::{BASE, GROUP_PROJECT, GROUP_SNAPSHOT_RESET};
use crate::api::http::reply::Reply;
use crate::api::http::schema::{Rule as Must, Schema, field};
use crate::api::http::{kinds, python};
use crate::api::standalone::groups::state;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::RecordId;
use crate::model::standalone::group::{GroupSnapshot, GroupStatus, SNAPSHOT_COLUMNS};
use crate::model::standalone::stored::Stored;
use serde_json::{Value, json};

type Result = std::result::Result<Reply, Error>;

static COLLECTION: Collection = Collection {
    name: "group_snapshots",
    links: "group_snapshot_links",
    columns: SNAPSHOT_COLUMNS,
    filters: &["name", "status", "group_id"],
    sorted_by_name: BASE,
};

const CREATE: Schema = Schema::under(
    "group_snapshot",
    &[
        field("group_id", kinds::uuid),
        field("name", kinds::text_or_null),
        field("description", kinds::description),
    ],
    &[Must::Required(&["group_id"]), Must::NoOthers],
);
const RESET: Schema = Schema::under(
    "reset_status",
    &[field("status", status)],
    &[Must::Required(&["status"]), Must::NoOthers],
);

fn status(key: &str, value: &Value) -> std::result::Result<(), Error> {
    kinds::string(key, value)?;
    let states = GroupStatus::ALL.iter();
    let states = states.filter(|state| **state != GroupStatus::InUse);
    let words: Vec<&str> = states.map(GroupStatus::as_str).collect();
    let word = python::str(value);
    let why = match word.to_lowercase().as_str() {
        known if words.contains(&known) => return Ok(()),
        other if other.trim().is_empty() => "The 'status' can not be empty.".to_owned(),
        _ => {
            let words = python::tuple(&words);
            format!("Group snapshot status: {word} is invalid, valid statuses are: {words}.")
        }
    };
    Err(Error::invalid("GroupSnapshot Status", why))
}

fn id(call: &Call<'_>) -> RecordId {
    RecordId::new(call.parameter("id"))
}

/// The view that the plain list shows.
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

pub(crate) fn create(call: &Call<'_>) -> Result {
    let fields = call.fields(&CREATE)?;
    let group_id = RecordId::new(fields.required("group_id"));
    let (name, description) = (fields.text("name"), fields.text("description"));
    let services = &call.api.services;
    let row = services.create_group_snapshot(call.ctx()?, &group_id, name, description)?;
    let mut view = summary(call, &row);
    view["group_type_id"] = json!(row.body.group_type_id);
    Ok(Reply::json(202, json!({ "group_snapshot": view })))
}

pub(crate) fn list(call: &Call<'_>) -> Result {
    list_as(call, summary)
}

pub(crate) fn list_detail(call: &Call<'_>) -> Result {
    list_as(call, detail)
}

fn list_as(call: &Call<'_>, view: impl Fn(&Call<'_>, &Stored<GroupSnapshot>) -> Value) -> Result {
    let query = ListQuery::from_call(call, &COLLECTION)?;
    let services = &call.api.services;
    let rows = services.list_group_snapshots(call.ctx()?, &query.filter, &query.page)?;
    let show = |row: &Stored<GroupSnapshot>| Ok((row.id.to_string(), view(call, row)));
    query.answer(call, &COLLECTION, &rows, None, show)
}

pub(crate) fn show(call: &Call<'_>) -> Result {
    let services = &call.api.services;
    let row = services.show_group_snapshot(call.ctx()?, &id(call))?;
    let view = detail(call, &row);
    Ok(Reply::json(200, json!({ "group_snapshot": view })))
}

pub(crate) fn delete(call: &Call<'_>) -> Result {
    let services = &call.api.services;
    services.delete_group_snapshot(call.ctx()?, &id(call))?;
    Ok(Reply::empty(202).bare())
}

pub(crate) fn action(call: &Call<'_>) -> Result {
    let name = call.action()?;
    if name != "reset_status" || call.version < GROUP_SNAPSHOT_RESET {
        return Err(no_such_action(name));
    }
    let status = state(&call.fields(&RESET)?.required("status"));
    let services = &call.api.services;
    services.reset_group_snapshot_status(call.ctx()?, &id(call), status)?;
    Ok(Reply::empty(202).bare())
}
