//! `/qos-specs`

use crate::api::body::{Fields, flag_word};
use crate::api::call::{Call, Reply};
use crate::api::list::{Collection, ListQuery};
use crate::api::microversion::BASE;
use crate::api::views::links;
use crate::model::error::Error;
use crate::model::id::{RecordId, VolumeTypeId};
use crate::model::qos::{COLUMNS, Consumer, QosSpecs};
use crate::model::stored::Stored;
use crate::service::Metadata;
use serde_json::{Map, Value, json};

type Result<T> = std::result::Result<T, Error>;

static COLLECTION: Collection = Collection {
    name: "qos_specs",
    links: "qos_specs_links",
    columns: COLUMNS,
    filters: &[],
    sorted_by_name: BASE,
};

fn id(call: &Call<'_>) -> RecordId {
    RecordId::new(call.parameter("id"))
}

fn view(row: &Stored<QosSpecs>) -> Value {
    json!({
        "id": row.id,
        "name": row.name,
        "consumer": row.body.consumer,
        "specs": row.body.specs,
    })
}

fn with_links(call: &Call<'_>, row: &Stored<QosSpecs>) -> Value {
    json!({ "qos_specs": view(row), "links": links(call, "qos-specs", row.id.as_str()) })
}

pub(super) fn list(call: &Call<'_>) -> Result<Reply> {
    let mut query = ListQuery::from_call(call, &COLLECTION)?;
    // They belong to no project.
    query.filter.project = None;
    let services = &call.api.services;
    let rows = services.list_qos(call.ctx()?, &query.filter, &query.page)?;
    let last = rows.last().map(|row| row.id.to_string());
    let items = rows.iter().map(view).collect();
    let answer = query.answer(call, &COLLECTION, items, last, None);
    Ok(Reply::json(200, answer))
}

pub(super) fn show(call: &Call<'_>) -> Result<Reply> {
    let row = call.api.services.show_qos(call.ctx()?, &id(call))?;
    Ok(Reply::json(200, with_links(call, &row)))
}

fn consumer(fields: &Fields<'_>) -> Result<Option<Consumer>> {
    let Some(word) = fields.text("consumer")?.flatten() else {
        return Ok(None);
    };
    match Consumer::parse(&word) {
        Some(consumer) => Ok(Some(consumer)),
        None => Err(Error::invalid(
            "input received",
            "Valid consumer of QoS specs are: ['front-end', 'back-end', 'both']",
        )),
    }
}

/// The specs themselves, which stand beside name and consumer.
fn specs(fields: &Fields<'_>, others: &[&str]) -> Result<Metadata> {
    let specs: Map<String, Value> = fields
        .iter()
        .filter(|(key, _)| !others.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let body = json!({ "specs": specs });
    let specs = Fields::of("qos_specs", &body)?.metadata("specs", false)?;
    Ok(specs.unwrap_or_default())
}

pub(super) fn create(call: &Call<'_>) -> Result<Reply> {
    let fields = call.body()?.object("qos_specs")?;
    let name = fields.required_text("name")?.trim().to_owned();
    if name.is_empty() {
        return Err(Error::Invalid("Name can not be empty.".to_owned()));
    }
    let body = QosSpecs {
        consumer: consumer(&fields)?.unwrap_or(Consumer::BackEnd),
        specs: specs(&fields, &["name", "consumer"])?,
    };
    let row = call.api.services.create_qos(call.ctx()?, name, body)?;
    Ok(Reply::json(200, with_links(call, &row)))
}

pub(super) fn update(call: &Call<'_>) -> Result<Reply> {
    let fields = call.body()?.object("qos_specs")?;
    let (consumer, specs) = (consumer(&fields)?, specs(&fields, &["consumer"])?);
    let services = &call.api.services;
    services.set_qos(call.ctx()?, &id(call), consumer, &specs)?;
    Ok(Reply::json(200, json!(call.body)))
}

pub(super) fn delete_keys(call: &Call<'_>) -> Result<Reply> {
    let fields = call.body()?.whole()?;
    fields.only(&["keys"])?;
    let keys: Option<Vec<String>> = fields.require("keys")?.as_array().and_then(|keys| {
        keys.iter()
            .map(|key| key.as_str().map(str::to_owned))
            .collect()
    });
    let keys =
        keys.ok_or_else(|| Error::Invalid("'keys' must be an array of strings.".to_owned()))?;
    let services = &call.api.services;
    services.remove_qos_keys(call.ctx()?, &id(call), &keys)?;
    Ok(Reply::empty(202))
}

pub(super) fn delete(call: &Call<'_>) -> Result<Reply> {
    let word = call.query("force").unwrap_or("false");
    let force = flag_word(word)
        .ok_or_else(|| Error::Invalid(format!("Value '{word}' for 'force' is not a boolean.")))?;
    let services = &call.api.services;
    services.delete_qos(call.ctx()?, &id(call), force)?;
    Ok(Reply::empty(202))
}

pub(super) fn associations(call: &Call<'_>) -> Result<Reply> {
    let services = &call.api.services;
    let types = services.qos_associations(call.ctx()?, &id(call))?;
    let items: Vec<Value> = types
        .iter()
        .map(|row| json!({ "association_type": "volume_type", "name": row.name, "id": row.id }))
        .collect();
    Ok(Reply::json(200, json!({ "qos_associations": items })))
}

/// The volume type that the query names.
fn volume_type(call: &Call<'_>) -> Result<VolumeTypeId> {
    match call.query("vol_type_id") {
        Some(id) => Ok(VolumeTypeId::new(id)),
        None => Err(Error::Invalid(
            "Volume Type id must not be None.".to_owned(),
        )),
    }
}

pub(super) fn associate(call: &Call<'_>) -> Result<Reply> {
    let services = &call.api.services;
    services.associate_qos(call.ctx()?, &id(call), &volume_type(call)?)?;
    Ok(Reply::empty(202))
}

pub(super) fn disassociate(call: &Call<'_>) -> Result<Reply> {
    let services = &call.api.services;
    services.disassociate_qos(call.ctx()?, &id(call), Some(&volume_type(call)?))?;
    Ok(Reply::empty(202))
}

pub(super) fn disassociate_all(call: &Call<'_>) -> Result<Reply> {
    let services = &call.api.services;
    services.disassociate_qos(call.ctx()?, &id(call), None)?;
    Ok(Reply::empty(202))
}
