//! Every failure -> status, headers, body: the one map (Cinder reference, 1.4).

use crate::api::http::reply::{Content, Form, Reply};
use crate::model::error::{Error, MALFORMED, chain};
use serde_json::{Value, json};

const NOT_FOUND: &str = "The resource could not be found.";
const INTERNAL: &str =
    "The server has either erred or is incapable of performing the requested operation.";

/// A failed request, ready to be sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fault {
    pub(crate) status: u16,
    pub(crate) body: Value,
    pub(crate) headers: Vec<(&'static str, String)>,
    /// Whether Cinder itself would answer so, and not the middleware in front of it.
    pub(crate) is_enveloped: bool,
}

impl Fault {
    fn enveloped(status: u16, key: &str, message: &str) -> Self {
        Self {
            status,
            body: json!({ key: { "code": status, "message": message } }),
            headers: Vec::new(),
            is_enveloped: true,
        }
    }

    pub(crate) fn bad_request(message: impl AsRef<str>) -> Self {
        Self::enveloped(400, "badRequest", message.as_ref())
    }

    pub(crate) fn malformed() -> Self {
        Self::bad_request(MALFORMED)
    }

    pub(crate) fn not_acceptable(message: impl AsRef<str>) -> Self {
        Self::enveloped(406, "computeFault", message.as_ref())
    }

    pub(crate) fn unsupported_media_type() -> Self {
        Self::enveloped(415, "badMediaType", "Unsupported Content-Type")
    }

    /// A method that does not exist at the request's microversion.
    pub(crate) fn not_at_this_version() -> Self {
        Self::enveloped(404, "itemNotFound", NOT_FOUND)
    }

    pub(crate) fn internal() -> Self {
        Self::enveloped(500, "computeFault", INTERNAL)
    }

    fn of_middleware(status: u16, title: &str, message: &str) -> Self {
        Self {
            status,
            body: json!({
                "message": format!("{message}<br /><br />\n\n\n"),
                "code": format!("{status} {title}"),
                "title": title,
            }),
            headers: Vec::new(),
            is_enveloped: false,
        }
    }

    /// An unknown path or method: answered by the middleware, without Cinder's envelope.
    pub(crate) fn unrouted() -> Self {
        Self::of_middleware(404, "Not Found", NOT_FOUND)
    }

    /// A body over the limit: answered by the middleware, without Cinder's envelope.
    pub(crate) fn too_large() -> Self {
        Self::of_middleware(413, "Request Entity Too Large", "Request is too large.")
    }

    /// A path and query over the limit: answered by the middleware, without Cinder's envelope.
    pub(crate) fn uri_too_long() -> Self {
        let message = "The path and query of the request are too long.";
        Self::of_middleware(414, "URI Too Long", message)
    }

    /// Headers over the limit: answered by the middleware, without Cinder's envelope.
    pub(crate) fn headers_too_large() -> Self {
        let message = "The headers of the request are too large.";
        Self::of_middleware(431, "Request Header Fields Too Large", message)
    }

    /// A body that did not arrive in time: answered by the middleware, without Cinder's envelope.
    pub(crate) fn too_slow() -> Self {
        let message = "The server has waited too long for the request to be sent by the client.";
        Self::of_middleware(408, "Request Timeout", message)
    }

    /// The identity service is unavailable.
    pub(crate) fn identity_unavailable() -> Self {
        let message = "The server is currently unavailable. Please try again at a later time.<br /><br />\nThe Keystone service is temporarily unavailable.";
        Self::of_middleware(503, "Service Unavailable", message)
    }

