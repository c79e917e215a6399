//! `/qos-specs`

use crate::api::http::call::Call;
use crate::api::http::kinds::{self, flag_word};
use crate::api::http::links::links;
use crate::api::http::list::{Collection, ListQuery};
use crate::api::http::microversion::BASE;
use crate::api::http::reply::Reply;
use crate::api::http::schema::{Fields, Rule, Schema, entries, field};
use crate::model::error::Error;
use crate::model::id::{RecordId, VolumeTypeId};
use crate::model::standalone::qos::{COLUMNS, Consumer, QosSpecs};
use crate::model::standalone::stored::Stored;
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

const CREATE: Schema = Schema::under(
    "qos_specs",
    &[field("name", kinds::trimmed_name)],
    &[Rule::Required(&["name"])],
);
const UPDATE: Schema = Schema::whole(
    &[field("qos_specs", kinds::type_specs)],
    &[Rule::Required(&["qos_specs"]), Rule::NoOthers],
);
const DELETE_KEYS: Schema = Schema::whole(
    &[field("keys", kinds::filled_texts)],
    &[Rule::Required(&["keys"]), Rule::NoOthers],
);

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

pub(crate) fn list(call: &Call<'_>) -> Result<Reply> {
    let mut query = ListQuery::from_call(call, &COLLECTION)?;
    // They belong to no project.
    query.filter.project = None;
    let services = &call.api.services;
    let rows = services.list_qos(call.ctx()?, &query.filter, &query.page)?;
    let show = |row: &Stored<QosSpecs>| Ok((row.id.to_string(), view(row)));
    query.answer(call, &COLLECTION, &rows, None, show)
}

pub(crate) fn show(call: &Call<'_>) -> Result<Reply> {
    let row = call.api.services.show_qos(call.ctx()?, &id(call))?;
    Ok(Reply::json(200, with_links(call, &row)))
}

fn consumer(specs: &mut Metadata) -> Result<Option<Consumer>> {
    let Some(word) = specs.remove("consumer") else {
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

/// The specs themselves, which stand beside the name.
fn specs(fields: &Fields<'_>) -> Result<Metadata> {
    let specs = fields.iter().filter(|(key, _)| *key != "name");
    let specs: Map<String, Value> = specs
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    kinds::type_specs("qos_specs", &json!(specs))?;
    Ok(entries(&specs))
}

pub(crate) fn create(call: &Call<'_>) -> Result<Reply> {
    let fields = call.fields(&CREATE)?;
    let mut specs = specs(&fields)?;
    let body = QosSpecs {
        consumer: consumer(&mut specs)?.unwrap_or(Consumer::BackEnd),
        specs,
    };
    let name = fields.text("name").unwrap_or_default();
    let row = call.api.services.create_qos(call.ctx()?, name, body)?;
    Ok(Reply::json(200, with_links(call, &row)))
}

pub(crate) fn update(call: &Call<'_>) -> Result<Reply> {
    let specs = call.fields(&UPDATE)?.metadata("qos_specs");
    let mut specs = specs.unwrap_or_default();
    let consumer = consumer(&mut specs)?;
    let services = &call.api.services;
    services.set_qos(call.ctx()?, &id(call), consumer, &specs)?;
    Ok(Reply::json(200, json!(call.body)))
}

pub(crate) fn delete_keys(call: &Call<'_>) -> Result<Reply> {
    let keys = call.fields(&DELETE_KEYS)?.texts("keys");
    let services = &call.api.services;
    services.remove_qos_keys(call.ctx()?, &id(call), &keys)?;
    Ok(Reply::empty(202).bare())
}

pub(crate) fn delete(call: &Call<'_>) -> Result<Reply> {
    let word = call.query("force").unwrap_or("false");
    let force = flag_word(word)
        .ok_or_else(|| Error::Invalid(format!("Value '{word}' for 'force' is not a boolean.")))?;
    let services = &call.api.services;
    services.delete_qos(call.ctx()?, &id(call), force)?;
    Ok(Reply::empty(202).bare())
}

pub(crate) fn associations(call: &Call<'_>) -> Result<Reply> {
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

pub(crate) fn associate(call: &Call<'_>) -> Result<Reply> {
    let services = &call.api.services;
    services.associate_qos(call.ctx()?, &id(call), &volume_type(call)?)?;
    Ok(Reply::empty(202).bare())
}

pub(crate) fn disassociate(call: &Call<'_>) -> Result<Reply> {
    let services = &call.api.services;
    services.disassociate_qos(call.ctx()?, &id(call), Some(&volume_type(call)?))?;
    Ok(Reply::empty(202).bare())
}

pub(crate) fn disassociate_all(call: &Call<'_>) -> Result<Reply> {
    let services = &call.api.services;
    services.disassociate_qos(call.ctx()?, &id(call), None)?;
    Ok(Reply::empty(202).bare())
}
