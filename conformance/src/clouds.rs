//! `clouds.yaml`: where openstacksdk looks for it, and how `secure.yaml` is merged into it. What a
//! cloud in it says is [`Cloud`]'s.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use crate::cloud::{Cloud, merge};
use crate::log;

/// What the search depends on.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    pub(crate) directory: PathBuf,
    pub(crate) variable: fn(&str) -> Option<OsString>,
}

/// Reads the cloud `name` from the first file found; a missing cloud names those there are.
pub(crate) fn load(name: &str, surroundings: &Surroundings) -> Result<Cloud> {
    let places = surroundings.candidates("clouds", "OS_CLIENT_CONFIG_FILE");
    let Some((path, mut document)) = first_document(&places)? else {
        let places: Vec<_> = places
            .iter()
            .map(|place| place.display().to_string())
            .collect();
        bail!("no clouds.yaml found; looked for {}", places.join(", "));
    };
    log::debug(format_args!("clouds are read from {}", path.display()));
    let secure = surroundings.candidates("secure", "OS_CLIENT_SECURE_FILE");
    if let Some((path, secrets)) = first_document(&secure)? {
        log::debug(format_args!("secrets are read from {}", path.display()));
        merge(&mut document, secrets);
    }
    Cloud::find(name, document).with_context(|| path.display().to_string())
}

impl Surroundings {
    /// Of this process.
    pub(crate) fn own() -> Result<Surroundings> {
        let directory = std::env::current_dir().context("no current directory")?;
        Ok(Surroundings {
            directory,
            variable: |name| std::env::var_os(name),
        })
    }

    /// The files to try, in order; `override_variable` may name one that goes first.
    fn candidates(&self, stem: &str, override_variable: &str) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self.path(override_variable).into_iter().collect();
        for directory in self.directories() {
            for suffix in ["yaml", "yml", "json"] {
                files.push(directory.join(format!("{stem}.{suffix}")));
            }
        }
        files
    }

    fn directories(&self) -> Vec<PathBuf> {
        let mut directories = vec![self.directory.clone()];
        directories.extend(
            self.path("XDG_CONFIG_HOME")
                .map(|home| home.join("openstack")),
        );
        let home = self.path("SNAP_REAL_HOME").or_else(|| self.path("HOME"));
        directories.extend(home.map(|home| home.join(".config/openstack")));
        let site = self
            .path("XDG_CONFIG_DIRS")
            .unwrap_or_else(|| "/etc/xdg".into());
        directories.extend(std::env::split_paths(&site).map(|site| site.join("openstack")));
        directories.push("/etc/openstack".into());
        directories
    }

    fn path(&self, variable: &str) -> Option<PathBuf> {
        (self.variable)(variable)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    }
}

/// The first file that is there and may be read. Files after it do not count, even for clouds
/// that it lacks; a file that does not parse is an error and not passed over.
fn first_document(candidates: &[PathBuf]) -> Result<Option<(PathBuf, Value)>> {
    for path in candidates {
        match fs::read_to_string(path) {
            Ok(text) => {
                let document = parse(path, &text).with_context(|| path.display().to_string())?;
                return Ok(Some((path.clone(), document)));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                log::warning(format_args!("{} may not be read, going on", path.display()));
            }
            Err(error) => return Err(error).context(path.display().to_string()),
        }
    }
    Ok(None)
}

