//! Cross-origin requests from browsers (Cinder reference, 8.2).

use crate::config::Cors;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse};

const EXPOSED: &str =
    "X-Auth-Token,X-Subject-Token,X-Service-Token,X-OpenStack-Request-ID,OpenStack-API-Version";
const REQUEST_HEADERS: &str = "X-Auth-Token,X-Identity-Status,X-Roles,X-Service-Catalog,X-User-Id,X-Tenant-Id,X-OpenStack-Request-ID,X-Trace-Info,X-Trace-HMAC,OpenStack-API-Version";
const METHODS: &str = "GET,PUT,POST,DELETE,PATCH,HEAD";

/// Tells the browser that the page may read the answer, if its origin is allowed.
pub(crate) fn allow(settings: &Cors, request: &HttpRequest, response: &mut HttpResponse) {
    let Some(origin) = request.headers().get("Origin").cloned() else {
        return;
    };
    let is_allowed = |allowed: &String| allowed == "*" || allowed.as_bytes() == origin.as_bytes();
    if !settings.allowed_origins.iter().any(is_allowed) {
        return;
    }
    let is_preflight = request.method() == "OPTIONS"
        && request
            .headers()
            .contains_key("Access-Control-Request-Method");
    let mut set = |name: &'static str, value: HeaderValue| {
        let name = HeaderName::from_static(name);
        response.headers_mut().insert(name, value);
    };
    set("access-control-allow-origin", origin);
    set(
        "access-control-allow-credentials",
        HeaderValue::from_static("true"),
    );
    if is_preflight {
        set("access-control-max-age", HeaderValue::from_static("3600"));
        set(
            "access-control-allow-methods",
            HeaderValue::from_static(METHODS),
        );
        set(
            "access-control-allow-headers",
            HeaderValue::from_static(REQUEST_HEADERS),
        );
    } else {
        set(
            "access-control-expose-headers",
            HeaderValue::from_static(EXPOSED),
        );
    }
    response.headers_mut().append(
        HeaderName::from_static("vary"),
        HeaderValue::from_static("Origin"),
    );
}
