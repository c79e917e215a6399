//! Request bodies: parsed once, with Cinder's error texts (Cinder reference, 1.2).

use crate::api::{printable, python};
use crate::model::error::Error;
use crate::service::Metadata;
use serde_json::{Map, Value};

const NAME_CHARACTERS_MAX: usize = 255;
/// Cinder's largest integer; of GiB it is far more than any volume has, and bytes still fit.
const SIZE_GIB_MAX: i64 = 2_147_483_647;
const TRUE_WORDS: [&str; 12] = [
    "True", "TRUE", "true", "1", "ON", "On", "on", "YES", "Yes", "yes", "y", "t",
];
const FALSE_WORDS: [&str; 12] = [
    "False", "FALSE", "false", "0", "OFF", "Off", "off", "NO", "No", "no", "n", "f",
];

/// A JSON body.
#[derive(Clone, Copy)]
pub(super) struct Body<'a> {
    value: &'a Value,
}

impl<'a> Body<'a> {
    pub(super) fn new(value: &'a Value) -> Self {
        Self { value }
    }

    /// The object under the body's only key.
    pub(super) fn object(&self, key: &'static str) -> Result<Fields<'a>, Error> {
        let Value::Object(map) = self.value else {
            return Err(Error::Invalid("Malformed request body".to_owned()));
        };
        if let Some(other) = map.keys().find(|name| *name != key) {
            return Err(Error::Invalid(format!(
                "Additional properties are not allowed ('{other}' was unexpected)"
            )));
        }
        match map.get(key) {
            None => Err(Error::Invalid(format!("'{key}' is a required property"))),
            Some(Value::Object(fields)) => Ok(Fields { name: key, fields }),
            Some(other) => Err(wrong_type(key, other, "'object'")),
        }
    }

    /// The body itself as an object.
    pub(super) fn whole(&self) -> Result<Fields<'a>, Error> {
        self.whole_as("body")
    }

    /// The same, under a name for its errors.
    pub(super) fn whole_as(&self, name: &'static str) -> Result<Fields<'a>, Error> {
        Fields::of(name, self.value)
    }

    /// The same, where other keys may stand beside it.
    pub(super) fn object_among(&self, key: &'static str) -> Result<Fields<'a>, Error> {
        match self.value.get(key) {
            Some(Value::Object(fields)) => Ok(Fields { name: key, fields }),
            Some(other) => Err(wrong_type(key, other, "'object'")),
            None => Err(Error::Invalid(format!("'{key}' is a required property"))),
        }
    }

    /// The only key of an action's body, and what stands under it.
    pub(super) fn action(&self) -> Result<(&'a str, &'a Value), Error> {
        let map = self.value.as_object().filter(|map| map.len() == 1);
        map.and_then(|map| map.iter().next())
            .map(|(name, value)| (name.as_str(), value))
            .ok_or_else(|| Error::Invalid("Malformed request body".to_owned()))
    }
}

/// The fields of an object in a body.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    name: &'static str,
    fields: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// Fields of an object that is not under a key of its own, such as an action's.
    pub(super) fn of(name: &'static str, value: &'a Value) -> Result<Self, Error> {
        match value {
            Value::Object(fields) => Ok(Self { name, fields }),
            other => Err(wrong_type(name, other, "'object'")),
        }
    }

    /// Refuses fields that are not among these.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), Error> {
        let others: Vec<String> = self
            .fields
            .keys()
            .filter(|key| !known.contains(&key.as_str()))
            .map(|key| format!("'{key}'"))
            .collect();
        let verb = match others.len() {
            0 => return Ok(()),
            1 => "was",
            _ => "were",
        };
        let message = format!(
            "Additional properties are not allowed ({} {verb} unexpected)",
            others.join(", ")
        );
        Err(self.invalid(&message))
    }

