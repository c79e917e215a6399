//! What a request is for, who sends it, and its handler. The order of checks is Cinder's.

use crate::api::http::body::document;
use crate::api::http::call::Call;
use crate::api::http::fault::{self, Fault};
use crate::api::http::microversion::{BASE, Microversion};
use crate::api::http::reply::{Form, Reply};
use crate::api::http::state::Api;
use crate::api::http::wire::{Answer, Incoming, Names, Pairs};
use crate::api::router;
use crate::api::routes::{Area, Route};
use crate::config::{self, Secret};
use crate::identity::embedded::IssuedToken;
use crate::identity::keystone::Presented;
use crate::identity::{Caller, RequestContext};
use crate::model::error::Error;
use actix_web::http::Method;
use serde_json::Value;
use std::time::{Duration, Instant};

/// When a client may try again for whom there was no memory.
const RETRY_SECONDS: u64 = 5;
/// Largest body of a request that needs no token. A log-in takes much less.
const OPEN_BODY_BYTES_MAX: u64 = 16 * 1024;
/// Most values in the body of an identity request, and in that of another beside its metadata.
const IDENTITY_VALUES_MAX: usize = 256;
const VALUES_MAX: usize = 1024;
/// How long what was found out about a caller is believed, where nothing had to be waited for.
const BELIEVED_FOR: Duration = Duration::from_secs(1);

/// A request that may be handled: its route is known, and also its caller if the route needs a token.
pub(super) struct Admitted {
    pub(super) incoming: Incoming,
    pub(super) to: To,
    /// Whether Cinder is asked before there is an answer.
    pub(super) waits_for_cinder: bool,
    since: Instant,
}

/// The API that a request is for, with what that API needs.
pub(super) enum To {
    Identity {
        route: &'static Route,
        parts: Pairs,
        session: Option<Box<IssuedToken>>,
    },
    BlockStorage {
        routed: Option<(&'static Route, Pairs)>,
        caller: Option<Caller>,
    },
}

impl Admitted {
    pub(super) fn asks_for_list(&self) -> bool {
        match &self.to {
            To::BlockStorage { routed, .. } => {
                routed.as_ref().is_some_and(|(route, _)| route.is_list())
            }
            To::Identity { route, .. } => route.is_list(),
        }
    }

    /// Who shares memory with this request: the user and the project, the user of identity, or the address of who has no
    /// token.
    pub(super) fn callers(&self) -> Vec<String> {
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
    pub(super) fn is_small(&self) -> bool {
        !self.has_token() && self.incoming.body.is_empty()
    }

    fn has_token(&self) -> bool {
        match &self.to {
            To::Identity { session, .. } => session.is_some(),
            To::BlockStorage { caller, .. } => caller.is_some(),
        }
    }

    /// Largest body.
    pub(super) fn body_bytes_max(&self, settings: &config::Api) -> u64 {
        let most = settings.body_bytes_max.as_u64();
        if self.has_token() {
            most
        } else {
            most.min(OPEN_BODY_BYTES_MAX)
        }
    }

    /// There was no memory in time.
    pub(super) fn busy(&self) -> Fault {
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
    pub(super) fn again(self, api: &Api) -> Result<Self, Answer> {
        if self.incoming.body.is_empty() && self.since.elapsed() < BELIEVED_FOR {
            return Ok(self);
        }
        admit(api, self.incoming)
    }

    pub(super) fn handle(self, api: &Api) -> Answer {
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
pub(super) fn admit(api: &Api, incoming: Incoming) -> Result<Admitted, Answer> {
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
    session: Option<IssuedToken>,
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
fn session(api: &Api, incoming: &Incoming, route: &Route) -> Result<Option<IssuedToken>, Answer> {
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
    session: Option<IssuedToken>,
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
