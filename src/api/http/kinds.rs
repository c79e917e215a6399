//! The kinds of values in a body, with Cinder's error texts (Cinder reference, 1.2). Each
//! looks at one value under its key; a key that is empty stands for the body itself.

mod objects;

use crate::api::http::{printable, python};
use crate::model::error::Error;
pub(crate) use objects::{
    filled_object, filled_texts, map, metadata, metadata_or_null, object_or_null, objects_or_null,
    one_entry, one_spec, some_texts, specs, tags, type_specs,
};
use serde_json::Value;

/// Looks at a value under its key.
pub(crate) type Check = fn(&str, &Value) -> Result<(), Error>;

const CHARACTERS_MAX: usize = 255;
const PROJECT_CHARACTERS_MAX: usize = 64;
/// Cinder's largest integer; of GiB it is far more than any volume has, and bytes still fit.
const NUMBER_MAX: i64 = 2_147_483_647;
const TRUE_WORDS: [&str; 12] = [
    "True", "TRUE", "true", "1", "ON", "On", "on", "YES", "Yes", "yes", "y", "t",
];
const FALSE_WORDS: [&str; 12] = [
    "False", "FALSE", "false", "0", "OFF", "Off", "off", "NO", "No", "no", "n", "f",
];
const NONE_FITS: &str = "is not valid under any of the given schemas";

/// A refusal of a value, or of the whole body. It repeats the value, but for what is secret in it.
pub(crate) fn invalid(key: &str, value: &Value, message: &str) -> Error {
    Error::Invalid(if key.is_empty() {
        message.to_owned()
    } else {
        format!(
            "Invalid input for field/attribute {key}. Value: {}. {message}",
            python::str_under(key, value)
        )
    })
}

/// The same; the message begins with the value.
pub(crate) fn refused(key: &str, value: &Value, why: &str) -> Error {
    let shown = python::repr_under(key, value);
    invalid(key, value, &format!("{shown} {why}"))
}

pub(crate) fn wrong_type(key: &str, value: &Value, expected: &str) -> Error {
    refused(key, value, &format!("is not of type {expected}"))
}

/// Refuses a value as Cinder does while it looks at it, without naming the value.
fn input(message: impl std::fmt::Display) -> Error {
    Error::invalid("input received", message)
}

fn invalid_name(why: &str) -> Error {
    Error::Invalid(format!(
        "An invalid 'name' value was provided. The 'name' can not be {why}."
    ))
}

fn is_null_or(value: &Value, check: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    match value {
        Value::Null => Ok(()),
        _ => check(),
    }
}

/// Null, or a value that passes the check. A refusal does not say which of the two was expected.
fn one_of_two(key: &str, value: &Value, check: Check) -> Result<(), Error> {
    is_null_or(value, || {
        check(key, value).map_err(|_| refused(key, value, NONE_FITS))
    })
}

/// A text of so many characters.
fn sized(key: &str, value: &Value, least: usize, expected: &str) -> Result<(), Error> {
    bounded(key, value, (least, CHARACTERS_MAX), expected)
}

fn bounded(
    key: &str,
    value: &Value,
    (least, most): (usize, usize),
    expected: &str,
) -> Result<(), Error> {
    let Value::String(text) = value else {
        return Err(wrong_type(key, value, expected));
    };
    match text.chars().count() {
        length if length < least => Err(refused(key, value, "should be non-empty")),
        length if length > most => Err(refused(key, value, "is too long")),
        _ => Ok(()),
    }
}

/// A text of any length.
pub(crate) fn string(key: &str, value: &Value) -> Result<(), Error> {
    match value {
        Value::String(_) => Ok(()),
        _ => Err(wrong_type(key, value, "'string'")),
    }
}

pub(crate) fn text(key: &str, value: &Value) -> Result<(), Error> {
    sized(key, value, 0, "'string'")
}

