//! From a storage's section to a store.

use crate::config::{self, Secret};
use crate::store::call::Caller;
use crate::store::swift::{self, LogInError};
use crate::store::temporary;
use crate::store::{Creation, Store};
use opendal::{HttpTransporter, OperationContext, Operator, services};
use opendal_http_transport_reqwest::ReqwestTransport;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a storage could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "storage URL {0:?}: must be fs:DIRECTORY, s3://BUCKET, swift://CONTAINER, \
         sftp://HOST/DIRECTORY, webdav+https://HOST/FOLDER, gcs://BUCKET or azblob://CONTAINER"
    )]
    Url(String),
    #[error("storage {url}: {option} is missing from its options")]
    Option { url: String, option: &'static str },
    #[error("storage directory {}", path.display())]
    Directory {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("certificates {}: {message}", path.display())]
    Certificates { path: PathBuf, message: String },
    #[error("storage {url}")]
    Backend { url: String, source: opendal::Error },
    #[error("storage {url}")]
    LogIn { url: String, source: LogInError },
}

impl Store {
    /// Opens a storage; a directory is made if need be. Nothing else is asked of the storage yet but
    /// a log-in where one is needed.
    pub fn open(settings: &config::Storage, handle: Handle) -> Result<Self, OpenError> {
        let (scheme, place) = parse_url(&settings.url)?;
        if scheme == Scheme::Fs {
            return open_directory(settings, Path::new(&place), handle);
        }
        let backend = |source| OpenError::Backend {
            url: settings.url.clone(),
            source,
        };
        let client = client(settings)?;
        let mut transport = HttpTransporter::new(ReqwestTransport::new(client.clone()));
        let operator = match scheme {
            Scheme::Swift => {
                let options = settings.swift.clone().unwrap_or_default();
                let session = handle
                    .block_on(swift::log_in(client, options, settings.retry_for))
                    .map_err(|source| OpenError::LogIn {
                        url: settings.url.clone(),
                        source,
                    })?;
                let (container, folder) = split(&place);
                let builder = services::Swift::default()
                    .endpoint(&session.endpoint)
                    .container(container)
                    .root(folder);
                transport = HttpTransporter::new(session);
                Operator::new(builder)
            }
            Scheme::S3 => Operator::new(s3(settings, &place)),
            Scheme::Sftp => Operator::new(sftp(settings, &place)?),
            Scheme::Webdav { tls } => Operator::new(webdav(settings, &place, tls)),
            Scheme::Gcs => Operator::new(gcs(settings, &place)),
            Scheme::Azblob => Operator::new(azblob(settings, &place)?),
            Scheme::Fs => unreachable!("a directory was opened above"),
        }
        .map_err(backend)?;
        let creation = match scheme {
            Scheme::Sftp | Scheme::Webdav { .. } => Creation::Rename,
            _ => Creation::Put,
        };
        let context = OperationContext::new().with_http_transport(transport);
        Ok(Self::new(
            operator.with_context(context),
            settings,
            handle,
            creation,
        ))
    }

    /// A storage in memory, for tests.
    pub fn memory(handle: Handle) -> Self {
        let operator = Operator::new(services::Memory::default())
            .expect("memory needs no settings that could be wrong");
        let settings = config::Storage::at("memory:".to_owned());
        Self::new(operator, &settings, handle, Creation::Put)
    }

