//! Settings: plain data that a user may write down. Defaults, then one TOML file, then
//! `EMBERVAULT_<SECTION>__<KEY>` variables, then a few command-line flags.

mod engine;
mod identity;
mod maintenance;
mod secret;
mod storage;

pub use engine::{Compression, Engine, Share};
pub use identity::{ConfiguredUser, Identity, IdentityMode, KeystoneSettings, Policy};
pub use maintenance::Maintenance;
pub use secret::Secret;
pub use storage::{Azblob, Gcs, S3, Sftp, Storage, Swift, Webdav};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Prefix of the variables that override settings.
pub const ENVIRONMENT_PREFIX: &str = "EMBERVAULT_";

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
    /// Base of links and catalogue entries, when a proxy stands in front.
    pub public_endpoint: Option<String>,
    /// Believe what a proxy says of the client's side: `Forwarded`, `X-Forwarded-…`. Only behind one.
    pub proxy_headers: bool,
    pub cors: Cors,
    /// Largest request body.
    pub body_bytes_max: ByteSize,
    /// Largest page of a list, and its default.
    pub page_items_max: usize,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8776)),
            public_endpoint: None,
            proxy_headers: false,
            cors: Cors::default(),
            body_bytes_max: ByteSize(114_688),
            page_items_max: 1000,
        }
    }
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
    pub url: Option<String>,
}

/// The standalone volume catalogue.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Volumes {
    /// Where volumes and snapshots lie as sparse raw files. Default `volumes` in the data directory.
    pub dir: Option<PathBuf>,
    pub availability_zone: String,
    /// On a file system with reflinks (XFS, Btrfs), keep a clone of what each volume was at its last
    /// backup, so that the next incremental knows what changed without reading the volume. The
    /// clone takes the space of what is overwritten meanwhile.
    pub change_tracking: bool,
}

impl Default for Volumes {
    fn default() -> Self {
        Self {
            change_tracking: true,
            dir: None,
            availability_zone: "nova".to_owned(),
        }
    }
}

/// The job runner.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jobs {
    /// Backups and restores at once.
    pub backups: usize,
    /// Short jobs (volumes, snapshots, deletions) at once.
    pub quick: usize,
    /// How long a job stays with a worker that gives no sign of life.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// Longest time between two looks for work; new work in the same process is seen at once.
    #[serde(with = "humantime_serde")]
    pub poll: Duration,
    /// How long running jobs may go on when the process is asked to stop; those that have not ended by
    /// then are resumed by another worker, or by the next start.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// Name of this worker in lists of services; the machine's name without it.
    pub worker: Option<String>,
    /// How often the worker of one job may vanish, by a crash or otherwise, until it is given up.
    pub attempts_max: i32,
}

impl Default for Jobs {
    fn default() -> Self {
        Self {
            backups: 2,
            quick: 4,
            lease: Duration::from_secs(15),
            poll: Duration::from_secs(1),
            drain: Duration::from_secs(10),
            worker: None,
            attempts_max: 25,
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
    /// Address and port of `/metrics`, for API and worker processes alike; none without it. Whoever
    /// reaches it may read it.
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

impl Config {
    /// Reads the file, if any, then the variables (name and value) that bear the prefix.
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
            if let Some(path) = name.strip_prefix(ENVIRONMENT_PREFIX) {
                overlay(&mut table, path, &value);
                names.push(name);
            }
        }
        let config: Self = serde_path_to_error::deserialize(toml::Value::Table(table))
            .map_err(|error| explain(file, &names, &error))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |origin: &str, message: &str| {
            Err(ConfigError::Setting {
                origin: origin.to_owned(),
                message: message.to_owned(),
            })
        };
        if self.jobs.backups == 0 || self.jobs.quick == 0 {
            return refuse("jobs", "backups and quick must be at least 1");
        }
        if let Err((key, why)) = self.engine.check(&self.jobs) {
            return refuse(key, &why);
        }
        if self.jobs.lease < Duration::from_millis(500) {
            return refuse("jobs.lease", "must be at least 500ms");
        }
        if self.jobs.poll.is_zero() || self.jobs.attempts_max < 1 {
            return refuse("jobs", "poll must not be zero and attempts_max at least 1");
        }
        if self.maintenance.compact_percent > 100 {
            return refuse("maintenance.compact_percent", "must be at most 100");
        }
        if self.api.page_items_max == 0 {
            return refuse("api.page_items_max", "must be at least 1");
        }
        let keystone = &self.identity.keystone;
        if self.identity.mode == IdentityMode::Keystone {
            if !keystone.auth_url.starts_with("http") || keystone.username.is_empty() {
                return refuse(
                    "identity.keystone",
                    "the mode keystone needs auth_url, username and password",
                );
            }
            if keystone.timeout.is_zero() {
                return refuse("identity.keystone.timeout", "must not be zero");
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
                "of several storages exactly one needs `default = true`",
            );
        }
        Ok(())
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir.0
    }

    /// URL of the database.
    pub fn database_url(&self) -> String {
        self.database.url.clone().unwrap_or_else(|| {
            format!("sqlite:{}", self.data_dir().join("embervault.db").display())
        })
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
            message: error.to_string(),
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

/// Says which setting is wrong, and for an unknown key which known one is nearest.
fn explain(
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
        message: hint.unwrap_or(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
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
            ("[jobs]\nlease = \"1ms\"", "jobs.lease"),
        ] {
            let error = load(text, &[]).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
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
