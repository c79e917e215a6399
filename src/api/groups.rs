//! `/groups`, since 3.13.

use crate::api::body::{Fields, flag_word};
use crate::api::call::{Call, Reply};
use crate::api::list::{Collection, ListQuery};
use crate::api::microversion::{
    BASE, GROUP_PROJECT, GROUP_REPLICATION, GROUP_RESET, GROUP_VOLUMES, SNAPSHOT_GROUP,
};
use crate::api::volume_actions::no_such_action;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::group::{COLUMNS, Group, GroupStatus};
use crate::model::id::{RecordId, VolumeId};
use crate::model::stored::Stored;
use crate::service::groups::{CreateGroup, GroupChanges, GroupSource};
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

fn id(call: &Call<'_>) -> RecordId {
    RecordId::new(call.parameter("id"))
}

/// What creation and the plain list show.
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
    match is_wanted && call.version >= GROUP_VOLUMES {
        true => call.api.services.volumes_of_groups(groups),
        false => Ok(Volumes::new()),
    }
}

pub(super) fn list(call: &Call<'_>) -> Result<Reply> {
    list_as(call, |_, row, _| summary(row))
}

pub(super) fn list_detail(call: &Call<'_>) -> Result<Reply> {
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
    let volumes = volumes(call, &rows)?;
    let last = rows.last().map(|row| row.id.to_string());
    let items = rows.iter().map(|row| view(call, row, &volumes)).collect();
    let answer = query.answer(call, &COLLECTION, items, last, None);
    Ok(Reply::json(200, answer))
}

pub(super) fn show(call: &Call<'_>) -> Result<Reply> {
    let row = call.api.services.show_group(call.ctx()?, &id(call))?;
    let rows = [row];
    let volumes = volumes(call, &rows)?;
    let [row] = &rows;
    let view = detail(call, row, &volumes);
    Ok(Reply::json(200, json!({ "group": view })))
}

/// The texts of a list that must be there and not be empty.
fn texts(fields: &Fields<'_>, key: &str) -> Result<Vec<String>> {
    let texts: Option<Vec<String>> = fields.require(key)?.as_array().and_then(|items| {
        let texts = items.iter().map(|item| item.as_str().map(str::to_owned));
        texts.collect()
    });
    match texts {
        Some(texts) if !texts.is_empty() => Ok(texts),
        _ => Err(Error::Invalid(format!(
            "Invalid input for field/attribute {key}. It must be a list of strings that is not empty."
        ))),
    }
}

pub(super) fn create(call: &Call<'_>) -> Result<Reply> {
    let fields = call.body()?.object("group")?;
    fields.only(&[
        "name",
        "description",
        "group_type",
        "volume_types",
        "availability_zone",
    ])?;
    let wanted = CreateGroup {
        name: fields.text("name")?.flatten(),
        description: fields.description("description")?.flatten(),
        group_type: fields.required_text("group_type")?,
        volume_types: texts(&fields, "volume_types")?,
        availability_zone: fields.text("availability_zone")?.flatten(),
    };
    let row = call.api.services.create_group(call.ctx()?, wanted)?;
    Ok(Reply::json(202, json!({ "group": summary(&row) })))
}

/// `/groups/action`: what there is to do before there is a group.
pub(super) fn create_from(call: &Call<'_>) -> Result<Reply> {
    let (action, value) = call.body()?.action()?;
    if action != "create-from-src" {
        return Err(no_such_action(action));
    }
    let fields = Fields::of("create-from-src", value)?;
    fields.only(&[
        "name",
        "description",
        "group_snapshot_id",
        "source_group_id",
    ])?;
    let snapshot = fields.uuid("group_snapshot_id")?.map(RecordId::new);
    let group = fields.uuid("source_group_id")?.map(RecordId::new);
    let source = match (snapshot, group) {
        (Some(id), None) => GroupSource::Snapshot(id),
        (None, Some(id)) => GroupSource::Group(id),
        _ => {
            let message = "Either 'group_snapshot_id' or 'source_group_id' must be provided to create a group from source, and not both.";
            return Err(Error::Invalid(message.to_owned()));
        }
    };
    let name = fields.text("name")?.flatten();
    let description = fields.description("description")?.flatten();
    let services = &call.api.services;
    let row = services.create_group_from(call.ctx()?, name, description, &source)?;
    Ok(Reply::json(202, json!({ "group": summary(&row) })))
}

/// The ids in a text that has commas between them.
fn ids(fields: &Fields<'_>, key: &str) -> Result<Vec<VolumeId>> {
    let text = match fields.value(key) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::String(text)) => text,
        Some(_) => {
            return Err(Error::Invalid(format!(
                "Invalid input for field/attribute {key}. It must be a string of ids with commas between them."
            )));
        }
    };
    let ids = text.split(',').map(str::trim).filter(|id| !id.is_empty());
    Ok(ids.map(VolumeId::new).collect())
}

pub(super) fn update(call: &Call<'_>) -> Result<Reply> {
    let fields = call.body()?.object("group")?;
    fields.only(&["name", "description", "add_volumes", "remove_volumes"])?;
    let changes = GroupChanges {
        name: fields.text("name")?.flatten(),
        description: fields.description("description")?.flatten(),
        add_volumes: ids(&fields, "add_volumes")?,
        remove_volumes: ids(&fields, "remove_volumes")?,
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
    Ok(Reply::empty(202))
}

pub(super) fn action(call: &Call<'_>) -> Result<Reply> {
    let (name, value) = call.body()?.action()?;
    match name {
        "delete" => delete(call, value),
        "reset_status" if call.version >= GROUP_RESET => {
            let status = status(value)?;
            let services = &call.api.services;
            services.reset_group_status(call.ctx()?, &id(call), status)?;
            Ok(Reply::empty(202))
        }
        other => Err(no_such_action(other)),
    }
}

fn delete(call: &Call<'_>, value: &Value) -> Result<Reply> {
    let fields = Fields::of("delete", value)?;
    fields.only(&["delete-volumes"])?;
    let with_volumes = fields.flag("delete-volumes")?;
    let services = &call.api.services;
    services.delete_group(call.ctx()?, &id(call), with_volumes)?;
    Ok(Reply::empty(202))
}

/// The state under `reset_status`.
pub(super) fn status(value: &Value) -> Result<GroupStatus> {
    let fields = Fields::of("reset_status", value)?;
    fields.only(&["status"])?;
    let word = fields.required_text("status")?;
    GroupStatus::parse(&word.to_lowercase()).ok_or_else(|| {
        let known: Vec<&str> = GroupStatus::ALL.iter().map(GroupStatus::as_str).collect();
        Error::Invalid(format!(
            "Invalid input for field/attribute status. Value: {word}. It is none of the valid statuses: {}.",
            known.join(", ")
        ))
    })
}
