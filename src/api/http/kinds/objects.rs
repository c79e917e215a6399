//! Objects and lists in a body: what their entries may be.

use super::{CHARACTERS_MAX, invalid, is_null_or, refused, sized, text, wrong_type};
use crate::api::http::python;
use crate::model::error::Error;
use serde_json::{Map, Value};
use std::collections::HashSet;

const TAGS_MAX: usize = 80;

/// Texts under keys of these characters.
struct Entries {
    characters: &'static str,
    pattern: &'static str,
    /// The error text for a value that is no text.
    expected: &'static str,
}

const METADATA: Entries = Entries {
    characters: "-_:. /",
    pattern: "'^[a-zA-Z0-9-_:. /]{1,255}$'",
    expected: "'string'",
};
const TYPE_SPECS: Entries = Entries {
    expected: "'string', 'null'",
    ..METADATA
};
const SPECS: Entries = Entries {
    characters: "-_:.",
    pattern: "'^[a-zA-Z0-9-_:.]{1,255}$'",
    expected: "'string', 'null'",
};

impl Entries {
    fn has(&self, key: &str) -> bool {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || self.characters.contains(c);
        (1..=CHARACTERS_MAX).contains(&key.len()) && key.chars().all(is_plain)
    }

    /// Values first, then keys.
    fn check(&self, key: &str, value: &Value, map: &Map<String, Value>) -> Result<(), Error> {
        for (name, entry) in map.iter().filter(|(name, _)| self.has(name)) {
            match entry {
                Value::Null => text(name, entry)?,
                _ => sized(name, entry, 0, self.expected)?,
            }
        }
        let mut others: Vec<&String> = map.keys().filter(|name| !self.has(name)).collect();
        others.sort();
        let verb = match others.len() {
            0 => return Ok(()),
            1 => "does",
            _ => "do",
        };
        let others: Vec<String> = others
            .into_iter()
            .map(|name| python::repr(&Value::from(name.as_str())))
            .collect();
        let message = format!(
            "{} {verb} not match any of the regexes: {}",
            others.join(", "),
            self.pattern
        );
        Err(invalid(key, value, &message))
    }
}

/// User metadata.
pub(crate) fn metadata(key: &str, value: &Value) -> Result<(), Error> {
    METADATA.check(key, value, map(key, value)?)
}

pub(crate) fn metadata_or_null(key: &str, value: &Value) -> Result<(), Error> {
    is_null_or(value, || match value {
        Value::Object(map) => METADATA.check(key, value, map),
        _ => Err(wrong_type(key, value, "'object', 'null'")),
    })
}

/// Specs that come with a type, whose keys may have spaces.
pub(crate) fn type_specs(key: &str, value: &Value) -> Result<(), Error> {
    TYPE_SPECS.check(key, value, map(key, value)?)
}

/// Specs of a type, whose keys have no spaces.
pub(crate) fn specs(key: &str, value: &Value) -> Result<(), Error> {
    SPECS.check(key, value, map(key, value)?)
}

/// Metadata of one entry.
pub(crate) fn one_entry(key: &str, value: &Value) -> Result<(), Error> {
    metadata(key, value)?;
    alone(key, value)
}

/// Specs of one entry.
pub(crate) fn one_spec(key: &str, value: &Value) -> Result<(), Error> {
    specs(key, value)?;
    alone(key, value)
}

fn alone(key: &str, value: &Value) -> Result<(), Error> {
    match map(key, value)?.len() {
        0 => Err(refused(key, value, "should be non-empty")),
        1 => Ok(()),
        _ => Err(refused(key, value, "has too many properties")),
    }
}

/// The object that a value is.
pub(crate) fn map<'a>(key: &str, value: &'a Value) -> Result<&'a Map<String, Value>, Error> {
    value
        .as_object()
        .ok_or_else(|| wrong_type(key, value, "'object'"))
}

pub(crate) fn object_or_null(key: &str, value: &Value) -> Result<(), Error> {
    match value {
        Value::Object(_) | Value::Null => Ok(()),
        _ => Err(wrong_type(key, value, "'object', 'null'")),
    }
}

/// An object with keys.
pub(crate) fn filled_object(key: &str, value: &Value) -> Result<(), Error> {
    if map(key, value)?.is_empty() {
        Err(refused(key, value, "should be non-empty"))
    } else {
        Ok(())
    }
}

/// A list of texts of at least so many characters, none of them twice.
fn texts(key: &str, value: &Value, items: &[Value], least: usize) -> Result<(), Error> {
    for (at, item) in items.iter().enumerate() {
        sized(&at.to_string(), item, least, "'string'")?;
    }
    let different: HashSet<&str> = items.iter().filter_map(Value::as_str).collect();
    if different.len() < items.len() {
        Err(refused(key, value, "has non-unique elements"))
    } else {
        Ok(())
    }
}

fn list<'a>(key: &str, value: &'a Value) -> Result<&'a [Value], Error> {
    let items = value.as_array().map(Vec::as_slice);
    items.ok_or_else(|| wrong_type(key, value, "'array'"))
}

/// Texts, at least one.
pub(crate) fn some_texts(key: &str, value: &Value) -> Result<(), Error> {
    match list(key, value)? {
        [] => Err(refused(key, value, "should be non-empty")),
        items => texts(key, value, items, 0),
    }
}

/// Texts that are not empty.
pub(crate) fn filled_texts(key: &str, value: &Value) -> Result<(), Error> {
    texts(key, value, list(key, value)?, 1)
}

/// A list of objects.
pub(crate) fn objects_or_null(key: &str, value: &Value) -> Result<(), Error> {
    is_null_or(value, || {
        let mut items = list(key, value)?.iter().enumerate();
        items.try_for_each(|(at, item)| map(&at.to_string(), item).map(drop))
    })
}

/// A project's tags, within Keystone's bounds.
pub(crate) fn tags(key: &str, value: &Value) -> Result<(), Error> {
    let items = list(key, value)?;
    if items.len() > TAGS_MAX {
        return Err(refused(key, value, "is too long"));
    }
    texts(key, value, items, 1)?;
    let is_odd = |item: &&Value| item.as_str().is_some_and(|tag| tag.contains([',', '/']));
    match items.iter().enumerate().find(|(_, item)| is_odd(item)) {
        Some((at, item)) => Err(refused(&at.to_string(), item, "does not match '^[^,/]*$'")),
        None => Ok(()),
    }
}
