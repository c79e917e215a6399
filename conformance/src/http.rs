//! The HTTP client: sends one request, follows redirects of a GET, keeps the exchange. A status
//! is never an error here; what to expect is the caller's business.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ureq::Agent;
use ureq::http;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::exchange::{Answer, Exchange, Method, Request};
use crate::{log, url};

/// How a server's certificate is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trust {
    /// By the system's certificate store.
    System,
    /// By the certificates in this PEM file and no others.
    File(PathBuf),
    /// Not at all.
    Anything,
}

#[derive(Debug, Clone)]
pub(crate) struct Http {
    agent: Agent,
}

const REDIRECTS_MAX: usize = 5;
const BODY_BYTES_MAX: u64 = 64 << 20;
/// Cinder answers a restore only when the new volume exists, so this is long.
const REQUEST_TIMEOUT_MIN: Duration = Duration::from_secs(60);

impl Http {
    /// `timeout` is the caller's patience; one request never gets less than a minute.
    pub(crate) fn new(trust: &Trust, timeout: Duration) -> Result<Http> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_global(Some(timeout.max(REQUEST_TIMEOUT_MIN)))
            .user_agent(concat!(
                "embervault-conformance/",
                env!("CARGO_PKG_VERSION")
            ))
            .tls_config(tls_config(trust)?)
            .build();
        Ok(Http {
            agent: config.new_agent(),
        })
    }

    pub(crate) fn send(&self, request: Request) -> Exchange {
        let mut exchange = self.send_once(request);
        for _ in 0..REDIRECTS_MAX {
            match redirected(&exchange) {
                Some(next) => exchange = self.send_once(next),
                None => break,
            }
        }
        exchange
    }

    fn send_once(&self, request: Request) -> Exchange {
        let started = Instant::now();
        let result = self
            .transfer(&request)
            .map_err(|error| format!("{error:#}"));
        let exchange = Exchange {
            request,
            result,
            duration: started.elapsed(),
        };
        log::debug(format_args!(
            "{} {} {} {} ms",
            exchange.request.method.name(),
            exchange.request.url,
            exchange
                .status()
                .map_or("-".into(), |status| status.to_string()),
            exchange.duration.as_millis(),
        ));
        exchange
    }

    fn transfer(&self, request: &Request) -> Result<Answer> {
        let mut builder = http::Request::builder()
            .method(request.method.name())
            .uri(&request.url)
            .header("Accept", "application/json");
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        let response = match &request.body {
            Some(body) => {
                let builder = builder.header("Content-Type", "application/json");
                self.agent.run(builder.body(body.to_string())?)?
            }
            None => self.agent.run(builder.body(())?)?,
        };
        let (head, mut body) = response.into_parts();
        let headers = head.headers.iter().map(|(name, value)| {
            (
                name.as_str().to_owned(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        });
        Ok(Answer {
            status: head.status.as_u16(),
            headers: headers.collect(),
            body: body
                .with_config()
                .limit(BODY_BYTES_MAX)
                .lossy_utf8(true)
                .read_to_string()?,
        })
    }
}

/// The request to send next when a GET was redirected. The token stays at its own server.
fn redirected(exchange: &Exchange) -> Option<Request> {
    let answer = exchange.result.as_ref().ok()?;
    let asked = &exchange.request;
    if asked.method != Method::Get || !matches!(answer.status, 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let target = url::join(&asked.url, answer.header("location")?);
    let mut next = Request {
        url: target,
        ..asked.clone()
    };
    if url::origin(&next.url) != url::origin(&asked.url) {
        next.headers.retain(|(name, _)| *name != "X-Auth-Token");
    }
    Some(next)
}

fn tls_config(trust: &Trust) -> Result<TlsConfig> {
    let builder = TlsConfig::builder();
    Ok(match trust {
        Trust::System => builder.root_certs(RootCerts::PlatformVerifier).build(),
        Trust::File(path) => {
            let pem = fs::read(path).with_context(|| format!("cacert {}", path.display()))?;
            let certificates =
                certificates(&pem).with_context(|| format!("cacert {}", path.display()))?;
            builder
                .root_certs(RootCerts::new_with_certs(&certificates))
                .build()
        }
        Trust::Anything => builder.disable_verification(true).build(),
    })
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate<'static>>> {
    let mut certificates = Vec::new();
    for item in parse_pem(pem) {
        if let PemItem::Certificate(certificate) = item? {
            certificates.push(certificate);
        }
    }
    ensure!(!certificates.is_empty(), "holds no certificate");
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirect(method: Method, location: &str) -> Option<Request> {
        let request = Request::new(method, "http://cloud/volume/v3").header("X-Auth-Token", "t");
        let headers = vec![("location".to_owned(), location.to_owned())];
        let answer = Answer {
            status: 302,
            headers,
            body: String::new(),
        };
        redirected(&Exchange {
            request,
            result: Ok(answer),
            duration: Duration::ZERO,
        })
    }

    #[test]
    fn a_redirect_keeps_the_token_at_its_own_server() {
        let same = redirect(Method::Get, "/volume/v3/").unwrap();
        assert_eq!(
            (same.url.as_str(), same.headers.len()),
            ("http://cloud/volume/v3/", 1)
        );
        let other = redirect(Method::Get, "http://elsewhere/volume/v3/").unwrap();
        assert_eq!(
            (other.url.as_str(), other.headers.len()),
            ("http://elsewhere/volume/v3/", 0)
        );
    }

    #[test]
    fn only_a_get_is_redirected() {
        assert!(redirect(Method::Post, "/volume/v3/").is_none());
    }

    #[test]
    fn a_cacert_without_certificates_is_refused() {
        assert!(certificates(b"nothing here").is_err());
    }
}
