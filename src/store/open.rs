//! From a storage's section to a store.

use crate::config;
use crate::keystone::within_the_host;
use crate::store::call::Caller;
use crate::store::drivers::{OpenError, azblob, fs, gcs, s3, sftp, swift, webdav};
use crate::store::{Creation, Store};
use opendal::{HttpTransporter, OperationContext, Operator, services};
use opendal_http_transport_reqwest::ReqwestTransport;
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl Store {
    /// Opens a storage; a directory is created if necessary. The storage is not asked for anything yet, except for a log-in
    /// if it needs one.
    pub fn open(settings: &config::Storage, handle: Handle) -> Result<Self, OpenError> {
        let (scheme, place) = parse_url(&settings.url)?;
        let backend = |source| OpenError::Backend {
            url: settings.url.clone(),
            source,
        };
        if scheme == Scheme::Fs {
            let directory = fs::make_directory(Path::new(&place))?;
            let operator = Operator::new(fs::builder(&directory)).map_err(backend)?;
            return Ok(Self::new(
                operator,
                settings,
                handle,
                Creation::File(directory),
            ));
        }
        let client = client(settings)?;
        let mut transport = HttpTransporter::new(ReqwestTransport::new(client.clone()));
        let operator = match scheme {
            Scheme::Swift => {
                let session = swift::session(settings, client, &handle)?;
                let builder = swift::builder(&session, &place);
                transport = HttpTransporter::new(session);
                Operator::new(builder)
            }
            Scheme::S3 => Operator::new(s3::builder(settings, &place)),
            Scheme::Sftp => Operator::new(sftp::builder(settings, &place)?),
            Scheme::Webdav { tls } => Operator::new(webdav::builder(settings, &place, tls)),
            Scheme::Gcs => Operator::new(gcs::builder(settings, &place)),
            Scheme::Azblob => Operator::new(azblob::builder(settings, &place)?),
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
    let (scheme, rest) = url.split_once(':').ok_or(OpenError::Url)?;
    let scheme = match scheme {
        "fs" => Scheme::Fs,
        "s3" => Scheme::S3,
        "swift" => Scheme::Swift,
        "sftp" => Scheme::Sftp,
        "webdav+http" => Scheme::Webdav { tls: false },
        "webdav+https" => Scheme::Webdav { tls: true },
        "gcs" => Scheme::Gcs,
        "azblob" => Scheme::Azblob,
        _ => return Err(OpenError::Url),
    };
    let rest = match scheme {
        Scheme::Fs => rest.strip_prefix("//").unwrap_or(rest),
        _ => rest.strip_prefix("//").ok_or(OpenError::Url)?,
    };
    if rest.is_empty() || (scheme != Scheme::Fs && rest.starts_with('/')) {
        Err(OpenError::Url)
    } else {
        Ok((scheme, rest.to_owned()))
    }
}

fn client(settings: &config::Storage) -> Result<reqwest::Client, OpenError> {
    // Fails where a provider was chosen before: then there is one.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(settings.calls);
    // Of what the other drivers send, a redirect to another host takes the secrets out.
    if settings.url.starts_with("swift:") {
        builder = builder.redirect(within_the_host());
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::drivers::split;

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
