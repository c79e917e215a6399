//! Logging in to OpenStack Swift, and keeping the token fresh: OpenDAL's Swift takes a fixed token,
//! so every request gets the current one here, and a refused one is renewed once.
//!
//! Each object is sent with its MD5, which Swift compares with what it got.

use crate::config::{self, Secret};
use crate::keystone::{self, Catalog, ClientError, Credentials, Kept, KeptToken};
use crate::model::error::chain;
use backon::{ExponentialBuilder, Retryable};
use http::{HeaderValue, Method, StatusCode};
use md5::{Digest, Md5};
use opendal::{Buffer, Error, ErrorKind, HttpBody, HttpTransport};
use opendal_http_transport_reqwest::ReqwestTransport;
use reqwest::Client;
use std::time::Duration;

const TOKEN_HEADER: &str = "X-Auth-Token";
/// The type of Swift in the catalogue of Keystone.
const SERVICE_TYPE: &str = "object-store";

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
    /// Whether another try may succeed.
    fn is_passing(&self) -> bool {
        match self {
            LogInError::Reach(..) => true,
            LogInError::Refused { status, .. } => *status >= 500 || [408, 429].contains(status),
            LogInError::Answer(..) | LogInError::Option(_) => false,
        }
    }
}

/// A transport that adds our token.
pub(super) struct SwiftClient {
    /// URL of the account.
    pub(super) endpoint: String,
    account: Account,
    inner: ReqwestTransport,
    token: Kept<LogInError>,
}

/// Who gives out tokens, and as whom they are asked for.
enum Account {
    Keystone {
        client: keystone::Client,
        region: Option<String>,
    },
    /// Swift's own log-in, "TempAuth".
    Swift {
        http: Client,
        url: String,
        username: String,
        password: Secret,
        timeout: Duration,
    },
}

struct Grant {
    token: HeaderValue,
    endpoint: String,
}

/// Logs in for the first time; retries for this long if there is no answer yet.
pub(super) async fn log_in(
    http: Client,
    options: &config::Swift,
    timeout: Duration,
    patience: Duration,
) -> Result<SwiftClient, LogInError> {
    let account = Account::new(http.clone(), options, timeout)?;
    let pauses = ExponentialBuilder::default()
        .with_jitter()
        .without_max_times()
        .with_total_delay(Some(patience));
    let grant = (|| account.log_in())
        .retry(pauses)
        .when(LogInError::is_passing)
        .notify(|error, _| tracing::warn!(error = %chain(error), "the log-in failed; trying again"))
        .await?;
    Ok(SwiftClient {
        endpoint: grant.endpoint,
        inner: ReqwestTransport::new(http),
        account,
        token: Kept::new(Some(until_refused(grant.token)), LogInError::is_passing),
    })
}

/// A token that is used until Swift refuses it, whatever its time of expiry.
fn until_refused(token: HeaderValue) -> KeptToken {
    KeptToken {
        token,
        renew_at: None,
        expires_at: None,
    }
}

impl SwiftClient {
    async fn log_in(&self) -> Result<KeptToken, LogInError> {
        let grant = self.account.log_in().await?;
        Ok(until_refused(grant.token))
    }

    /// A token other than the one that was refused, if one was.
    async fn token(&self, refused: Option<&HeaderValue>) -> Result<HeaderValue, Error> {
        let token = self.token.get(refused, || self.log_in()).await;
        token.map_err(|error| {
            let kind = if error.is_passing() {
                ErrorKind::Unexpected
            } else {
                ErrorKind::PermissionDenied
            };
            Error::new(kind, "the token could not be renewed")
                .with_temporary(error.is_passing())
                .set_source(error)
        })
    }
}

impl HttpTransport for SwiftClient {
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
        let token = self.token(None).await?;
        request.headers_mut().insert(TOKEN_HEADER, token.clone());
        let answer = self.inner.fetch(request.clone()).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let token = self.token(Some(&token)).await?;
        request.headers_mut().insert(TOKEN_HEADER, token);
        self.inner.fetch(request).await
    }
}

