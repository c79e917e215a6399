//! Passes a request on to Cinder, and the answer back, piece by piece.

use crate::api::http::budget::Hold;
use crate::api::http::connection::{Line, Watch};
use crate::api::http::fault::{self, Fault};
use crate::api::http::gateway::{Gateway, REQUEST_BYTES, error_of};
use crate::api::http::state::Api;
use crate::api::http::taking::RATE_MIN;
use crate::api::http::wire::{
    Answer as Ours, Incoming, Length, check_head, copy_headers, respond, text,
};
use crate::api::router::{decode, find_merged};
use crate::identity::keystone::Presented;
use crate::model::error::Error;
use crate::volume::cinder::{Answer, Feed, Head, NotTaken, RequestBody, UpstreamError};
use actix_web::body::{BodyStream, None as NoBody, SizedStream};
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Bytes of an answer that are handed to a connection at once.
const PIECE_BYTES: usize = 16 * 1024;
/// When a client may try again for whom there was no place.
const RETRY_SECONDS: u64 = 5;
/// Methods that mean something to the server that reads them, and not to the one behind it.
const NOT_PASSED_ON: [&str; 2] = ["CONNECT", "TRACE"];
/// The first part of the paths that are ours, after the version and the project.
const OURS: [&str; 2] = ["backups", "embervault"];
/// Who has no token that is known shares the places with all others who have none: addresses cost nothing.
const NO_TOKEN: &str = "no token";

/// How often a path is decoded to see what it is about: servers behind one another may each decode it once.
const DECODINGS: usize = 3;

/// Whether a request is for Cinder. What looks like one for backups, however it is written, never is: Cinder has an API
/// for backups of its own.
pub(crate) fn is_passed_on(method: &str, path: &str) -> bool {
    let plain = path.strip_suffix(".json").unwrap_or(path);
    if find_merged(method, plain).is_some() {
        return false;
    }
    let Some(rest) = path.strip_prefix("/v3/").filter(|rest| !rest.is_empty()) else {
        return false;
    };
    let mut rest = rest.to_owned();
    for _ in 0..DECODINGS {
        rest = decode(&rest);
        let mut names = rest.split(['/', '\\']).filter(|name| !name.is_empty());
        if names.by_ref().take(2).any(is_ours) {
            return false;
        }
    }
    true
}

/// Whether a part of a path names what is ours. What may stand behind a name differs from server to server: a form, a
/// parameter, or a newline, which some patterns do not see.
fn is_ours(name: &str) -> bool {
    let goes_on = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let rests = OURS.iter().filter_map(|ours| name.strip_prefix(ours));
    let mut next = rests.map(|rest| rest.bytes().next());
    next.any(|byte| !byte.is_some_and(goes_on))
}

/// Why a request has no answer of Cinder's.
enum Failed {
    /// The client has not sent what it announced.
    Client(Fault),
    Upstream(UpstreamError),
    Busy,
}

impl Failed {
    fn into_error(self) -> Result<Error, Fault> {
        Ok(match self {
            Self::Client(fault) => return Err(fault),
            Self::Busy => Error::TooMany {
                retry_after: RETRY_SECONDS,
            },
            Self::Upstream(error) => error_of(error),
        })
    }
}

/// Passes a request on, and gives the client Cinder's answer, or ours if there is none.
pub(crate) async fn pass(
    api: &Arc<Api>,
    gateway: &Gateway,
    request: &HttpRequest,
    payload: web::Payload,
    id: &str,
) -> HttpResponse {
    let accept = text(request.headers(), "Accept");
    let accept = accept.as_deref();
    let refused = |fault: Fault| {
        let answer = Ours {
            reply: fault.into_reply(accept),
            version: None,
        };
        respond(answer, None, id, accept)
    };
    if let Err(fault) = check_head(request) {
        return refused(fault);
    }
    if NOT_PASSED_ON.contains(&request.method().as_str()) {
        return refused(Fault::unrouted());
    }
    let line = request.conn_data::<Line>().cloned().unwrap_or_default();
    let watch = line.watch();
    let passing = Passing {
        gateway,
        line: line.clone(),
        patience: api.settings.client_timeout,
    };
    let incoming = Incoming::of(request, &api.settings, id.to_owned());
    let head = head_of(request, &incoming.base);
    let head = head.and_then(|head| gateway.upstream.check(&head).map(|()| head));
    let passed = match head {
        Ok(head) => Box::pin(passing.pass(api, &head, incoming, request, payload)).await,
        Err(error) => Err(Failed::Upstream(error)),
    };
    match passed {
        Ok(passed) => passed.respond(request, line, watch),
        Err(failed) => match failed.into_error() {
            Ok(error) => {
                fault::log(&error, id, request.method().as_str(), request.path());
                refused(Fault::of(&error))
            }
            Err(fault) => refused(fault),
        },
    }
}

