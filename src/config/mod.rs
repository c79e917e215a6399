//! Settings: plain data that a user may write down. Defaults, then one TOML file, then
//! `EMBERVAULT_<SECTION>__<KEY>` variables, then a few command-line flags.

mod cinder;
mod durations;
mod engine;
mod environment;
mod error;
mod hidden;
mod identity;
mod jobs;
mod maintenance;
mod memory;
mod secret;
mod storage;
mod url;

pub use cinder::{Brick, Cinder, Rbd, VolumesMode};
pub use engine::{Compression, Engine, META_SHARE, Share, thread_bytes};
pub use environment::{ENVIRONMENT_PREFIX, Variables};
pub use error::{ConfigError, without_content};
pub use hidden::without_passwords;
pub use identity::{ConfiguredUser, Identity, IdentityMode, KeystoneSettings, Policy};
pub use jobs::Jobs;
pub use maintenance::Maintenance;
pub use memory::{PASSWORDS_AT_ONCE, RequestMemory, UPKEEP_BYTES};
pub use secret::Secret;
pub use storage::{Azblob, Gcs, S3, Scheme, Sftp, Storage, Swift, Webdav};
pub use url::DatabaseUrl;

use crate::config::error::explain;
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name of the storage that exists when none is configured.
pub const DEFAULT_STORAGE: &str = "local";

/// All settings.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the database, keys, volumes and the default storage live. Default `./embervault-data`.
    pub data_dir: DataDir,
    pub api: Api,
    pub database: Database,
    pub identity: Identity,
    pub policy: Policy,
    pub volumes: Volumes,
    pub cinder: Cinder,
    /// Backup storages by name; without any, a directory `storage` inside the data directory.
    pub storage: BTreeMap<String, Storage>,
    pub engine: Engine,
    pub jobs: Jobs,
    pub maintenance: Maintenance,
    pub metrics: Metrics,
    pub quota: Quota,
    pub log: Log,
}

/// A directory with a default.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DataDir(pub PathBuf);

impl Default for DataDir {
    fn default() -> Self {
        Self(PathBuf::from("./embervault-data"))
    }
}

/// The HTTP server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Api {
    /// Address and port to listen on. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Base of links and of catalogue entries: what clients reach when a proxy stands in front.
    pub public_endpoint: Option<String>,
    /// Trust the headers of a proxy: the last element of `Forwarded` or `X-Forwarded-…`. If the two disagree, neither is
    /// trusted. Set it behind a proxy, and only there. Without it all clients behind the proxy are one address: wrong
    /// passwords of one make log-ins wait for all, and so does one who logs in without end.
    pub proxy_headers: bool,
    pub cors: Cors,
    /// Most connections at once, from all addresses together; further ones wait. Each uses one of the files that
    /// the process may open.
    pub connections_max: usize,
    /// How long a client may take to send the head of a request, to send its body, and to take the
    /// answer, which has a second more for each 16 KiB that it has taken. A new connection without a request is closed
    /// after this time, one that has had an answer after 5 seconds.
    #[serde(with = "humantime_serde")]
    pub client_timeout: Duration,
    /// Largest request body. All bodies that are on their way take at most 32 times as much memory.
    pub body_bytes_max: ByteSize,
    /// Largest page of a list, and its default.
    pub page_items_max: usize,
    /// A page of a list ends early, with a link to the next one, where its metadata would take more. All lists that are made
    /// or wait for their clients take at most 36 times as much memory, and 512 KiB count at least.
    pub page_bytes_max: ByteSize,
    /// Most keys in the metadata of one object, in the specs of a type, and in the properties of an image.
    pub metadata_items_max: usize,
    /// Most bytes of these keys and values together. All other requests and their answers take at most 128 times as much
    /// memory, and 64 KiB count at least.
    pub metadata_bytes_max: ByteSize,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8776)),
            public_endpoint: None,
            proxy_headers: false,
            cors: Cors::default(),
            connections_max: 512,
            client_timeout: Duration::from_secs(30),
            body_bytes_max: ByteSize(114_688),
            page_items_max: 1000,
            page_bytes_max: ByteSize::kib(512),
            metadata_items_max: 1024,
            metadata_bytes_max: ByteSize::kib(64),
        }
    }
}

