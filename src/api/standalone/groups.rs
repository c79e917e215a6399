//! `/groups`, since 3.13.

use crate::api::http::call::{Call, no_such_action};
use crate::api::http::kinds::{self, flag_word};
use crate::api::http::list::{Collection, ListQuery};
use crate::api::http::microversion::{
    BASE, GROUP_PROJECT, GROUP_REPLICATION, GROUP_RESET, GROUP_VOLUMES, SNAPSHOT_GROUP,
};
use crate::api::http::python;
use crate::api::http::reply::Reply;
use crate::api::http::schema::{Fields, Rule as Must, Schema, field};
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::{RecordId, VolumeId};
use crate::model::standalone::group::{COLUMNS, Group, GroupStatus};
use crate::model::standalone::stored::Stored;
use crate::service::standalone::groups::{CreateGroup, GroupChanges, GroupSource};
use serde_json::{Value, json};
use std::collections::BTreeMap;

type Result<T> = std::result::Result<T, Error>;

static COLLECTION: Collection = Collection {
    name: "groups",
    links: "group_links",
    columns: COLUMNS,
    filters: &["name", "list_volume"],
    sorted_by_name: BASE,
};

/// The volumes of groups, where they are asked for.
type Volumes = BTreeMap<RecordId, Vec<VolumeId>>;

const CREATE: Schema = Schema::under(
    "group",
    &[
        field("description", kinds::description),
        field("group_type", group_type),
        field("name", kinds::text_or_null),
        field("volume_types", kinds::some_texts),
        field("availability_zone", availability_zone),
    ],
    &[
        Must::Required(&["group_type", "volume_types"]),
        Must::NoOthers,
    ],
);
const CREATE_FROM: Schema = Schema::under(
    "create-from-src",
    &[
        field("description", kinds::description),
        field("name", kinds::text_or_null),
        field("source_group_id", kinds::uuid),
        field("group_snapshot_id", kinds::uuid),
    ],
    &[
        Must::OneOf(&["group_snapshot_id", "source_group_id"]),
        Must::NoOthers,
    ],
);
const UPDATE: Schema = Schema::under(
    "group",
    &[
        field("description", kinds::description),
        field("name", kinds::text_or_null),
        field("add_volumes", kinds::description),
        field("remove_volumes", kinds::description),
    ],
    &[
        Must::AnyOf(&["name", "description", "add_volumes", "remove_volumes"]),
        Must::NoOthers,
    ],
);
const DELETE: Schema = Schema::under(
    "delete",
    &[field("delete-volumes", kinds::flag)],
    &[Must::NoOthers],
);
const RESET: Schema = Schema::under(
    "reset_status",
    &[field("status", status)],
    &[Must::Required(&["status"]), Must::NoOthers],
);

/// Id or name of a group type.
fn group_type(key: &str, value: &Value) -> Result<()> {
    kinds::string(key, value)?;
    kinds::trimmed(key, value, 1).map_err(|_| kinds::refused(key, value, "is not a 'group_type'"))
}

fn availability_zone(key: &str, value: &Value) -> Result<()> {
    match value {
        Value::Null => Ok(()),
        Value::String(text) if text.is_empty() => {
            Err(Error::Invalid(format!("The '{key}' can not be None.")))
        }
        Value::String(_) => kinds::trimmed(key, value, 1),
        _ => Err(kinds::wrong_type(key, value, "'string', 'null'")),
    }
}

fn status(key: &str, value: &Value) -> Result<()> {
    kinds::string(key, value)?;
    let words: Vec<&str> = GroupStatus::ALL.iter().map(GroupStatus::as_str).collect();
    let word = python::str(value);
    let why = match word.to_lowercase().as_str() {
        known if words.contains(&known) => return Ok(()),
        other if other.trim().is_empty() => "The 'status' can not be empty.".to_owned(),
        _ => {
            let words = python::tuple(&words);
            format!("Group status: {word} is invalid, valid status are: {words}.")
        }
    };
    Err(Error::invalid("Group Status", why))
}

fn id(call: &Call<'_>) -> RecordId {
    RecordId::new(call.parameter("id"))
}

/// The view that creation and the plain list show.
fn summary(row: &Stored<Group>) -> Value {
    json!({ "id": row.id, "name": row.name })
}

fn detail(call: &Call<'_>, row: &Stored<Group>, volumes: &Volumes) -> Value {
    let Group {
        user_id: _,
        description,
        group_type_id,
        volume_type_ids,
        availability_zone,
        group_snapshot_id,
        source_group_id,
    } = &row.body;
    let mut view = json!({
        "id": row.id,
        "name": row.name,
        "status": row.status,
        "availability_zone": availability_zone,
        "created_at": row.created_at.iso(),
        "group_type": group_type_id,
        "description": description,
        "volume_types": volume_type_ids,
    });
    if call.version >= SNAPSHOT_GROUP {
        view["group_snapshot_id"] = json!(group_snapshot_id);
        view["source_group_id"] = json!(source_group_id);
    }
    if let Some(volumes) = volumes.get(&row.id) {
        view["volumes"] = json!(volumes);
    }
    if call.version >= GROUP_REPLICATION {
        view["replication_status"] = json!(null);
    }
    if call.version >= GROUP_PROJECT && shows_project(call, row) {
        view["project_id"] = json!(row.project_id);
    }
    view
}

