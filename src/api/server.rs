//! From a request to its answer, in one line: request id, size, route, token, version, body,
//! project, handler, fault (the order of checks is Cinder's; reference, 1.1 and 8.2).

use crate::api::call::{Call, Form, Reply};
use crate::api::fault::{self, Fault};
use crate::api::microversion::{BASE, Microversion};
use crate::api::routes::{Area, ROUTES, Route};
use crate::api::{cors, proxy};
use crate::config;
use crate::identity::embedded::Session;
use crate::identity::keystone::Presented;
use crate::identity::policy::Policy;
use crate::identity::{Caller, Identity, RequestContext};
use crate::model::error::Error;
use crate::service::Services;
use actix_web::dev::{Path, ResourceDef, Server};
use actix_web::http::header::HeaderMap;
use actix_web::http::{Method, StatusCode};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use futures_util::StreamExt;
use serde_json::Value;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

const API_VERSION: &str = "OpenStack-API-Version";
/// Threads that take requests; the work is done on blocking threads.
const WORKERS: usize = 2;
/// How long open requests may take after a wish to stop.
const GRACE_SECONDS: u64 = 10;
/// How long a client may take to send the head of its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// What the API needs.
pub struct Api {
    pub services: Services,
    pub identity: Identity,
    pub policy: Arc<Policy>,
    pub settings: config::Api,
    pub region: String,
    routes: Vec<(ResourceDef, &'static Route)>,
}

impl Api {
    pub fn new(
        services: Services,
        identity: Identity,
        policy: Arc<Policy>,
        settings: config::Api,
        region: String,
    ) -> Self {
        let routes = ROUTES.iter().flat_map(patterns).collect();
        Self {
            services,
            identity,
            policy,
            settings,
            region,
            routes,
        }
    }

    /// The route of a method and path, and the named parts of the path.
    fn route(&self, method: &str, path: &str) -> Option<(&'static Route, Vec<(String, String)>)> {
        self.routes.iter().find_map(|(pattern, route)| {
            let mut matched = Path::new(path);
            let is_it = route.method == method && pattern.capture_match_info(&mut matched);
            is_it.then(|| {
                let named = matched.iter();
                let parts = named
                    .map(|(name, value)| (name.to_owned(), decode(value)))
                    .collect();
                (*route, parts)
            })
        })
    }
}

fn patterns(route: &'static Route) -> Vec<(ResourceDef, &'static Route)> {
    match route.area {
        Area::BlockStorage => [r"/v3/{project_id:[0-9a-f\-]+}", "/v3"]
            .iter()
            .map(|prefix| (ResourceDef::new(format!("{prefix}{}", route.path)), route))
            .collect(),
        _ => vec![(ResourceDef::new(route.path), route)],
    }
}

/// Percent-decoding; what is not UTF-8 is replaced, and then simply names nothing.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = (*first == b'%').then(|| after.get(..2)).flatten();
        let byte = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Serves on a listener until the server's handle stops it.
pub fn listen(api: Arc<Api>, listener: TcpListener) -> std::io::Result<Server> {
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::from(api.clone()))
            .default_service(web::to(answer))
    })
    .workers(WORKERS)
    .client_request_timeout(HEAD_TIMEOUT)
    .shutdown_timeout(GRACE_SECONDS)
    .disable_signals()
    .listen(listener)?
    .run();
    Ok(server)
}

/// A request, taken out of actix's hands.
struct Incoming {
    method: String,
    path: String,
    query: Vec<(String, String)>,
    version: Option<String>,
    content_type: Option<String>,
    token: Option<String>,
    subject_token: Option<String>,
    service_token: Option<String>,
    if_match: Option<String>,
    accept: Option<String>,
    base: String,
    body: Vec<u8>,
    request_id: String,
}

/// An answer with the version it is given in.
struct Answer {
    reply: Reply,
    version: Option<String>,
}

impl Answer {
    fn fault(fault: Fault, version: Option<String>) -> Self {
        Self {
            reply: fault.into(),
            version,
        }
    }
}

