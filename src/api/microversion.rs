//! Microversions: what a request asks for, and the versions at which a backup client notices a
//! difference (Cinder reference, 1.5 and 7).

use crate::api::fault::Fault;

/// A microversion 3.n, by its n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Microversion(pub(super) u32);

/// What a request without the header gets.
pub(super) const BASE: Microversion = Microversion(0);
/// The newest we speak.
pub(super) const LATEST: Microversion = Microversion(71);

pub(super) const MESSAGES: Microversion = Microversion(3);
pub(super) const CLUSTERS: Microversion = Microversion(7);
pub(super) const BACKUP_UPDATE: Microversion = Microversion(9);
pub(super) const VOLUME_GROUP: Microversion = Microversion(13);
pub(super) const SNAPSHOT_GROUP: Microversion = Microversion(14);
pub(super) const VOLUME_SUMMARY: Microversion = Microversion(12);
pub(super) const METADATA_ETAG: Microversion = Microversion(15);
pub(super) const SUMMARY_METADATA: Microversion = Microversion(36);
pub(super) const DEFAULT_TYPES: Microversion = Microversion(62);
pub(super) const EXTEND_IN_USE: Microversion = Microversion(42);
pub(super) const GROUP_TYPES: Microversion = Microversion(11);
pub(super) const GROUP_SNAPSHOT_RESET: Microversion = Microversion(19);
pub(super) const GROUP_RESET: Microversion = Microversion(20);
pub(super) const GROUP_VOLUMES: Microversion = Microversion(25);
pub(super) const GROUP_REPLICATION: Microversion = Microversion(38);
pub(super) const TRANSFER_SNAPSHOTS: Microversion = Microversion(55);
pub(super) const TRANSFER_HISTORY: Microversion = Microversion(57);
pub(super) const GROUP_PROJECT: Microversion = Microversion(58);
pub(super) const BACKUP_PROJECT: Microversion = Microversion(18);
pub(super) const VOLUME_PROVIDER: Microversion = Microversion(21);
pub(super) const VOLUME_DELETE_FORCE: Microversion = Microversion(23);
pub(super) const ATTACHMENTS: Microversion = Microversion(27);
pub(super) const SNAPSHOT_SORT_NAME: Microversion = Microversion(30);
pub(super) const STRICT_FILTERS: Microversion = Microversion(31);
pub(super) const RESOURCE_FILTERS: Microversion = Microversion(33);
pub(super) const SIMILAR: Microversion = Microversion(34);
pub(super) const BACKUP_SORT_NAME: Microversion = Microversion(37);
pub(super) const LIMITS_OF_PROJECT: Microversion = Microversion(39);
pub(super) const SNAPSHOT_USER: Microversion = Microversion(41);
pub(super) const BACKUP_METADATA: Microversion = Microversion(43);
pub(super) const ATTACHMENT_COMPLETE: Microversion = Microversion(44);
pub(super) const WITH_COUNT: Microversion = Microversion(45);
pub(super) const VOLUME_SHARED_TARGETS: Microversion = Microversion(48);
pub(super) const BACKEND_STATE: Microversion = Microversion(49);
pub(super) const BACKUP_ZONE: Microversion = Microversion(51);
pub(super) const STRICT_VOLUMES: Microversion = Microversion(53);
pub(super) const ATTACHMENT_MODE: Microversion = Microversion(54);
pub(super) const BACKUP_USER: Microversion = Microversion(56);
pub(super) const VOLUME_CLUSTER: Microversion = Microversion(61);
pub(super) const VOLUME_TYPE_ID: Microversion = Microversion(63);
pub(super) const CONSUMES_QUOTA: Microversion = Microversion(65);
pub(super) const SNAPSHOT_NO_FORCE: Microversion = Microversion(66);

impl std::fmt::Display for Microversion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "3.{}", self.0)
    }
}

impl Microversion {
    /// Reads the `OpenStack-API-Version` header. The error holds the version to echo, if any.
    pub(super) fn from_header(header: Option<&str>) -> Result<Self, (Fault, Option<String>)> {
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