pub(crate) fn text_or_null(key: &str, value: &Value) -> Result<(), Error> {
    is_null_or(value, || sized(key, value, 0, "'string', 'null'"))
}

/// A text that is not empty.
pub(crate) fn filled(key: &str, value: &Value) -> Result<(), Error> {
    sized(key, value, 1, "'string'")
}

pub(crate) fn filled_or_null(key: &str, value: &Value) -> Result<(), Error> {
    is_null_or(value, || sized(key, value, 1, "'string', 'null'"))
}

/// A name that must say something.
pub(crate) fn name(key: &str, value: &Value) -> Result<(), Error> {
    filled(key, value)?;
    if python::str(value).trim().is_empty() {
        Err(invalid_name("empty"))
    } else {
        Ok(())
    }
}

/// The name of a project, within Keystone's bounds.
pub(crate) fn project_name(key: &str, value: &Value) -> Result<(), Error> {
    bounded(key, value, (1, PROJECT_CHARACTERS_MAX), "'string'")?;
    visible(key, value)
}

/// The name of a user, likewise.
pub(crate) fn user_name(key: &str, value: &Value) -> Result<(), Error> {
    filled(key, value)?;
    visible(key, value)
}

fn visible(key: &str, value: &Value) -> Result<(), Error> {
    if python::str(value).trim().is_empty() {
        Err(refused(key, value, r"does not match '[\\S]+'"))
    } else {
        Ok(())
    }
}

/// True or false, and no word for them.
pub(crate) fn boolean_or_null(key: &str, value: &Value) -> Result<(), Error> {
    match value {
        Value::Bool(_) | Value::Null => Ok(()),
        _ => Err(wrong_type(key, value, "'boolean', 'null'")),
    }
}

/// A name that is cut at both ends before its length counts.
pub(crate) fn trimmed_name(key: &str, value: &Value) -> Result<(), Error> {
    string(key, value)?;
    let text = python::str(value);
    match text.trim().chars().count() {
        _ if text.is_empty() => Err(invalid_name("None")),
        0 => Err(invalid_name("empty")),
        length if length > CHARACTERS_MAX => {
            Err(input("The 'name' can not be greater than 255 characters."))
        }
        _ => Ok(()),
    }
}

pub(crate) fn trimmed_name_or_null(key: &str, value: &Value) -> Result<(), Error> {
    let is_too_long = python::str(value).trim().chars().count() > CHARACTERS_MAX;
    if is_too_long && value.is_string() {
        trimmed_name(key, value)
    } else {
        one_of_two(key, value, trimmed_name)
    }
}

/// A text that is cut at both ends before its length counts, under this name.
pub(crate) fn trimmed(name: &str, value: &Value, least: usize) -> Result<(), Error> {
    let length = python::str(value).trim().chars().count();
    match length {
        _ if length < least => Err(input(format!(
            "{name} has a minimum character requirement of {least}."
        ))),
        _ if length > CHARACTERS_MAX => Err(input(format!(
            "{name} has {length} characters, more than {CHARACTERS_MAX}."
        ))),
        _ => Ok(()),
    }
}

/// A volume's name or description, under either of their keys.
pub(crate) fn trimmed_text_or_null(key: &str, value: &Value) -> Result<(), Error> {
    is_null_or(value, || {
        let Value::String(_) = value else {
            return Err(wrong_type(key, value, "'string', 'null'"));
        };
        trimmed(key.trim_start_matches("display_"), value, 0)
    })
}

/// A text of printable characters of the Basic Multilingual Plane only.
pub(crate) fn description(key: &str, value: &Value) -> Result<(), Error> {
    text_or_null(key, value)?;
    if value.is_null() || printable::is_printable(&python::str(value)) {
        Ok(())
    } else {
        let why = format!("does not match '{}'", printable::PATTERN);
        Err(refused(key, value, &why))
    }
}

