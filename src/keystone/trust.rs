//! The connection to Keystone: whom it trusts.

use crate::keystone::redirect::within_the_host;
use crate::model::error::chain;
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Connections that are kept between requests, and for how long.
const IDLE_MAX: usize = 3;
const IDLE_TIME: Duration = Duration::from_secs(15);

/// Why there can be no connection.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("{} cannot be read", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} holds no certificate", .0.display())]
    NoCertificate(PathBuf),
    #[error("they cannot be used")]
    Client(#[source] reqwest::Error),
}

/// Connections that are kept for requests of others, and for how long. A server that gives one up while a request is on
/// its way loses that request, so this is shorter than servers keep them.
const PASSING_IDLE_MAX: usize = 32;
const PASSING_IDLE_TIME: Duration = Duration::from_secs(2);

/// Prepares connections to a Keystone. It is believed if one of these certificates vouches for it; without a file, one
/// of the system's.
pub fn connect(cacert: Option<&Path>) -> Result<Client, TrustError> {
    build(cacert, || {
        Client::builder()
            .redirect(within_the_host())
            .pool_max_idle_per_host(IDLE_MAX)
            .pool_idle_timeout(IDLE_TIME)
    })
}

/// Prepares connections for requests of others. A redirect is theirs to follow.
pub fn connect_for_others(
    cacert: Option<&Path>,
    connect_timeout: Duration,
) -> Result<Client, TrustError> {
    build(cacert, || {
        Client::builder()
            .redirect(Policy::none())
            .referer(false)
            .connect_timeout(connect_timeout)
            .pool_max_idle_per_host(PASSING_IDLE_MAX)
            .pool_idle_timeout(PASSING_IDLE_TIME)
    })
}

fn build(cacert: Option<&Path>, builder: impl Fn() -> ClientBuilder) -> Result<Client, TrustError> {
    // Fails where a provider was chosen before: then there is one.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let built = match cacert {
        Some(path) => builder().tls_certs_only(certificates(path)?).build(),
        None => builder().build().or_else(|error| {
            // A Keystone without TLS can still be asked, and a worker asks none.
            tracing::warn!(error = %chain(&error), "the system's certificates cannot be used, so no Keystone is trusted over TLS");
            builder().tls_certs_only([]).build()
        }),
    };
    built.map_err(TrustError::Client)
}

/// Skips blocks that are no certificate, or none that can be read.
fn certificates(path: &Path) -> Result<Vec<Certificate>, TrustError> {
    let pem = std::fs::read(path).map_err(|source| TrustError::Read {
        path: path.to_owned(),
        source,
    })?;
    let is_usable = |found: &CertificateDer<'_>| RootCertStore::empty().add(found.clone()).is_ok();
    let found: Vec<Certificate> = CertificateDer::pem_slice_iter(&pem)
        .filter_map(Result::ok)
        .filter(is_usable)
        .filter_map(|found| Certificate::from_der(&found).ok())
        .collect();
    if found.is_empty() {
        return Err(TrustError::NoCertificate(path.to_owned()));
    }
    Ok(found)
}
