//! `/types`: volume types, their extra specs and who may use them.

use crate::api::body::Fields;
use crate::api::call::{Call, Reply};
use crate::api::list::{Collection, ListQuery};
use crate::api::microversion::BASE;
use crate::api::volume_actions::no_such_action;
use crate::db::types::COLUMNS;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::VolumeTypeId;
use crate::model::volume::VolumeType;
use crate::service::Metadata;
use crate::service::types::{CreateType, TypeChanges, no_extra_spec};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Error>;

pub(super) static COLLECTION: Collection = Collection {
    name: "volume_types",
    links: "volume_type_links",
    columns: COLUMNS,
    filters: &["is_public", "extra_specs"],
    sorted_by_name: BASE,
};

/// The id in the path.
pub(super) fn id(call: &Call<'_>) -> VolumeTypeId {
    VolumeTypeId::new(call.parameter("id"))
}

/// What an update shows.
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

pub(super) fn list(call: &Call<'_>) -> Result<Reply> {
    let mut query = ListQuery::from_call(call, &COLLECTION)?;
    let is_public = query.take_is_public(call)?;
    let conditions = &query.filter.conditions;
    let services = &call.api.services;
    let rows = services.list_types(call.ctx()?, is_public, conditions, &query.page)?;
    let last = rows.last().map(|row| row.id.to_string());
    let items = rows
        .iter()
        .map(|row| with_qos(call, row).map(|view| with_access(view, row)))
        .collect::<Result<Vec<Value>>>()?;
    let answer = query.answer(call, &COLLECTION, items, last, None);
    Ok(Reply::json(200, answer))
}

pub(super) fn show(call: &Call<'_>) -> Result<Reply> {
    let services = &call.api.services;
    let row = services.show_type(call.ctx()?, Rule::TypeShow, &id(call))?;
    let view = with_access(with_qos(call, &row)?, &row);
    Ok(Reply::json(200, json!({ "volume_type": view })))
}

pub(super) fn show_default(call: &Call<'_>) -> Result<Reply> {
    let row = call.api.services.show_default_type(call.ctx()?)?;
    let view = with_qos(call, &row)?;
    Ok(Reply::json(200, json!({ "volume_type": view })))
}

/// The name under which a type is to be known.
pub(super) fn name(fields: &Fields<'_>, kind: &str) -> Result<Option<String>> {
    match fields.text("name")?.flatten() {
        Some(name) if name.is_empty() => Err(Error::Invalid(format!(
            "{kind} type name can not be empty."
        ))),
        name => Ok(name),
    }
}

pub(super) fn create(call: &Call<'_>) -> Result<Reply> {
    let fields = call.body()?.object("volume_type")?;
    fields.only(&[
        "name",
        "description",
        "extra_specs",
        "os-volume-type-access:is_public",
    ])?;
    fields.required_text("name")?;
    let wanted = CreateType {
        name: name(&fields, "Volume")?.unwrap_or_default(),
        description: fields.description("description")?.flatten(),
        is_public: match fields.value("os-volume-type-access:is_public") {
            None => true,
            Some(_) => fields.flag("os-volume-type-access:is_public")?,
        },
        extra_specs: fields.metadata("extra_specs", true)?.unwrap_or_default(),
    };
    let row = call.api.services.create_type(call.ctx()?, wanted)?;
    let view = with_access(summary(&row), &row);
    Ok(Reply::json(200, json!({ "volume_type": view })))
}

pub(super) fn update(call: &Call<'_>) -> Result<Reply> {
    let fields = call.body()?.object("volume_type")?;
    fields.only(&["name", "description", "is_public"])?;
    let changes = TypeChanges {
        name: name(&fields, "Volume")?,
        description: fields.description("description")?.filter(Option::is_some),
        is_public: match fields.value("is_public") {
            None => None,
            Some(_) => Some(fields.flag("is_public")?),
        },
    };
    if changes == TypeChanges::default() {
        let message = "Specify volume type name, description, is_public or a combination thereof.";
        return Err(Error::Invalid(message.to_owned()));
    }
    let services = &call.api.services;
    let row = services.update_type(call.ctx()?, &id(call), changes)?;
    Ok(Reply::json(200, json!({ "volume_type": summary(&row) })))
}