pub(crate) fn uuid(key: &str, value: &Value) -> Result<(), Error> {
    let looks_like_one = |text: &str| {
        let digits: String = text
            .replace("urn:", "")
            .replace("uuid:", "")
            .trim_matches(['{', '}'])
            .replace('-', "");
        digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    match value {
        Value::String(text) if looks_like_one(text) => Ok(()),
        Value::String(_) => Err(refused(key, value, "is not a 'uuid'")),
        _ => Err(wrong_type(key, value, "'string'")),
    }
}

pub(crate) fn uuid_or_null(key: &str, value: &Value) -> Result<(), Error> {
    one_of_two(key, value, uuid)
}

pub(crate) fn flag(key: &str, value: &Value) -> Result<(), Error> {
    match value {
        Value::Bool(_) => Ok(()),
        Value::String(text) if word_of_flag(text).is_some() => Ok(()),
        Value::String(_) => {
            let quoted = |words: [&str; 12]| words.map(|word| format!("'{word}'")).join(", ");
            let (yes, no) = (quoted(TRUE_WORDS), quoted(FALSE_WORDS));
            let why = format!("is not one of [True, {yes}, False, {no}]");
            Err(refused(key, value, &why))
        }
        _ => Err(wrong_type(key, value, "'boolean', 'string'")),
    }
}

pub(crate) fn flag_or_null(key: &str, value: &Value) -> Result<(), Error> {
    one_of_two(key, value, flag)
}

fn word_of_flag(word: &str) -> Option<bool> {
    if TRUE_WORDS.contains(&word) {
        return Some(true);
    }
    FALSE_WORDS.contains(&word).then_some(false)
}

/// A flag in a query: a word of either list.
pub(crate) fn flag_word(word: &str) -> Option<bool> {
    word_of_flag(word.trim())
}

/// The flag a value stands for, if it is one.
pub(crate) fn flag_of(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::String(text) => word_of_flag(text),
        _ => None,
    }
}

/// One of these words, whatever else the value is.
pub(crate) fn word(key: &str, value: &Value, words: &[&str]) -> Result<(), Error> {
    if value.as_str().is_some_and(|text| words.contains(&text)) {
        Ok(())
    } else {
        let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let why = format!("is not one of [{}]", words.join(", "));
        Err(refused(key, value, &why))
    }
}

/// `rw` or `ro`.
pub(crate) fn attach_mode(key: &str, value: &Value) -> Result<(), Error> {
    string(key, value)?;
    word(key, value, &["rw", "ro"])
}