    fn new(
        operator: Operator,
        settings: &config::Storage,
        handle: Handle,
        creation: Creation,
    ) -> Self {
        Self {
            operator,
            caller: Caller::new(settings, CancellationToken::new()),
            handle,
            creation,
            hook: None,
            observer: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Fs,
    S3,
    Swift,
    Sftp,
    Webdav { tls: bool },
    Gcs,
    Azblob,
}

/// Scheme and what follows it.
fn parse_url(url: &str) -> Result<(Scheme, String), OpenError> {
    let refused = || OpenError::Url(url.to_owned());
    let (scheme, rest) = url.split_once(':').ok_or_else(refused)?;
    let scheme = match scheme {
        "fs" => Scheme::Fs,
        "s3" => Scheme::S3,
        "swift" => Scheme::Swift,
        "sftp" => Scheme::Sftp,
        "webdav+http" => Scheme::Webdav { tls: false },
        "webdav+https" => Scheme::Webdav { tls: true },
        "gcs" => Scheme::Gcs,
        "azblob" => Scheme::Azblob,
        _ => return Err(refused()),
    };
    let rest = match scheme {
        Scheme::Fs => rest.strip_prefix("//").unwrap_or(rest),
        _ => rest.strip_prefix("//").ok_or_else(refused)?,
    };
    match rest.is_empty() || (scheme != Scheme::Fs && rest.starts_with('/')) {
        true => Err(refused()),
        false => Ok((scheme, rest.to_owned())),
    }
}

/// Bucket, container or host, and the folder behind it, with its slash.
fn split(place: &str) -> (&str, &str) {
    match place.find('/') {
        Some(slash) => place.split_at(slash),
        None => (place, "/"),
    }
}

fn exposed(secret: &Option<Secret>) -> &str {
    secret.as_ref().map_or("", Secret::expose)
}

fn text(option: &Option<String>) -> &str {
    option.as_deref().unwrap_or_default()
}

fn s3(settings: &config::Storage, place: &str) -> services::S3 {
    let options = settings.s3.clone().unwrap_or_default();
    let (bucket, folder) = split(place);
    let mut builder = services::S3::default()
        .bucket(bucket)
        .root(folder)
        .region(options.region.as_deref().unwrap_or("us-east-1"))
        .endpoint(text(&options.endpoint));
    if options.access_key_id.is_some() {
        builder = builder
            .access_key_id(text(&options.access_key_id))
            .secret_access_key(exposed(&options.secret_access_key))
            .disable_config_load()
            .disable_ec2_metadata();
    }
    if options.virtual_host_style {
        builder = builder.enable_virtual_host_style();
    }
    match options.checksums {
        true => builder.checksum_algorithm("crc32c"),
        false => builder,
    }
}

fn sftp(settings: &config::Storage, place: &str) -> Result<services::Sftp, OpenError> {
    let options = settings.sftp.clone().unwrap_or_default();
    let (host, folder) = split(place);
    let key = match &options.key_file {
        None => "",
        Some(path) => path.to_str().ok_or(OpenError::Option {
            url: settings.url.clone(),
            option: "sftp.key_file in UTF-8",
        })?,
    };
    let known_hosts = match options.accept_new_host {
        true => "Add",
        false => "Strict",
    };
    Ok(services::Sftp::default()
        .endpoint(&format!("ssh://{host}"))
        .root(folder)
        .user(text(&options.user))
        .key(key)
        .known_hosts_strategy(known_hosts))
}

fn webdav(settings: &config::Storage, place: &str, tls: bool) -> services::Webdav {
    let options = settings.webdav.clone().unwrap_or_default();
    let (host, folder) = split(place);
    let scheme = if tls { "https" } else { "http" };
    services::Webdav::default()
        .endpoint(&format!("{scheme}://{host}"))
        .root(folder)
        .username(text(&options.username))
        .password(exposed(&options.password))
        .token(exposed(&options.token))
}

fn gcs(settings: &config::Storage, place: &str) -> services::Gcs {
    let options = settings.gcs.clone().unwrap_or_default();
    let (bucket, folder) = split(place);
    let mut builder = services::Gcs::default()
        .bucket(bucket)
        .root(folder)
        .endpoint(text(&options.endpoint));
    if let Some(path) = &options.credential_file {
        builder = builder.credential_path(&path.to_string_lossy());
    }
    match options.anonymous {
        true => builder.skip_signature(),
        false => builder,
    }
}

fn azblob(settings: &config::Storage, place: &str) -> Result<services::Azblob, OpenError> {
    let options = settings.azblob.clone().unwrap_or_default();
    let endpoint = options.endpoint.ok_or_else(|| OpenError::Option {
        url: settings.url.clone(),
        option: "azblob.endpoint",
    })?;
    let (container, folder) = split(place);
    Ok(services::Azblob::default()
        .container(container)
        .root(folder)
        .endpoint(&endpoint)
        .account_name(text(&options.account_name))
        .account_key(exposed(&options.account_key)))
}

fn client(settings: &config::Storage) -> Result<reqwest::Client, OpenError> {
    // Fails where a provider was chosen before: then there is one.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(settings.calls);
    if let Some(path) = &settings.ca_file {
        let refused = |message: String| OpenError::Certificates {
            path: path.clone(),
            message,
        };
        let pem = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem)
            .map_err(|error| refused(error.to_string()))?;
        if certificates.is_empty() {
            return Err(refused("it holds no certificate".to_owned()));
        }
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(|error| OpenError::Backend {
        url: settings.url.clone(),
        source: opendal::Error::new(opendal::ErrorKind::ConfigInvalid, error.to_string()),
    })
}

fn open_directory(
    settings: &config::Storage,
    path: &Path,
    handle: Handle,
) -> Result<Store, OpenError> {
    let directory = make_directory(path)?;
    let backend = services::Fs::default().root(&directory.to_string_lossy());
    let operator = Operator::new(backend).map_err(|source| OpenError::Backend {
        url: settings.url.clone(),
        source,
    })?;
    let creation = Creation::File(directory);
    Ok(Store::new(operator, settings, handle, creation))
}

fn make_directory(path: &Path) -> Result<PathBuf, OpenError> {
    std::fs::create_dir_all(path.join(temporary::FOLDER))
        .and_then(|()| path.canonicalize())
        .map_err(|source| OpenError::Directory {
            path: path.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_scheme_and_place_and_rubbish_is_refused() {
        let parse = |url: &str| parse_url(url).ok();
        let fs = |place: &str| Some((Scheme::Fs, place.to_owned()));
        assert_eq!(parse("fs:relative/dir"), fs("relative/dir"));
        assert_eq!(parse("fs:///absolute"), fs("/absolute"));
        let webdav = Scheme::Webdav { tls: true };
        let found = parse("webdav+https://host:8443/folder/x").unwrap();
        assert_eq!(found, (webdav, "host:8443/folder/x".to_owned()));
        assert_eq!(split(&found.1), ("host:8443", "/folder/x"));
        assert_eq!(split("bucket"), ("bucket", "/"));
        for url in [
            "",
            "fs:",
            "s3:bucket",
            "s3://",
            "s3:///x",
            "ftp://host/x",
            "bucket",
        ] {
            assert!(parse(url).is_none(), "{url}");
        }
    }
}
