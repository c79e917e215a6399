//! Logging in to OpenStack Swift, and keeping the token fresh: OpenDAL's Swift takes a fixed token,
//! so every request gets the current one here, and a refused one is renewed once.
//!
//! Each object is sent with its MD5, which Swift compares with what it got.

use crate::config::{self, Secret};
use crate::model::error::chain;
use backon::{ExponentialBuilder, Retryable};
use md5::{Digest, Md5};
use opendal::{Buffer, Error, ErrorKind, HttpBody, HttpTransport};
use opendal_http_transport_reqwest::ReqwestTransport;
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Client, Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::RwLock;

const TOKEN_HEADER: &str = "X-Auth-Token";

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum LogInError {
    #[error("swift.auth_url {0}: no answer")]
    Reach(String, #[source] reqwest::Error),
    #[error("swift.auth_url {url}: the log-in was answered with status {status}")]
    Refused { url: String, status: u16 },
    #[error("swift.auth_url {0}: the answer has no {1}")]
    Answer(String, &'static str),
    #[error("swift.{0} is missing")]
    Option(&'static str),
}

impl LogInError {
    /// Whether another try may be answered otherwise.
    fn is_passing(&self) -> bool {
        match self {
            LogInError::Reach(..) => true,
            LogInError::Refused { status, .. } => *status >= 500 || [408, 429].contains(status),
            LogInError::Answer(..) | LogInError::Option(_) => false,
        }
    }
}

/// A transport that knows who we are.
pub(super) struct Session {
    /// URL of the account.
    pub(super) endpoint: String,
    client: Client,
    options: config::Swift,
    inner: ReqwestTransport,
    token: RwLock<HeaderValue>,
}

struct Grant {
    token: HeaderValue,
    endpoint: String,
}

/// Logs in for the first time; waits for so long for who does not answer yet.
pub(super) async fn log_in(
    client: Client,
    options: config::Swift,
    patience: Duration,
) -> Result<Session, LogInError> {
    let pauses = ExponentialBuilder::default()
        .with_jitter()
        .without_max_times()
        .with_total_delay(Some(patience));
    let grant = (|| ask(&client, &options))
        .retry(pauses)
        .when(LogInError::is_passing)
        .notify(|error, _| tracing::warn!(error = %chain(error), "waiting for the log-in"))
        .await?;
    Ok(Session {
        endpoint: grant.endpoint,
        inner: ReqwestTransport::new(client.clone()),
        client,
        options,
        token: RwLock::new(grant.token),
    })
}

impl Session {
    /// A token other than the one that was refused.
    async fn renew(&self, refused: &HeaderValue) -> Result<HeaderValue, Error> {
        let mut token = self.token.write().await;
        // Another call may have renewed it meanwhile.
        if *token == refused {
            let grant = ask(&self.client, &self.options).await.map_err(|error| {
                let kind = match error.is_passing() {
                    true => ErrorKind::Unexpected,
                    false => ErrorKind::PermissionDenied,
                };
                Error::new(kind, "the token could not be renewed")
                    .with_temporary(error.is_passing())
                    .set_source(error)
            })?;
            *token = grant.token;
        }
        Ok(token.clone())
    }
}

impl HttpTransport for Session {
    async fn fetch(
        &self,
        mut request: http::Request<Buffer>,
    ) -> Result<http::Response<HttpBody>, Error> {
        if request.method() == Method::PUT && !request.body().is_empty() {
            let digest = request
                .body()
                .clone()
                .fold(Md5::new(), |md5, part| md5.chain_update(part));
            let hex: String = digest
                .finalize()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let value = HeaderValue::try_from(hex).expect("hexadecimal digits make a header");
            request.headers_mut().insert("etag", value);
        }
        let token = self.token.read().await.clone();
        request.headers_mut().insert(TOKEN_HEADER, token.clone());
        let answer = self.inner.fetch(request.clone()).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let token = self.renew(&token).await?;
        request.headers_mut().insert(TOKEN_HEADER, token);
        self.inner.fetch(request).await
    }
}

async fn ask(client: &Client, options: &config::Swift) -> Result<Grant, LogInError> {
    // Swift's own log-in knows neither.
    let is_keystones = options.project.is_some() || options.application_credential_id.is_some();
    match options.auth_url.trim_end_matches('/') {
        "" => Err(LogInError::Option("auth_url")),
        url if url.ends_with("/v3") => ask_keystone(client, url, options).await,
        url if is_keystones => ask_keystone(client, &format!("{url}/v3"), options).await,
        url => ask_swift(client, url, options).await,
    }
}

/// Swift's own log-in, "TempAuth".
async fn ask_swift(
    client: &Client,
    url: &str,
    options: &config::Swift,
) -> Result<Grant, LogInError> {
    let user = options
        .username
        .as_deref()
        .ok_or(LogInError::Option("username"))?;
    let request = client
        .get(url)
        .header("X-Auth-User", user)
        .header("X-Auth-Key", exposed(&options.password, "password")?);
    let answer = send(url, request).await?;
    Ok(Grant {
        token: token(url, answer.headers(), TOKEN_HEADER)?,
        endpoint: answer
            .headers()
            .get("X-Storage-Url")
            .and_then(|value| value.to_str().ok())
            .ok_or_else(|| LogInError::Answer(url.to_owned(), "X-Storage-Url"))?
            .to_owned(),
    })
}

#[derive(Deserialize)]
struct TokenBody {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    catalog: Vec<Service>,
}

#[derive(Deserialize)]
struct Service {
    r#type: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    interface: String,
    #[serde(default)]
    region: Option<String>,
    url: String,
}

async fn ask_keystone(
    client: &Client,
    url: &str,
    options: &config::Swift,
) -> Result<Grant, LogInError> {
    let body = credentials(options)?.to_string();
    let request = client
        .post(format!("{url}/auth/tokens"))
        .header("Content-Type", "application/json")
        .body(body);
    let answer = send(url, request).await?;
    let token = token(url, answer.headers(), "X-Subject-Token")?;
    let text = answer
        .text()
        .await
        .map_err(|error| LogInError::Reach(url.to_owned(), error))?;
    let endpoint = serde_json::from_str::<TokenBody>(&text)
        .ok()
        .and_then(|body| endpoint(body.token.catalog, options.region.as_deref()))
        .ok_or_else(|| LogInError::Answer(url.to_owned(), "public object-store endpoint"))?;
    Ok(Grant { token, endpoint })
}

fn endpoint(catalog: Vec<Service>, region: Option<&str>) -> Option<String> {
    catalog
        .into_iter()
        .filter(|service| service.r#type == "object-store")
        .flat_map(|service| service.endpoints)
        .filter(|endpoint| endpoint.interface == "public")
        .find(|endpoint| region.is_none() || endpoint.region.as_deref() == region)
        .map(|endpoint| endpoint.url.trim_end_matches('/').to_owned())
}

fn credentials(options: &config::Swift) -> Result<Value, LogInError> {
    if let Some(id) = &options.application_credential_id {
        let secret = exposed(
            &options.application_credential_secret,
            "application_credential_secret",
        )?;
        return Ok(json!({"auth": {"identity": {
            "methods": ["application_credential"],
            "application_credential": {"id": id, "secret": secret},
        }}}));
    }
    let domain = json!({"name": options.domain.as_deref().unwrap_or("Default")});
    let user = options
        .username
        .as_deref()
        .ok_or(LogInError::Option("username"))?;
    let project = options
        .project
        .as_deref()
        .ok_or(LogInError::Option("project"))?;
    let password = exposed(&options.password, "password")?;
    Ok(json!({"auth": {
        "identity": {
            "methods": ["password"],
            "password": {"user": {"name": user, "domain": domain, "password": password}},
        },
        "scope": {"project": {"name": project, "domain": domain}},
    }}))
}

fn exposed<'s>(secret: &'s Option<Secret>, name: &'static str) -> Result<&'s str, LogInError> {
    secret
        .as_ref()
        .map(Secret::expose)
        .ok_or(LogInError::Option(name))
}

async fn send(
    url: &str,
    request: reqwest::RequestBuilder,
) -> Result<reqwest::Response, LogInError> {
    let answer = request
        .send()
        .await
        .map_err(|error| LogInError::Reach(url.to_owned(), error.without_url()))?;
    match answer.status().is_success() {
        true => Ok(answer),
        false => Err(LogInError::Refused {
            url: url.to_owned(),
            status: answer.status().as_u16(),
        }),
    }
}

fn token(url: &str, headers: &HeaderMap, name: &'static str) -> Result<HeaderValue, LogInError> {
    let mut token = headers
        .get(name)
        .cloned()
        .ok_or_else(|| LogInError::Answer(url.to_owned(), name))?;
    token.set_sensitive(true);
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_is_the_public_one_of_the_region() {
        let catalog = || {
            serde_json::from_value::<Vec<Service>>(json!([
                {"type": "volumev3", "endpoints": [{"interface": "public", "url": "http://v"}]},
                {"type": "object-store", "endpoints": [
                    {"interface": "internal", "region": "a", "url": "http://i"},
                    {"interface": "public", "region": "a", "url": "http://a/"},
                    {"interface": "public", "region": "b", "url": "http://b"},
                ]},
            ]))
            .unwrap()
        };
        assert_eq!(endpoint(catalog(), None).as_deref(), Some("http://a"));
        assert_eq!(endpoint(catalog(), Some("b")).as_deref(), Some("http://b"));
        assert_eq!(endpoint(catalog(), Some("c")), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut options = config::Swift {
            username: Some("u".to_owned()),
            ..config::Swift::default()
        };
        let missing = |options: &config::Swift| credentials(options).unwrap_err().to_string();
        assert_eq!(missing(&options), "swift.project is missing");
        options.project = Some("p".to_owned());
        assert_eq!(missing(&options), "swift.password is missing");
        options.application_credential_id = Some("c".to_owned());
        assert_eq!(
            missing(&options),
            "swift.application_credential_secret is missing"
        );
    }
}
