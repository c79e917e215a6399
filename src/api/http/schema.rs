//! The schemas of request bodies, as tables: fields in the order in which they are looked at, then
//! what must hold of the object as a whole. If there are several mistakes, the answer names the same one as
//! Cinder's, whose schemas are checked in this order, from the inside out.

use crate::api::http::kinds::{self, Check, refused, wrong_type};
use crate::api::http::microversion::{BASE, Microversion};
use crate::api::http::python;
use crate::model::error::Error;
use crate::service::Metadata;
use serde_json::{Map, Value};

/// A field of an object, since a version; before that it is an unknown field.
pub(crate) struct Field {
    name: &'static str,
    check: Check,
    since: Microversion,
}

pub(crate) const fn field(name: &'static str, check: Check) -> Field {
    Field {
        name,
        check,
        since: BASE,
    }
}

impl Field {
    pub(crate) const fn since(self, since: Microversion) -> Self {
        Self { since, ..self }
    }
}

/// A rule for an object as a whole.
pub(crate) enum Rule {
    /// Each of these is there.
    Required(&'static [&'static str]),
    /// One of these is there, or several.
    AnyOf(&'static [&'static str]),
    /// One of these is there, and no other of them.
    OneOf(&'static [&'static str]),
    /// Nothing is there that is not a field.
    NoOthers,
}

/// An object in a body, or the body itself.
pub(crate) struct Schema {
    /// The key under which the object stands; empty if it is the body itself.
    key: &'static str,
    fields: &'static [Field],
    rules: &'static [Rule],
    /// The fields that are allowed beside the object.
    beside: &'static [Field],
    /// Whether Cinder's types name null too, which it then stumbles over.
    or_null: bool,
}

impl Schema {
    /// An object under the only key of the body, such as an action.
    pub(crate) const fn under(
        key: &'static str,
        fields: &'static [Field],
        rules: &'static [Rule],
    ) -> Self {
        Self {
            key,
            fields,
            rules,
            beside: &[],
            or_null: false,
        }
    }

    /// The body itself.
    pub(crate) const fn whole(fields: &'static [Field], rules: &'static [Rule]) -> Self {
        Self::under("", fields, rules)
    }

    pub(crate) const fn beside(self, beside: &'static [Field]) -> Self {
        Self { beside, ..self }
    }

    pub(crate) const fn or_null(self) -> Self {
        Self {
            or_null: true,
            ..self
        }
    }

    /// The fields that a body has, or what is wrong with it.
    pub(crate) fn read<'a>(
        &self,
        body: &'a Value,
        version: Microversion,
    ) -> Result<Fields<'a>, Error> {
        if self.key.is_empty() {
            return self.check("", body, version);
        }
        let outer = kinds::map("", body)?;
        let inner = match outer.get(self.key) {
            Some(value) => Some(self.check(self.key, value, version)?),
            None => None,
        };
        look_at(outer, self.beside, version)?;
        let inner = inner.ok_or_else(|| missing("", body, self.key))?;
        let is_known = |name: &str| name == self.key || has(self.beside, name, version);
        no_others("", body, outer, is_known)?;
        Ok(inner)
    }

    /// The same of an object under a key.
    pub(crate) fn check<'a>(
        &self,
        key: &str,
        value: &'a Value,
        version: Microversion,
    ) -> Result<Fields<'a>, Error> {
        let Value::Object(map) = value else {
            return Err(if self.or_null && !value.is_null() {
                wrong_type(key, value, "'object', 'null'")
            } else {
                wrong_type(key, value, "'object'")
            });
        };
        look_at(map, self.fields, version)?;
        for rule in self.rules {
            self.hold(rule, key, value, map, version)?;
        }
        Ok(Fields { map })
    }

    fn hold(
        &self,
        rule: &Rule,
        key: &str,
        value: &Value,
        map: &Map<String, Value>,
        version: Microversion,
    ) -> Result<(), Error> {
        let there = |names: &[&'static str]| -> Vec<&'static str> {
            let names = names.iter().copied();
            names.filter(|name| map.contains_key(*name)).collect()
        };
        match rule {
            Rule::Required(names) => match names.iter().find(|name| !map.contains_key(**name)) {
                Some(name) => Err(missing(key, value, name)),
                None => Ok(()),
            },
            Rule::AnyOf(names) => {
                if there(names).is_empty() {
                    Err(refused(key, value, NONE_FITS))
                } else {
                    Ok(())
                }
            }
            Rule::OneOf(names) => match there(names)[..] {
                [] => Err(refused(key, value, NONE_FITS)),
                [_] => Ok(()),
                [first, ref others @ ..] => {
                    let fitting = others.iter().chain([&first]);
                    let fitting: Vec<String> = fitting
                        .map(|name| format!("{{'required': ['{name}']}}"))
                        .collect();
                    let why = format!("is valid under each of {}", fitting.join(", "));
                    Err(refused(key, value, &why))
                }
            },
            Rule::NoOthers => no_others(key, value, map, |name| has(self.fields, name, version)),
        }
    }
}

