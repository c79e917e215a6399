//! The HTTP server, and the bounds of what clients may ask of it.

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;

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

    pub(super) fn check(&self) -> Result<(), (&'static str, &'static str)> {
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
