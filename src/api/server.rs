//! From a request to its answer, in one line: request id, size, route, token, body, memory, the token again, version,
//! media type, project, handler, fault (the order of checks is Cinder's; reference, 1.1 and 8.2).

use crate::api::gateway::{head_of, is_passed_on, pass};
use crate::api::http::body::document;
use crate::api::http::budget::Hold;
use crate::api::http::call::Call;
use crate::api::http::connection::{Limits, Line, serve};
use crate::api::http::cors;
use crate::api::http::fault::{self, Fault, excerpt};
use crate::api::http::gateway::REQUEST_BYTES;
use crate::api::http::microversion::{BASE, Microversion};
use crate::api::http::reply::{Form, Reply};
use crate::api::http::state::Api;
use crate::api::http::wire::{
    Answer, Incoming, Length, Names, Pairs, SMALL_BYTES, check_head, is_request_id, read_body,
    respond, text,
};
use crate::api::router;
use crate::api::routes::{Area, Route};
use crate::config::{self, Secret};
use crate::identity::embedded::Session;
use crate::identity::keystone::Presented;
use crate::identity::{Caller, RequestContext};
use crate::model::error::Error;
use actix_web::dev::Server;
use actix_web::http::Method;
use actix_web::{App, HttpRequest, HttpResponse, web};
use serde_json::Value;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Threads that accept requests; handlers run on blocking threads.
const WORKERS: usize = 2;

/// When a client may try again for whom there was no memory.
const RETRY_SECONDS: u64 = 5;
/// Largest body of a request that needs no token. A log-in takes much less.
const OPEN_BODY_BYTES_MAX: u64 = 16 * 1024;
/// Most values in the body of an identity request, and in that of another beside its metadata.
const IDENTITY_VALUES_MAX: usize = 256;
const VALUES_MAX: usize = 1024;
/// What a body takes for each of its bytes: itself, its values, and what is made of them.
const BODY_FACTOR: u64 = 8;
/// What the answer of an identity request may take that is no list.
const IDENTITY_BYTES: u64 = 64 * 1024;
/// How long what was found out about a caller is believed, where nothing had to be waited for.
const BELIEVED_FOR: Duration = Duration::from_secs(1);
/// How long open requests may take after the service was asked to stop.
const GRACE_SECONDS: u64 = 10;

impl Api {
    /// The memory for a request and its answer, as soon as it is free. What waits for Cinder has a place of its own kind: a
    /// Cinder that hangs must not take the memory of requests for backups with it.
    async fn hold(&self, admitted: &Admitted) -> Result<Option<Hold>, Fault> {
        if admitted.is_small() {
            return Ok(None);
        }
        let caller = admitted.callers();
        let body = admitted.incoming.body.len() as u64 * BODY_FACTOR;
        let memory = &self.memory;
        let gateway = self.gateway.as_ref().filter(|_| admitted.waits_for_cinder);
        let hold = match (gateway, admitted.asks_for_list(), &admitted.to) {
            (Some(gateway), ..) => gateway.places.take(&caller, body.max(REQUEST_BYTES)).await,
            (None, true, _) => memory.lists.take(&caller, memory.list_bytes).await,
            (None, false, To::Identity { .. }) => {
                memory.objects.take(&caller, body + IDENTITY_BYTES).await
            }
            (None, false, To::BlockStorage { .. }) => {
                let bytes = body.saturating_add(memory.object_bytes);
                memory.objects.take(&caller, bytes).await
            }
        };
        hold.map(Some).ok_or_else(|| admitted.busy())
    }

    /// The memory in which the body is kept until it has come and that of the request is held.
    async fn hold_body(&self, admitted: &Admitted, length: &Length) -> Result<Option<Hold>, Fault> {
        let most = admitted.body_bytes_max(&self.settings);
        length.check(most)?;
        let bytes = match length {
            Length::None => return Ok(None),
            Length::Bytes(bytes) => *bytes,
            Length::Unknown => most,
        };
        let hold = self.memory.bodies.take(&admitted.callers(), bytes).await;
        hold.map(Some).ok_or_else(|| admitted.busy())
    }
}