impl Api {
    /// Whether clients seem to come through a proxy that is not asked for their addresses.
    pub fn mistakes_proxy_for_client(&self) -> bool {
        self.public_endpoint.is_some() && !self.proxy_headers
    }

    fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.page_items_max == 0 {
            return Err(("api.page_items_max", "must be at least 1"));
        }
        if self.metadata_items_max == 0 {
            return Err(("api.metadata_items_max", "must be at least 1"));
        }
        if self.metadata_bytes_max.as_u64() == 0 {
            return Err(("api.metadata_bytes_max", "must be at least 1"));
        }
        if !(1..=1_000_000).contains(&self.connections_max) {
            return Err(("api.connections_max", "must be 1 to 1000000"));
        }
        if !self
            .cors
            .allowed_origins
            .iter()
            .all(|origin| is_origin(origin))
        {
            return Err((
                "api.cors.allowed_origins",
                "each must be `*` or scheme, host and port alone, such as https://dashboard.example.com",
            ));
        }
        Ok(())
    }
}

/// Whether a browser may send this as an origin. It has no user and no password, and is shown in answers.
fn is_origin(text: &str) -> bool {
    let host = text.split_once("://").map(|(_, host)| host);
    text == "*" || host.is_some_and(|host| !host.is_empty() && !host.contains(['@', '/', '?', '#']))
}

/// Web pages of other origins that may call the API from a browser.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cors {
    /// Origins such as `https://dashboard.example.org`; `*` is any. Default: none.
    pub allowed_origins: Vec<String>,
}

/// The database.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// `sqlite:PATH` or `postgresql://…`. Default: `embervault.db` in the data directory.
    pub url: Option<DatabaseUrl>,
}

/// The volumes, and those that the mode `standalone` keeps.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Volumes {
    pub mode: VolumesMode,
    /// Where volumes and snapshots lie as sparse raw files. Default `volumes` in the data directory.
    pub dir: Option<PathBuf>,
    pub availability_zone: String,
    /// On a file system with reflinks (XFS, Btrfs), keep a clone of each volume as it was at its last backup. The
    /// next incremental compares with the clone and need not read the whole volume. The clone takes as much space
    /// as is overwritten in the volume meanwhile.
    pub change_tracking: bool,
}

impl Default for Volumes {
    fn default() -> Self {
        Self {
            mode: VolumesMode::default(),
            change_tracking: true,
            dir: None,
            availability_zone: "nova".to_owned(),
        }
    }
}

/// Default quotas of a project; -1 is unlimited.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quota {
    pub volumes: i64,
    /// Largest volume, GiB.
    pub per_volume_gigabytes: i64,
    pub snapshots: i64,
    /// Volumes and snapshots together, GiB.
    pub gigabytes: i64,
    pub backups: i64,
    /// Sum of the sizes of the backed-up volumes, GiB.
    pub backup_gigabytes: i64,
    pub groups: i64,
}

impl Quota {
    fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let limits = [
            ("quota.volumes", self.volumes),
            ("quota.per_volume_gigabytes", self.per_volume_gigabytes),
            ("quota.snapshots", self.snapshots),
            ("quota.gigabytes", self.gigabytes),
            ("quota.backups", self.backups),
            ("quota.backup_gigabytes", self.backup_gigabytes),
            ("quota.groups", self.groups),
        ];
        match limits.into_iter().find(|(_, limit)| *limit < -1) {
            Some((name, _)) => Err((name, "must be at least 0, or -1 for no limit")),
            None => Ok(()),
        }
    }
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            volumes: 10,
            per_volume_gigabytes: -1,
            snapshots: 10,
            gigabytes: 1000,
            backups: 10,
            backup_gigabytes: 1000,
            groups: 10,
        }
    }
}

