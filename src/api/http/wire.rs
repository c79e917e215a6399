//! From actix's request to ours, and from our answer to actix's.

use crate::api::http::budget::Hold;
use crate::api::http::connection::Line;
use crate::api::http::fault::Fault;
use crate::api::http::proxy;
use crate::api::http::reply::{Content, Form, Reply};
use crate::config;
use crate::model::error::{Error, MALFORMED};
use crate::volume::cinder::Head;
use actix_web::body::SizedStream;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use std::convert::Infallible;
use std::net::IpAddr;
use std::time::Duration;

/// Bytes of an answer that are handed to a connection at once. It asks for more when they are taken, so a client that
/// does not read costs the memory of one answer, not of one for each request that it has sent.
const PIECE_BYTES: usize = 16 * 1024;

/// Answers up to this size are not counted. One may wait on each connection.
pub(crate) const SMALL_BYTES: usize = 32 * 1024;

/// Most bytes of a method, a path and a query. As Cinder's server.
const URI_BYTES_MAX: usize = 8192;
/// Most bytes of all headers. They are kept while the request is handled.
const HEADERS_BYTES_MAX: usize = 32 * 1024;
/// Most pairs in a query. Most filters are fewer by far.
const QUERY_PAIRS_MAX: usize = 200;

const API_VERSION: &str = "OpenStack-API-Version";

/// Names with their values, decoded, in order.
pub(crate) type Pairs = Vec<(String, String)>;

/// The names in a request.
pub(crate) struct Names {
    /// Parts of the path.
    pub(crate) parts: Pairs,
    pub(crate) query: Pairs,
}

/// A request, taken out of actix's hands. The body comes last.
pub(crate) struct Incoming {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) version: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) subject_token: Option<String>,
    pub(crate) service_token: Option<String>,
    pub(crate) if_match: Option<String>,
    pub(crate) accept: Option<String>,
    pub(crate) client: Option<IpAddr>,
    pub(crate) base: String,
    pub(crate) body: Vec<u8>,
    /// The head as Cinder would get it, where this service stands in front of it.
    pub(crate) passed: Option<Head>,
    pub(crate) request_id: String,
}

impl Incoming {
    /// Everything of a request but its body.
    pub(crate) fn of(request: &HttpRequest, settings: &config::Api, request_id: String) -> Self {
        let header = |name: &str| text(request.headers(), name);
        Self {
            method: request.method().to_string(),
            path: request.path().to_owned(),
            query: request.query_string().to_owned(),
            version: header(API_VERSION),
            content_type: header("Content-Type"),
            token: header("X-Auth-Token").map(|token| token.trim().to_owned()),
            subject_token: header("X-Subject-Token"),
            service_token: header("X-Service-Token").map(|token| token.trim().to_owned()),
            if_match: header("If-Match"),
            accept: header("Accept"),
            client: proxy::client(settings, request),
            base: proxy::base(settings, request.headers()),
            body: Vec::new(),
            passed: None,
            request_id,
        }
    }

    /// What the path and the query name. None of it has a null character: PostgreSQL cannot store one, so nothing can have
    /// such a name.
    pub(crate) fn names(&self, parts: Pairs) -> Result<Names, Error> {
        if self.query.split('&').count() > QUERY_PAIRS_MAX {
            return Err(Error::Invalid(format!(
                "The query has more than {QUERY_PAIRS_MAX} parameters."
            )));
        }
        let query = web::Query::<Pairs>::from_query(&self.query);
        let query = query.map(web::Query::into_inner).unwrap_or_default();
        let has_null = |text: &String| text.contains('\0');
        let mut names = parts.iter().chain(&query);
        if names.any(|(key, value)| has_null(key) || has_null(value)) {
            return Err(Error::Invalid(MALFORMED.to_owned()));
        }
        Ok(Names { parts, query })
    }

    /// Its request id, method and path, for the log.
    pub(crate) fn log_fields(&self) -> (String, String, String) {
        (
            self.request_id.clone(),
            self.method.clone(),
            self.path.clone(),
        )
    }
}

/// The length of a body, as the head of the request says.
pub(crate) enum Length {
    None,
    Bytes(u64),
    Unknown,
}

impl Length {
    pub(crate) fn of(request: &HttpRequest) -> Self {
        let header = |name: &str| text(request.headers(), name);
        let said = header("Content-Length").and_then(|length| length.trim().parse().ok());
        match said {
            Some(0) => Self::None,
            Some(length) => Self::Bytes(length),
            None if header("Transfer-Encoding").is_some() => Self::Unknown,
            None => Self::None,
        }
    }

    /// Refuses a body that is announced to be longer than this.
    pub(crate) fn check(&self, most: u64) -> Result<(), Fault> {
        match self {
            Self::Bytes(length) if *length > most => Err(Fault::too_large()),
            _ => Ok(()),
        }
    }
}

