//! `/group_types` and their specs, since 3.11.

use crate::api::http::call::Call;
use crate::api::http::kinds;
use crate::api::http::list::{Collection, ListQuery};
use crate::api::http::microversion::BASE;
use crate::api::http::reply::Reply;
use crate::api::http::schema::{Rule as Must, Schema, field};
use crate::api::standalone::types::{changed_flag, new_name, one_spec};
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::RecordId;
use crate::model::page::{Condition, column};
use crate::model::standalone::group::{GroupType, TYPE_COLUMNS, Visibility};
use crate::model::standalone::stored::Stored;
use crate::service::standalone::group_types::{CreateGroupType, GroupTypeChanges, no_group_spec};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Error>;

static COLLECTION: Collection = Collection {
    name: "group_types",
    links: "group_type_links",
    columns: TYPE_COLUMNS,
    filters: &["is_public"],
    sorted_by_name: BASE,
};

const CREATE: Schema = Schema::under(
    "group_type",
    &[
        field("name", kinds::name),
        field("description", kinds::description),
        field("is_public", kinds::flag),
        field("group_specs", kinds::metadata_or_null),
    ],
    &[Must::Required(&["name"]), Must::NoOthers],
);
const UPDATE: Schema = Schema::under(
    "group_type",
    &[
        field("name", kinds::text_or_null),
        field("description", kinds::description),
        field("is_public", kinds::flag),
    ],
    &[Must::NoOthers],
);
const SPECS: Schema = Schema::whole(
    &[field("group_specs", kinds::specs)],
    &[Must::Required(&["group_specs"]), Must::NoOthers],
);

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

pub(crate) fn list(call: &Call<'_>) -> Result<Reply> {
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
    query.answer(call, &COLLECTION, &rows, None, |row| {
        Ok((row.id.to_string(), view(call, row)?))
    })
}

pub(crate) fn show(call: &Call<'_>) -> Result<Reply> {
    let services = &call.api.services;
    let row = services.show_group_type(call.ctx()?, Rule::GroupTypeShow, &id(call))?;
    answer(call, 200, &row)
}

/// There is no default, as none can be configured.
pub(crate) fn show_default(_: &Call<'_>) -> Result<Reply> {
    let message = "Default group type can not be found.";
    Err(Error::NotFound(message.to_owned()))
}

pub(crate) fn create(call: &Call<'_>) -> Result<Reply> {
    let fields = call.fields(&CREATE)?;
    let wanted = CreateGroupType {
        name: fields.text("name").unwrap_or_default(),
        visibility: Visibility::of(changed_flag(&fields, "is_public").unwrap_or(true)),
        body: GroupType {
            description: fields.text("description"),
            group_specs: fields.metadata("group_specs").unwrap_or_default(),
        },
    };
    let row = call.api.services.create_group_type(call.ctx()?, wanted)?;
    answer(call, 202, &row)
}

pub(crate) fn update(call: &Call<'_>) -> Result<Reply> {
    let fields = call.fields(&UPDATE)?;
    let changes = GroupTypeChanges {
        name: new_name(&fields, "Group")?,
        description: fields.change("description").filter(Option::is_some),
        visibility: changed_flag(&fields, "is_public").map(Visibility::of),
    };
    if changes == GroupTypeChanges::default() {
        let message = "Specify group type name, description or a combination thereof.";
        return Err(Error::Invalid(message.to_owned()));
    }
    let services = &call.api.services;
    let row = services.update_group_type(call.ctx()?, &id(call), changes)?;
    answer(call, 200, &row)
}

pub(crate) fn delete(call: &Call<'_>) -> Result<Reply> {
    let services = &call.api.services;
    services.delete_group_type(call.ctx()?, &id(call))?;
    Ok(Reply::empty(202).bare())
}

pub(crate) fn list_specs(call: &Call<'_>) -> Result<Reply> {
    let services = &call.api.services;
    let row = services.show_group_type(call.ctx()?, Rule::GroupSpecsList, &id(call))?;
    let specs = &row.body.group_specs;
    Ok(Reply::json(200, json!({ "group_specs": specs })))
}

pub(crate) fn create_specs(call: &Call<'_>) -> Result<Reply> {
    let specs = call.fields(&SPECS)?.metadata("group_specs");
    let specs = specs.unwrap_or_default();
    let services = &call.api.services;
    services.set_group_specs(call.ctx()?, Rule::GroupSpecsCreate, &id(call), &specs)?;
    Ok(Reply::json(202, json!({ "group_specs": specs })))
}

pub(crate) fn show_spec(call: &Call<'_>) -> Result<Reply> {
    let (id, key) = (id(call), call.parameter("key"));
    let services = &call.api.services;
    let row = services.show_group_type(call.ctx()?, Rule::GroupSpecsShow, &id)?;
    match row.body.group_specs.get(key) {
        Some(value) => Ok(Reply::json(200, json!({ key: value }))),
        None => Err(no_group_spec(&id, key)),
    }
}

pub(crate) fn update_spec(call: &Call<'_>) -> Result<Reply> {
    let specs = one_spec(call)?;
    let services = &call.api.services;
    services.set_group_specs(call.ctx()?, Rule::GroupSpecsUpdate, &id(call), &specs)?;
    Ok(Reply::json(200, json!(specs)))
}

pub(crate) fn delete_spec(call: &Call<'_>) -> Result<Reply> {
    let services = &call.api.services;
    services.remove_group_spec(call.ctx()?, &id(call), call.parameter("key"))?;
    Ok(Reply::empty(202).bare())
}