/// Prometheus's metrics.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Address and port of `/metrics`, for API and worker processes alike. Default: none. Any client that can
    /// reach it can read it.
    pub listen: Option<SocketAddr>,
}

/// Logs, on standard error.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// A filter as of `tracing`: `info`, `embervault=debug`, …
    pub filter: String,
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            filter: "info,actix_server=warn".to_owned(),
            format: LogFormat::Plain,
        }
    }
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Plain,
    Json,
}

impl Config {
    /// Reads the file, if any, then those of the variables (name and value) that are settings.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut table = match file {
            Some(path) => read_table(path)?,
            None => toml::Table::new(),
        };
        let mut names = Vec::new();
        for (name, value) in environment {
            if let Some(path) = environment::path(&name) {
                overlay(&mut table, path, &value);
                names.push(name);
            }
        }
        let config: Self = serde_path_to_error::deserialize(toml::Value::Table(table))
            .map_err(|error| explain(file, &names, &error))?;
        config.check()?;
        Ok(config)
    }

    /// What each job may use of the memory.
    pub fn share(&self) -> Share {
        self.engine.share(&self.jobs, self.besides_jobs())
    }

    /// Bytes of `engine.memory` that are not for jobs.
    fn besides_jobs(&self) -> u64 {
        let passwords = match self.identity.mode {
            IdentityMode::Embedded => memory::PASSWORD_BYTES * PASSWORDS_AT_ONCE as u64,
            IdentityMode::Keystone => 0,
        };
        let fixed = memory::PROGRAM_BYTES + memory::UPKEEP_BYTES + passwords;
        self.api.memory().all().saturating_add(fixed)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |origin: &str, message: &str| {
            Err(ConfigError::Setting {
                origin: origin.to_owned(),
                message: message.to_owned(),
            })
        };
        if let Err((key, why)) = self.check_durations() {
            return refuse(&key, &why);
        }
        if let Err((key, why)) = self.quota.check() {
            return refuse(key, why);
        }
        if let Err((key, why)) = self.jobs.check() {
            return refuse(key, why);
        }
        if let Err((key, why)) = self.engine.check(&self.jobs, self.besides_jobs()) {
            return refuse(key, &why);
        }
        if self.maintenance.compact_percent > 100 {
            return refuse("maintenance.compact_percent", "must be at most 100");
        }
        if let Err((key, why)) = self.api.check() {
            return refuse(key, why);
        }
        if let Some(Err(why)) = self.database.url.as_ref().map(DatabaseUrl::check) {
            return refuse("database.url", why);
        }
        for (key, url) in self.urls() {
            if let Err(why) = url::check(url) {
                return refuse(&key, why);
            }
        }
        if let Err(why) = self.identity.check_users() {
            return refuse("identity.users", &why);
        }
        let keystone = &self.identity.keystone;
        let is_known = keystone.auth_url.starts_with("http")
            && !keystone.username.is_empty()
            && !keystone.password.expose().is_empty();
        if self.identity.mode == IdentityMode::Keystone && !is_known {
            return refuse(
                "identity.keystone",
                "the mode keystone needs auth_url, username and password",
            );
        }
        if self.volumes.mode == VolumesMode::Cinder {
            if self.identity.mode != IdentityMode::Keystone {
                return refuse(
                    "volumes.mode",
                    "the mode cinder needs `identity.mode = \"keystone\"`",
                );
            }
            if let Err((key, why)) = self.cinder.check() {
                return refuse(&key, &why);
            }
        }
        for (name, storage) in &self.storage {
            if let Err(why) = storage.check() {
                return refuse(&format!("storage.{name}"), &why);
            }
        }
        if self.storage.len() > 1 && self.storage.values().filter(|s| s.default).count() != 1 {
            return refuse(
                "storage",
                "with several storages, exactly one must have `default = true`",
            );
        }
        Ok(())
    }

    /// URLs that appear in answers or errors, by their setting.
    fn urls(&self) -> Vec<(String, &str)> {
        let keystone = &self.identity.keystone;
        let mut urls = vec![
            (
                "api.public_endpoint".to_owned(),
                self.api.public_endpoint.as_deref(),
            ),
            (
                "identity.keystone.auth_url".to_owned(),
                // Empty, unless a Keystone is used.
                Some(keystone.auth_url.as_str()).filter(|url| !url.is_empty()),
            ),
            (
                "identity.keystone.www_authenticate_uri".to_owned(),
                keystone.www_authenticate_uri.as_deref(),
            ),
            (
                "cinder.url".to_owned(),
                // Empty, unless a Cinder is used.
                Some(self.cinder.url.as_str()).filter(|url| !url.is_empty()),
            ),
        ];
        for (name, storage) in &self.storage {
            let of_storage = storage.urls().into_iter();
            urls.extend(of_storage.map(|(key, url)| (format!("storage.{name}.{key}"), url)));
        }
        let given = |(key, url): (String, Option<_>)| url.map(|url| (key, url));
        urls.into_iter().filter_map(given).collect()
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir.0
    }

    /// URL of the database.
    pub fn database_url(&self) -> String {
        match &self.database.url {
            Some(url) => url.to_string(),
            None => format!("sqlite:{}", self.data_dir().join("embervault.db").display()),
        }
    }

    /// Where volumes lie.
    pub fn volumes_dir(&self) -> PathBuf {
        self.volumes
            .dir
            .clone()
            .unwrap_or_else(|| self.data_dir().join("volumes"))
    }

    /// Where the master key lies.
    pub fn master_key_file(&self) -> PathBuf {
        self.engine
            .master_key_file
            .clone()
            .unwrap_or_else(|| self.data_dir().join("keys").join("master.key"))
    }

    /// The storages by name, with the built-in one when none is configured.
    pub fn storages(&self) -> BTreeMap<String, Storage> {
        if !self.storage.is_empty() {
            return self.storage.clone();
        }
        let url = format!("fs:{}", self.data_dir().join("storage").display());
        let local = Storage {
            default: true,
            ..Storage::at(url)
        };
        BTreeMap::from([(DEFAULT_STORAGE.to_owned(), local)])
    }
}