fn shows_project(call: &Call<'_>, row: &Stored<Group>) -> bool {
    let ctx = call.ctx.as_ref();
    ctx.is_some_and(|ctx| {
        ctx.authorize(Rule::GroupProjectAttribute, &row.project_id)
            .is_ok()
    })
}

/// The groups' volumes, if the query asks for them and its version knows them.
fn volumes(call: &Call<'_>, groups: &[Stored<Group>]) -> Result<Volumes> {
    let word = call.query("list_volume").unwrap_or("false");
    let is_wanted = flag_word(word).unwrap_or(false);
    if is_wanted && call.version >= GROUP_VOLUMES {
        call.api.services.volumes_of_groups(groups)
    } else {
        Ok(Volumes::new())
    }
}

pub(crate) fn list(call: &Call<'_>) -> Result<Reply> {
    list_as(call, |_, row, _| summary(row))
}

pub(crate) fn list_detail(call: &Call<'_>) -> Result<Reply> {
    list_as(call, detail)
}

fn list_as(
    call: &Call<'_>,
    view: impl Fn(&Call<'_>, &Stored<Group>, &Volumes) -> Value,
) -> Result<Reply> {
    let mut query = ListQuery::from_call(call, &COLLECTION)?;
    query.take("list_volume");
    let services = &call.api.services;
    let rows = services.list_groups(call.ctx()?, &query.filter, &query.page)?;
    let volumes = volumes(call, &rows.rows)?;
    let show = |row: &Stored<Group>| Ok((row.id.to_string(), view(call, row, &volumes)));
    query.answer(call, &COLLECTION, &rows, None, show)
}

pub(crate) fn show(call: &Call<'_>) -> Result<Reply> {
    let row = call.api.services.show_group(call.ctx()?, &id(call))?;
    let rows = [row];
    let volumes = volumes(call, &rows)?;
    let [row] = &rows;
    let view = detail(call, row, &volumes);
    Ok(Reply::json(200, json!({ "group": view })))
}

pub(crate) fn create(call: &Call<'_>) -> Result<Reply> {
    let fields = call.fields(&CREATE)?;
    let wanted = CreateGroup {
        name: fields.text("name"),
        description: fields.text("description"),
        group_type: fields.required("group_type"),
        volume_types: fields.texts("volume_types"),
        availability_zone: fields.text("availability_zone"),
    };
    let row = call.api.services.create_group(call.ctx()?, wanted)?;
    Ok(Reply::json(202, json!({ "group": summary(&row) })))
}

/// `/groups/action`: what there is to do before there is a group.
pub(crate) fn create_from(call: &Call<'_>) -> Result<Reply> {
    let action = call.action()?;
    if action != "create-from-src" {
        return Err(no_such_action(action));
    }
    let fields = call.fields(&CREATE_FROM)?;
    let source = match fields.text("group_snapshot_id") {
        Some(id) => GroupSource::Snapshot(RecordId::new(id)),
        None => GroupSource::Group(RecordId::new(fields.required("source_group_id"))),
    };
    let (name, description) = (fields.text("name"), fields.text("description"));
    let services = &call.api.services;
    let row = services.create_group_from(call.ctx()?, name, description, &source)?;
    Ok(Reply::json(202, json!({ "group": summary(&row) })))
}

/// The ids in a text that has commas between them.
fn ids(fields: &Fields<'_>, key: &str) -> Vec<VolumeId> {
    let ids = fields.raw(key).unwrap_or_default().split(',');
    let ids = ids.map(str::trim).filter(|id| !id.is_empty());
    ids.map(VolumeId::new).collect()
}

pub(crate) fn update(call: &Call<'_>) -> Result<Reply> {
    let fields = call.fields(&UPDATE)?;
    let changes = GroupChanges {
        name: fields.text("name"),
        description: fields.text("description"),
        add_volumes: ids(&fields, "add_volumes"),
        remove_volumes: ids(&fields, "remove_volumes"),
    };
    if changes == GroupChanges::default() {
        let message = "Name, description, add_volumes, and remove_volumes can not be all empty in the request body.";
        return Err(Error::Invalid(message.to_owned()));
    }
    let added = &changes.add_volumes;
    if let Some(both) = changes.remove_volumes.iter().find(|id| added.contains(id)) {
        let message = format!("Volume {both} is in both add and remove volume list.");
        return Err(Error::invalid("volume", message));
    }
    let services = &call.api.services;
    services.update_group(call.ctx()?, &id(call), changes)?;
    Ok(Reply::empty(202).bare())
}

pub(crate) fn action(call: &Call<'_>) -> Result<Reply> {
    let (ctx, services) = (call.ctx()?, &call.api.services);
    match call.action()? {
        "delete" => {
            let with_volumes = call.fields(&DELETE)?.flag("delete-volumes");
            services.delete_group(ctx, &id(call), with_volumes)?;
        }
        "reset_status" if call.version >= GROUP_RESET => {
            let word = call.fields(&RESET)?.required("status");
            services.reset_group_status(ctx, &id(call), state(&word))?;
        }
        other => return Err(no_such_action(other)),
    }
    Ok(Reply::empty(202).bare())
}

/// The state of a word that was looked at.
pub(crate) fn state(word: &str) -> GroupStatus {
    GroupStatus::parse(&word.to_lowercase()).unwrap_or(GroupStatus::Error)
}