const NONE_FITS: &str = "is not valid under any of the given schemas";

fn has(fields: &[Field], name: &str, version: Microversion) -> bool {
    let mut known = fields.iter().filter(|field| field.since <= version);
    known.any(|field| field.name == name)
}

fn look_at(map: &Map<String, Value>, fields: &[Field], version: Microversion) -> Result<(), Error> {
    for field in fields.iter().filter(|field| field.since <= version) {
        if let Some(value) = map.get(field.name) {
            (field.check)(field.name, value)?;
        }
    }
    Ok(())
}

fn missing(key: &str, value: &Value, name: &str) -> Error {
    kinds::invalid(key, value, &format!("'{name}' is a required property"))
}

fn no_others(
    key: &str,
    value: &Value,
    map: &Map<String, Value>,
    is_known: impl Fn(&str) -> bool,
) -> Result<(), Error> {
    let mut others: Vec<&String> = map.keys().filter(|name| !is_known(name)).collect();
    others.sort();
    let verb = match others.len() {
        0 => return Ok(()),
        1 => "was",
        _ => "were",
    };
    let others: Vec<String> = others
        .into_iter()
        .map(|name| python::repr(&Value::from(name.as_str())))
        .collect();
    let message = format!(
        "Additional properties are not allowed ({} {verb} unexpected)",
        others.join(", ")
    );
    Err(kinds::invalid(key, value, &message))
}

/// The fields of an object that its schema has let through.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The field as it is.
    pub(crate) fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key)
    }

    /// The fields, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.map.iter()
    }

    /// A text, as it is; `None` if absent or null.
    pub(crate) fn raw(&self, key: &str) -> Option<&'a str> {
        self.value(key).and_then(Value::as_str)
    }

    /// A text that must be there, as it is.
    pub(crate) fn required(&self, key: &str) -> String {
        self.raw(key).unwrap_or_default().to_owned()
    }

    /// A text, stripped; `None` if absent or null.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        self.raw(key).map(|text| text.trim().to_owned())
    }

    /// A text, stripped; the outer `None` is an absent field, the inner null.
    pub(crate) fn change(&self, key: &str) -> Option<Option<String>> {
        self.value(key).map(|_| self.text(key))
    }

    /// The first of two fields that is there: a name under the one key that Cinder takes, or the other.
    pub(crate) fn change_of_either(&self, key: &str, older: &str) -> Option<Option<String>> {
        self.change(key).or_else(|| self.change(older))
    }

    /// A flag; false if absent or null.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.value(key).and_then(kinds::flag_of).unwrap_or(false)
    }

    /// A whole number; `None` if absent or null.
    pub(crate) fn number(&self, key: &str) -> Option<i64> {
        self.value(key).and_then(kinds::number_of)
    }

    /// Texts under keys; `None` if absent or null.
    pub(crate) fn metadata(&self, key: &str) -> Option<Metadata> {
        self.value(key).and_then(Value::as_object).map(entries)
    }

    /// The texts of a list.
    pub(crate) fn texts(&self, key: &str) -> Vec<String> {
        let items = self.value(key).and_then(Value::as_array);
        let texts = items.into_iter().flatten().filter_map(Value::as_str);
        texts.map(str::to_owned).collect()
    }
}