fn read_table(path: &Path) -> Result<toml::Table, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    text.parse()
        .map_err(|error: toml::de::Error| ConfigError::Syntax {
            path: path.to_owned(),
            message: without_content(&text, &error),
        })
}

/// Puts a variable's value at its place: `ENGINE__PACK_BYTES` is `engine.pack_bytes`. The value is
/// read as TOML where it is TOML, else as text.
fn overlay(table: &mut toml::Table, path: &str, value: &str) {
    let value = format!("v = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut parsed| parsed.remove("v"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let path = path.to_lowercase();
    let mut keys: Vec<&str> = path.split("__").collect();
    let last = keys.pop().unwrap_or_default();
    let mut table = table;
    for key in keys {
        let entry = table
            .entry(key)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()));
        if !entry.is_table() {
            *entry = toml::Value::Table(toml::Table::new());
        }
        table = entry.as_table_mut().expect("made a table just above");
    }
    table.insert(last.to_owned(), value);
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("embervault.toml");
        std::fs::write(&path, text).unwrap();
        let variables = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(Some(&path), variables)
    }

    #[test]
    fn the_file_is_overridden_by_the_environment() {
        let config = load(
            "[engine]\npack_bytes = \"8 MiB\"\ncompression = \"zstd:5\"\n",
            &[
                ("EMBERVAULT_ENGINE__PACK_BYTES", "16 MiB"),
                ("EMBERVAULT_JOBS__LEASE", "3s"),
                ("EMBERVAULT_ENGINE__PARANOID", "true"),
                ("HOME", "ignored"),
            ],
        )
        .unwrap();
        assert_eq!(config.engine.pack_bytes, ByteSize::mib(16));
        assert_eq!(config.engine.compression, Compression::Zstd(5));
        assert_eq!(config.jobs.lease, Duration::from_secs(3));
        assert!(config.engine.paranoid);
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_known_one() {
        let error = load("[engine]\npack_size = 1\n", &[])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`pack_size`; did you mean `pack_bytes`?"),
            "{error}"
        );
        let error = load("", &[("EMBERVAULT_JOBS__LEESE", "3s")])
            .unwrap_err()
            .to_string();
        assert!(error.contains("EMBERVAULT_JOBS__LEESE"), "{error}");
        assert!(error.contains("did you mean `lease`?"), "{error}");
    }

    #[test]
    fn values_out_of_range_name_their_setting() {
        for (text, key) in [
            (
                "[engine]\nchunk_bytes_average = \"100 KiB\"",
                "engine.chunk_bytes_average",
            ),
            ("[engine]\ncompression = \"zstd:99\"", "engine.compression"),
            ("[engine]\nuploads = 99", "engine.uploads"),
            ("[engine]\nmemory = \"64 MiB\"", "engine.memory"),
            (
                "[jobs]\nlease = \"1ms\"",
                "jobs.lease: must be from 500ms to 1day",
            ),
            ("[jobs]\npoll = \"0s\"", "jobs.poll"),
            ("[jobs]\ndrain = \"1year\"", "jobs.drain"),
            (
                "[identity]\ntoken_lifetime = \"1000000000years\"",
                "identity.token_lifetime: must be from 1s to 10years",
            ),
            (
                "[identity]\ntoken_lifetime = \"0s\"",
                "identity.token_lifetime",
            ),
            (
                "[identity.keystone]\ntimeout = \"0s\"",
                "identity.keystone.timeout",
            ),
            (
                "[identity]\nmode = \"keystone\"\nkeystone = { auth_url = \"http://k/v3\", username = \"u\" }",
                "identity.keystone: the mode keystone needs auth_url, username and password",
            ),
            ("[api]\nclient_timeout = \"2days\"", "api.client_timeout"),
            (
                "[maintenance]\nverify_every = \"11years\"",
                "maintenance.verify_every",
            ),
            (
                "[storage.a]\nurl = \"fs:x\"\ntimeout = \"0s\"",
                "storage.a.timeout",
            ),
            (
                "[storage.a]\nurl = \"fs:x\"\nretry_for = \"1year\"",
                "storage.a.retry_for: must be from 0s to 30days",
            ),
            ("[quota]\nbackups = -2", "quota.backups"),
            ("[jobs]\ncopies = 0", "copies"),
            ("[jobs]\nquick = 1001", "quick"),
            ("[api]\nmetadata_items_max = 0", "api.metadata_items_max"),
            (
                "[api]\nmetadata_bytes_max = \"0 B\"",
                "api.metadata_bytes_max",
            ),
        ] {
            let error = load(text, &[]).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn variables_that_are_no_settings_are_ignored() {
        let config = load(
            "",
            &[
                ("EMBERVAULT_PORT", "tcp://10.0.0.1:8776"),
                ("EMBERVAULT_SERVICE_HOST", "10.0.0.1"),
                ("EMBERVAULT_DATA_DIR", "/srv/embervault"),
            ],
        )
        .unwrap();
        assert_eq!(config.data_dir(), Path::new("/srv/embervault"));
    }

    #[test]
    fn an_origin_with_a_password_is_refused_without_it() {
        for origin in ["https://u:hunter2@h", "hunter2", "https://h/?key=hunter2"] {
            let text = format!("api.cors.allowed_origins = ['https://h:1', '*', '{origin}']");
            let error = load(&text, &[]).unwrap_err().to_string();
            assert!(error.contains("api.cors.allowed_origins"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        load("api.cors.allowed_origins = ['https://h:1', '*']", &[]).unwrap();
    }

    #[test]
    fn secrets_do_not_print() {
        let text = "[[identity.users]]\nname = \"a\"\npassword = \"hunter2\"\nproject = \"p\"\nrole = \"member\"\n";
        let config = load(text, &[]).unwrap();
        assert_eq!(config.identity.users[0].password.expose(), "hunter2");
        assert!(!toml::to_string(&config).unwrap().contains("hunter2"));
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