    /// The answer as the client can read it: middleware answers in the first form it accepts.
    pub(crate) fn into_reply(self, accept: Option<&str>) -> Reply {
        let text = self.body["message"].as_str().unwrap_or_default().to_owned();
        let code = self.body["code"].as_str().unwrap_or_default().to_owned();
        let mut reply = Reply::from(self);
        let accept = accept.unwrap_or_default();
        let wants_json = code.is_empty() || accept.contains("json");
        if reply.form == Form::Full || wants_json {
            return reply;
        }
        let is_html = accept.contains("html");
        let plain = text.replace("<br /><br />", "\n");
        reply.form = Form::Plain(if is_html {
            "text/html; charset=UTF-8"
        } else {
            "text/plain; charset=UTF-8"
        });
        let body = if is_html {
            format!(
                "<html>\n <head>\n  <title>{code}</title>\n </head>\n <body>\n  <h1>{code}</h1>\n  {text}\n </body>\n</html>"
            )
        } else {
            format!("{code}\n\n{plain}")
        };
        reply.body = Some(Content::Written(body.into()));
        reply
    }

    /// Missing, unknown or expired token: the shape of Keystone's middleware.
    pub(crate) fn unauthorized(identity_url: Option<&str>) -> Self {
        Self {
            status: 401,
            body: identity_body(401, "Unauthorized", &Error::Unauthenticated.to_string()),
            headers: identity_url
                .map(|url| ("WWW-Authenticate", format!("Keystone uri=\"{url}\"")))
                .into_iter()
                .collect(),
            is_enveloped: false,
        }
    }

    /// The fault of a block storage request.
    pub(crate) fn of(error: &Error) -> Self {
        match error {
            Error::Invalid(message) => Self::bad_request(message),
            Error::NotFound(message) => Self::enveloped(404, "itemNotFound", message),
            Error::Forbidden(_) => Self::enveloped(403, "forbidden", &error.to_string()),
            Error::Unauthenticated => Self::unauthorized(None),
            Error::OverQuota { class, message } => {
                let message = match class {
                    Some(class) => format!("{class}: {message}"),
                    None => message.clone(),
                };
                let mut fault = Self::enveloped(413, "overLimit", &message);
                fault.body["overLimit"]["retryAfter"] = json!("0");
                fault.headers.push(("Retry-After", "0".to_owned()));
                fault
            }
            Error::TooMany { retry_after } => {
                Self::enveloped(429, "overLimit", &error.to_string()).retry_after(*retry_after)
            }
            Error::IdentityUnavailable(_) => Self::identity_unavailable(),
            Error::Stale => Self::enveloped(412, "computeFault", &error.to_string()),
            Error::Conflict(message) => Self::enveloped(409, "conflictingRequest", message),
            Error::Unavailable { message, .. } => {
                Self::enveloped(503, "serviceUnavailable", message)
            }
            Error::NoAnswer { message, .. } => Self::enveloped(504, "computeFault", message),
            Error::BadAnswer { message, .. } => Self::enveloped(502, "computeFault", message),
            Error::Internal(_) => Self::internal(),
        }
    }

    /// The fault of an identity request: Keystone's envelope.
    pub(crate) fn of_identity(error: &Error) -> Self {
        let (status, title) = match error {
            Error::Invalid(_) => (400, "Bad Request"),
            Error::NotFound(_) => (404, "Not Found"),
            Error::Forbidden(_) => (403, "Forbidden"),
            Error::Unauthenticated => (401, "Unauthorized"),
            // Keystone has no status of its own for a limit.
            Error::OverQuota { .. } => (403, "Forbidden"),
            Error::TooMany { .. } => (429, "Too Many Requests"),
            Error::Conflict(_) => (409, "Conflict"),
            Error::IdentityUnavailable(_) => (503, "Service Unavailable"),
            Error::Stale => (412, "Precondition Failed"),
            Error::Unavailable { .. } => (503, "Service Unavailable"),
            Error::NoAnswer { .. } => (504, "Gateway Timeout"),
            Error::BadAnswer { .. } => (502, "Bad Gateway"),
            Error::Internal(_) => (500, "Internal Server Error"),
        };
        let message = match error {
            Error::Forbidden(action) => {
                format!("You are not authorized to perform the requested action: {action}.")
            }
            _ => error.to_string(),
        };
        let fault = Self {
            status,
            body: identity_body(status, title, &message),
            headers: Vec::new(),
            is_enveloped: false,
        };
        match error {
            Error::TooMany { retry_after } => fault.retry_after(*retry_after),
            _ => fault,
        }
    }