/// The head of a request as Cinder gets it. Its links lead where this service is reached,
/// whatever the client says: a proxy in front of us has had its say about that in `base`.
pub(crate) fn head_of(request: &HttpRequest, base: &str) -> Result<Head, UpstreamError> {
    let mut headers = http::HeaderMap::new();
    for (name, value) in request.headers() {
        let name = http::HeaderName::from_bytes(name.as_str().as_bytes());
        let value = http::HeaderValue::from_bytes(value.as_bytes());
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(UpstreamError::Target);
        };
        headers.append(name, value);
    }
    let target = request.uri().path_and_query();
    let target = target.map(|target| target.as_str().to_owned());
    let method = http::Method::from_bytes(request.method().as_str().as_bytes());
    let method = method.map_err(|_| UpstreamError::Target)?;
    let mut head = Head::of(method, target.unwrap_or_default(), &headers);
    let (scheme, rest) = base.split_once("://").unwrap_or(("http", base));
    let (host, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    head.headers.remove(http::header::FORWARDED);
    for (name, value) in [
        ("x-forwarded-host", host),
        ("x-forwarded-proto", scheme),
        ("x-forwarded-prefix", prefix),
    ] {
        head.headers.remove(name);
        if let (false, Ok(value)) = (value.is_empty(), http::HeaderValue::from_str(value)) {
            head.headers.insert(name, value);
        }
    }
    // The last element is whom we see; what stands before it may come from a proxy, or from the client itself.
    let peer = request.peer_addr().map(|peer| peer.ip().to_string());
    if let Some(peer) = peer.and_then(|peer| http::HeaderValue::from_str(&peer).ok()) {
        head.headers.append("x-forwarded-for", peer);
    }
    Ok(head)
}

/// A request on its way.
struct Passing<'a> {
    gateway: &'a Gateway,
    line: Line,
    /// How long the client may take for each part of its body.
    patience: Duration,
}

/// An answer on its way back.
struct Passed {
    answer: Answer,
    hold: Hold,
    /// Kept while the answer comes that was given before all of the body was read: without it, what was sent of the body
    /// would look broken off, and Cinder might give up the connection with the answer.
    feed: Option<Feed>,
}

impl Passing<'_> {
    async fn pass(
        &self,
        api: &Arc<Api>,
        head: &Head,
        incoming: Incoming,
        request: &HttpRequest,
        payload: web::Payload,
    ) -> Result<Passed, Failed> {
        let callers = callers(api, incoming).await;
        let hold = self.gateway.places.take(&callers, REQUEST_BYTES).await;
        let hold = hold.ok_or(Failed::Busy)?;
        let has_body = !matches!(Length::of(request), Length::None);
        let (feed, body) = has_body.then(RequestBody::fed).unzip();
        let answer = self.exchange(head, payload, feed.as_ref(), body).await?;
        Ok(Passed { answer, hold, feed })
    }

    /// Sends the request, with the body as it comes, and waits for the head of the answer.
    async fn exchange(
        &self,
        head: &Head,
        payload: web::Payload,
        feed: Option<&Feed>,
        body: Option<RequestBody>,
    ) -> Result<Answer, Failed> {
        let upstream = &self.gateway.upstream;
        let mut sending = pin!(upstream.send(head, body));
        if let Some(feed) = feed {
            let mut pumping = pin!(self.pump(payload, feed));
            tokio::select! {
                biased;
                answer = &mut sending => return answer.map_err(Failed::Upstream),
                pumped = &mut pumping => pumped?,
            }
        }
        let answer = timeout(upstream.patience(), sending).await;
        let answer = answer.map_err(|_| Failed::Upstream(UpstreamError::Late))?;
        answer.map_err(Failed::Upstream)
    }

    /// Hands the body on as it comes. The client answers for the time in which it is waited for, and Cinder for that in
    /// which it takes nothing.
    async fn pump(&self, mut payload: web::Payload, feed: &Feed) -> Result<(), Failed> {
        let patience = self.gateway.upstream.patience();
        self.line.begin_body();
        let (mut bytes, mut waited) = (0, Duration::ZERO);
        loop {
            let began = Instant::now();
            let allowed = self.patience + Duration::from_secs(bytes / RATE_MIN);
            let piece = timeout(allowed.saturating_sub(waited), payload.next()).await;
            waited += began.elapsed();
            let taken = match piece {
                Err(_) => return Err(Failed::Client(Fault::too_slow())),
                Ok(Some(Err(_))) => return Err(Failed::Client(Fault::malformed())),
                Ok(Some(Ok(piece))) => {
                    bytes += piece.len() as u64;
                    feed.send(piece, patience).await
                }
                Ok(None) => {
                    self.line.end_body();
                    return match feed.end(patience).await {
                        Err(NotTaken::Late) => Err(Failed::Upstream(UpstreamError::Late)),
                        Err(NotTaken::Over) | Ok(()) => Ok(()),
                    };
                }
            };
            match taken {
                Ok(()) => {}
                Err(NotTaken::Late) => return Err(Failed::Upstream(UpstreamError::Late)),
                // The answer, or why there is none, comes from where the request was sent.
                Err(NotTaken::Over) => return Ok(()),
            }
        }
    }
}

