//! The Block Storage service: where it is, which microversion it speaks, and sending to it.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use crate::cloud::Cloud;
use crate::exchange::{Exchange, Method, Request};
use crate::http::Http;
use crate::identity::Session;
use crate::microversion::{Discovered, Microversion, negotiated};
use crate::{catalog, log, pages, url};

pub(crate) struct BlockStorage {
    http: Http,
    token: String,
    /// Up to and with the project, no slash at its end.
    base: String,
    max: Option<Microversion>,
    /// How long to wait for one change of status.
    pub(crate) timeout: Duration,
}

impl BlockStorage {
    pub(crate) fn connect(
        http: Http,
        session: &Session,
        cloud: &Cloud,
        timeout: Duration,
    ) -> Result<BlockStorage> {
        let endpoint = endpoint(session, cloud)?;
        let (base, max) = match discover(&http, session, &endpoint) {
            Some(found) => {
                let (_, project) = url::split_project(&endpoint, &session.project_id);
                let base = project.map(|project| format!("{}/{project}", found.url));
                (base.unwrap_or(found.url), found.max)
            }
            None => (endpoint.trim_end_matches('/').to_owned(), None),
        };
        if url::origin(&base) != url::origin(&endpoint) {
            log::warning(format_args!(
                "the version document of {endpoint} sends clients to {base}"
            ));
        }
        let spoken = max.map_or("no microversions".into(), |max| format!("up to {max}"));
        log::info(format_args!("block storage is {base}, {spoken}"));
        Ok(BlockStorage {
            http,
            token: session.token.clone(),
            base,
            max,
            timeout,
        })
    }

    pub(crate) fn max(&self) -> Option<Microversion> {
        self.max
    }

    /// `path` starts with a slash; `wanted` is lowered to what the server has, None sends none.
    pub(crate) fn call(
        &self,
        method: Method,
        path: &str,
        wanted: Option<Microversion>,
        body: Option<Value>,
    ) -> Exchange {
        let request = Request::new(method, format!("{}{path}", self.base));
        self.send(Request { body, ..request }, wanted)
    }

    /// All pages of the list `key` at `path`.
    pub(crate) fn list(&self, path: &str, key: &str, wanted: Microversion) -> Result<Vec<Value>> {
        pages::collect(format!("{}{path}", self.base), key, |url| {
            let exchange = self.send(Request::new(Method::Get, url), Some(wanted));
            let page = exchange.json();
            if !exchange.succeeded() || !page[key].is_array() {
                return Err(exchange.into_error(&format!("no list of {key}")));
            }
            Ok(page)
        })
    }

    fn send(&self, mut request: Request, wanted: Option<Microversion>) -> Exchange {
        if let Some(version) = wanted.and_then(|wanted| negotiated(wanted, self.max)) {
            request = request.header("OpenStack-API-Version", format!("volume {version}"));
        }
        self.http.send(request.header("X-Auth-Token", &self.token))
    }
}

/// From the settings, where they name one, else from the catalogue.
fn endpoint(session: &Session, cloud: &Cloud) -> Result<String> {
    if let Some(url) = cloud.block_storage("endpoint_override") {
        let project = &session.project_id;
        return Ok(url
            .replace("%(project_id)s", project)
            .replace("%(tenant_id)s", project));
    }
    let (interface, region) = (cloud.interface(), cloud.region());
    catalog::block_storage(&session.catalog, &interface, region.as_deref()).map(str::to_owned)
}

/// Reads the version document the way the SDK does: at the endpoint without its project, then
/// one level up, then at the endpoint itself; each without the token first, and with it after a
/// refusal.
fn discover(http: &Http, session: &Session, endpoint: &str) -> Option<Discovered> {
    let (versioned, project) = url::split_project(endpoint, &session.project_id);
    let mut places = vec![format!("{versioned}/")];
    if let Some(root) = versioned.strip_suffix("/v3") {
        places.push(format!("{root}/"));
    }
    places.extend(project.map(|_| endpoint.to_owned()));
    for place in places {
        let mut exchange = http.send(Request::new(Method::Get, &place));
        if exchange.status() == Some(401) {
            let request = Request::new(Method::Get, &place);
            exchange = http.send(request.header("X-Auth-Token", &session.token));
        }
        if let Some(200 | 300) = exchange.status()
            && let Some(found) = Discovered::read(&exchange.json(), &exchange.request.url)
        {
            return Some(found);
        }
    }
    log::warning(format_args!(
        "no version document found for {endpoint}; no microversions are sent"
    ));
    None
}
