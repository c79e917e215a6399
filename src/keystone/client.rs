//! Requests to Keystone, each alone.

use crate::keystone::answer::Token;
use crate::keystone::credentials::Credentials;
use crate::keystone::error::ClientError;
use http::HeaderValue;
use reqwest::{RequestBuilder, Response, StatusCode};
use std::time::Duration;

/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Whether the endpoints of all services come with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Catalog {
    Wanted,
    LeftOut,
}

/// One Keystone, and as whom it is asked.
pub struct Client {
    http: reqwest::Client,
    /// With `/v3`, and no slash behind it.
    url: String,
    credentials: Credentials,
    /// Longest time of one request.
    timeout: Duration,
}

impl Client {
    pub fn new(
        http: reqwest::Client,
        url: &str,
        credentials: Credentials,
        timeout: Duration,
    ) -> Self {
        Self {
            http,
            url: url.trim_end_matches('/').to_owned(),
            credentials,
            timeout,
        }
    }

    /// The Keystone.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A new token of our own, and what Keystone says of it.
    pub async fn log_in(&self, catalog: Catalog) -> Result<(HeaderValue, Token), ClientError> {
        let query = match catalog {
            Catalog::Wanted => "",
            Catalog::LeftOut => "?nocatalog",
        };
        let url = format!("{}/auth/tokens{query}", self.url);
        let body = self.credentials.body().to_string();
        let request = || {
            self.http
                .post(&url)
                .header("Content-Type", "application/json")
                .body(body.clone())
        };
        let answer = self.send(request).await?;
        if !answer.status().is_success() {
            return Err(ClientError::LogIn(answer.status().as_u16()));
        }
        let header = answer.headers().get("X-Subject-Token");
        let mut own = header.cloned().ok_or(ClientError::NoToken)?;
        own.set_sensitive(true);
        Ok((own, Token::parse(&read(answer).await?)?))
    }

    /// Keystone's answer about the token of a user; `None` if it is not valid.
    pub async fn validate(
        &self,
        own: &HeaderValue,
        subject: &HeaderValue,
        may_be_expired: bool,
    ) -> Result<Option<Token>, ClientError> {
        let mut url = format!("{}/auth/tokens?nocatalog", self.url);
        if may_be_expired {
            url.push_str("&allow_expired=1");
        }
        let request = || {
            self.http
                .get(&url)
                .header("X-Auth-Token", own)
                .header("X-Subject-Token", subject)
                .header("OpenStack-Identity-Access-Rules", "1")
        };
        let answer = self.send(request).await?;
        match answer.status() {
            StatusCode::OK => Ok(Some(Token::parse(&read(answer).await?)?)),
            // Of the subject; a page in HTML is about the path.
            StatusCode::NOT_FOUND if is_json(&answer) => Ok(None),
            status => Err(ClientError::Status(status.as_u16())),
        }
    }

    /// Sends a request, and once more if that failed before its time was over: Keystone may have given the connection up.
    async fn send(&self, request: impl Fn() -> RequestBuilder) -> Result<Response, ClientError> {
        let send = || request().timeout(self.timeout).send();
        let answer = match send().await {
            Err(error) if !error.is_timeout() => send().await,
            other => other,
        };
        answer.map_err(reach)
    }
}

fn reach(error: reqwest::Error) -> ClientError {
    ClientError::Reach(error.without_url())
}

fn is_json(answer: &Response) -> bool {
    let kind = answer.headers().get("Content-Type");
    kind.and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.starts_with("application/json"))
}

async fn read(mut answer: Response) -> Result<Vec<u8>, ClientError> {
    let mut bytes = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(reach)? {
        if bytes.len() + part.len() > ANSWER_BYTES_MAX {
            return Err(ClientError::Unreadable);
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}