/// Who shares the places for requests: the user and the project, or all who have no token that is known, and the
/// address of each.
async fn callers(api: &Arc<Api>, incoming: Incoming) -> Vec<String> {
    let address = incoming.client.map(|client| client.to_string());
    let address = vec![NO_TOKEN.to_owned(), address.unwrap_or_default()];
    if incoming.token.is_none() {
        return address;
    }
    let api = api.clone();
    let asked = web::block(move || {
        api.identity.caller(&Presented {
            token: incoming.token.as_deref().unwrap_or_default(),
            service_token: incoming.service_token.as_deref(),
            method: &incoming.method,
            path: &incoming.path,
        })
    });
    // Whether the token is good is for Cinder to say.
    match asked.await {
        Ok(Ok(Some(caller))) => caller.names(),
        _ => address,
    }
}

impl Passed {
    fn respond(self, request: &HttpRequest, line: Line, watch: Watch) -> HttpResponse {
        let Self { answer, hold, feed } = self;
        let Ok(status) = StatusCode::from_u16(answer.status) else {
            return HttpResponse::BadGateway().finish();
        };
        let mut response = HttpResponse::build(status);
        copy_headers(&answer.headers, &mut response);
        let is_head = request.method().as_str() == "HEAD";
        let length = answer.length;
        let kept = (hold, feed, watch);
        match (is_head, status.as_u16(), length) {
            (_, 204 | 304, _) | (true, _, None) => {
                if let (304, Some(length)) = (status.as_u16(), length) {
                    response.insert_header(("content-length", length));
                }
                response.body(NoBody::new())
            }
            (true, _, Some(length)) => response.body(SizedStream::new(
                length,
                stream::empty::<Result<Bytes, UpstreamError>>(),
            )),
            (false, _, Some(0)) => response.body(""),
            (false, _, Some(length)) => response.body(SizedStream::new(
                length,
                Box::pin(pieces(answer, line, kept)),
            )),
            (false, _, None) => {
                response.body(BodyStream::new(Box::pin(pieces(answer, line, kept))))
            }
        }
    }
}

/// The body of an answer, in pieces of which one at most is here beside what the connection to Cinder has read ahead. One
/// that breaks off takes the connection of the client with it.
fn pieces<T: 'static>(
    answer: Answer,
    line: Line,
    kept: T,
) -> impl Stream<Item = Result<Bytes, UpstreamError>> {
    let state = (answer, Bytes::new(), line, kept);
    stream::unfold(Some(state), |state| async move {
        let (mut answer, mut rest, line, kept) = state?;
        while rest.is_empty() {
            match answer.piece().await {
                Ok(Some(piece)) => rest = piece,
                Ok(None) => return None,
                Err(error) => {
                    line.break_off();
                    return Some((Err(error), None));
                }
            }
        }
        let piece = rest.split_to(rest.len().min(PIECE_BYTES));
        Some((Ok(piece), Some((answer, rest, line, kept))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_are_kept_from_cinder() {
        for other in [
            "backups-x",
            "backups_x",
            "backups2",
            "Backups",
            "group_backups",
            "x",
        ] {
            assert!(is_passed_on("GET", &format!("/v3/0f/{other}")), "{other}");
        }
        for ours in [
            "backups",
            "backups.json",
            "backups%0a",
            "backups;x=1",
            "embervault.x",
        ] {
            assert!(!is_passed_on("GET", &format!("/v3/0f/{ours}")), "{ours}");
            assert!(!is_passed_on("GET", &format!("/v3/{ours}/x")), "{ours}");
        }
    }
}