/// The texts of an object that was looked at.
pub(crate) fn entries(map: &Map<String, Value>) -> Metadata {
    let texts = map
        .iter()
        .filter_map(|(key, value)| Some((key, value.as_str()?)));
    texts
        .map(|(key, value)| (key.clone(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::http::microversion::LATEST;
    use serde_json::json;

    const SCHEMA: Schema = Schema::under(
        "backup",
        &[
            field("volume_id", kinds::uuid),
            field("force", kinds::flag),
            field("name", kinds::text_or_null),
            field("metadata", kinds::metadata_or_null).since(Microversion(43)),
        ],
        &[Rule::Required(&["volume_id"]), Rule::NoOthers],
    );

    fn refusal(schema: &Schema, body: &Value, version: Microversion) -> String {
        let Err(error) = schema.read(body, version) else {
            panic!("{body} is let through")
        };
        error.to_string()
    }

    #[test]
    fn of_several_mistakes_the_one_that_is_looked_at_first_is_told() {
        let whole = "Invalid input for field/attribute backup. Value: ";
        let rows = [
            (json!([]), "[] is not of type 'object'".to_owned()),
            (json!(null), "None is not of type 'object'".to_owned()),
            (json!({}), "'backup' is a required property".to_owned()),
            (json!({"volume": null}), "'backup' is a required property".to_owned()),
            (json!({"backup": null, "x": 1}), format!("{whole}None. None is not of type 'object'")),
            (
                json!({"x": 1, "backup": {"y": 1, "name": 5, "force": null}}),
                "Invalid input for field/attribute force. Value: None. None is not of type 'boolean', 'string'".to_owned(),
            ),
            (
                json!({"x": 1, "backup": {"y": 1, "name": 5}}),
                "Invalid input for field/attribute name. Value: 5. 5 is not of type 'string', 'null'".to_owned(),
            ),
            (
                json!({"x": 1, "backup": {"y": 1}}),
                format!("{whole}{{'y': 1}}. 'volume_id' is a required property"),
            ),
            (
                json!({"x": 1, "backup": {"volume_id": "0".repeat(32), "y": 1, "b": 2}}),
                format!(
                    "{whole}{{'volume_id': '{}', 'y': 1, 'b': 2}}. Additional properties are not allowed ('b', 'y' were unexpected)",
                    "0".repeat(32)
                ),
            ),
            (
                json!({"x": 1, "backup": {"volume_id": "0".repeat(32)}}),
                "Additional properties are not allowed ('x' was unexpected)".to_owned(),
            ),
        ];
        for (body, expected) in rows {
            assert_eq!(refusal(&SCHEMA, &body, LATEST), expected, "{body}");
        }
    }

    #[test]
    fn a_field_is_unknown_before_its_version() {
        let body = json!({"backup": {"volume_id": "0".repeat(32), "metadata": 5}});
        assert!(refusal(&SCHEMA, &body, LATEST).contains("5 is not of type 'object', 'null'"));
        let before = refusal(&SCHEMA, &body, Microversion(42));
        assert!(before.ends_with("('metadata' was unexpected)"), "{before}");
    }

    #[test]
    fn what_must_hold_of_the_whole_is_told_in_its_order() {
        const ANY: Schema = Schema::whole(
            &[field("a", kinds::text), field("b", kinds::text)],
            &[Rule::AnyOf(&["a", "b"]), Rule::NoOthers],
        );
        const ONE: Schema = Schema::under(
            "k",
            &[field("a", kinds::text), field("b", kinds::text)],
            &[Rule::OneOf(&["a", "b"])],
        );
        let none = "{'c': 1} is not valid under any of the given schemas";
        assert_eq!(refusal(&ANY, &json!({"c": 1}), BASE), none);
        assert!(refusal(&ANY, &json!({"a": "", "c": 1}), BASE).contains("'c' was unexpected"));
        assert!(ANY.read(&json!({"a": "", "b": ""}), BASE).is_ok());
        let both = refusal(&ONE, &json!({"k": {"a": "", "b": ""}}), BASE);
        let each = "is valid under each of {'required': ['b']}, {'required': ['a']}";
        assert!(both.ends_with(each), "{both}");
        assert!(ONE.read(&json!({"k": {"a": "", "c": 1}}), BASE).is_ok());
    }

    #[test]
    fn names_are_stripped_and_null_is_not_absent() {
        let value = json!({"name": "  a b ", "description": null});
        let fields = Schema::whole(&[], &[]).read(&value, BASE).unwrap();
        assert_eq!(fields.change("name"), Some(Some("a b".to_owned())));
        assert_eq!(fields.change("description"), Some(None));
        assert_eq!(fields.change("other"), None);
    }
}
