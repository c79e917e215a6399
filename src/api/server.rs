//! From a request to its answer, in one line: request id, size, route, token, body, memory, the token again, version,
//! media type, project, handler, fault (the order of checks is Cinder's; reference, 1.1 and 8.2). Routes, tokens and
//! handlers are found in `dispatch.rs`.

use crate::api::dispatch::{Admitted, To, admit};
use crate::api::gateway::{head_of, is_passed_on, pass};
use crate::api::http::budget::Hold;
use crate::api::http::connection::{Limits, Line, serve};
use crate::api::http::cors;
use crate::api::http::fault::{Fault, excerpt};
use crate::api::http::gateway::REQUEST_BYTES;
use crate::api::http::state::Api;
use crate::api::http::wire::{
    Answer, Incoming, Length, SMALL_BYTES, check_head, is_request_id, read_body, respond, text,
};
use actix_web::dev::Server;
use actix_web::{App, HttpRequest, HttpResponse, web};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Instant;

/// Threads that accept requests; handlers run on blocking threads.
const WORKERS: usize = 2;

/// What a body takes for each of its bytes: itself, its values, and what is made of them.
const BODY_FACTOR: u64 = 8;
/// What the answer of an identity request may take that is no list.
const IDENTITY_BYTES: u64 = 64 * 1024;
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
            (None, true, _) => memory.lists.take(&caller, memory.parts.list).await,
            (None, false, To::Identity { .. }) => {
                memory.objects.take(&caller, body + IDENTITY_BYTES).await
            }
            (None, false, To::BlockStorage { .. }) => {
                let bytes = body.saturating_add(memory.parts.object);
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
