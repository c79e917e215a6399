//! Microversions of block storage, and the version document they are negotiated from.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use crate::url;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Microversion {
    major: u16,
    minor: u16,
}

/// What openstacksdk asks for at most when it handles backups.
pub(crate) const BACKUP: Microversion = Microversion::new(3, 64);
/// What openstacksdk asks for at most when it handles volumes.
pub(crate) const VOLUME: Microversion = Microversion::new(3, 71);
/// Attachments with a mode, read-only or read-write.
pub(crate) const ATTACHMENT: Microversion = Microversion::new(3, 54);

impl Microversion {
    const fn new(major: u16, minor: u16) -> Microversion {
        Microversion { major, minor }
    }
}

impl FromStr for Microversion {
    type Err = ();

    fn from_str(text: &str) -> Result<Microversion, ()> {
        let (major, minor) = text.split_once('.').ok_or(())?;
        let number = |text: &str| text.parse().map_err(|_| ());
        Ok(Microversion {
            major: number(major)?,
            minor: number(minor)?,
        })
    }
}

impl fmt::Display for Microversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Version 3 of block storage as its version document tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Discovered {
    /// Where the document says version 3 is; no slash at its end.
    pub(crate) url: String,
    /// None where the service has no microversions.
    pub(crate) max: Option<Microversion>,
}

impl Discovered {
    pub(crate) fn read(document: &Value, found_at: &str) -> Option<Discovered> {
        let single = document.get("version").map(std::slice::from_ref);
        let several = document
            .get("versions")
            .and_then(Value::as_array)
            .map(Vec::as_slice);
        let version = several.or(single)?.iter().find(|version| {
            version["id"]
                .as_str()
                .is_some_and(|id| id == "v3" || id.starts_with("v3."))
        })?;
        let links = version["links"].as_array();
        let own = links.and_then(|links| links.iter().find(|link| link["rel"] == "self"));
        let own = own
            .and_then(|link| link["href"].as_str())
            .unwrap_or(found_at);
        Some(Discovered {
            url: url::join(found_at, own).trim_end_matches('/').to_owned(),
            max: version["version"]
                .as_str()
                .and_then(|text| text.parse().ok()),
        })
    }
}

/// What to send of what is wanted, given the server's maximum.
pub(crate) fn negotiated(wanted: Microversion, max: Option<Microversion>) -> Option<Microversion> {
    max.map(|max| max.min(wanted))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn version(text: &str) -> Option<Microversion> {
        text.parse().ok()
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(version("3.9") < version("3.10"));
        assert!(version("3.71") < version("4.0"));
        assert_eq!(version("3.64").unwrap().to_string(), "3.64");
        assert_eq!(
            (version("3"), version(""), version("3.x")),
            (None, None, None)
        );
    }

    #[test]
    fn the_lower_of_wanted_and_offered_is_sent() {
        assert_eq!(negotiated(BACKUP, version("3.71")), version("3.64"));
        assert_eq!(negotiated(VOLUME, version("3.71")), version("3.71"));
        assert_eq!(negotiated(BACKUP, version("3.9")), version("3.9"));
        assert_eq!(negotiated(BACKUP, None), None);
    }

    #[test]
    fn cinders_document_is_read() {
        let document = json!({"versions": [{"id": "v3.0", "status": "CURRENT", "version": "3.71",
            "min_version": "3.0", "links": [{"rel": "describedby", "href": "https://docs/"},
            {"rel": "self", "href": "http://c/volume/v3/"}]}]});
        let found = Discovered::read(&document, "http://c/volume/").unwrap();
        assert_eq!(
            found,
            Discovered {
                url: "http://c/volume/v3".into(),
                max: version("3.71")
            }
        );
    }

    #[test]
    fn a_document_without_microversions_or_version_3_is_understood() {
        let document = json!({"versions": [{"id": "v3.0", "version": "", "links": []}]});
        let found = Discovered::read(&document, "http://c/v3/").unwrap();
        assert_eq!(
            found,
            Discovered {
                url: "http://c/v3".into(),
                max: None
            }
        );
        assert_eq!(
            Discovered::read(&json!({"versions": [{"id": "v2.0"}]}), "http://c/"),
            None
        );
        assert_eq!(Discovered::read(&json!({"error": {}}), "http://c/"), None);
    }
}
