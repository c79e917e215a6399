//! Which variables of the environment are settings.

use crate::config::ConfigError;
use std::ffi::OsString;

/// Prefix of the variables that override settings.
pub const ENVIRONMENT_PREFIX: &str = "EMBERVAULT_";
/// The one setting that is in no section, so that its variable has no `__`.
const DATA_DIR: &str = "EMBERVAULT_DATA_DIR";

/// The variables with our prefix.
#[derive(Debug, Default)]
pub struct Variables {
    /// Settings: name and value.
    pub settings: Vec<(String, String)>,
    /// Names of others. Kubernetes sets `EMBERVAULT_PORT`, `EMBERVAULT_SERVICE_HOST` and more for a Service that is called
    /// `embervault`.
    pub ignored: Vec<String>,
}

impl Variables {
    /// Those of this process.
    pub fn of_process() -> Result<Self, ConfigError> {
        Self::among(std::env::vars_os())
    }

    fn among(all: impl Iterator<Item = (OsString, OsString)>) -> Result<Self, ConfigError> {
        let mut found = Self::default();
        for (name, value) in all {
            let Some(name) = name
                .to_str()
                .filter(|name| name.starts_with(ENVIRONMENT_PREFIX))
            else {
                continue;
            };
            if path(name).is_none() {
                found.ignored.push(name.to_owned());
                continue;
            }
            let value = value.into_string().map_err(|_| ConfigError::Setting {
                origin: name.to_owned(),
                message: "its value is not UTF-8".to_owned(),
            })?;
            found.settings.push((name.to_owned(), value));
        }
        found.ignored.sort_unstable();
        Ok(found)
    }

    /// What the user should know about the others.
    pub fn warning(&self) -> Option<String> {
        (!self.ignored.is_empty()).then(|| {
            format!(
                "these variables are not settings and are ignored: {}. The variable of a setting is \
                 EMBERVAULT_SECTION__KEY, with two underscores between section and key, or {DATA_DIR}",
                self.ignored.join(", ")
            )
        })
    }
}

/// The place of the setting that a variable names: `SECTION__KEY`.
pub(super) fn path(name: &str) -> Option<&str> {
    let path = name.strip_prefix(ENVIRONMENT_PREFIX)?;
    (path.contains("__") || name == DATA_DIR).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn among(names: &[(&str, &[u8])]) -> Result<Variables, ConfigError> {
        let all = names.iter().map(|(name, value)| {
            let value = OsString::from_vec(value.to_vec());
            (OsString::from(*name), value)
        });
        Variables::among(all)
    }

    #[test]
    fn only_names_of_settings_are_settings() {
        let found = among(&[
            ("EMBERVAULT_JOBS__LEASE", b"3s"),
            ("EMBERVAULT_DATA_DIR", b"/d"),
            ("EMBERVAULT_PORT", b"tcp://10.0.0.1:8776"),
            ("EMBERVAULT_PORT_8776_TCP_ADDR", b"10.0.0.1"),
            ("EMBERVAULT_SERVICE_HOST", b"10.0.0.1"),
            ("EMBERVAULT_API_SERVICE_PORT", b"8776"),
            ("HOME", b"\xff"),
            ("EMBERVAULT_PORT_X", b"\xff"),
        ])
        .unwrap();
        let names: Vec<&str> = found
            .settings
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(names, ["EMBERVAULT_JOBS__LEASE", "EMBERVAULT_DATA_DIR"]);
        assert_eq!(found.ignored.len(), 5);
        let warning = found.warning().unwrap();
        assert!(warning.contains("EMBERVAULT_SERVICE_HOST"), "{warning}");
        assert!(!warning.contains("10.0.0.1"), "{warning}");
        assert_eq!(among(&[("PATH", b"x")]).unwrap().warning(), None);
    }

    #[test]
    fn a_setting_that_is_not_utf_8_is_named() {
        let error = among(&[("EMBERVAULT_API__LISTEN", b"hunter\xff")]).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("EMBERVAULT_API__LISTEN") && !error.contains("hunter"),
            "{error}"
        );
    }
}
