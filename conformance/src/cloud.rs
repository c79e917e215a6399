//! One cloud of `clouds.yaml`: what its settings say, read as openstacksdk reads them.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde_json::{Map, Value};

use crate::http::Trust;

/// One cloud's settings, keys with underscores only, the chosen region's values merged in.
#[derive(Debug, Clone)]
pub(crate) struct Cloud {
    pub(crate) name: String,
    settings: Map<String, Value>,
}

/// Service types, as prefixes of settings that concern block storage only.
const SERVICE_PREFIXES: [&str; 4] = ["block_storage", "volumev3", "volume", "block_store"];

/// A cloud of these settings, without a file.
#[cfg(test)]
pub(crate) fn from_settings(name: &str, settings: Value) -> Result<Cloud> {
    Cloud::find(name, serde_json::json!({"clouds": {name: settings}}))
}

fn with_underscores(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(k, v)| (k.replace('-', "_"), with_underscores(v)))
                .collect(),
        ),
        other => other,
    }
}

impl Cloud {
    pub(crate) fn find(name: &str, mut document: Value) -> Result<Cloud> {
        let Some(clouds) = document.get_mut("clouds").and_then(Value::as_object_mut) else {
            bail!("has no `clouds`");
        };
        let Some(cloud) = clouds.remove(name) else {
            let names: Vec<_> = clouds.keys().map(String::as_str).collect();
            bail!("has no cloud {name:?}, only: {}", names.join(", "));
        };
        let Value::Object(settings) = with_underscores(cloud) else {
            bail!("cloud {name:?} is no mapping");
        };
        let mut cloud = Cloud {
            name: name.to_owned(),
            settings,
        };
        cloud.refuse_unsupported()?;
        cloud.choose_region();
        Ok(cloud)
    }

    fn refuse_unsupported(&self) -> Result<()> {
        for (key, advice) in [
            (
                "profile",
                "write the profile's settings into the cloud itself",
            ),
            ("cloud", "it is the old word for `profile`"),
            ("cert", "client certificates are left out of this tester"),
        ] {
            if self.settings.get(key).is_some_and(|value| !value.is_null()) {
                bail!(
                    "cloud {:?} uses `{key}`, which is not supported: {advice}",
                    self.name
                );
            }
        }
        Ok(())
    }

    /// `regions` may list names or `{name, values}`; without a `region_name` the first counts.
    fn choose_region(&mut self) {
        let Some(Value::Array(regions)) = self.settings.remove("regions") else {
            return;
        };
        let name_of = |region: &Value| scalar(region.get("name").unwrap_or(region));
        let wanted = self.text("region_name");
        let chosen = regions
            .iter()
            .find(|region| wanted.is_none() || name_of(region) == wanted);
        let Some(region) = chosen else { return };
        if let Some(name) = name_of(region) {
            self.settings.insert("region_name".into(), name.into());
        }
        if let Some(values) = region.get("values") {
            let mut settings = Value::Object(std::mem::take(&mut self.settings));
            merge(&mut settings, with_underscores(values.clone()));
            if let Value::Object(settings) = settings {
                self.settings = settings;
            }
        }
    }

    /// A setting of the cloud as text; numbers and booleans are written out.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        self.settings.get(key).and_then(scalar)
    }

    /// A setting of `auth`, or beside `auth` as older files have it.
    pub(crate) fn auth(&self, key: &str) -> Option<String> {
        let auth = self.settings.get("auth").and_then(|auth| auth.get(key));
        auth.and_then(scalar).or_else(|| self.text(key))
    }

    /// A setting for block storage alone, such as `volume_endpoint_override`.
    pub(crate) fn block_storage(&self, key: &str) -> Option<String> {
        SERVICE_PREFIXES
            .iter()
            .find_map(|prefix| self.text(&format!("{prefix}_{key}")))
    }

    /// `public`, `internal` or `admin`.
    pub(crate) fn interface(&self) -> String {
        let named = self
            .block_storage("interface")
            .or_else(|| self.text("interface"));
        let named = named.or_else(|| self.text("endpoint_type"));
        named.map_or("public".into(), |name| {
            name.trim_end_matches("URL").to_owned()
        })
    }

    pub(crate) fn region(&self) -> Option<String> {
        self.block_storage("region_name")
            .or_else(|| self.text("region_name"))
    }

    /// `insecure` wins over `verify`, `verify: false` over `cacert`; `verify` may be a path.
    pub(crate) fn trust(&self) -> Trust {
        let verify = self.text("verify").unwrap_or_else(|| "true".into());
        let insecure = self
            .text("insecure")
            .is_some_and(|value| says(&value, true));
        if insecure || says(&verify, false) {
            return Trust::Anything;
        }
        let path = if says(&verify, true) {
            self.text("cacert")
        } else {
            Some(verify)
        };
        path.map_or(Trust::System, |path| Trust::File(home_expanded(&path)))
    }
}

/// Whether a setting is the boolean, in the words that YAML 1.1 has for it.
fn says(value: &str, flag: bool) -> bool {
    let words = if flag {
        ["true", "yes", "on"]
    } else {
        ["false", "no", "off"]
    };
    words.iter().any(|word| value.eq_ignore_ascii_case(word))
}

fn home_expanded(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => path.into(),
    }
}

/// Empty text counts as absent, as it does for the SDK.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// Lays `over` on `under`: objects merge key by key, anything else replaces.
pub(crate) fn merge(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                merge(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (under, over) => *under = over,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cloud(settings: Value) -> Result<Cloud> {
        from_settings("demo", settings)
    }

    #[test]
    fn a_missing_cloud_and_a_profile_are_refused() {
        let error = Cloud::find("x", json!({"clouds": {"a": {}, "b": {}}})).unwrap_err();
        assert_eq!(error.to_string(), r#"has no cloud "x", only: a, b"#);
        assert!(cloud(json!({"profile": "vexxhost"})).is_err());
        assert!(Cloud::find("x", Value::Null).is_err());
    }

    #[test]
    fn trust_follows_insecure_then_verify_then_cacert() {
        let trust = |settings| cloud(settings).unwrap().trust();
        assert_eq!(trust(json!({})), Trust::System);
        assert_eq!(
            trust(json!({"cacert": "/ca.pem"})),
            Trust::File("/ca.pem".into())
        );
        assert_eq!(
            trust(json!({"verify": "/ca.pem"})),
            Trust::File("/ca.pem".into())
        );
        assert_eq!(
            trust(json!({"verify": false, "cacert": "/ca.pem"})),
            Trust::Anything
        );
        assert_eq!(
            trust(json!({"verify": true, "insecure": "True"})),
            Trust::Anything
        );
    }

    #[test]
    fn a_region_may_bring_its_own_values() {
        let regions = json!(["one", {"name": "two", "values": {"interface": "internal"}}]);
        let first = cloud(json!({"regions": regions})).unwrap();
        assert_eq!(
            (first.region().as_deref(), first.interface().as_str()),
            (Some("one"), "public")
        );
        let second = cloud(json!({"regions": regions, "region_name": "two"})).unwrap();
        assert_eq!(second.interface(), "internal");
    }

    #[test]
    fn settings_of_the_service_win_over_those_of_the_cloud() {
        let settings = json!({"interface": "internal", "volume_interface": "adminURL",
                              "block_storage_endpoint_override": "http://o"});
        let cloud = cloud(settings).unwrap();
        assert_eq!(cloud.interface(), "admin");
        assert_eq!(
            cloud.block_storage("endpoint_override").as_deref(),
            Some("http://o")
        );
    }
}
