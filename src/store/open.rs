//! From a storage's section to a store.

use crate::config::{self, Scheme};
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
        let (operator, creation) = match scheme {
            Scheme::Swift => {
                let session = swift::session(settings, client, &handle)?;
                let builder = swift::builder(&session, &place);
                transport = HttpTransporter::new(session);
                (Operator::new(builder), Creation::Put)
            }
            Scheme::S3 => (Operator::new(s3::builder(settings, &place)), Creation::Put),
            Scheme::Sftp => {
                let builder = sftp::builder(settings, &place)?;
                (Operator::new(builder), Creation::Rename)
            }
            Scheme::Webdav { tls } => {
                let builder = webdav::builder(settings, &place, tls);
                (Operator::new(builder), Creation::Rename)
            }
            Scheme::Gcs => (Operator::new(gcs::builder(settings, &place)), Creation::Put),
            Scheme::Azblob => {
                let builder = azblob::builder(settings, &place)?;
                (Operator::new(builder), Creation::Put)
            }
            Scheme::Fs => unreachable!("a directory was opened above"),
        };
        let operator = operator.map_err(backend)?;
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

/// Scheme and what follows it.
fn parse_url(url: &str) -> Result<(Scheme, String), OpenError> {
    let (scheme, rest) = url.split_once(':').ok_or(OpenError::Url)?;
    let scheme = Scheme::parse(scheme).ok_or(OpenError::Url)?;
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
