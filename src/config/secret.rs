//! Texts that never show themselves.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A secret that is not empty: written down, or the first line of a file, `{ file = "PATH" }`. It does not show itself
/// in `Debug`, nor when settings are printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Form")]
pub struct Secret(String);

#[derive(Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "a secret must be a text in quotes, or { file = \"PATH\" }"
)]
enum Form {
    Text(String),
    File { file: PathBuf },
}

impl TryFrom<Form> for Secret {
    type Error = String;

    fn try_from(form: Form) -> Result<Self, String> {
        let (text, origin) = match form {
            Form::Text(text) => (text, "it".to_owned()),
            Form::File { file } => {
                let origin = format!("secret file {}", file.display());
                let text =
                    std::fs::read_to_string(&file).map_err(|error| format!("{origin}: {error}"))?;
                let line = text.lines().next().unwrap_or_default().to_owned();
                (line, format!("{origin}: its first line"))
            }
        };
        // An empty password would let any client log in. The file may just not be written yet.
        if text.trim().is_empty() {
            Err(format!("{origin} is empty"))
        } else {
            Ok(Self(text))
        }
    }
}

impl Secret {
    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<hidden>")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("<hidden>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Section {
        secret: Secret,
    }

    #[test]
    fn a_secret_is_a_text_or_the_first_line_of_a_file_and_shows_neither() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "from a file\nand more\n").unwrap();
        let read = |text: &str| toml::from_str::<Section>(text).map(|section| section.secret);
        let text = read("secret = 'plain'").unwrap();
        assert_eq!(
            (text.expose(), format!("{text:?}").as_str()),
            ("plain", "<hidden>")
        );
        let filed = read(&format!("secret = {{ file = {path:?} }}")).unwrap();
        assert_eq!(filed.expose(), "from a file");
        assert!(read("secret = { file = '/nowhere/at/all' }").is_err());
        // What is empty is no secret.
        for content in ["", "\n", " \nsecret\n", "\r\n"] {
            std::fs::write(&path, content).unwrap();
            let error = read(&format!("secret = {{ file = {path:?} }}")).unwrap_err();
            let error = error.message();
            assert!(error.contains("its first line is empty"), "{error}");
        }
        // Numbers look like none of them to TOML, and so do variables that are digits alone.
        for text in [
            "secret = 918273",
            "secret = true",
            "secret = { path = 'x' }",
        ] {
            let error = read(text).unwrap_err();
            let message = error.message();
            assert!(
                message.contains("text in quotes") && !message.contains("918273"),
                "{message}"
            );
        }
        for text in ["secret = ''", "secret = ' '"] {
            assert!(read(text).is_err_and(|error| error.message().contains("it is empty")));
        }
    }
}