impl Account {
    fn new(http: Client, options: &config::Swift, timeout: Duration) -> Result<Self, LogInError> {
        // Swift's own log-in knows neither.
        let is_keystones = options.project.is_some() || options.application_credential_id.is_some();
        let url = match options.auth_url.trim_end_matches('/') {
            "" => return Err(LogInError::Option("auth_url")),
            url if url.ends_with("/v3") => url.to_owned(),
            url if is_keystones => format!("{url}/v3"),
            url => {
                return Ok(Account::Swift {
                    http,
                    url: url.to_owned(),
                    username: needed(&options.username, "username")?,
                    password: needed(&options.password, "password")?,
                    timeout,
                });
            }
        };
        let credentials = credentials(options)?;
        Ok(Account::Keystone {
            client: keystone::Client::new(http, &url, credentials, timeout),
            region: options.region.clone(),
        })
    }

    async fn log_in(&self) -> Result<Grant, LogInError> {
        match self {
            Account::Keystone { client, region } => ask_keystone(client, region.as_deref()).await,
            Account::Swift {
                http,
                url,
                username,
                password,
                timeout,
            } => {
                let request = http
                    .get(url)
                    .header("X-Auth-User", username)
                    .header("X-Auth-Key", password.expose())
                    .timeout(*timeout);
                ask_swift(url, request).await
            }
        }
    }
}

async fn ask_swift(url: &str, request: reqwest::RequestBuilder) -> Result<Grant, LogInError> {
    let answer = request
        .send()
        .await
        .map_err(|error| LogInError::Reach(url.to_owned(), error.without_url()))?;
    if !answer.status().is_success() {
        return Err(LogInError::Refused {
            url: url.to_owned(),
            status: answer.status().as_u16(),
        });
    }
    let header = |name: &'static str| {
        let value = answer.headers().get(name);
        value.ok_or_else(|| LogInError::Answer(url.to_owned(), name))
    };
    let mut token = header(TOKEN_HEADER)?.clone();
    token.set_sensitive(true);
    let name = "X-Storage-Url";
    let endpoint = header(name)?.to_str();
    let endpoint = endpoint.map_err(|_| LogInError::Answer(url.to_owned(), name))?;
    Ok(Grant {
        token,
        endpoint: endpoint.to_owned(),
    })
}

async fn ask_keystone(
    client: &keystone::Client,
    region: Option<&str>,
) -> Result<Grant, LogInError> {
    let url = || client.url().to_owned();
    let no_endpoint = || LogInError::Answer(url(), "public object-store endpoint");
    let (token, described) = client
        .log_in(Catalog::Wanted)
        .await
        .map_err(|error| match error {
            ClientError::Reach(error) => LogInError::Reach(url(), error),
            ClientError::LogIn(status) | ClientError::Status(status) => {
                LogInError::Refused { url: url(), status }
            }
            ClientError::NoToken => LogInError::Answer(url(), "X-Subject-Token"),
            ClientError::Unreadable | ClientError::NoExpiry | ClientError::Clocks => no_endpoint(),
        })?;
    let endpoint = described
        .public_endpoint(SERVICE_TYPE, region)
        .ok_or_else(no_endpoint)?;
    Ok(Grant {
        token,
        endpoint: endpoint.to_owned(),
    })
}

fn credentials(options: &config::Swift) -> Result<Credentials, LogInError> {
    if let Some(id) = &options.application_credential_id {
        return Ok(Credentials::ApplicationCredential {
            id: id.clone(),
            secret: needed(
                &options.application_credential_secret,
                "application_credential_secret",
            )?,
        });
    }
    let domain = options.domain.as_deref().unwrap_or("Default");
    Ok(Credentials::Password {
        username: needed(&options.username, "username")?,
        user_domain: domain.to_owned(),
        project: needed(&options.project, "project")?,
        password: needed(&options.password, "password")?,
        project_domain: domain.to_owned(),
    })
}

fn needed<T: Clone>(option: &Option<T>, name: &'static str) -> Result<T, LogInError> {
    option.clone().ok_or(LogInError::Option(name))
}

#[cfg(test)]
mod tests {
    use super::*;

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
