//! Cross-origin requests from browsers (Cinder reference, 8.2).

use crate::config::Cors;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse};

const EXPOSED: &str =
    "X-Auth-Token,X-Subject-Token,X-Service-Token,X-OpenStack-Request-ID,OpenStack-API-Version";
/// Cinder's and Keystone's, and those that every page may send; a page that sends JSON must ask for `Content-Type`.
const REQUEST_HEADERS: [&str; 15] = [
    "X-Auth-Token",
    "X-Subject-Token",
    "X-Identity-Status",
    "X-Roles",
    "X-Service-Catalog",
    "X-User-Id",
    "X-Tenant-Id",
    "X-OpenStack-Request-ID",
    "X-Trace-Info",
    "X-Trace-HMAC",
    "OpenStack-API-Version",
    "Accept",
    "Accept-Language",
    "Content-Language",
    "Content-Type",
];
const METHODS: &str = "GET,PUT,POST,DELETE,PATCH,HEAD";

/// The origin of the page that asks, if it is allowed.
fn allowed_origin(settings: &Cors, request: &HttpRequest) -> Option<HeaderValue> {
    let origin = request.headers().get("Origin")?;
    let is_allowed = |allowed: &String| allowed == "*" || allowed.as_bytes() == origin.as_bytes();
    let origins = &settings.allowed_origins;
    origins.iter().any(is_allowed).then(|| origin.clone())
}

/// Whether the browser of an allowed page asks what the page may send.
pub(crate) fn is_preflight(settings: &Cors, request: &HttpRequest) -> bool {
    let asks = request
        .headers()
        .contains_key("Access-Control-Request-Method");
    request.method() == "OPTIONS" && asks && allowed_origin(settings, request).is_some()
}

/// Tells the browser that the page may read the answer, if its origin is allowed.
pub(crate) fn allow(settings: &Cors, request: &HttpRequest, response: &mut HttpResponse) {
    let Some(origin) = allowed_origin(settings, request) else {
        return;
    };
    let is_preflight = is_preflight(settings, request);
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
        if let Some(headers) = allowed_headers(request) {
            set("access-control-allow-headers", headers);
        }
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

/// The headers that a page asks for, if it may send all of them.
fn allowed_headers(request: &HttpRequest) -> Option<HeaderValue> {
    let mut allowed = Vec::new();
    for asked in request.headers().get_all("Access-Control-Request-Headers") {
        for name in asked.to_str().ok()?.split(',').map(str::trim) {
            let is_it = |known: &&&str| known.eq_ignore_ascii_case(name);
            allowed.push(*REQUEST_HEADERS.iter().find(is_it)?);
        }
    }
    if allowed.is_empty() {
        return None;
    }
    HeaderValue::from_str(&allowed.join(",")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    /// The answer to a page that asks whether it may send these headers.
    fn preflight(headers: Option<&str>) -> Option<String> {
        let settings = Cors {
            allowed_origins: vec!["https://page.example".to_owned()],
        };
        let mut request = TestRequest::with_uri("/v3")
            .method(actix_web::http::Method::OPTIONS)
            .insert_header(("Origin", "https://page.example"))
            .insert_header(("Access-Control-Request-Method", "POST"));
        if let Some(headers) = headers {
            request = request.insert_header(("Access-Control-Request-Headers", headers));
        }
        let mut response = HttpResponse::NoContent().finish();
        allow(&settings, &request.to_http_request(), &mut response);
        let allowed = response.headers().get("access-control-allow-headers");
        allowed.map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_page_may_send_json_with_its_token_and_nothing_unknown() {
        assert_eq!(
            preflight(Some("content-type, x-auth-token")).as_deref(),
            Some("Content-Type,X-Auth-Token")
        );
        assert_eq!(
            preflight(Some("X-Subject-Token")).as_deref(),
            Some("X-Subject-Token")
        );
        assert_eq!(preflight(Some("content-type,x-unknown")), None);
        assert_eq!(preflight(None), None);
    }
}