async fn answer(api: web::Data<Api>, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let started = Instant::now();
    let request_id = format!("req-{}", uuid::Uuid::new_v4());
    let (method, path) = (request.method().to_string(), request.path().to_owned());
    let api_settings = api.settings.clone();
    let accept = text(request.headers(), "Accept");
    let global_id =
        text(request.headers(), "X-OpenStack-Request-ID").filter(|id| is_request_id(id));
    let answer = match read_body(payload, api.settings.body_bytes_max.as_u64() as usize).await {
        Err(fault) => Answer {
            reply: fault.into_reply(accept.as_deref()),
            version: None,
        },
        Ok(body) => {
            let incoming = incoming(&api, &request, body, request_id.clone());
            let api = api.into_inner();
            web::block(move || handle(&api, incoming))
                .await
                .unwrap_or_else(|_| {
                    tracing::error!(request.id = request_id, method, path, "a handler panicked");
                    Answer::fault(Fault::internal(), None)
                })
        }
    };
    let status = answer.reply.status;
    let duration_ms = started.elapsed().as_millis() as u64;
    tracing::debug!(
        request.id = request_id,
        request.global_id = global_id,
        method,
        path,
        status,
        duration_ms,
        "request answered"
    );
    let mut response = respond(answer, &request_id, accept.as_deref());
    cors::allow(&api_settings.cors, &request, &mut response);
    response
}

/// `req-` and a UUID in lower case.
fn is_request_id(text: &str) -> bool {
    text.strip_prefix("req-").is_some_and(|id| {
        id.len() == 36
            && !id.chars().any(|c| c.is_ascii_uppercase())
            && uuid::Uuid::parse_str(id).is_ok()
    })
}