pub(super) fn delete(call: &Call<'_>) -> Result<Reply> {
    call.api.services.delete_type(call.ctx()?, &id(call))?;
    Ok(Reply::empty(202))
}

/// The specs under a key of a body that has no other.
pub(super) fn specs(call: &Call<'_>, key: &'static str) -> Result<Metadata> {
    let fields = call.body()?.whole()?;
    fields.only(&[key])?;
    fields.require(key)?;
    let specs = fields.metadata(key, false)?.unwrap_or_default();
    match specs.is_empty() {
        false => Ok(specs),
        true => Err(Error::Invalid(format!(
            "Invalid input for field/attribute {key}. Value: {{}}. {{}} does not have enough properties"
        ))),
    }
}

/// The one spec of a body, which must be that of the path.
pub(super) fn one_spec(call: &Call<'_>) -> Result<Metadata> {
    let body = json!({ "specs": call.body });
    let specs = Fields::of("body", &body)?.metadata("specs", false)?;
    let specs = specs.unwrap_or_default();
    if specs.len() > 1 {
        let message = "Request body contains too many items";
        return Err(Error::Invalid(message.to_owned()));
    }
    match specs.contains_key(call.parameter("key")) {
        true => Ok(specs),
        false => Err(Error::Invalid("Request body and URI mismatch".to_owned())),
    }
}

pub(super) fn list_extra_specs(call: &Call<'_>) -> Result<Reply> {
    let services = &call.api.services;
    let row = services.show_type(call.ctx()?, Rule::TypeSpecsList, &id(call))?;
    Ok(Reply::json(200, json!({ "extra_specs": *row.extra_specs })))
}

pub(super) fn create_extra_specs(call: &Call<'_>) -> Result<Reply> {
    let specs = specs(call, "extra_specs")?;
    let services = &call.api.services;
    services.set_extra_specs(call.ctx()?, Rule::TypeSpecsCreate, &id(call), &specs)?;
    Ok(Reply::json(200, json!({ "extra_specs": specs })))
}

pub(super) fn show_extra_spec(call: &Call<'_>) -> Result<Reply> {
    let (id, key) = (id(call), call.parameter("key"));
    let services = &call.api.services;
    let row = services.show_type(call.ctx()?, Rule::TypeSpecsShow, &id)?;
    match row.extra_specs.get(key) {
        Some(value) => Ok(Reply::json(200, json!({ key: value }))),
        None => Err(no_extra_spec(&id, key)),
    }
}

pub(super) fn update_extra_spec(call: &Call<'_>) -> Result<Reply> {
    let specs = one_spec(call)?;
    let services = &call.api.services;
    services.set_extra_specs(call.ctx()?, Rule::TypeSpecsUpdate, &id(call), &specs)?;
    Ok(Reply::json(200, json!(specs)))
}

pub(super) fn delete_extra_spec(call: &Call<'_>) -> Result<Reply> {
    let services = &call.api.services;
    services.remove_extra_spec(call.ctx()?, &id(call), call.parameter("key"))?;
    Ok(Reply::empty(202))
}

pub(super) fn list_access(call: &Call<'_>) -> Result<Reply> {
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

pub(super) fn action(call: &Call<'_>) -> Result<Reply> {
    let (name, value) = call.body()?.action()?;
    let project = |name: &'static str| {
        let fields = Fields::of(name, value)?;
        fields.only(&["project"])?;
        fields.required_text("project")
    };
    let services = &call.api.services;
    match name {
        "addProjectAccess" => {
            let project = project("addProjectAccess")?;
            services.add_type_access(call.ctx()?, &id(call), &project)?;
        }
        "removeProjectAccess" => {
            let project = project("removeProjectAccess")?;
            services.remove_type_access(call.ctx()?, &id(call), &project)?;
        }
        other => return Err(no_such_action(other)),
    }
    Ok(Reply::empty(202))
}
