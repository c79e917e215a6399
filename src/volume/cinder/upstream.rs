//! Requests of others, passed on to Cinder as they came, and Cinder's answers, passed back as they are. Both bodies are
//! streamed: of each only a few pieces are here at once.

use crate::config;
use crate::keystone::{self, TrustError};
use bytes::Bytes;
use futures_util::stream;
use http::header::{ACCEPT, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use reqwest::{Body, Request, Response, Url};
use serde_json::Value;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Headers that are about a connection and not about the request or the answer (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Longest answer that is read as a whole.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// How long Cinder may take to say which versions it has.
const VERSIONS_PATIENCE: Duration = Duration::from_secs(5);
/// How often a path is decoded to see where it leads: servers behind one another may each decode it once.
const DECODINGS: usize = 3;

/// Why a request was not passed on, or its answer not passed back.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("the path and query cannot be passed on as they are")]
    Target,
    #[error("cinder cannot be reached")]
    Connect(#[source] reqwest::Error),
    #[error("cinder broke the connection off")]
    Broken(#[source] reqwest::Error),
    #[error("cinder has not answered in time")]
    Late,
    #[error("cinder's answer is too long")]
    TooLong,
    #[error("cinder's answer is not understood")]
    Unreadable,
}

/// The head of a request that is passed on.
#[derive(Debug, Clone)]
pub struct Head {
    pub method: Method,
    /// As the client wrote it, from `/v3` on.
    pub target: String,
    /// Those of the request itself, and not of the client's connection.
    pub headers: HeaderMap,
}

impl Head {
    /// Takes the headers that a client has sent.
    pub fn of(method: Method, target: String, headers: &HeaderMap) -> Self {
        Self {
            method,
            target,
            headers: end_to_end(headers),
        }
    }
}

/// An answer whose body is still to come.
pub struct Answer {
    pub status: u16,
    /// Without those of the connection, and without the length.
    pub headers: HeaderMap,
    /// Of the body, if Cinder says so. After `HEAD`, of the body that `GET` would have.
    pub length: Option<u64>,
    response: Response,
    patience: Duration,
}

/// An answer with its body.
#[derive(Debug, Clone)]
pub struct WholeAnswer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A Cinder to which requests are passed on. Cheap to clone.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    /// With `/v3`, and no slash behind it.
    url: String,
    patience: Duration,
    handle: Handle,
}

impl Upstream {
    /// Prepares the connection. Cinder need not be there yet.
    pub fn new(
        settings: &config::Cinder,
        identity: &config::KeystoneSettings,
        handle: Handle,
    ) -> Result<Self, TrustError> {
        let cacert = settings.cacert.as_deref().or(identity.cacert.as_deref());
        Ok(Self(Arc::new(Inner {
            http: keystone::connect_for_others(cacert, settings.timeout)?,
            url: settings.url.trim_end_matches('/').to_owned(),
            patience: settings.gateway_timeout,
            handle,
        })))
    }

    /// How long Cinder may take for each part of its work.
    pub fn patience(&self) -> Duration {
        self.0.patience
    }

    /// Whether a request can be passed on as it is.
    pub fn check(&self, head: &Head) -> Result<(), UpstreamError> {
        self.url(&head.target).map(drop)
    }

    /// Sends a request, and waits for the head of the answer for as long as that takes.
    pub async fn send(
        &self,
        head: &Head,
        body: Option<RequestBody>,
    ) -> Result<Answer, UpstreamError> {
        let url = self.url(&head.target)?;
        let has_body = body.is_some();
        let headers = request_headers(&head.headers);
        let request = |body: Option<RequestBody>| {
            let mut request = Request::new(head.method.clone(), url.clone());
            *request.headers_mut() = headers.clone();
            *request.body_mut() = body.map(|body| body.0);
            request
        };
        let mut sent = self.0.http.execute(request(body)).await;
        // Cinder may have given up the connection that was kept. What may have changed something is not sent again.
        let is_safe = !has_body && head.method.is_safe();
        if let Err(error) = &sent
            && is_safe
            && !error.is_connect()
            && !error.is_timeout()
        {
            sent = self.0.http.execute(request(None)).await;
        }
        Ok(self.answer(sent.map_err(failed)?))
    }

    fn answer(&self, response: Response) -> Answer {
        let mut headers = end_to_end(response.headers());
        let length = headers.remove(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.trim().parse().ok());
        Answer {
            status: response.status().as_u16(),
            headers,
            length,
            response,
            patience: self.0.patience,
        }
    }

    /// Sends a request with a short body, and reads the whole answer. Blocks.
    pub fn ask(&self, head: &Head, body: Bytes) -> Result<WholeAnswer, UpstreamError> {
        let mut head = head.clone();
        // That of the body as it is now is set with it.
        head.headers.remove(CONTENT_LENGTH);
        let asking = async {
            let body = (!body.is_empty()).then(|| RequestBody(Body::from(body)));
            let answer = timeout(self.0.patience, self.send(&head, body)).await;
            answer.map_err(|_| UpstreamError::Late)??.whole().await
        };
        self.0.handle.block_on(asking)
    }

    /// Cinder's document of the versions that it has. Blocks.
    pub fn versions(&self) -> Result<Value, UpstreamError> {
        let root = self.0.url.strip_suffix("v3").unwrap_or(&self.0.url);
        let asking = async {
            let url = Url::parse(root).map_err(|_| UpstreamError::Target)?;
            let sent = self.0.http.execute(Request::new(Method::GET, url));
            let answer = self.answer(sent.await.map_err(failed)?).whole().await?;
            serde_json::from_slice(&answer.body).map_err(|_| UpstreamError::Unreadable)
        };
        let patience = VERSIONS_PATIENCE.min(self.0.patience);
        let asked = async { timeout(patience, asking).await };
        let told = self.0.handle.block_on(asked);
        told.map_err(|_| UpstreamError::Late)?
    }

    /// Where a request goes. Refused are paths that would be written in another way, or lead out of the endpoint.
    fn url(&self, target: &str) -> Result<Url, UpstreamError> {
        let rest = target.strip_prefix("/v3").unwrap_or_default();
        let path = rest.split('?').next().unwrap_or_default();
        if !rest.starts_with('/') || leads_out(path) {
            return Err(UpstreamError::Target);
        }
        let written = format!("{}{rest}", self.0.url);
        let url = Url::parse(&written).map_err(|_| UpstreamError::Target)?;
        let base = Url::parse(&self.0.url).map_err(|_| UpstreamError::Target)?;
        let kept = url.as_str().strip_prefix(base.as_str());
        match kept {
            Some(kept) if is_same(rest, kept) => Ok(url),
            _ => Err(UpstreamError::Target),
        }
    }
}

impl Answer {
    /// The next piece of the body.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let piece = timeout(self.patience, self.response.chunk()).await;
        piece.map_err(|_| UpstreamError::Late)?.map_err(failed)
    }

    async fn whole(mut self) -> Result<WholeAnswer, UpstreamError> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece().await? {
            if body.len() + piece.len() > ANSWER_BYTES_MAX {
                return Err(UpstreamError::TooLong);
            }
            body.extend_from_slice(&piece);
        }
        Ok(WholeAnswer {
            status: self.status,
            headers: self.headers,
            body: body.into(),
        })
    }
}

