//! `/types`: volume types, their extra specs and who may use them.

use crate::api::http::call::{Call, no_such_action};
use crate::api::http::kinds;
use crate::api::http::list::{Collection, ListQuery};
use crate::api::http::microversion::BASE;
use crate::api::http::reply::Reply;
use crate::api::http::schema::{Fields, Rule as Must, Schema, entries, field};
use crate::db::standalone::types::COLUMNS;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::VolumeTypeId;
use crate::model::standalone::volume_type::VolumeType;
use crate::service::Metadata;
use crate::service::standalone::types::{CreateType, TypeChanges, no_extra_spec};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Error>;

pub(crate) static COLLECTION: Collection = Collection {
    name: "volume_types",
    links: "volume_type_links",
    columns: COLUMNS,
    filters: &["is_public", "extra_specs"],
    sorted_by_name: BASE,
};

const CREATE: Schema = Schema::under(
    "volume_type",
    &[
        field("name", kinds::name),
        field("description", kinds::description),
        field("extra_specs", kinds::type_specs),
        field("os-volume-type-access:is_public", kinds::flag),
    ],
    &[Must::Required(&["name"]), Must::NoOthers],
);
const UPDATE: Schema = Schema::under(
    "volume_type",
    &[
        field("name", kinds::text_or_null),
        field("description", kinds::description),
        field("is_public", kinds::flag),
    ],
    &[Must::NoOthers],
);
const EXTRA_SPECS: Schema = Schema::whole(
    &[field("extra_specs", kinds::specs)],
    &[Must::Required(&["extra_specs"]), Must::NoOthers],
);
const ADD_ACCESS: Schema = Schema::under(
    "addProjectAccess",
    &[field("project", kinds::uuid)],
    &[Must::Required(&["project"]), Must::NoOthers],
);
const REMOVE_ACCESS: Schema = Schema::under(
    "removeProjectAccess",
    &[field("project", kinds::uuid)],
    &[Must::Required(&["project"]), Must::NoOthers],
);

/// The id in the path.
pub(crate) fn id(call: &Call<'_>) -> VolumeTypeId {
    VolumeTypeId::new(call.parameter("id"))
}

/// The view that an update shows.
fn summary(row: &VolumeType) -> Value {
    json!({
        "id": row.id,
        "name": row.name,
        "is_public": row.is_public,
        "description": row.description,
        "extra_specs": *row.extra_specs,
    })
}

/// The same, with the QoS specs for those who may see them.
fn with_qos(call: &Call<'_>, row: &VolumeType) -> Result<Value> {
    let ctx = call.ctx()?;
    let mut view = summary(row);
    if ctx.authorize(Rule::TypeQosShow, &ctx.project_id).is_ok() {
        view["qos_specs_id"] = json!(row.qos_specs_id);
    }
    Ok(view)
}

fn with_access(mut view: Value, row: &VolumeType) -> Value {
    view["os-volume-type-access:is_public"] = json!(row.is_public);
    view
}

pub(crate) fn list(call: &Call<'_>) -> Result<Reply> {
    let mut query = ListQuery::from_call(call, &COLLECTION)?;
    let is_public = query.take_is_public(call)?;
    let conditions = &query.filter.conditions;
    let services = &call.api.services;
    let rows = services.list_types(call.ctx()?, is_public, conditions, &query.page)?;
    query.answer(call, &COLLECTION, &rows, None, |row| {
        let view = with_access(with_qos(call, row)?, row);
        Ok((row.id.to_string(), view))
    })
}

pub(crate) fn show(call: &Call<'_>) -> Result<Reply> {
    let services = &call.api.services;
    let row = services.show_type(call.ctx()?, Rule::TypeShow, &id(call))?;
    let view = with_access(with_qos(call, &row)?, &row);
    Ok(Reply::json(200, json!({ "volume_type": view })))
}

pub(crate) fn show_default(call: &Call<'_>) -> Result<Reply> {
    let row = call.api.services.show_default_type(call.ctx()?)?;
    let view = with_qos(call, &row)?;
    Ok(Reply::json(200, json!({ "volume_type": view })))
}

/// The new name of a type.
pub(crate) fn new_name(fields: &Fields<'_>, kind: &str) -> Result<Option<String>> {
    match fields.text("name") {
        Some(name) if name.is_empty() => Err(Error::Invalid(format!(
            "{kind} type name can not be empty."
        ))),
        name => Ok(name),
    }
}

/// A flag that stays as it is unless it is named.
pub(crate) fn changed_flag(fields: &Fields<'_>, key: &str) -> Option<bool> {
    fields.value(key).map(|_| fields.flag(key))
}

