//! `/types/{id}/encryption`: how volumes of a type would be encrypted. The last part of the paths of
//! changes is not looked at, as in Cinder: its own client puts a word there.

use crate::api::http::call::Call;
use crate::api::http::kinds;
use crate::api::http::reply::Reply;
use crate::api::http::schema::{Field, Fields, Rule as Must, Schema, field};
use crate::api::standalone::types::id;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::VolumeTypeId;
use crate::model::standalone::volume_type::TypeEncryption;
use crate::model::time::Timestamp;
use crate::service::standalone::types::{EncryptionChanges, no_encryption};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Error>;

const FIELDS: &[Field] = &[
    field("key_size", kinds::key_size),
    field("provider", kinds::text),
    field("control_location", control_location),
    field("cipher", kinds::text_or_null),
];
const CREATE: Schema = Schema::under(
    "encryption",
    FIELDS,
    &[Must::Required(&["provider", "control_location"])],
);
const UPDATE: Schema = Schema::under("encryption", FIELDS, &[]);

fn control_location(key: &str, value: &Value) -> Result<()> {
    kinds::word(key, value, &["front-end", "back-end"])
}

/// The view that creation shows.
fn summary(id: &VolumeTypeId, encryption: &TypeEncryption) -> Value {
    json!({
        "volume_type_id": id,
        "encryption_id": encryption.encryption_id,
        "key_size": encryption.key_size,
        "provider": encryption.provider,
        "control_location": encryption.control_location,
        "cipher": encryption.cipher,
    })
}

fn detail(id: &VolumeTypeId, encryption: &TypeEncryption) -> Value {
    let mut view = summary(id, encryption);
    view["deleted"] = json!(false);
    view["created_at"] = json!(encryption.created_at.iso());
    view["updated_at"] = json!(encryption.updated_at.map(Timestamp::iso));
    view["deleted_at"] = json!(null);
    view
}

/// The encryption of the type in the path, or an object without keys.
fn found(call: &Call<'_>) -> Result<Value> {
    let id = id(call);
    let services = &call.api.services;
    let row = services.show_type(call.ctx()?, Rule::TypeEncryptionShow, &id)?;
    Ok(match &row.encryption {
        Some(encryption) => detail(&id, encryption),
        None => json!({}),
    })
}

pub(crate) fn show(call: &Call<'_>) -> Result<Reply> {
    Ok(Reply::json(200, found(call)?))
}

pub(crate) fn show_key(call: &Call<'_>) -> Result<Reply> {
    let key = call.parameter("key");
    match found(call)?.get(key) {
        Some(value) => Ok(Reply::json(200, json!({ key: value }))),
        None => Err(no_encryption(&id(call))),
    }
}

fn changes(fields: &Fields<'_>) -> EncryptionChanges {
    EncryptionChanges {
        provider: fields.raw("provider").map(str::to_owned),
        control_location: fields.raw("control_location").map(str::to_owned),
        cipher: fields.change("cipher"),
        key_size: fields.value("key_size").map(kinds::number_of),
    }
}

pub(crate) fn create(call: &Call<'_>) -> Result<Reply> {
    let wanted = changes(&call.fields(&CREATE)?);
    let id = id(call);
    let services = &call.api.services;
    let row = services.create_encryption(call.ctx()?, &id, wanted)?;
    let view = row
        .encryption
        .as_ref()
        .map(|encryption| summary(&id, encryption));
    Ok(Reply::json(200, json!({ "encryption": view })))
}

pub(crate) fn update(call: &Call<'_>) -> Result<Reply> {
    let changes = changes(&call.fields(&UPDATE)?);
    let services = &call.api.services;
    services.update_encryption(call.ctx()?, &id(call), changes)?;
    Ok(Reply::json(200, json!(call.body)))
}

pub(crate) fn delete(call: &Call<'_>) -> Result<Reply> {
    let services = &call.api.services;
    services.delete_encryption(call.ctx()?, &id(call))?;
    Ok(Reply::empty(202).bare())
}
