//! `/group_types` and their specs, since 3.11.

use crate::api::call::{Call, Reply};
use crate::api::list::{Collection, ListQuery};
use crate::api::microversion::BASE;
use crate::api::types::{name, one_spec, specs};
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::group::{GroupType, TYPE_COLUMNS, Visibility};
use crate::model::id::RecordId;
use crate::model::page::{Condition, column};
use crate::model::stored::Stored;
use crate::service::group_types::{CreateGroupType, GroupTypeChanges, no_group_spec};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Error>;

static COLLECTION: Collection = Collection {
    name: "group_types",
    links: "group_type_links",
    columns: TYPE_COLUMNS,
    filters: &["is_public"],
    sorted_by_name: BASE,
};

fn id(call: &Call<'_>) -> RecordId {
    RecordId::new(call.parameter("id"))
}

fn view(call: &Call<'_>, row: &Stored<GroupType>) -> Result<Value> {
    let ctx = call.ctx()?;
    let mut view = json!({
        "id": row.id,
        "name": row.name,
        "description": row.body.description,
        "is_public": row.status == Visibility::Public.as_str(),
    });
    if ctx
        .authorize(Rule::GroupSpecsAccess, &ctx.project_id)
        .is_ok()
    {
        view["group_specs"] = json!(row.body.group_specs);
    }
    Ok(view)
}

fn answer(call: &Call<'_>, status: u16, row: &Stored<GroupType>) -> Result<Reply> {
    let view = view(call, row)?;
    Ok(Reply::json(status, json!({ "group_type": view })))
}

pub(super) fn list(call: &Call<'_>) -> Result<Reply> {
    let mut query = ListQuery::from_call(call, &COLLECTION)?;
    query.filter.project = None;
    let is_public = query.take_is_public(call)?;
    if let (Some(is_public), Some(column)) = (is_public, column(TYPE_COLUMNS, "is_public")) {
        let wanted = Visibility::of(is_public).to_string();
        query
            .filter
            .conditions
            .push(Condition::Text(column, wanted));
    }
    let services = &call.api.services;
    let rows = services.list_group_types(call.ctx()?, &query.filter, &query.page)?;
    let last = rows.last().map(|row| row.id.to_string());
    let items = rows
        .iter()
        .map(|row| view(call, row))
        .collect::<Result<Vec<Value>>>()?;
    let answer = query.answer(call, &COLLECTION, items, last, None);
    Ok(Reply::json(200, answer))
}

pub(super) fn show(call: &Call<'_>) -> Result<Reply> {
    let services = &call.api.services;
    let row = services.show_group_type(call.ctx()?, Rule::GroupTypeShow, &id(call))?;
    answer(call, 200, &row)
}

/// There is no default: nobody has configured one.
pub(super) fn show_default(_: &Call<'_>) -> Result<Reply> {
    let message = "Default group type can not be found.";
    Err(Error::NotFound(message.to_owned()))
}

pub(super) fn create(call: &Call<'_>) -> Result<Reply> {
    let fields = call.body()?.object("group_type")?;
    fields.only(&["name", "description", "is_public", "group_specs"])?;
    fields.required_text("name")?;
    let is_public = fields.value("is_public").is_none() || fields.flag("is_public")?;
    let wanted = CreateGroupType {
        name: name(&fields, "Group")?.unwrap_or_default(),
        visibility: Visibility::of(is_public),
        body: GroupType {
            description: fields.description("description")?.flatten(),
            group_specs: fields.metadata("group_specs", true)?.unwrap_or_default(),
        },
    };
    let row = call.api.services.create_group_type(call.ctx()?, wanted)?;
    answer(call, 202, &row)
}

pub(super) fn update(call: &Call<'_>) -> Result<Reply> {
    let fields = call.body()?.object("group_type")?;
    fields.only(&["name", "description", "is_public"])?;
    let changes = GroupTypeChanges {
        name: name(&fields, "Group")?,
        description: fields.description("description")?.filter(Option::is_some),
        visibility: match fields.value("is_public") {
            None => None,
            Some(_) => Some(Visibility::of(fields.flag("is_public")?)),
        },
    };
    if changes == GroupTypeChanges::default() {
        let message = "Specify group type name, description or a combination thereof.";
        return Err(Error::Invalid(message.to_owned()));
    }
    let services = &call.api.services;
    let row = services.update_group_type(call.ctx()?, &id(call), changes)?;
    answer(call, 200, &row)
}

pub(super) fn delete(call: &Call<'_>) -> Result<Reply> {
    let services = &call.api.services;
    services.delete_group_type(call.ctx()?, &id(call))?;
    Ok(Reply::empty(202))
}

pub(super) fn list_specs(call: &Call<'_>) -> Result<Reply> {
    let services = &call.api.services;
    let row = services.show_group_type(call.ctx()?, Rule::GroupSpecsList, &id(call))?;
    let specs = &row.body.group_specs;
    Ok(Reply::json(200, json!({ "group_specs": specs })))
}

pub(super) fn create_specs(call: &Call<'_>) -> Result<Reply> {
    let specs = specs(call, "group_specs")?;
    let services = &call.api.services;
    services.set_group_specs(call.ctx()?, Rule::GroupSpecsCreate, &id(call), &specs)?;
    Ok(Reply::json(202, json!({ "group_specs": specs })))
}

pub(super) fn show_spec(call: &Call<'_>) -> Result<Reply> {
    let (id, key) = (id(call), call.parameter("key"));
    let services = &call.api.services;
    let row = services.show_group_type(call.ctx()?, Rule::GroupSpecsShow, &id)?;
    match row.body.group_specs.get(key) {
        Some(value) => Ok(Reply::json(200, json!({ key: value }))),
        None => Err(no_group_spec(&id, key)),
    }
}

pub(super) fn update_spec(call: &Call<'_>) -> Result<Reply> {
    let specs = one_spec(call)?;
    let services = &call.api.services;
    services.set_group_specs(call.ctx()?, Rule::GroupSpecsUpdate, &id(call), &specs)?;
    Ok(Reply::json(200, json!(specs)))
}

pub(super) fn delete_spec(call: &Call<'_>) -> Result<Reply> {
    let services = &call.api.services;
    services.remove_group_spec(call.ctx()?, &id(call), call.parameter("key"))?;
    Ok(Reply::empty(202))
}
