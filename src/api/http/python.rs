//! Values as Python prints them, because Cinder's error texts do (Cinder reference, 1.2). These texts go to the client
//! and into the log, so values under keys of secrets are masked.

use serde_json::Value;

/// Parts of the names of keys whose values are secret, in lower case. Those of oslo's `mask_password` are among them.
const SECRETS: [&str; 9] = [
    "password",
    "passphrase",
    "secret",
    "token",
    "auth_key",
    "admin_pass",
    "adminpass",
    "new_pass",
    "private_key",
];
const MASK: &str = "***";

/// `repr(value)`.
pub(crate) fn repr(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => repr_text(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(repr).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(map) => {
            let entries: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{}: {}", repr_text(key), repr_under(key, value)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

/// `repr` of the value under a key.
pub(crate) fn repr_under(key: &str, value: &Value) -> String {
    if hides(key, value) {
        repr_text(MASK)
    } else {
        repr(value)
    }
}

/// `str` of the value under a key.
pub(crate) fn str_under(key: &str, value: &Value) -> String {
    if hides(key, value) {
        MASK.to_owned()
    } else {
        str(value)
    }
}

/// Whether the value under a key must not be repeated. That there is none is no secret.
fn hides(key: &str, value: &Value) -> bool {
    let key = key.to_ascii_lowercase();
    !value.is_null() && SECRETS.iter().any(|secret| key.contains(secret))
}

/// `repr` of a tuple of words.
pub(crate) fn tuple(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| repr_text(word)).collect();
    format!("({})", words.join(", "))
}

/// `json.dumps(value)`, for texts of ASCII.
pub(crate) fn json(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let entries: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{}: {}", Value::from(key.as_str()), json(value)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
        other => other.to_string(),
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `str(value)`: a text stands without quotes.
pub(crate) fn str(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => repr(other),
    }
}

fn repr_text(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut repr = String::from(quote);
    for character in text.chars() {
        match character {
            '\n' => repr.push_str("\\n"),
            '\r' => repr.push_str("\\r"),
            '\t' => repr.push_str("\\t"),
            '\\' => repr.push_str("\\\\"),
            c if c == quote => {
                repr.push('\\');
                repr.push(c);
            }
            c if c.is_control() => repr.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => repr.push(c),
        }
    }
    repr.push(quote);
    repr
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_print_as_in_python() {
        let value = json!({"volume_id": "a'b", "foo": [1, true, null], "x": "tab\t\"'"});
        assert_eq!(
            repr(&value),
            r#"{'volume_id': "a'b", 'foo': [1, True, None], 'x': 'tab\t"\''}"#
        );
        assert_eq!(str(&json!("plain")), "plain");
    }

    #[test]
    fn secrets_are_masked_wherever_they_stand() {
        let user = json!({"name": "x", "password": "hunter2", "original_password": null});
        let within = r"{'name': 'x', 'password': '***', 'original_password': None}";
        assert_eq!(repr(&user), within);
        assert_eq!(str(&json!([user])), format!("[{within}]"));
        for key in [
            "secret",
            "auth_key",
            "adminPass",
            "X-Auth-Token",
            "auth_password",
        ] {
            for value in [json!("hunter2"), json!(5), json!(["hunter2"])] {
                assert_eq!(repr_under(key, &value), "'***'");
                assert_eq!(str_under(key, &value), "***");
            }
        }
        assert_eq!(repr_under("password", &json!(null)), "None");
        assert_eq!(str_under("name", &json!("x")), "x");
    }
}
