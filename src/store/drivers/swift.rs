//! OpenStack Swift. The session ([`crate::store::swift`]) has the token, and sends it with every request.

use crate::config;
use crate::store::drivers::{OpenError, split};
use crate::store::swift::{SwiftClient, log_in};
use opendal::services;
use reqwest::Client;
use tokio::runtime::Handle;

/// Logs in.
pub(in crate::store) fn session(
    settings: &config::Storage,
    client: Client,
    handle: &Handle,
) -> Result<SwiftClient, OpenError> {
    let options = settings.swift.clone().unwrap_or_default();
    let (timeout, patience) = (settings.timeout, settings.retry_for);
    handle
        .block_on(log_in(client, &options, timeout, patience))
        .map_err(|source| OpenError::LogIn {
            url: settings.url.clone(),
            source,
        })
}

pub(in crate::store) fn builder(session: &SwiftClient, place: &str) -> services::Swift {
    let (container, folder) = split(place);
    services::Swift::default()
        .endpoint(&session.endpoint)
        .container(container)
        .root(folder)
}