/// Serves on a listener until the server's handle stops it.
pub fn listen(api: Arc<Api>, listener: TcpListener) -> std::io::Result<Server> {
    let limits = Limits {
        workers: WORKERS,
        connections: api.settings.connections_max,
        patience: api.settings.client_timeout,
        grace_seconds: GRACE_SECONDS,
    };
    serve(listener, &limits, move || {
        App::new()
            .app_data(web::Data::from(api.clone()))
            .default_service(web::to(answer))
    })
}

async fn answer(api: web::Data<Api>, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let started = Instant::now();
    let api = api.into_inner();
    let request_id = format!("req-{}", uuid::Uuid::new_v4());
    let (method, path) = (excerpt(request.method().as_str()), excerpt(request.path()));
    let gateway = api.gateway.as_ref().filter(|_| {
        // Cinder does not know which pages are allowed here.
        !cors::is_preflight(&api.settings.cors, &request)
            && is_passed_on(request.method().as_str(), request.path())
    });
    let mut response = match gateway {
        Some(gateway) => pass(&api, gateway, &request, payload, &request_id).await,
        None => own(&api, &request, payload, &request_id).await,
    };
    let status = response.status().as_u16();
    let duration_ms = started.elapsed().as_millis() as u64;
    let global_id =
        text(request.headers(), "X-OpenStack-Request-ID").filter(|id| is_request_id(id));
    tracing::debug!(
        request.id = request_id,
        request.global_id = global_id,
        method,
        path,
        status,
        duration_ms,
        "request answered"
    );
    cors::allow(&api.settings.cors, &request, &mut response);
    response
}

/// The answer to a request that is not passed on.
async fn own(
    api: &Arc<Api>,
    request: &HttpRequest,
    payload: web::Payload,
    id: &str,
) -> HttpResponse {
    let (answer, hold) = process(api.clone(), request, id, payload)
        .await
        .unwrap_or_else(|refused| (refused, None));
    let accept = text(request.headers(), "Accept");
    respond(answer, hold, id, accept.as_deref())
}

/// Reads the body only after the token was checked, if the route needs one, and only as long as a client may take to
/// send it. The answer comes with the memory that it takes.
async fn process(
    api: Arc<Api>,
    request: &HttpRequest,
    id: &str,
    payload: web::Payload,
) -> Result<(Answer, Option<Hold>), Answer> {
    let refused = |fault: Fault| Answer {
        reply: fault.into_reply(text(request.headers(), "Accept").as_deref()),
        version: None,
    };
    check_head(request).map_err(refused)?;
    let length = Length::of(request);
    length
        .check(api.settings.body_bytes_max.as_u64())
        .map_err(refused)?;
    let mut incoming = Incoming::of(request, &api.settings, id.to_owned());
    if api.gateway.is_some() {
        // What cannot be passed on is refused where it would be.
        incoming.passed = head_of(request, &incoming.base).ok();
    }
    let mut admitted = {
        let api = api.clone();
        let admitted = block(id, move || admit(&api, incoming)).await;
        admitted.map_err(refused)??
    };
    let of_body = api.hold_body(&admitted, &length).await.map_err(refused)?;
    if of_body.is_some() {
        let most = admitted.body_bytes_max(&api.settings);
        let line = request.conn_data::<Line>().cloned().unwrap_or_default();
        let body = read_body(payload, most, api.settings.client_timeout, &line).await;
        admitted.incoming.body = body.map_err(refused)?;
    }
    let hold = api.hold(&admitted).await.map_err(refused)?;
    drop(of_body);
    // What is held is kept until the handler ends, even if the client is gone.
    let work = move || {
        let mut answer = match admitted.again(&api) {
            Ok(admitted) => admitted.handle(&api),
            Err(refused) => refused,
        };
        answer.reply = answer.reply.in_text();
        let bytes = answer.reply.bytes();
        let hold = hold.filter(|_| bytes > SMALL_BYTES).map(|mut hold| {
            hold.shrink(bytes as u64);
            hold
        });
        (answer, hold)
    };
    block(id, work).await.map_err(refused)
}

/// Runs blocking work on a thread for it.
async fn block<T: Send + 'static>(
    request_id: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Fault> {
    web::block(work).await.map_err(|_| {
        tracing::error!(request.id = request_id, "a handler panicked");
        Fault::internal()
    })
}