/// An answer with the version it is given in.
pub(crate) struct Answer {
    pub(crate) reply: Reply,
    pub(crate) version: Option<String>,
}

impl Answer {
    pub(crate) fn fault(fault: Fault, version: Option<String>) -> Self {
        Self {
            reply: fault.into(),
            version,
        }
    }
}

/// Refuses a request of whose head too much would have to be kept.
pub(crate) fn check_head(request: &HttpRequest) -> Result<(), Fault> {
    let line = [
        request.method().as_str(),
        request.path(),
        request.query_string(),
    ];
    if line.map(str::len).iter().sum::<usize>() > URI_BYTES_MAX {
        return Err(Fault::uri_too_long());
    }
    let headers = request.headers().iter();
    let bytes: usize = headers
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if bytes > HEADERS_BYTES_MAX {
        return Err(Fault::headers_too_large());
    }
    Ok(())
}

/// `req-` and a UUID in lower case.
pub(crate) fn is_request_id(text: &str) -> bool {
    text.strip_prefix("req-").is_some_and(|id| {
        id.len() == 36
            && !id.chars().any(|c| c.is_ascii_uppercase())
            && uuid::Uuid::parse_str(id).is_ok()
    })
}

/// The body, if it is not too large and comes in time.
pub(crate) async fn read_body(
    payload: web::Payload,
    most: u64,
    patience: Duration,
    line: &Line,
) -> Result<Vec<u8>, Fault> {
    line.begin_body();
    let collected = tokio::time::timeout(patience, collect(payload, most)).await;
    let body = collected.map_err(|_| Fault::too_slow())??;
    line.end_body();
    Ok(body)
}

async fn collect(mut payload: web::Payload, most: u64) -> Result<Vec<u8>, Fault> {
    let mut body = Vec::new();
    while let Some(piece) = payload.next().await {
        let piece = piece.map_err(|_| Fault::malformed())?;
        if (body.len() + piece.len()) as u64 > most {
            return Err(Fault::too_large());
        }
        body.extend_from_slice(&piece);
    }
    body.shrink_to_fit();
    Ok(body)
}

/// A header, if it is text.
pub(crate) fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

const VENDOR_TYPE: &str = "application/vnd.openstack.volume+json";

/// What goes out, with the memory that it takes until it is gone.
pub(crate) fn respond(
    answer: Answer,
    hold: Option<Hold>,
    request_id: &str,
    accept: Option<&str>,
) -> HttpResponse {
    let Answer { reply, version } = answer;
    let status =
        StatusCode::from_u16(reply.status).expect("handlers answer with statuses that exist");
    let mut response = HttpResponse::build(status);
    if let Some(headers) = &reply.passed {
        copy_headers(headers, &mut response);
        return match reply.body {
            Some(Content::Written(text)) => in_pieces(&mut response, text, hold),
            _ => response.body(""),
        };
    }
    response.insert_header(("x-openstack-request-id", request_id));
    let content_type = match reply.form {
        Form::Full if reply.status < 400 && accept == Some(VENDOR_TYPE) => Some(VENDOR_TYPE),
        Form::Full => Some("application/json"),
        Form::Bare => Some("text/html; charset=UTF-8"),
        Form::Plain(kind) => Some(kind),
        Form::Silent => None,
    };
    if reply.form == Form::Full {
        response.insert_header(("x-compute-request-id", request_id));
    }
    if let (Some(version), Form::Full | Form::Bare) = (version, reply.form) {
        response.insert_header((API_VERSION, format!("volume {version}")));
        response.insert_header(("Vary", API_VERSION));
    }
    for (name, value) in reply.headers {
        response.insert_header((name, value));
    }
    if let Some(kind) = content_type.filter(|_| reply.status != 204) {
        response.content_type(kind);
    }
    match reply.body {
        Some(Content::Written(text)) => in_pieces(&mut response, text, hold),
        Some(Content::Json(body)) => in_pieces(&mut response, body.to_string().into(), hold),
        None if reply.status == 204 => response.finish(),
        None => response.body(""),
    }
}

/// Copies the headers of another server's answer.
pub(crate) fn copy_headers(headers: &http::HeaderMap, response: &mut HttpResponseBuilder) {
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_str().as_bytes());
        let value = HeaderValue::from_bytes(value.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            response.append_header((name, value));
        }
    }
}

/// The pieces are parts of one text, which is gone when the last of them was taken, or the connection ends.
fn in_pieces(response: &mut HttpResponseBuilder, body: Bytes, hold: Option<Hold>) -> HttpResponse {
    if body.len() <= PIECE_BYTES {
        return response.body(body);
    }
    let length = body.len() as u64;
    let pieces = stream::unfold((body, hold), |(mut rest, hold)| async move {
        let next = rest.split_to(rest.len().min(PIECE_BYTES));
        (!next.is_empty()).then_some((Ok::<_, Infallible>(next), (rest, hold)))
    });
    response.body(SizedStream::new(length, Box::pin(pieces)))
}