    /// Refuses an object without this field.
    pub(super) fn require(&self, key: &str) -> Result<&'a Value, Error> {
        self.fields
            .get(key)
            .ok_or_else(|| self.invalid(&format!("'{key}' is a required property")))
    }

    fn invalid(&self, message: &str) -> Error {
        let value = Value::Object(self.fields.clone());
        invalid_field(self.name, &value, message)
    }

    /// The field as it is.
    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.fields.get(key)
    }

    fn present(&self, key: &str) -> Option<&'a Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    /// The fields, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.fields.iter()
    }

    /// Whether the object has no field.
    pub(super) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// A UUID, or `None` if absent or null.
    pub(super) fn uuid(&self, key: &str) -> Result<Option<String>, Error> {
        match self.present(key) {
            None => Ok(None),
            Some(value) => match uuid_of(key, value) {
                Ok(id) => Ok(Some(id)),
                Err(_) => {
                    let why = "is not valid under any of the given schemas";
                    let message = format!("{} {why}", python::repr(value));
                    Err(invalid_field(key, value, &message))
                }
            },
        }
    }

    /// A UUID that must be there.
    pub(super) fn required_uuid(&self, key: &str) -> Result<String, Error> {
        uuid_of(key, self.require(key)?)
    }

    /// A flag; false if absent.
    pub(super) fn flag(&self, key: &str) -> Result<bool, Error> {
        match self.fields.get(key) {
            None => Ok(false),
            Some(value) => flag_of(key, value),
        }
    }

    /// A text of at most 255 characters, stripped; the outer `None` is an absent field, the inner null.
    pub(super) fn text(&self, key: &str) -> Result<Option<Option<String>>, Error> {
        match self.fields.get(key) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(None)),
            Some(value) => {
                let text = text_of(key, value, "'string', 'null'")?;
                Ok(Some(Some(text.trim().to_owned())))
            }
        }
    }

    /// A text that must be there, of at most 255 characters.
    pub(super) fn required_text(&self, key: &str) -> Result<String, Error> {
        text_of(key, self.require(key)?, "'string'")
    }

    /// A text that must be there and be base64; it is left to others to decode it.
    pub(super) fn base64(&self, key: &str) -> Result<&'a str, Error> {
        let value = self.require(key)?;
        let Value::String(text) = value else {
            return Err(wrong_type(key, value, "'string'"));
        };
        let is_in_alphabet = |c: &char| c.is_ascii_alphanumeric() || "+/=".contains(*c);
        let digits = text.chars().filter(is_in_alphabet).count();
        let why = match (text.is_empty(), digits % 4) {
            (true, _) => "should be non-empty",
            (false, 0) => return Ok(text),
            (false, _) => "is not a 'base64'",
        };
        Err(invalid_field(
            key,
            value,
            &format!("{} {why}", python::repr(value)),
        ))
    }

    /// A text as [`Self::text`], of printable characters of the Basic Multilingual Plane only.
    pub(super) fn description(&self, key: &str) -> Result<Option<Option<String>>, Error> {
        let text = self.text(key)?;
        if let (Some(value), Some(Some(_))) = (self.fields.get(key), &text)
            && !printable::is_printable(&python::str(value))
        {
            let message = format!(
                "{} does not match '{}'",
                python::repr(value),
                printable::PATTERN
            );
            return Err(invalid_field(key, value, &message));
        }
        Ok(text)
    }

    /// The name, under either of the keys that Cinder takes. Both are checked.
    pub(super) fn name(&self) -> Result<Option<Option<String>>, Error> {
        let (name, older) = (self.text("name")?, self.text("display_name")?);
        Ok(name.or(older))
    }

    /// The description, likewise.
    pub(super) fn about(&self) -> Result<Option<Option<String>>, Error> {
        let text = self.description("description")?;
        let older = self.description("display_description")?;
        Ok(text.or(older))
    }

    /// How many fields there are.
    pub(super) fn len(&self) -> usize {
        self.fields.len()
    }

    /// User metadata; `None` if absent, or null where that is allowed.
    pub(super) fn metadata(&self, key: &str, may_be_null: bool) -> Result<Option<Metadata>, Error> {
        match self.fields.get(key) {
            None => Ok(None),
            Some(Value::Null) if may_be_null => Ok(None),
            Some(value @ Value::Object(map)) => metadata_of(key, value, map).map(Some),
            Some(other) => Err(wrong_type(key, other, "'object'")),
        }
    }

    /// A whole number from 1, or a text of digits; `None` if absent or null.
    pub(super) fn size(&self, key: &str) -> Result<Option<i64>, Error> {
        let Some(value) = self.present(key) else {
            return Ok(None);
        };
        let size = match value {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        // Sizes in bytes must fit, too.
        match size {
            Some(size @ 1..=SIZE_GIB_MAX) => Ok(Some(size)),
            Some(size @ ..1) if value.is_number() => {
                let message = format!("{size} is less than the minimum of 1");
                Err(invalid_field(key, value, &message))
            }
            _ => {
                let message = format!(
                    "Volume size must be a whole number of GiB, 1 or more (got: {}).",
                    python::str(value)
                );
                Err(Error::invalid("input received", message))
            }
        }
    }

    /// A text that must be one of these words, told as Cinder tells an enum.
    pub(super) fn mode(&self, key: &str) -> Result<Option<String>, Error> {
        self.present(key)
            .map(|value| text_of(key, value, "'string'"))
            .transpose()
    }
}

