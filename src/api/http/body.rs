//! Request bodies, parsed once. Those of block storage are read by a [`Schema`]; identity's field by field.

use crate::api::http::kinds::{self, Check};
use crate::api::http::microversion::Microversion;
use crate::api::http::schema::{self, Schema};
use crate::model::error::{Error, MALFORMED};
use serde_json::{Map, Value};

/// How Keystone ends what it says of bodies that it does not understand.
pub(crate) const CLIENT_ERROR: &str = "The client is assumed to be in error.";

/// Cinder's words for a body that is not understood.
const MALFORMED_BODY: &str = "Malformed request body";

/// A JSON document of at most so many values. Each takes memory beyond its text, so they are counted before any is made.
pub(crate) fn document(text: &[u8], values_max: usize) -> Result<Value, Error> {
    if values(text) > values_max {
        return Err(Error::Invalid(format!(
            "The request body has more than {values_max} values."
        )));
    }
    serde_json::from_slice(text)
        .ok()
        .filter(|value| !has_null(value))
        .ok_or_else(|| Error::Invalid(MALFORMED_BODY.to_owned()))
}

/// How many values a JSON text has at most: each begins the text, an object or an array, or follows a comma.
fn values(text: &[u8]) -> usize {
    let (mut count, mut is_text, mut is_escaped) = (1, false, false);
    for byte in text {
        match (is_text, byte) {
            (true, _) if is_escaped => is_escaped = false,
            (true, b'\\') => is_escaped = true,
            (_, b'"') => is_text = !is_text,
            (false, b',' | b'[' | b'{') => count += 1,
            _ => {}
        }
    }
    count
}

/// Whether any text contains a null character, which PostgreSQL cannot store.
fn has_null(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(map) => map
            .iter()
            .any(|(key, value)| key.contains('\0') || has_null(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// A JSON body.
#[derive(Clone, Copy)]
pub(crate) struct Body<'a> {
    value: &'a Value,
}

impl<'a> Body<'a> {
    pub(crate) fn new(value: &'a Value) -> Self {
        Self { value }
    }

    /// The fields of a body that is as the schema says.
    pub(crate) fn read(
        &self,
        schema: &Schema,
        version: Microversion,
    ) -> Result<schema::Fields<'a>, Error> {
        schema.read(self.value, version)
    }

    /// The object under the body's only key.
    pub(crate) fn object(&self, key: &'static str) -> Result<Fields<'a>, Error> {
        Schema::under(key, &[], &[]).read(self.value, Microversion(0))?;
        self.object_among(key)
    }

    /// The same, where other keys may stand beside it.
    pub(crate) fn object_among(&self, key: &'static str) -> Result<Fields<'a>, Error> {
        let value = self.value.get(key);
        let value = value.ok_or_else(|| expecting(key, "request body"))?;
        let fields = kinds::map(key, value)?;
        Ok(Fields { name: key, fields })
    }

    /// The only key of an action's body.
    pub(crate) fn action(&self) -> Result<&'a str, Error> {
        let map = self.value.as_object().filter(|map| map.len() == 1);
        map.and_then(|map| map.keys().next())
            .map(String::as_str)
            .ok_or_else(|| Error::Invalid(MALFORMED_BODY.to_owned()))
    }
}

/// Keystone's words for something that is not there.
pub(crate) fn expecting(what: &str, place: &str) -> Error {
    Error::Invalid(format!(
        "Expecting to find {what} in {place}. {MALFORMED} {CLIENT_ERROR}"
    ))
}

/// The fields of an object in a body, each of which is looked at when it is read.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    name: &'static str,
    fields: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// Refuses an object without this field.
    pub(crate) fn require(&self, key: &str) -> Result<&'a Value, Error> {
        self.fields.get(key).ok_or_else(|| {
            let value = Value::Object(self.fields.clone());
            kinds::invalid(
                self.name,
                &value,
                &format!("'{key}' is a required property"),
            )
        })
    }

    /// The field as it is.
    pub(crate) fn value(&self, key: &str) -> Option<&'a Value> {
        self.fields.get(key)
    }

    /// The field, if it is there, once it has been looked at.
    pub(crate) fn checked(&self, key: &str, check: Check) -> Result<Option<&'a Value>, Error> {
        let value = self.fields.get(key);
        value.map_or(Ok(()), |value| check(key, value))?;
        Ok(value)
    }

    /// Refuses an object without any field.
    pub(crate) fn require_some(&self) -> Result<(), Error> {
        kinds::filled_object(self.name, &Value::Object(self.fields.clone()))
    }

    /// True or false and no word for them; `None` if absent.
    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.fields.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(kinds::wrong_type(key, other, "'boolean'")),
        }
    }

    /// A text of at most 255 characters, stripped; the outer `None` is an absent field, the inner null.
    pub(crate) fn text(&self, key: &str) -> Result<Option<Option<String>>, Error> {
        let Some(value) = self.fields.get(key) else {
            return Ok(None);
        };
        kinds::text_or_null(key, value)?;
        Ok(Some(value.as_str().map(|text| text.trim().to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_a_document_are_counted_before_they_are_made() {
        for (text, count) in [
            ("1", 1),
            ("[]", 2),
            ("[0,0,0]", 4),
            (r#"{"a":{"b":1},"c":[2]}"#, 5),
            (r#"{",[{":"\"[,{\\","b":0}"#, 3),
        ] {
            assert_eq!(values(text.as_bytes()), count, "{text}");
            assert_eq!(
                document(text.as_bytes(), count).unwrap(),
                serde_json::from_str::<Value>(text).unwrap()
            );
            let refused = document(text.as_bytes(), count - 1)
                .unwrap_err()
                .to_string();
            assert_eq!(
                refused,
                format!("The request body has more than {} values.", count - 1)
            );
        }
        for text in ["", "{", "[\"\\u0000\"]", "{\"\\u0000\":1}"] {
            let refused = document(text.as_bytes(), 9).unwrap_err().to_string();
            assert_eq!(refused, MALFORMED_BODY, "{text}");
        }
    }
}