/// A request that may be handled: its route is known, and also its caller if the route needs a token.
struct Admitted {
    incoming: Incoming,
    to: To,
    /// Whether Cinder is asked before there is an answer.
    waits_for_cinder: bool,
    since: Instant,
}

/// The API that a request is for, with what that API needs.
enum To {
    Identity {
        route: &'static Route,
        parts: Pairs,
        session: Option<Box<Session>>,
    },
    BlockStorage {
        routed: Option<(&'static Route, Pairs)>,
        caller: Option<Caller>,
    },
}

impl Admitted {
    fn asks_for_list(&self) -> bool {
        match &self.to {
            To::BlockStorage { routed, .. } => {
                routed.as_ref().is_some_and(|(route, _)| route.is_list())
            }
            To::Identity { route, .. } => route.is_list(),
        }
    }

    /// Who shares memory with this request: the user and the project, the user of identity, or the address of who has no
    /// token.
    fn callers(&self) -> Vec<String> {
        let known = match &self.to {
            To::Identity { session, .. } => session
                .as_ref()
                .map(|session| vec![format!("user {}", session.user.id)]),
            To::BlockStorage { caller, .. } => caller.as_ref().map(Caller::names),
        };
        let address = || self.incoming.client.map(|address| address.to_string());
        known.unwrap_or_else(|| vec![address().unwrap_or_default()])
    }

    /// Whether it needs no more than its head.
    fn is_small(&self) -> bool {
        !self.has_token() && self.incoming.body.is_empty()
    }

    fn has_token(&self) -> bool {
        match &self.to {
            To::Identity { session, .. } => session.is_some(),
            To::BlockStorage { caller, .. } => caller.is_some(),
        }
    }

    /// Largest body.
    fn body_bytes_max(&self, settings: &config::Api) -> u64 {
        let most = settings.body_bytes_max.as_u64();
        if self.has_token() {
            most
        } else {
            most.min(OPEN_BODY_BYTES_MAX)
        }
    }

    /// There was no memory in time.
    fn busy(&self) -> Fault {
        self.fault(&Error::TooMany {
            retry_after: RETRY_SECONDS,
        })
    }

    fn fault(&self, error: &Error) -> Fault {
        match &self.to {
            To::Identity { .. } => Fault::of_identity(error),
            To::BlockStorage { .. } => Fault::of(error),
        }
    }

    /// The same as it is now. A client may take long to send its body, and memory may be long in coming: the token and
    /// its roles may be gone meanwhile.
    fn again(self, api: &Api) -> Result<Self, Answer> {
        if self.incoming.body.is_empty() && self.since.elapsed() < BELIEVED_FOR {
            return Ok(self);
        }
        admit(api, self.incoming)
    }