/// Metadata under `key`, checked.
fn metadata_of(key: &str, value: &Value, map: &Map<String, Value>) -> Result<Metadata, Error> {
    let mut metadata = Metadata::new();
    for (name, entry) in map {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_:. /".contains(c);
        if name.is_empty() || name.len() > NAME_CHARACTERS_MAX || !name.chars().all(is_plain) {
            let message = format!(
                "{} does not match any of the regexes: '^[a-zA-Z0-9-_:. /]{{1,255}}$'",
                python::repr(&Value::String(name.clone()))
            );
            return Err(invalid_field(key, value, &message));
        }
        metadata.insert(name.clone(), text_of(name, entry, "'string'")?);
    }
    Ok(metadata)
}

fn text_of(key: &str, value: &Value, expected: &str) -> Result<String, Error> {
    let Value::String(text) = value else {
        return Err(wrong_type(key, value, expected));
    };
    if text.chars().count() > NAME_CHARACTERS_MAX {
        let message = format!("{} is too long", python::repr(value));
        return Err(invalid_field(key, value, &message));
    }
    if text.contains('\0') {
        // PostgreSQL cannot keep it.
        return Err(invalid_field(key, value, "it contains a null character"));
    }
    Ok(text.clone())
}

fn uuid_of(key: &str, value: &Value) -> Result<String, Error> {
    let looks_like_one = |text: &str| {
        let digits: String = text
            .replace("urn:", "")
            .replace("uuid:", "")
            .trim_matches(['{', '}'])
            .replace('-', "");
        digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    match value {
        Value::String(text) if looks_like_one(text) => Ok(text.clone()),
        Value::String(_) => {
            let message = format!("{} is not a 'uuid'", python::repr(value));
            Err(invalid_field(key, value, &message))
        }
        other => Err(wrong_type(key, other, "'string'")),
    }
}

fn flag_of(key: &str, value: &Value) -> Result<bool, Error> {
    match value {
        Value::Bool(flag) => Ok(*flag),
        Value::String(text) if TRUE_WORDS.contains(&text.as_str()) => Ok(true),
        Value::String(text) if FALSE_WORDS.contains(&text.as_str()) => Ok(false),
        Value::String(_) => {
            let words: Vec<String> = [Value::Bool(true)]
                .iter()
                .map(python::repr)
                .chain(TRUE_WORDS.iter().map(|word| format!("'{word}'")))
                .chain(["False".to_owned()])
                .chain(FALSE_WORDS.iter().map(|word| format!("'{word}'")))
                .collect();
            let message = format!(
                "{} is not one of [{}]",
                python::repr(value),
                words.join(", ")
            );
            Err(invalid_field(key, value, &message))
        }
        other => Err(wrong_type(key, other, "'boolean', 'string'")),
    }
}

/// A flag in a query: a word of either list.
pub(super) fn flag_word(word: &str) -> Option<bool> {
    let word = word.trim();
    if TRUE_WORDS.contains(&word) {
        return Some(true);
    }
    FALSE_WORDS.contains(&word).then_some(false)
}

fn wrong_type(key: &str, value: &Value, expected: &str) -> Error {
    let message = format!("{} is not of type {expected}", python::repr(value));
    invalid_field(key, value, &message)
}

fn invalid_field(key: &str, value: &Value, message: &str) -> Error {
    Error::Invalid(format!(
        "Invalid input for field/attribute {key}. Value: {}. {message}",
        python::str(value)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn errors_are_worded_as_cinders() {
        let value = json!({"backup": {"volume_id": "notuuid", "foo": 1, "name": 5, "force": null}});
        let fields = Body::new(&value).object("backup").unwrap();
        assert_eq!(
            refused(fields.required_uuid("volume_id")),
            "Invalid input for field/attribute volume_id. Value: notuuid. 'notuuid' is not a 'uuid'"
        );
        assert_eq!(
            refused(fields.text("name")),
            "Invalid input for field/attribute name. Value: 5. 5 is not of type 'string', 'null'"
        );
        assert!(refused(fields.flag("force")).contains("None is not of type 'boolean', 'string'"));
        assert_eq!(
            refused(fields.only(&["volume_id", "name", "force"])),
            "Invalid input for field/attribute backup. Value: {'volume_id': 'notuuid', 'foo': 1, \
             'name': 5, 'force': None}. Additional properties are not allowed ('foo' was unexpected)"
        );
        let empty = json!({"backup": {}});
        assert_eq!(
            refused(
                Body::new(&empty)
                    .object("backup")
                    .unwrap()
                    .required_uuid("volume_id")
            ),
            "Invalid input for field/attribute backup. Value: {}. 'volume_id' is a required property"
        );
    }

    #[test]
    fn names_are_stripped_and_null_is_not_absent() {
        let value = json!({"name": "  a b ", "description": null});
        let fields = Fields::of("backup", &value).unwrap();
        assert_eq!(fields.text("name").unwrap(), Some(Some("a b".to_owned())));
        assert_eq!(fields.text("description").unwrap(), Some(None));
        assert_eq!(fields.text("other").unwrap(), None);
    }

    #[test]
    fn sizes_are_numbers_or_digits() {
        for (value, size) in [
            (json!(3), Some(3)),
            (json!("7"), Some(7)),
            (json!(null), None),
        ] {
            let body = json!({ "size": value });
            assert_eq!(
                Fields::of("volume", &body).unwrap().size("size").unwrap(),
                size
            );
        }
        for value in [
            json!(0),
            json!(-1),
            json!("x"),
            json!(1.5),
            json!([]),
            json!(i64::MAX),
        ] {
            let body = json!({ "size": value });
            assert!(
                Fields::of("volume", &body).unwrap().size("size").is_err(),
                "{value}"
            );
        }
    }

    #[test]
    fn metadata_keys_and_values_are_checked() {
        for value in [
            json!({"ä": "b"}),
            json!({"": "b"}),
            json!({"a": 1}),
            json!({"a": null}),
            json!([]),
        ] {
            let body = json!({ "metadata": value });
            assert!(
                Fields::of("b", &body)
                    .unwrap()
                    .metadata("metadata", true)
                    .is_err(),
                "{value}"
            );
        }
        let body = json!({"metadata": {"a:b./ -_": "x"}});
        assert_eq!(
            Fields::of("b", &body)
                .unwrap()
                .metadata("metadata", true)
                .unwrap()
                .unwrap()
                .len(),
            1
        );
    }
}