fn parse(path: &Path, text: &str) -> Result<Value> {
    if path
        .extension()
        .is_some_and(|extension| extension == "json")
    {
        return Ok(serde_json::from_str(text)?);
    }
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    // The parser's own report quotes lines of the file, which holds passwords.
    serde_saphyr::from_str(text).map_err(|error| match error.location() {
        Some(at) => anyhow!("no valid YAML at line {} column {}", at.line(), at.column()),
        None => anyhow!("no valid YAML"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::http::Trust;

    #[test]
    fn the_search_goes_from_the_variable_to_etc() {
        fn variable(name: &str) -> Option<OsString> {
            match name {
                "HOME" => Some("/home/me".into()),
                "OS_CLIENT_CONFIG_FILE" => Some("/else/my.yaml".into()),
                _ => None,
            }
        }
        let surroundings = Surroundings {
            directory: "/here".into(),
            variable,
        };
        let files = surroundings.candidates("clouds", "OS_CLIENT_CONFIG_FILE");
        let expected = [
            "/else/my.yaml",
            "/here/clouds.yaml",
            "/here/clouds.yml",
            "/here/clouds.json",
        ];
        assert_eq!(files[..4], expected.map(PathBuf::from));
        assert_eq!(
            files[4],
            PathBuf::from("/home/me/.config/openstack/clouds.yaml")
        );
        assert_eq!(
            files.last(),
            Some(&PathBuf::from("/etc/openstack/clouds.json"))
        );
        let secure = surroundings.candidates("secure", "OS_CLIENT_SECURE_FILE");
        assert_eq!(secure[0], PathBuf::from("/here/secure.yaml"));
    }

    #[test]
    fn an_empty_variable_names_no_file() {
        let surroundings = Surroundings {
            directory: "/here".into(),
            variable: |_| Some("".into()),
        };
        let files = surroundings.candidates("clouds", "OS_CLIENT_CONFIG_FILE");
        assert_eq!(files[0], PathBuf::from("/here/clouds.yaml"));
    }

    #[test]
    fn secrets_are_merged_deeply() {
        let mut document =
            json!({"clouds": {"demo": {"auth": {"username": "u", "password": "old"}}}});
        merge(
            &mut document,
            json!({"clouds": {"demo": {"auth": {"password": "new"}}, "b": {}}}),
        );
        let cloud = Cloud::find("demo", document).unwrap();
        assert_eq!(cloud.auth("username").as_deref(), Some("u"));
        assert_eq!(cloud.auth("password").as_deref(), Some("new"));
    }

    #[test]
    fn yaml_is_read_with_anchors_and_hyphens() {
        let text = "x: &auth\n  auth-url: http://c\nclouds:\n  demo:\n    region-name: R\n    auth:\n      \
                    <<: *auth\n      password: 12345\n    verify: no\n";
        let cloud = Cloud::find("demo", parse(Path::new("clouds.yaml"), text).unwrap()).unwrap();
        assert_eq!(cloud.auth("auth_url").as_deref(), Some("http://c"));
        assert_eq!(cloud.auth("password").as_deref(), Some("12345"));
        assert_eq!(cloud.region().as_deref(), Some("R"));
        assert_eq!(cloud.trust(), Trust::Anything);
    }

    #[test]
    fn broken_yaml_is_reported_without_quoting_it() {
        let error = parse(Path::new("c.yaml"), "clouds:\n  a: [hunter2\n  b: }").unwrap_err();
        assert!(!format!("{error:#}").contains("hunter2"), "{error:#}");
    }

    #[test]
    fn only_the_first_file_found_counts() {
        let directory =
            std::env::temp_dir().join(format!("clouds-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&directory).unwrap();
        fs::write(
            directory.join("clouds.yml"),
            "clouds: {a: {auth_type: token}}",
        )
        .unwrap();
        fs::write(directory.join("clouds.json"), r#"{"clouds": {"b": {}}}"#).unwrap();
        fs::write(
            directory.join("secure.yaml"),
            "clouds: {a: {auth: {token: t}}}",
        )
        .unwrap();
        let surroundings = Surroundings {
            directory: directory.clone(),
            variable: |_| None,
        };
        let (found, missing) = (load("a", &surroundings), load("b", &surroundings));
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(found.unwrap().auth("token").as_deref(), Some("t"));
        assert!(format!("{:#}", missing.unwrap_err()).ends_with("has no cloud \"b\", only: a"));
    }
}
