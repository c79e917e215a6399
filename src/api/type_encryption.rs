//! `/types/{id}/encryption`: how volumes of a type would be encrypted. The last part of the paths of
//! changes is not looked at, as in Cinder: its own client puts a word there.

use crate::api::body::Fields;
use crate::api::call::{Call, Reply};
use crate::api::python;
use crate::api::types::id;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::VolumeTypeId;
use crate::model::time::Timestamp;
use crate::model::volume::TypeEncryption;
use crate::service::types::{EncryptionChanges, no_encryption};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Error>;

/// What creation shows.
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

pub(super) fn show(call: &Call<'_>) -> Result<Reply> {
    Ok(Reply::json(200, found(call)?))
}

pub(super) fn show_key(call: &Call<'_>) -> Result<Reply> {
    let key = call.parameter("key");
    match found(call)?.get(key) {
        Some(value) => Ok(Reply::json(200, json!({ key: value }))),
        None => Err(no_encryption(&id(call))),
    }
}

fn changes(fields: &Fields<'_>) -> Result<EncryptionChanges> {
    fields.only(&["provider", "control_location", "cipher", "key_size"])?;
    let provider = match fields.value("provider") {
        None => None,
        Some(_) => Some(fields.required_text("provider")?),
    };
    if provider.as_deref() == Some("") {
        return Err(invalid("provider", &json!(""), "'' is too short"));
    }
    Ok(EncryptionChanges {
        provider,
        control_location: control_location(fields)?,
        cipher: fields.text("cipher")?,
        key_size: fields.value("key_size").map(key_size).transpose()?,
    })
}

fn control_location(fields: &Fields<'_>) -> Result<Option<String>> {
    let Some(value) = fields.value("control_location") else {
        return Ok(None);
    };
    match value.as_str() {
        Some(word @ ("front-end" | "back-end")) => Ok(Some(word.to_owned())),
        _ => {
            let message = format!(
                "{} is not one of ['front-end', 'back-end']",
                python::repr(value)
            );
            Err(invalid("control_location", value, &message))
        }
    }
}

/// A whole number or a text of digits; the inner `None` is null.
fn key_size(value: &Value) -> Result<Option<i64>> {
    let size = match value {
        Value::Null => return Ok(None),
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    match size {
        Some(0..=2_147_483_647) => Ok(size),
        _ => {
            let message = format!("{} is not a key size", python::repr(value));
            Err(invalid("key_size", value, &message))
        }
    }
}

fn invalid(key: &str, value: &Value, message: &str) -> Error {
    Error::Invalid(format!(
        "Invalid input for field/attribute {key}. Value: {}. {message}",
        python::str(value)
    ))
}

pub(super) fn create(call: &Call<'_>) -> Result<Reply> {
    let fields = call.body()?.object("encryption")?;
    fields.require("provider")?;
    fields.require("control_location")?;
    let wanted = changes(&fields)?;
    let id = id(call);
    let services = &call.api.services;
    let row = services.create_encryption(call.ctx()?, &id, wanted)?;
    let view = row
        .encryption
        .as_ref()
        .map(|encryption| summary(&id, encryption));
    Ok(Reply::json(200, json!({ "encryption": view })))
}

pub(super) fn update(call: &Call<'_>) -> Result<Reply> {
    let fields = call.body()?.object("encryption")?;
    let changes = changes(&fields)?;
    if fields.is_empty() {
        let message = "{} does not have enough properties";
        return Err(invalid("encryption", &json!({}), message));
    }
    let services = &call.api.services;
    services.update_encryption(call.ctx()?, &id(call), changes)?;
    Ok(Reply::json(200, json!(call.body)))
}

pub(super) fn delete(call: &Call<'_>) -> Result<Reply> {
    let services = &call.api.services;
    services.delete_encryption(call.ctx()?, &id(call))?;
    Ok(Reply::empty(202))
}