/// The number a value stands for: itself, or its digits in a text.
pub(crate) fn number_of(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn within(key: &str, value: &Value, least: i64) -> Result<(), Error> {
    // The number itself, whichever way it is written.
    let outside = |number: &str, why: &str, bound: i64| {
        invalid(key, value, &format!("{number} is {why} of {bound}"))
    };
    match number_of(value) {
        Some(number) if number < least => {
            Err(outside(&number.to_string(), "less than the minimum", least))
        }
        Some(0..=NUMBER_MAX) => Ok(()),
        Some(..0) => Ok(()),
        _ => {
            let number = python::str(value);
            Err(outside(&number, "greater than the maximum", NUMBER_MAX))
        }
    }
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

fn size_of(key: &str, value: &Value, expected: &str) -> Result<(), Error> {
    match value {
        Value::Number(number) if !number.is_f64() => within(key, value, 1),
        Value::String(text) if !text.is_empty() && is_digits(text) => within(key, value, 1),
        Value::String(_) => Err(refused(key, value, "does not match '^[0-9]+$'")),
        _ => Err(wrong_type(key, value, expected)),
    }
}

/// GiB: a whole number from 1, or its digits in a text.
pub(crate) fn size(key: &str, value: &Value) -> Result<(), Error> {
    size_of(key, value, "'integer', 'string'")
}

pub(crate) fn size_or_null(key: &str, value: &Value) -> Result<(), Error> {
    is_null_or(value, || size_of(key, value, "'integer', 'string', 'null'"))
}

/// A limit of a quota: a whole number from -1, or digits.
pub(crate) fn limit(key: &str, value: &Value) -> Result<(), Error> {
    match value {
        Value::Number(number) if !number.is_f64() => within(key, value, -1),
        Value::String(text) if !is_digits(text) => {
            Err(refused(key, value, "does not match '^[0-9]*$'"))
        }
        Value::String(text) if text.is_empty() => Err(refused(key, value, "should be non-empty")),
        Value::String(_) => within(key, value, -1),
        _ => Err(wrong_type(key, value, "'integer', 'string'")),
    }
}

/// Bits of a key.
pub(crate) fn key_size(key: &str, value: &Value) -> Result<(), Error> {
    let is_written_so = |text: &str| number_of(value).is_some_and(|size| size.to_string() == text);
    match value {
        Value::Null => Ok(()),
        Value::Number(number) if !number.is_f64() => within(key, value, 0),
        Value::String(text) if is_written_so(text) => within(key, value, 0),
        Value::String(_) => Err(input("key_size must be an integer.")),
        _ => Err(wrong_type(key, value, "'string', 'integer', 'null'")),
    }
}

/// Base64; it is left to others to decode it.
pub(crate) fn base64(key: &str, value: &Value) -> Result<(), Error> {
    let Value::String(text) = value else {
        return Err(wrong_type(key, value, "'string'"));
    };
    let is_in_alphabet = |c: &char| c.is_ascii_alphanumeric() || "+/=".contains(*c);
    match text.chars().filter(is_in_alphabet).count() % 4 {
        _ if text.is_empty() => Err(refused(key, value, "should be non-empty")),
        0 => Ok(()),
        _ => Err(refused(key, value, "is not a 'base64'")),
    }
}

/// The name of a host, or of a backend on it.
pub(crate) fn host(key: &str, value: &Value) -> Result<(), Error> {
    filled_or_null(key, value)?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._#@:/+".contains(c);
    if value.is_null() || python::str(value).chars().all(is_plain) {
        Ok(())
    } else {
        Err(refused(
            key,
            value,
            "does not match '^[a-zA-Z0-9-._#@:/+]*$'",
        ))
    }
}

/// A state by its word, in either case, as Cinder refuses it: `Volume status: x is invalid, …`.
pub(crate) fn status(
    what: &str,
    value: &Value,
    is_valid: impl Fn(&str) -> bool,
    valid: &str,
) -> Result<(), Error> {
    let word = python::str(value);
    if is_valid(&word.to_lowercase()) {
        Ok(())
    } else {
        Err(Error::Invalid(format!(
            "{what} status: {word} is invalid, valid statuses are: {valid}."
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refusal(check: Check, value: Value) -> String {
        check("k", &value).unwrap_err().to_string()
    }

    #[test]
    fn every_kind_is_refused_in_cinders_words() {
        let rows: &[(Check, Value, &str)] = &[
            (uuid, json!("x"), "Value: x. 'x' is not a 'uuid'"),
            (uuid, json!(null), "None is not of type 'string'"),
            (
                uuid_or_null,
                json!(5),
                "5 is not valid under any of the given schemas",
            ),
            (text_or_null, json!(5), "5 is not of type 'string', 'null'"),
            (text, json!("n".repeat(256)), "is too long"),
            (filled, json!(""), "'' should be non-empty"),
            (name, json!("  "), "The 'name' can not be empty."),
            (
                trimmed_name,
                json!("n".repeat(256)),
                "received: The 'name' can not be greater",
            ),
            (trimmed_name_or_null, json!(""), "'' is not valid under any"),
            (description, json!("a\nb"), "'a\\nb' does not match '^["),
            (flag, json!(null), "None is not of type 'boolean', 'string'"),
            (
                flag,
                json!("maybe"),
                "'maybe' is not one of [True, 'True', ",
            ),
            (
                size,
                json!("0"),
                "Value: 0. 0 is less than the minimum of 1",
            ),
            (
                size,
                json!(i64::MAX),
                "is greater than the maximum of 2147483647",
            ),
            (
                size,
                json!("99999999999999999999"),
                "is greater than the maximum of 2147483647",
            ),
            (size, json!("-1"), "'-1' does not match '^[0-9]+$'"),
            (size, json!(1.5), "1.5 is not of type 'integer', 'string'"),
            (size, json!(true), "True is not of type 'integer', 'string'"),
            (
                key_size,
                json!("x"),
                "received: key_size must be an integer.",
            ),
            (key_size, json!(-1), "-1 is less than the minimum of 0"),
            (base64, json!("abc"), "'abc' is not a 'base64'"),
            (host, json!("a b"), "'a b' does not match"),
            (
                metadata,
                json!({"ä": "b"}),
                "'ä' does not match any of the regexes",
            ),
            (
                metadata,
                json!({"": "", "ä": ""}),
                "'', 'ä' do not match any of the regexes",
            ),
            (
                metadata,
                json!({"ä": "b", "a": 1}),
                "attribute a. Value: 1. 1 is not of type 'string'",
            ),
            (metadata, json!(null), "None is not of type 'object'"),
            (
                metadata_or_null,
                json!([]),
                "[] is not of type 'object', 'null'",
            ),
            (specs, json!({"a b": ""}), "'a b' does not match"),
            (
                one_entry,
                json!({"a": "", "b": ""}),
                "has too many properties",
            ),
            (one_spec, json!({}), "{} should be non-empty"),
            (filled_object, json!({}), "{} should be non-empty"),
            (some_texts, json!([]), "[] should be non-empty"),
            (
                some_texts,
                json!(["a", 1]),
                "attribute 1. Value: 1. 1 is not of type 'string'",
            ),
            (
                filled_texts,
                json!(["a", "a"]),
                "['a', 'a'] has non-unique elements",
            ),
            (project_name, json!("n".repeat(65)), "is too long"),
            (user_name, json!(" "), r"' ' does not match '[\\S]+'"),
            (
                boolean_or_null,
                json!("no"),
                "'no' is not of type 'boolean', 'null'",
            ),
            (objects_or_null, json!([5]), "5 is not of type 'object'"),
            (tags, json!("a"), "'a' is not of type 'array'"),
            (tags, json!(["a,b"]), "'a,b' does not match '^[^,/]*$'"),
            (tags, json!([""]), "'' should be non-empty"),
            (
                tags,
                json!(["a", "a"]),
                "['a', 'a'] has non-unique elements",
            ),
            (tags, json!(vec!["a"; 81]), "is too long"),
        ];
        for (check, value, expected) in rows {
            let found = refusal(*check, value.clone());
            assert!(found.contains(expected), "{value}: {found}");
        }
    }

    #[test]
    fn what_is_of_its_kind_passes() {
        let rows: &[(Check, Value)] = &[
            (
                uuid,
                json!("{urn:uuid:3CB4075B-6CB4-4C89-BD60-F6E187218699}"),
            ),
            (uuid_or_null, json!(null)),
            (
                trimmed_name_or_null,
                json!(format!(" {} ", "n".repeat(255))),
            ),
            (trimmed_text_or_null, json!("a\nb")),
            (flag, json!("y")),
            (size, json!("7")),
            (size_or_null, json!(null)),
            (key_size, json!("256")),
            (base64, json!("!!!")),
            (host, json!("node1@lvm#pool")),
            (metadata, json!({"a:b./ -_": "x"})),
            (specs, json!({"a:b": ""})),
            (filled_texts, json!([])),
        ];
        for (check, value) in rows {
            assert!(check("k", value).is_ok(), "{value}");
        }
    }
}
