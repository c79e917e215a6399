//! WebDAV, over TLS or not.

use crate::config;
use crate::store::drivers::{exposed, split, text};
use opendal::services;

pub(in crate::store) fn builder(
    settings: &config::Storage,
    place: &str,
    tls: bool,
) -> services::Webdav {
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
