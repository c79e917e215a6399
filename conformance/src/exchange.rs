//! One HTTP exchange, kept so that a failing check can show it: as a curl line and its answer,
//! with tokens and passwords left out.

use std::fmt;
use std::time::Duration;

use anyhow::Error;
use serde::de::DeserializeOwned;
use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Post,
    Delete,
}

impl Method {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Delete => "DELETE",
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) url: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Option<Value>,
}

impl Request {
    pub(crate) fn new(method: Method, url: impl Into<String>) -> Request {
        Request {
            method,
            url: url.into(),
            headers: Vec::new(),
            body: None,
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Request {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn body(mut self, body: Value) -> Request {
        self.body = Some(body);
        self
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// The header's value; `name` in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }
}

/// A request and what came of it: an answer, or the reason why there was none.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    pub(crate) request: Request,
    pub(crate) result: Result<Answer, String>,
    pub(crate) duration: Duration,
}

/// An answer that a check did not expect, with the exchange it came from.
#[derive(Debug)]
pub(crate) struct Unexpected {
    problem: String,
    pub(crate) exchange: Box<Exchange>,
}

impl fmt::Display for Unexpected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)
    }
}

impl std::error::Error for Unexpected {}

impl Exchange {
    pub(crate) fn status(&self) -> Option<u16> {
        self.result.as_ref().ok().map(|answer| answer.status)
    }

    pub(crate) fn succeeded(&self) -> bool {
        matches!(self.status(), Some(200..=299))
    }

    /// Whether asking again may help: no answer, too many requests, or trouble inside the server.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self.status(), None | Some(408 | 429 | 500..=599))
    }

    /// The answer's body as JSON whatever the status, null if it is none.
    pub(crate) fn json(&self) -> Value {
        let answer = self.result.as_ref().ok();
        answer
            .and_then(|answer| serde_json::from_str(&answer.body).ok())
            .unwrap_or(Value::Null)
    }

    /// The body of a successful answer; any other status and any other shape is an error.
    pub(crate) fn decode<T: DeserializeOwned>(self) -> Result<T, Error> {
        if !self.succeeded() {
            return Err(self.into_error("request was not accepted"));
        }
        let body = self
            .result
            .as_ref()
            .map(|answer| answer.body.as_str())
            .unwrap_or_default();
        match serde_json::from_str(body) {
            Ok(value) => Ok(value),
            Err(error) => {
                Err(self.into_error(&format!("answer does not read as expected: {error}")))
            }
        }
    }

    pub(crate) fn accepted(self) -> Result<(), Error> {
        if self.succeeded() {
            Ok(())
        } else {
            Err(self.into_error("request was not accepted"))
        }
    }

    /// An error that names the request, what is wrong, and carries the exchange for the log.
    pub(crate) fn into_error(self, problem: &str) -> Error {
        let (method, url) = (self.request.method.name(), &self.request.url);
        let problem = match &self.result {
            Ok(answer) => format!("{method} {url}: {problem} (status {})", answer.status),
            Err(reason) => format!("{method} {url}: no answer: {reason}"),
        };
        Error::new(Unexpected {
            problem,
            exchange: Box::new(self),
        })
    }

    /// The request as it can be pasted into a shell where `$TOKEN` holds a token.
    pub(crate) fn curl(&self) -> String {
        let mut line = String::from("curl -sS -i");
        if self.request.method != Method::Get {
            line += &format!(" -X {}", self.request.method.name());
        }
        for (name, value) in &self.request.headers {
            line += &match *name {
                "X-Auth-Token" => format!(" -H \"{name}: $TOKEN\""),
                _ => format!(" -H {}", shell_quoted(&format!("{name}: {value}"))),
            };
        }
        if let Some(body) = &self.request.body {
            line += &format!(" -d {}", shell_quoted(&redacted(body.clone()).to_string()));
        }
        format!("{line} {}", shell_quoted(&self.request.url))
    }

    /// Status and body of the answer, shortened and without secrets.
    pub(crate) fn outcome(&self) -> String {
        let answer = match &self.result {
            Ok(answer) => answer,
            Err(reason) => return format!("none: {reason}"),
        };
        let body = match serde_json::from_str::<Value>(&answer.body) {
            Ok(value) => redacted(value).to_string(),
            Err(_) => answer.body.clone(),
        };
        let shown: String = body.chars().take(SHOWN_CHARS_MAX).collect();
        let cut = if shown.len() < body.len() { " ..." } else { "" };
        let id = answer
            .header("x-openstack-request-id")
            .unwrap_or("no request id");
        format!("{} ({id}) {shown}{cut}", answer.status)
    }
}