/// The body of a request, which comes while it is sent.
pub struct RequestBody(Body);

/// Where the pieces of that body go in.
#[derive(Clone)]
pub struct Feed(mpsc::Sender<Option<Bytes>>);

/// Why a piece was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// The request is over: it was answered, or it failed.
    Over,
    Late,
}

impl RequestBody {
    /// A body of which two pieces at most wait.
    pub fn fed() -> (Feed, Self) {
        let (feed, pieces) = mpsc::channel(1);
        let pieces = stream::unfold(pieces, |mut pieces| async move {
            match pieces.recv().await {
                Some(Some(piece)) => Some((Ok(piece), pieces)),
                Some(None) => None,
                // Its sender is gone. Without this error, what came would look like the whole body.
                None => Some((Err(io::Error::from(io::ErrorKind::BrokenPipe)), pieces)),
            }
        });
        (Feed(feed), Self(Body::wrap_stream(pieces)))
    }
}

impl Feed {
    /// Hands on a piece once there is room for it.
    pub async fn send(&self, piece: Bytes, patience: Duration) -> Result<(), NotTaken> {
        self.hand_on(Some(piece), patience).await
    }

    /// Says that the body is complete.
    pub async fn end(&self, patience: Duration) -> Result<(), NotTaken> {
        self.hand_on(None, patience).await
    }

    async fn hand_on(&self, piece: Option<Bytes>, patience: Duration) -> Result<(), NotTaken> {
        match timeout(patience, self.0.send(piece)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(NotTaken::Over),
            Err(_) => Err(NotTaken::Late),
        }
    }
}

fn failed(error: reqwest::Error) -> UpstreamError {
    let error = error.without_url();
    if error.is_connect() {
        UpstreamError::Connect(error)
    } else {
        UpstreamError::Broken(error)
    }
}

/// The headers that are about the request or the answer itself. The length of a body in chunks is not.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<String> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let is_chunked = headers.contains_key(TRANSFER_ENCODING);
    let ends_here = |name: &HeaderName| {
        HOP_BY_HOP.contains(&name.as_str())
            || named.iter().any(|named| named == name.as_str())
            || (is_chunked && *name == CONTENT_LENGTH)
    };
    headers
        .iter()
        .filter(|(name, _)| !ends_here(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn request_headers(headers: &HeaderMap) -> HeaderMap {
    let mut passed = headers.clone();
    // That of Cinder is set with the URL, and a client that waits for leave to send its body has had ours.
    passed.remove(HOST);
    passed.remove(EXPECT);
    // Where there is none, the library would ask for all kinds, and some answers depend on it. An empty one is as none.
    passed
        .entry(ACCEPT)
        .or_insert_with(|| HeaderValue::from_static(""));
    passed
}

/// Whether a path may mean another one, above where it seems to be.
fn leads_out(path: &str) -> bool {
    let mut bytes = path.as_bytes().to_vec();
    for _ in 0..=DECODINGS {
        let is_slash = |byte: &u8| matches!(byte, b'/' | b'\\');
        if bytes
            .split(is_slash)
            .any(|name| matches!(name, b"." | b".."))
        {
            return true;
        }
        bytes = decoded(&bytes);
    }
    false
}

fn decoded(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        match escaped(rest) {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// The byte that `%XX` at the beginning stands for.
fn escaped(text: &[u8]) -> Option<u8> {
    let (b'%', hex) = (text.first()?, text.get(1..3)?) else {
        return None;
    };
    hex.iter().try_fold(0, |byte: u8, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(byte << 4 | u8::try_from(digit).ok()?)
    })
}

/// Whether two ways to write a path and query differ at most in characters that a URL may only have escaped, and that one
/// of them has as they are.
fn is_same(raw: &str, written: &str) -> bool {
    let (mut raw, mut written) = (raw.as_bytes(), written.as_bytes());
    while let (Some(from), Some(to)) = (raw.first(), written.first()) {
        let length = match escaped(written) {
            _ if from == to => 1,
            Some(byte) if byte == *from && !byte.is_ascii_alphanumeric() => 3,
            _ => return false,
        };
        raw = &raw[1..];
        written = &written[length..];
    }
    raw.is_empty() && written.is_empty()
}