async fn read_body(mut payload: web::Payload, most: usize) -> Result<Vec<u8>, Fault> {
    let mut body = Vec::new();
    while let Some(piece) = payload.next().await {
        let piece = piece.map_err(|_| Fault::malformed())?;
        if body.len() + piece.len() > most {
            return Err(Fault::too_large());
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

fn incoming(api: &Api, request: &HttpRequest, body: Vec<u8>, request_id: String) -> Incoming {
    let header = |name: &str| text(request.headers(), name);
    let base = proxy::base(&api.settings, request);
    let query = web::Query::<Vec<(String, String)>>::from_query(request.query_string());
    Incoming {
        method: request.method().to_string(),
        path: request.path().to_owned(),
        query: query.map(web::Query::into_inner).unwrap_or_default(),
        version: header(API_VERSION),
        content_type: header("Content-Type"),
        token: header("X-Auth-Token").map(|token| token.trim().to_owned()),
        subject_token: header("X-Subject-Token"),
        service_token: header("X-Service-Token").map(|token| token.trim().to_owned()),
        if_match: header("If-Match"),
        accept: header("Accept"),
        base,
        body,
        request_id,
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

const VENDOR_TYPE: &str = "application/vnd.openstack.volume+json";

fn respond(answer: Answer, request_id: &str, accept: Option<&str>) -> HttpResponse {
    let Answer { reply, version } = answer;
    let status =
        StatusCode::from_u16(reply.status).expect("handlers answer with statuses that exist");
    let mut response = HttpResponse::build(status);
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
    match (reply.body, reply.form) {
        // Middleware answers in texts of its own.
        (Some(Value::String(text)), Form::Plain(_)) => response.body(text),
        (Some(body), _) => response.body(body.to_string()),
        (None, _) if reply.status == 204 => response.finish(),
        (None, _) => response.body(""),
    }
}

/// Routes a request, and gives it to the area it belongs to.
fn handle(api: &Api, incoming: Incoming) -> Answer {
    let is_identity = incoming.path == "/identity" || incoming.path.starts_with("/identity/");
    if incoming.method == Method::OPTIONS.as_str() {
        return plain(Reply::empty(200).in_form(Form::Silent));
    }
    let path = match is_identity {
        // Clients write `…/v3` and `…/v3/` alike.
        true => incoming.path.trim_end_matches('/'),
        // Cinder's paths may end so; others are what they are.
        false => match incoming.path.strip_suffix(".json") {
            Some(stem) if stem.starts_with("/v3/") => stem,
            _ => &incoming.path,
        },
    };
    match api.route(&incoming.method, path) {
        Some((route, parts)) if is_identity => identity_call(api, incoming, route, parts),
        None if is_identity => {
            let error = Error::NotFound("The resource could not be found.".to_owned());
            Answer::fault(Fault::of_identity(&error), None)
        }
        // Cinder's token check stands before its routes.
        None if !path.starts_with("/v3/") => unrouted(&incoming),
        routed => block_storage_call(api, incoming, routed),
    }
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
    plain(Fault::unrouted().into_reply(incoming.accept.as_deref()))
}

fn identity_call(
    api: &Api,
    incoming: Incoming,
    route: &Route,
    parts: Vec<(String, String)>,
) -> Answer {
    let (id, method, path) = incoming.log_fields();
    let result = (|| {
        if api.identity.embedded().is_none() {
            return Err(Error::NotFound(
                "The resource could not be found.".to_owned(),
            ));
        }
        let session = match route.area {
            Area::Identity => Some(session(api, &incoming)?.ok_or(Error::Unauthenticated)?),
            _ => None,
        };
        let body = parse_body(&incoming.body)?;
        let call = call(api, incoming, session, None, BASE, parts, body);
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

impl Incoming {
    fn log_fields(&self) -> (String, String, String) {
        (
            self.request_id.clone(),
            self.method.clone(),
            self.path.clone(),
        )
    }
}

fn session(api: &Api, incoming: &Incoming) -> Result<Option<Session>, Error> {
    match (api.identity.embedded(), &incoming.token) {
        (Some(embedded), Some(token)) => embedded.validate(token),
        _ => Ok(None),
    }
}

fn caller(api: &Api, incoming: &Incoming) -> Result<Option<Caller>, Error> {
    let Some(token) = &incoming.token else {
        return Ok(None);
    };
    api.identity.caller(&Presented {
        token,
        service_token: incoming.service_token.as_deref(),
        method: &incoming.method,
        path: &incoming.path,
    })
}

fn block_storage_call(
    api: &Api,
    incoming: Incoming,
    routed: Option<(&'static Route, Vec<(String, String)>)>,
) -> Answer {
    let (id, method, path) = incoming.log_fields();
    let is_open = routed
        .as_ref()
        .is_some_and(|(route, _)| route.area == Area::Open);
    let caller = match is_open {
        true => Ok(None),
        false => caller(api, &incoming),
    };
    let identity_url = api.identity.public_url(&incoming.base);
    let caller = match caller {
        Ok(None) if !is_open => {
            return Answer::fault(Fault::unauthorized(Some(&identity_url)), None);
        }
        Ok(caller) => caller,
        Err(error) => {
            fault::log(&error, &id, &method, &path);
            let reply = Fault::of(&error).into_reply(incoming.accept.as_deref());
            return Answer {
                reply,
                version: None,
            };
        }
    };
    let version = match Microversion::from_header(incoming.version.as_deref()) {
        Ok(version) => version,
        Err((fault, echo)) => return Answer::fault(fault, echo),
    };
    let shown = Some(version.to_string());
    let Some((route, parts)) = routed else {
        return unrouted(&incoming);
    };
    // Cinder takes `new` for a form it does not have.
    let is_form = route.method == "GET" && path.ends_with("/new") && route.path.ends_with("/{id}");
    if version < route.since || is_form {
        return Answer::fault(Fault::not_at_this_version(), shown);
    }
    // PostgreSQL keeps no text with a null character, so nothing is called so.
    let with_null = |pairs: &[(String, String)]| pairs.iter().any(|(_, text)| text.contains('\0'));
    if with_null(&parts) || with_null(&incoming.query) {
        return Answer::fault(Fault::malformed(), shown);
    }
    if !incoming.body.is_empty() && !is_json(incoming.content_type.as_deref()) {
        return Answer::fault(Fault::unsupported_media_type(), shown);
    }
    let result = (|| {
        let body = parse_body(&incoming.body)?;
        let ctx = match (route.area, caller) {
            (Area::BlockStorage, Some(caller)) => Some(context(api, caller, &id)?),
            _ => None,
        };
        check_project(&parts, ctx.as_ref())?;
        let call = call(api, incoming, None, ctx, version, parts, body);
        (route.handler)(&call)
    })();
    match result {
        Ok(reply) => Answer {
            reply,
            version: shown,
        },
        Err(Error::Unauthenticated) => {
            Answer::fault(Fault::unauthorized(Some(&identity_url)), None)
        }
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

fn parse_body(bytes: &[u8]) -> Result<Option<Value>, Error> {
    match bytes.is_empty() {
        true => Ok(None),
        false => serde_json::from_slice(bytes)
            .ok()
            .filter(|value| !has_null(value))
            .map(Some)
            .ok_or_else(|| Error::Invalid("Malformed request body".to_owned())),
    }
}

/// Whether a null character stands in any text: PostgreSQL could not keep it.
fn has_null(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(map) => map
            .iter()
            .any(|(key, value)| key.contains('\0') || has_null(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// A token without a project gives nobody a place in block storage.
fn context(api: &Api, caller: Caller, request_id: &str) -> Result<RequestContext, Error> {
    Ok(RequestContext {
        user_id: caller.user_id,
        project_id: caller.project_id.ok_or(Error::Unauthenticated)?,
        roles: caller.roles,
        request_id: request_id.to_owned(),
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
    parameters: Vec<(String, String)>,
    body: Option<Value>,
) -> Call<'_> {
    Call {
        api,
        ctx,
        session,
        subject_token: incoming.subject_token,
        version,
        parameters,
        query: incoming.query,
        body,
        base: incoming.base,
        path: incoming.path,
        if_match: incoming.if_match,
        accept: incoming.accept,
    }
}