pub(crate) fn create(call: &Call<'_>) -> Result<Reply> {
    let fields = call.fields(&CREATE)?;
    let is_public = changed_flag(&fields, "os-volume-type-access:is_public");
    let wanted = CreateType {
        name: fields.text("name").unwrap_or_default(),
        description: fields.text("description"),
        is_public: is_public.unwrap_or(true),
        extra_specs: fields.metadata("extra_specs").unwrap_or_default(),
    };
    let row = call.api.services.create_type(call.ctx()?, wanted)?;
    let view = with_access(summary(&row), &row);
    Ok(Reply::json(200, json!({ "volume_type": view })))
}

pub(crate) fn update(call: &Call<'_>) -> Result<Reply> {
    let fields = call.fields(&UPDATE)?;
    let changes = TypeChanges {
        name: new_name(&fields, "Volume")?,
        description: fields.change("description").filter(Option::is_some),
        is_public: changed_flag(&fields, "is_public"),
    };
    if changes == TypeChanges::default() {
        let message = "Specify volume type name, description, is_public or a combination thereof.";
        return Err(Error::Invalid(message.to_owned()));
    }
    let services = &call.api.services;
    let row = services.update_type(call.ctx()?, &id(call), changes)?;
    Ok(Reply::json(200, json!({ "volume_type": summary(&row) })))
}

pub(crate) fn delete(call: &Call<'_>) -> Result<Reply> {
    call.api.services.delete_type(call.ctx()?, &id(call))?;
    Ok(Reply::empty(202).bare())
}

/// The one spec of a body, which must be that of the path.
pub(crate) fn one_spec(call: &Call<'_>) -> Result<Metadata> {
    let body = call.body.as_ref().unwrap_or(&Value::Null);
    call.body()?;
    kinds::one_spec("", body)?;
    let specs = body.as_object().map(entries).unwrap_or_default();
    call.entry(&specs)?;
    Ok(specs)
}

pub(crate) fn list_extra_specs(call: &Call<'_>) -> Result<Reply> {
    let services = &call.api.services;
    let row = services.show_type(call.ctx()?, Rule::TypeSpecsList, &id(call))?;
    Ok(Reply::json(200, json!({ "extra_specs": *row.extra_specs })))
}

pub(crate) fn create_extra_specs(call: &Call<'_>) -> Result<Reply> {
    let specs = call.fields(&EXTRA_SPECS)?.metadata("extra_specs");
    let specs = specs.unwrap_or_default();
    let services = &call.api.services;
    services.set_extra_specs(call.ctx()?, Rule::TypeSpecsCreate, &id(call), &specs)?;
    Ok(Reply::json(200, json!({ "extra_specs": specs })))
}

pub(crate) fn show_extra_spec(call: &Call<'_>) -> Result<Reply> {
    let (id, key) = (id(call), call.parameter("key"));
    let services = &call.api.services;
    let row = services.show_type(call.ctx()?, Rule::TypeSpecsShow, &id)?;
    match row.extra_specs.get(key) {
        Some(value) => Ok(Reply::json(200, json!({ key: value }))),
        None => Err(no_extra_spec(&id, key)),
    }
}

pub(crate) fn update_extra_spec(call: &Call<'_>) -> Result<Reply> {
    let specs = one_spec(call)?;
    let services = &call.api.services;
    services.set_extra_specs(call.ctx()?, Rule::TypeSpecsUpdate, &id(call), &specs)?;
    Ok(Reply::json(200, json!(specs)))
}

pub(crate) fn delete_extra_spec(call: &Call<'_>) -> Result<Reply> {
    let services = &call.api.services;
    services.remove_extra_spec(call.ctx()?, &id(call), call.parameter("key"))?;
    Ok(Reply::empty(202))
}

pub(crate) fn list_access(call: &Call<'_>) -> Result<Reply> {
    let services = &call.api.services;
    let row = services.show_type(call.ctx()?, Rule::TypeAccessList, &id(call))?;
    if row.is_public {
        let message = "Access list not available for public volume types.";
        return Err(Error::NotFound(message.to_owned()));
    }
    let access: Vec<Value> = row
        .projects
        .iter()
        .map(|project| json!({ "volume_type_id": row.id, "project_id": project }))
        .collect();
    Ok(Reply::json(200, json!({ "volume_type_access": access })))
}

pub(crate) fn action(call: &Call<'_>) -> Result<Reply> {
    let (ctx, services) = (call.ctx()?, &call.api.services);
    match call.action()? {
        "addProjectAccess" => {
            let project = call.fields(&ADD_ACCESS)?.required("project");
            services.add_type_access(ctx, &id(call), &project)?;
        }
        "removeProjectAccess" => {
            let project = call.fields(&REMOVE_ACCESS)?.required("project");
            services.remove_type_access(ctx, &id(call), &project)?;
        }
        other => return Err(no_such_action(other)),
    }
    Ok(Reply::empty(202).bare())
}