const SHOWN_CHARS_MAX: usize = 4000;

fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Secrets sit under a few well-known keys; `token.id` is the one in a login by token.
fn redacted(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(key, value)| {
                    let value = match (key.as_str(), value) {
                        (
                            "password" | "auth_password" | "secret" | "passcode",
                            Value::String(_),
                        ) => Value::from("***"),
                        ("token", Value::Object(mut token)) if token.contains_key("id") => {
                            token.insert("id".into(), Value::from("***"));
                            Value::Object(token)
                        }
                        (_, value) => redacted(value),
                    };
                    (key, value)
                })
                .collect(),
        ),
        Value::Array(items) => items.into_iter().map(redacted).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn exchange(status: u16, body: &str) -> Exchange {
        let request = Request::new(Method::Post, "http://cloud/v3/it's")
            .header("X-Auth-Token", "gAAAA-secret")
            .header("OpenStack-API-Version", "volume 3.64")
            .body(json!({"auth": {"identity": {
                "password": {"user": {"name": "demo", "password": "hunter2"}},
                "token": {"id": "gAAAA-secret"},
                "application_credential": {"id": "ac", "secret": "hunter2"}}}}));
        let answer = Answer {
            status,
            headers: Vec::new(),
            body: body.into(),
        };
        Exchange {
            request,
            result: Ok(answer),
            duration: Duration::ZERO,
        }
    }

    #[test]
    fn the_curl_line_repeats_the_request_without_its_secrets() {
        let line = exchange(200, "").curl();
        assert!(
            !line.contains("secret\"") || !line.contains("gAAAA"),
            "{line}"
        );
        assert!(
            !line.contains("hunter2") && !line.contains("gAAAA"),
            "{line}"
        );
        assert!(
            line.contains("-X POST -H \"X-Auth-Token: $TOKEN\""),
            "{line}"
        );
        assert!(
            line.contains("-H 'OpenStack-API-Version: volume 3.64'"),
            "{line}"
        );
        assert!(line.contains(r#""name":"demo""#), "{line}");
        assert!(line.ends_with(r"'http://cloud/v3/it'\''s'"), "{line}");
    }

    #[test]
    fn secrets_in_an_answer_are_not_shown() {
        let body = json!({"attachment": {"connection_info": {"auth_password": "hunter2"}}});
        let outcome = exchange(400, &body.to_string()).outcome();
        assert!(
            outcome.starts_with("400 ") && !outcome.contains("hunter2"),
            "{outcome}"
        );
    }

    #[test]
    fn a_refusal_does_not_decode_and_keeps_its_exchange() {
        let error = exchange(404, r#"{"itemNotFound": {}}"#)
            .decode::<Value>()
            .unwrap_err();
        let unexpected = error.downcast_ref::<Unexpected>().unwrap();
        assert_eq!(unexpected.exchange.status(), Some(404));
        assert!(exchange(200, "<html>").decode::<Value>().is_err());
        assert_eq!(exchange(202, "[1]").decode::<Value>().unwrap(), json!([1]));
    }

    #[test]
    fn only_trouble_that_may_pass_is_transient() {
        assert!(exchange(503, "").is_transient() && exchange(429, "").is_transient());
        assert!(!exchange(404, "").is_transient() && !exchange(403, "").is_transient());
    }
}