    fn handle(self, api: &Api) -> Answer {
        match self.to {
            To::Identity {
                route,
                parts,
                session,
            } => identity_call(
                api,
                self.incoming,
                route,
                parts,
                session.map(|session| *session),
            ),
            To::BlockStorage { routed, caller } => {
                block_storage_call(api, self.incoming, routed, caller)
            }
        }
    }
}

/// Finds the route and the caller of a request; or the answer, if it is refused here.
fn admit(api: &Api, incoming: Incoming) -> Result<Admitted, Answer> {
    let since = Instant::now();
    let is_identity = incoming.path == "/identity" || incoming.path.starts_with("/identity/");
    if incoming.method == Method::OPTIONS.as_str() {
        return Err(plain(Reply::empty(200).in_form(Form::Silent)));
    }
    let path = if is_identity {
        // Clients write `…/v3` and `…/v3/` alike.
        incoming.path.trim_end_matches('/')
    } else {
        // Only Cinder's paths may end so.
        match incoming.path.strip_suffix(".json") {
            Some(stem) if stem.starts_with("/v3/") => stem,
            _ => &incoming.path,
        }
    };
    let merged = api.gateway.as_ref();
    let merged = merged.and_then(|_| router::find_merged(&incoming.method, path));
    // Documents of versions wait for no more than a few seconds, and must be there while Cinder is not.
    let waits_for_cinder = merged
        .as_ref()
        .is_some_and(|(route, _)| route.area == Area::BlockStorage);
    let found = merged.or_else(|| {
        // Another service keeps the volumes, and answers what is asked about them.
        router::find(&incoming.method, path)
            .filter(|(route, _)| route.is_of_backups() || api.services.catalog.is_standalone())
    });
    let to = match found {
        Some((route, parts)) if is_identity => To::Identity {
            session: session(api, &incoming, route)?.map(Box::new),
            route,
            parts,
        },
        None if is_identity => return Err(identity_fault(&not_found(), &incoming)),
        // Cinder checks the token before it looks for the route.
        None if !path.starts_with("/v3/") => return Err(unrouted(&incoming)),
        routed => To::BlockStorage {
            caller: caller(api, &incoming, routed.as_ref().map(|(route, _)| route.area))?,
            routed,
        },
    };
    Ok(Admitted {
        incoming,
        to,
        waits_for_cinder,
        since,
    })
}

fn plain(reply: Reply) -> Answer {
    Answer {
        reply: match reply.form {
            Form::Full => reply.in_form(Form::Plain("application/json")),
            _ => reply,
        },
        version: None,
    }
}

fn unrouted(incoming: &Incoming) -> Answer {
    let reply = Fault::unrouted().into_reply(incoming.accept.as_deref());
    plain(if incoming.method == Method::HEAD.as_str() {
        // The answer is empty, so the media type that the client accepts does not matter.
        Reply::empty(reply.status).in_form(Form::Plain("text/html; charset=UTF-8"))
    } else {
        reply
    })
}

fn identity_call(
    api: &Api,
    incoming: Incoming,
    route: &Route,
    parts: Pairs,
    session: Option<Session>,
) -> Answer {
    let (id, method, path) = incoming.log_fields();
    let result = (|| {
        let names = incoming.names(parts)?;
        let body = parse_body(&incoming.body, IDENTITY_VALUES_MAX)?;
        let call = call(api, incoming, session, None, BASE, names, body);
        (route.handler)(&call)
    })();
    match result {
        Ok(reply) => plain(reply),
        Err(error) => {
            fault::log(&error, &id, &method, &path);
            Answer::fault(Fault::of_identity(&error), None)
        }
    }
}

fn not_found() -> Error {
    Error::NotFound("The resource could not be found.".to_owned())
}

fn identity_fault(error: &Error, incoming: &Incoming) -> Answer {
    let (id, method, path) = incoming.log_fields();
    fault::log(error, &id, &method, &path);
    Answer::fault(Fault::of_identity(error), None)
}

/// The session of an identity request, if the route needs a token.
fn session(api: &Api, incoming: &Incoming, route: &Route) -> Result<Option<Session>, Answer> {
    let Some(embedded) = api.identity.embedded() else {
        return Err(identity_fault(&not_found(), incoming));
    };
    if route.area != Area::Identity {
        return Ok(None);
    }
    let session = match &incoming.token {
        Some(token) => embedded.validate(token),
        None => Ok(None),
    };
    match session {
        Ok(Some(session)) => Ok(Some(session)),
        Ok(None) => Err(identity_fault(&Error::Unauthenticated, incoming)),
        Err(error) => Err(identity_fault(&error, incoming)),
    }
}

/// Who sends a block storage request, unless its route is open.
fn caller(api: &Api, incoming: &Incoming, area: Option<Area>) -> Result<Option<Caller>, Answer> {
    if area == Some(Area::Open) {
        return Ok(None);
    }
    let caller = match &incoming.token {
        Some(token) => api.identity.caller(&Presented {
            token,
            service_token: incoming.service_token.as_deref(),
            method: &incoming.method,
            path: &incoming.path,
        }),
        None => Ok(None),
    };
    match caller {
        Ok(Some(caller)) => Ok(Some(caller)),
        Ok(None) => Err(unauthorized(api, &incoming.base)),
        Err(error) => {
            let (id, method, path) = incoming.log_fields();
            fault::log(&error, &id, &method, &path);
            let reply = Fault::of(&error).into_reply(incoming.accept.as_deref());
            Err(Answer {
                reply,
                version: None,
            })
        }
    }
}

fn unauthorized(api: &Api, base: &str) -> Answer {
    let identity_url = api.identity.public_url(base);
    Answer::fault(Fault::unauthorized(Some(&identity_url)), None)
}

fn block_storage_call(
    api: &Api,
    incoming: Incoming,
    routed: Option<(&'static Route, Pairs)>,
    caller: Option<Caller>,
) -> Answer {
    let (id, method, path) = incoming.log_fields();
    let base = incoming.base.clone();
    let values_max = api
        .settings
        .metadata_items_max
        .saturating_mul(2)
        .saturating_add(VALUES_MAX);
    let version = match Microversion::from_header(incoming.version.as_deref()) {
        Ok(version) => version,
        Err((fault, echo)) => return Answer::fault(fault, echo),
    };
    let shown = Some(version.to_string());
    let Some((route, parts)) = routed else {
        return unrouted(&incoming);
    };
    // Cinder takes `new` for a form it does not have.
    let is_form =
        route.method == "GET" && incoming.path.ends_with("/new") && route.path.ends_with("/{id}");
    if version < route.since || is_form {
        return Answer::fault(Fault::not_at_this_version(), shown);
    }
    let names = match incoming.names(parts) {
        Ok(names) => names,
        Err(error) => return Answer::fault(Fault::of(&error), shown),
    };
    if !incoming.body.is_empty() && !is_json(incoming.content_type.as_deref()) {
        return Answer::fault(Fault::unsupported_media_type(), shown);
    }
    let result = (|| {
        let body = parse_body(&incoming.body, values_max)?;
        let ctx = match (route.area, caller) {
            (Area::BlockStorage, Some(caller)) => {
                Some(context(api, caller, &id, incoming.token.as_deref())?)
            }
            _ => None,
        };
        check_project(&names.parts, ctx.as_ref())?;
        let call = call(api, incoming, None, ctx, version, names, body);
        (route.handler)(&call)
    })();
    match result {
        Ok(reply) => Answer {
            reply,
            version: shown,
        },
        Err(Error::Unauthenticated) => unauthorized(api, &base),
        Err(error) => {
            fault::log(&error, &id, &method, &path);
            Answer::fault(Fault::of(&error), shown)
        }
    }
}

fn is_json(content_type: Option<&str>) -> bool {
    let kind = content_type
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default();
    matches!(
        kind.trim(),
        "application/json" | "application/vnd.openstack.volume+json"
    )
}

fn parse_body(bytes: &[u8], values_max: usize) -> Result<Option<Value>, Error> {
    if bytes.is_empty() {
        return Ok(None);
    }
    document(bytes, values_max).map(Some)
}

/// A token without a project is not enough for block storage.
fn context(
    api: &Api,
    caller: Caller,
    request_id: &str,
    token: Option<&str>,
) -> Result<RequestContext, Error> {
    Ok(RequestContext {
        user_id: caller.user_id,
        project_id: caller.project_id.ok_or(Error::Unauthenticated)?,
        roles: caller.roles,
        request_id: request_id.to_owned(),
        token: token.map(Secret::from),
        policy: api.policy.clone(),
    })
}

fn check_project(parts: &[(String, String)], ctx: Option<&RequestContext>) -> Result<(), Error> {
    let in_path = parts.iter().find(|(name, _)| name == "project_id");
    match (in_path, ctx) {
        (Some((_, project)), Some(ctx)) if *project != *ctx.project_id.as_str() => {
            Err(Error::Invalid("Malformed request url".to_owned()))
        }
        _ => Ok(()),
    }
}

fn call(
    api: &Api,
    incoming: Incoming,
    session: Option<Session>,
    ctx: Option<RequestContext>,
    version: Microversion,
    names: Names,
    body: Option<Value>,
) -> Call<'_> {
    Call {
        api,
        ctx,
        session,
        subject_token: incoming.subject_token,
        version,
        parameters: names.parts,
        query: names.query,
        query_string: incoming.query,
        body,
        passed: incoming.passed.map(|head| (head, incoming.body.into())),
        base: incoming.base,
        path: incoming.path,
        if_match: incoming.if_match,
        accept: incoming.accept,
        client: incoming.client,
    }
}
