//! Why settings cannot be used: where and what, but never what stands there, which may be a secret in the
//! wrong place or without its quotes.

use std::path::{Path, PathBuf};

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
    #[error("{origin}: {message}")]
    Setting { origin: String, message: String },
}

/// Says which setting is wrong, and for an unknown key which known one is nearest.
pub(super) fn explain(
    file: Option<&Path>,
    variables: &[String],
    error: &serde_path_to_error::Error<toml::de::Error>,
) -> ConfigError {
    let message = error.inner().message().to_owned();
    let mut quoted = message.split('`').skip(1).step_by(2);
    let hint = match (message.starts_with("unknown field"), quoted.next()) {
        (true, Some(unknown)) => quoted
            .max_by(|a, b| {
                strsim::jaro_winkler(a, unknown).total_cmp(&strsim::jaro_winkler(b, unknown))
            })
            .map(|nearest| format!("unknown setting `{unknown}`; did you mean `{nearest}`?")),
        _ => None,
    };
    let origin = match (file, variables) {
        (Some(file), []) => file.display().to_string(),
        (Some(file), names) => format!("{} with {}", file.display(), names.join(", ")),
        (None, names) => names.join(", "),
    };
    ConfigError::Setting {
        origin: format!("{origin}: {}", error.path()),
        message: hint.unwrap_or_else(|| without_value(&message)),
    }
}

/// Where in a TOML text an error is, and what it is. What stands there is not repeated: it may be a password
/// that lacks its quotes.
pub fn without_content(text: &str, error: &toml::de::Error) -> String {
    let message = without_value(error.message());
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else {
        return message;
    };
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    format!("line {line}, column {column}: {message}")
}

/// A message of serde without the value that it is about, which may be a secret in the wrong place.
fn without_value(message: &str) -> String {
    let starts = ["invalid type", "invalid value", "unknown variant"];
    let start = starts.iter().find(|start| message.starts_with(**start));
    match (start, message.rsplit_once(", expected ")) {
        (Some(start), Some((_, expected))) => format!("{start}, expected {expected}"),
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::load;

    #[test]
    fn errors_say_where_and_what_but_not_the_value() {
        for (text, expected) in [
            (
                "\n[identity.keystone]\npassword = hunter2\n",
                "line 3, column 12: string values must be quoted",
            ),
            (
                "'é' = 'a'\n'é' = 'hunter2'",
                "line 2, column 1: duplicate key",
            ),
            ("x = \"\"\"hunter2", "line 1, column"),
            (
                "quota.volumes = 'hunter2'",
                "quota.volumes: invalid type, expected i64",
            ),
            (
                "jobs.lease = 'hunter2'",
                "jobs.lease: invalid value, expected a duration",
            ),
            (
                "identity.users = ['hunter2']",
                "identity.users[0]: invalid type, expected struct",
            ),
            (
                "identity.mode = 'hunter2, expected x'",
                "unknown variant, expected `embedded` or",
            ),
            (
                "engine.compression = 'hunter2'",
                "engine.compression: use \"zstd:1\" to",
            ),
            ("engine.memory = 'hunter2'", "engine.memory: invalid value"),
            (
                "identity.keystone.password = 5",
                "identity.keystone.password: ",
            ),
            (
                "database.url = 'postgresql://u:hunter2/@h/n'",
                "database.url: it is neither sqlite:PATH nor postgresql://",
            ),
            (
                "database.url = 'host=h password=hunter2'",
                "database.url: it is neither",
            ),
            (
                "storage.a = { url = 's3://b', s3.endpoint = 'hunter2' }",
                "storage.a.s3.endpoint: it is no URL",
            ),
            (
                "storage.a.url = 's3://hunter2@b'",
                "storage.a.url: no password",
            ),
            (
                "identity.keystone.auth_url = 'http://h/v3?key=hunter2'",
                "identity.keystone.auth_url: no password",
            ),
            (
                "storage.a.url = 'webdav+https://u:hunter2@h/x'",
                "storage.a.url: no password",
            ),
            (
                "storage.a = { url = 's3://b', s3.endpoint = 'http://u:hunter2@h' }",
                "storage.a.s3.endpoint: no password",
            ),
            (
                "api.public_endpoint = 'https://u:hunter2@h'",
                "api.public_endpoint: no password",
            ),
            (
                "storage.a = { url = 's3://u:hunter2@b', sftp.user = 'x' }",
                "storage.a.url: no password",
            ),
        ] {
            let error = load(text, &[]).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
        for (name, value) in [
            ("EMBERVAULT_IDENTITY__KEYSTONE__PASSWORD", "{ hunter2 = 1 }"),
            ("EMBERVAULT_IDENTITY__USERS", "hunter2"),
            ("EMBERVAULT_DATABASE__URL", "postgresql://u:%hunter2@h/n"),
        ] {
            let error = load("", &[(name, value)]).unwrap_err().to_string();
            assert!(
                error.contains(name) || error.contains("database.url"),
                "{error}"
            );
            assert!(!error.contains("hunter2"), "{error}");
        }
        let url = "database.url = 'postgresql://u:hunter2@h/n?password=hunter2'";
        let config = load(url, &[]).unwrap();
        assert!(config.database_url().contains("u:hunter2@"));
        assert!(!toml::to_string(&config).unwrap().contains("hunter2"));
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
