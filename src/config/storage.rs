//! Backup storages: one section each, `[storage.<name>]`.

use crate::config::Secret;
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// The kind of a storage, as the scheme of its URL names it. A section of options has the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Fs,
    S3,
    Swift,
    Sftp,
    Webdav { tls: bool },
    Gcs,
    Azblob,
}

impl Scheme {
    /// The kind of URLs that begin with this scheme.
    pub fn parse(scheme: &str) -> Option<Self> {
        match scheme {
            "fs" => Some(Self::Fs),
            "s3" => Some(Self::S3),
            "swift" => Some(Self::Swift),
            "sftp" => Some(Self::Sftp),
            "webdav+http" => Some(Self::Webdav { tls: false }),
            "webdav+https" => Some(Self::Webdav { tls: true }),
            "gcs" => Some(Self::Gcs),
            "azblob" => Some(Self::Azblob),
            _ => None,
        }
    }

    /// The section of its options; a directory has none.
    fn section(self) -> Option<&'static str> {
        match self {
            Self::Fs => None,
            Self::S3 => Some("s3"),
            Self::Swift => Some("swift"),
            Self::Sftp => Some("sftp"),
            Self::Webdav { .. } => Some("webdav"),
            Self::Gcs => Some("gcs"),
            Self::Azblob => Some("azblob"),
        }
    }
}

/// One backup storage.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// `fs:DIRECTORY`, `s3://BUCKET`, `swift://CONTAINER`, `sftp://HOST:PORT/DIRECTORY`,
    /// `webdav+https://HOST/FOLDER`, `gcs://BUCKET` or `azblob://CONTAINER`; a folder may follow
    /// bucket and container.
    pub url: String,
    /// New backups go here; needed when several storages are configured.
    #[serde(default)]
    pub default: bool,
    /// Further certificate authorities to trust, a PEM file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Time limit of one try of a call.
    #[serde(default = "timeout", with = "humantime_serde")]
    pub timeout: Duration,
    /// How long a call is retried when it fails for a temporary reason.
    #[serde(default = "retry_for", with = "humantime_serde")]
    pub retry_for: Duration,
    /// Most calls of this process at once.
    #[serde(default = "calls")]
    pub calls: usize,
    /// Most bytes per second that this process sends to the storage; 0 is unlimited.
    #[serde(default)]
    pub upload_limit: ByteSize,
    /// Most bytes per second that this process reads from the storage; 0 is unlimited.
    #[serde(default)]
    pub download_limit: ByteSize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swift: Option<Swift>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sftp: Option<Sftp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webdav: Option<Webdav>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<Gcs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azblob: Option<Azblob>,
}

fn timeout() -> Duration {
    Duration::from_secs(60)
}

fn retry_for() -> Duration {
    Duration::from_secs(120)
}

fn calls() -> usize {
    32
}

/// S3 and compatible servers: AWS, Ceph's gateway, MinIO, Garage.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3 {
    /// `https://HOST[:PORT]`. Default: AWS.
    pub endpoint: Option<String>,
    /// Default: `us-east-1`, which most other servers accept.
    pub region: Option<String>,
    /// Default: the keys of the environment, of the AWS profile or of the machine's role.
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<Secret>,
    /// Whether the bucket is part of the host name.
    pub virtual_host_style: bool,
    /// Send a CRC32C with each object; the server compares it with what arrived.
    pub checksums: bool,
}

impl Default for S3 {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            access_key_id: None,
            secret_access_key: None,
            virtual_host_style: false,
            checksums: true,
        }
    }
}

/// OpenStack Swift, or Ceph's gateway under Swift's API.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Swift {
    /// Keystone (`https://HOST/v3`) or Swift's own log-in (`https://HOST/auth/v1.0`).
    pub auth_url: String,
    /// `ACCOUNT:USER` for Swift's own log-in.
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// Name of the project; Keystone only.
    pub project: Option<String>,
    /// Domain of user and project. Default: `Default`.
    pub domain: Option<String>,
    /// Used instead of user, password and project.
    pub application_credential_id: Option<String>,
    pub application_credential_secret: Option<Secret>,
    /// Region of the `object-store` endpoint. Default: the first one.
    pub region: Option<String>,
}

/// A directory of another machine, through its SSH server and the program `ssh` of this one.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sftp {
    pub user: Option<String>,
    /// Private key without passphrase. Default: the keys that `ssh` finds.
    pub key_file: Option<PathBuf>,
    /// Trust and remember an unknown host. A host whose key has changed is always refused.
    pub accept_new_host: bool,
}

/// WebDAV.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webdav {
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// A bearer token, used instead of both.
    pub token: Option<Secret>,
}

/// Google Cloud Storage.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gcs {
    /// Default: Google's.
    pub endpoint: Option<String>,
    /// JSON file of a service account. Default: `GOOGLE_APPLICATION_CREDENTIALS` or the machine's account.
    pub credential_file: Option<PathBuf>,
    /// Do not sign requests; for emulators.
    pub anonymous: bool,
}

/// Azure Blob Storage.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Azblob {
    /// `https://ACCOUNT.blob.core.windows.net`.
    pub endpoint: Option<String>,
    pub account_name: Option<String>,
    pub account_key: Option<Secret>,
}

impl Storage {
    /// A storage of which only the URL is said.
    pub fn at(url: String) -> Self {
        Self {
            url,
            default: false,
            ca_file: None,
            timeout: timeout(),
            retry_for: retry_for(),
            calls: calls(),
            upload_limit: ByteSize(0),
            download_limit: ByteSize(0),
            s3: None,
            swift: None,
            sftp: None,
            webdav: None,
            gcs: None,
            azblob: None,
        }
    }

    /// Its URLs, by their setting.
    pub(super) fn urls(&self) -> [(&'static str, Option<&str>); 5] {
        let (s3, gcs, azblob) = (&self.s3, &self.gcs, &self.azblob);
        [
            ("url", Some(&self.url)),
            (
                "s3.endpoint",
                s3.as_ref().and_then(|s3| s3.endpoint.as_deref()),
            ),
            (
                "swift.auth_url",
                self.swift.as_ref().map(|swift| swift.auth_url.as_str()),
            ),
            (
                "gcs.endpoint",
                gcs.as_ref().and_then(|gcs| gcs.endpoint.as_deref()),
            ),
            (
                "azblob.endpoint",
                azblob
                    .as_ref()
                    .and_then(|azblob| azblob.endpoint.as_deref()),
            ),
        ]
    }

    /// Checks its options: that they belong to its kind, and that calls are allowed.
    pub(super) fn check(&self) -> Result<(), String> {
        let scheme = self.url.split(':').next().and_then(Scheme::parse);
        let own = scheme.and_then(Scheme::section);
        let sections = [
            ("s3", self.s3.is_some()),
            ("swift", self.swift.is_some()),
            ("sftp", self.sftp.is_some()),
            ("webdav", self.webdav.is_some()),
            ("gcs", self.gcs.is_some()),
            ("azblob", self.azblob.is_some()),
        ];
        if let Some((foreign, _)) = sections
            .iter()
            .find(|(name, is_given)| *is_given && Some(*name) != own)
        {
            return Err(format!(
                "options of {foreign} do not belong to a storage of its URL"
            ));
        }
        if self.calls == 0 {
            return Err("calls must not be zero".to_owned());
        }
        Ok(())
    }
}
