//! Microversions: what a request asks for, and the versions at which a backup client notices a
//! difference (Cinder reference, 1.5 and 7).

use crate::api::http::fault::Fault;

/// A microversion 3.n, by its n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Microversion(pub(crate) u32);

/// The version of a request without the header.
pub(crate) const BASE: Microversion = Microversion(0);
/// The newest we speak.
pub(crate) const LATEST: Microversion = Microversion(71);

pub(crate) const MESSAGES: Microversion = Microversion(3);
pub(crate) const MESSAGE_PAGES: Microversion = Microversion(5);
pub(crate) const CLUSTERS: Microversion = Microversion(7);
pub(crate) const BACKUP_UPDATE: Microversion = Microversion(9);
pub(crate) const GROUP_TYPES: Microversion = Microversion(11);
pub(crate) const VOLUME_SUMMARY: Microversion = Microversion(12);
pub(crate) const VOLUME_GROUP: Microversion = Microversion(13);
pub(crate) const SNAPSHOT_GROUP: Microversion = Microversion(14);
pub(crate) const METADATA_ETAG: Microversion = Microversion(15);
pub(crate) const BACKUP_PROJECT: Microversion = Microversion(18);
pub(crate) const GROUP_SNAPSHOT_RESET: Microversion = Microversion(19);
pub(crate) const GROUP_RESET: Microversion = Microversion(20);
pub(crate) const VOLUME_PROVIDER: Microversion = Microversion(21);
pub(crate) const VOLUME_DELETE_FORCE: Microversion = Microversion(23);
pub(crate) const WORKERS_CLEANUP: Microversion = Microversion(24);
pub(crate) const GROUP_VOLUMES: Microversion = Microversion(25);
pub(crate) const REPLICATION_CLUSTER: Microversion = Microversion(26);
pub(crate) const ATTACHMENTS: Microversion = Microversion(27);
pub(crate) const SNAPSHOT_SORT_NAME: Microversion = Microversion(30);
pub(crate) const STRICT_FILTERS: Microversion = Microversion(31);
pub(crate) const LOG_LEVELS: Microversion = Microversion(32);
pub(crate) const RESOURCE_FILTERS: Microversion = Microversion(33);
pub(crate) const SIMILAR: Microversion = Microversion(34);
pub(crate) const SUMMARY_METADATA: Microversion = Microversion(36);
pub(crate) const BACKUP_SORT_NAME: Microversion = Microversion(37);
pub(crate) const GROUP_REPLICATION: Microversion = Microversion(38);
pub(crate) const LIMITS_OF_PROJECT: Microversion = Microversion(39);
pub(crate) const SNAPSHOT_USER: Microversion = Microversion(41);
pub(crate) const EXTEND_IN_USE: Microversion = Microversion(42);
pub(crate) const BACKUP_METADATA: Microversion = Microversion(43);
pub(crate) const ATTACHMENT_COMPLETE: Microversion = Microversion(44);
pub(crate) const WITH_COUNT: Microversion = Microversion(45);
pub(crate) const VOLUME_SHARED_TARGETS: Microversion = Microversion(48);
pub(crate) const BACKEND_STATE: Microversion = Microversion(49);
pub(crate) const BACKUP_ZONE: Microversion = Microversion(51);
pub(crate) const STRICT_VOLUMES: Microversion = Microversion(53);
pub(crate) const ATTACHMENT_MODE: Microversion = Microversion(54);
pub(crate) const TRANSFER_SNAPSHOTS: Microversion = Microversion(55);
pub(crate) const BACKUP_USER: Microversion = Microversion(56);
pub(crate) const TRANSFER_HISTORY: Microversion = Microversion(57);
pub(crate) const GROUP_PROJECT: Microversion = Microversion(58);
pub(crate) const VOLUME_CLUSTER: Microversion = Microversion(61);
pub(crate) const DEFAULT_TYPES: Microversion = Microversion(62);
pub(crate) const VOLUME_TYPE_ID: Microversion = Microversion(63);
pub(crate) const CONSUMES_QUOTA: Microversion = Microversion(65);
pub(crate) const SNAPSHOT_NO_FORCE: Microversion = Microversion(66);

impl std::fmt::Display for Microversion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "3.{}", self.0)
    }
}

impl Microversion {
    /// Reads the `OpenStack-API-Version` header. The error holds the version to echo, if any.
    pub(crate) fn from_header(header: Option<&str>) -> Result<Self, (Fault, Option<String>)> {
        let Some(header) = header else {
            return Ok(BASE);
        };
        let element = header
            .split(',')
            .map(str::trim)
            .find(|part| part.contains("volume"));
        let words: Vec<&str> = element.unwrap_or_default().split_whitespace().collect();
        let ["volume", text] = words[..] else {
            return Err((Fault::malformed(), None));
        };
        if text == "latest" {
            return Ok(LATEST);
        }
        let Some((major, minor)) = parse(text) else {
            let message = format!(
                "API Version String {text} is of invalid format. Must be of format MajorNum.MinorNum."
            );
            return Err((Fault::bad_request(message), None));
        };
        match (major, u32::try_from(minor)) {
            (3, Ok(minor)) if minor <= LATEST.0 => Ok(Self(minor)),
            _ => {
                let message = format!(
                    "Version {text} is not supported by the API. Minimum is {BASE} and maximum is {LATEST}."
                );
                let echo = (major >= 3).then(|| text.to_owned());
                Err((Fault::not_acceptable(message), echo))
            }
        }
    }
}

/// `^[1-9]\d*\.([1-9]\d*|0)$`
fn parse(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once('.')?;
    let number = |digits: &str, may_be_zero: bool| {
        let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit())
            && (!digits.starts_with('0') || (may_be_zero && digits == "0"));
        is_plain.then(|| digits.parse().ok()).flatten()
    };
    Some((number(major, false)?, number(minor, true)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_read_as_cinder_reads_it() {
        let version = |header| Microversion::from_header(Some(header)).ok().map(|v| v.0);
        assert_eq!(Microversion::from_header(None).ok(), Some(BASE));
        assert_eq!(version("volume 3.43"), Some(43));
        assert_eq!(version("volume latest"), Some(71));
        assert_eq!(version("volume 3.10,compute 2.1"), Some(10));
        assert_eq!(version("compute 2.1, volume 3.10"), Some(10));
        for bad in [
            "volume 3",
            "volume abc",
            "volume 3.071",
            "volume 3.-1",
            "compute 2.1",
            "Volume 3.1",
            "volume3.5",
            "volume",
            "volume 3.5 x",
            "volume 3.99",
            "volume 2.0",
            "",
        ] {
            assert_eq!(version(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_unsupported_version_is_echoed_unless_it_is_older_than_ours() {
        let echo = |header| Microversion::from_header(Some(header)).unwrap_err().1;
        assert_eq!(echo("volume 3.99").as_deref(), Some("3.99"));
        assert_eq!(echo("volume 4.0").as_deref(), Some("4.0"));
        assert_eq!(echo("volume 2.0"), None);
        assert_eq!(echo("volume abc"), None);
    }
}