    fn retry_after(mut self, seconds: u64) -> Self {
        self.headers.push(("Retry-After", seconds.to_string()));
        self
    }
}

fn identity_body(status: u16, title: &str, message: &str) -> Value {
    json!({ "error": { "code": status, "title": title, "message": message } })
}

/// Most bytes that a line of the log says of a request's method, of its path and of its error. All three repeat what
/// the client has sent.
const EXCERPT_BYTES: usize = 1024;

/// The beginning of a text that may be long.
pub(crate) fn excerpt(text: &str) -> String {
    let end = text.floor_char_boundary(EXCERPT_BYTES);
    if end < text.len() {
        format!("{}…", &text[..end])
    } else {
        text.to_owned()
    }
}

/// Logs a failed request, once.
pub(crate) fn log(error: &Error, request_id: &str, method: &str, path: &str) {
    let (method, path) = (excerpt(method), excerpt(path));
    match error {
        Error::Internal(_)
        | Error::Unavailable { .. }
        | Error::NoAnswer { .. }
        | Error::BadAnswer { .. }
        | Error::IdentityUnavailable(_) => {
            tracing::error!(
                request.id = request_id,
                method,
                path,
                error = excerpt(&chain(error)),
                "request failed"
            );
        }
        _ => {
            tracing::info!(
                request.id = request_id,
                method,
                path,
                error = excerpt(&error.to_string()),
                "request refused"
            );
        }
    }
}

impl From<Fault> for Reply {
    fn from(fault: Fault) -> Self {
        Self {
            status: fault.status,
            body: Some(Content::Json(fault.body)),
            headers: fault.headers,
            form: if fault.is_enveloped {
                Form::Full
            } else {
                Form::Plain("application/json")
            },
            passed: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_error_has_its_fault_and_hides_its_cause() {
        let rows = [
            (
                Error::Invalid("m".into()),
                400,
                r#"{"badRequest":{"code":400,"message":"m"}}"#,
            ),
            (
                Error::NotFound("m".into()),
                404,
                r#"{"itemNotFound":{"code":404,"message":"m"}}"#,
            ),
            (
                Error::Forbidden("r"),
                403,
                r#"{"forbidden":{"code":403,"message":"Policy doesn't allow r to be performed."}}"#,
            ),
            (
                Error::OverQuota {
                    class: Some("C"),
                    message: "m".into(),
                },
                413,
                r#"{"overLimit":{"code":413,"message":"C: m","retryAfter":"0"}}"#,
            ),
            (
                Error::TooMany { retry_after: 3 },
                429,
                r#"{"overLimit":{"code":429,"message":"Too many requests. Try again in 3 s."}}"#,
            ),
            (
                Error::Conflict("m".into()),
                409,
                r#"{"conflictingRequest":{"code":409,"message":"m"}}"#,
            ),
            (
                Error::Unavailable {
                    message: "m".into(),
                    source: Some("secret".into()),
                },
                503,
                r#"{"serviceUnavailable":{"code":503,"message":"m"}}"#,
            ),
            (
                Error::NoAnswer {
                    message: "m".into(),
                    source: Some("secret".into()),
                },
                504,
                r#"{"computeFault":{"code":504,"message":"m"}}"#,
            ),
            (
                Error::BadAnswer {
                    message: "m".into(),
                    source: Some("secret".into()),
                },
                502,
                r#"{"computeFault":{"code":502,"message":"m"}}"#,
            ),
            (
                Error::internal("secret"),
                500,
                r#"{"computeFault":{"code":500,"message":"The server has either erred or is incapable of performing the requested operation."}}"#,
            ),
        ];
        for (error, status, body) in rows {
            let fault = Fault::of(&error);
            assert_eq!(
                (fault.status, fault.body.to_string()),
                (status, body.to_owned())
            );
            assert!(
                !Fault::of_identity(&error)
                    .body
                    .to_string()
                    .contains("secret")
            );
        }
    }
}
