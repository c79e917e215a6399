//! The gateway to Cinder: where requests go that are not about backups, and how many may be on their way.

use crate::api::http::budget::Budget;
use crate::config;
use crate::model::error::{Error, chain};
use crate::volume::cinder::{Upstream, UpstreamError};
use serde_json::Value;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a request on its way takes at most: what the connection to Cinder has read ahead, once in its hands and once in
/// ours. A client that does not read has no more of an answer waiting.
pub(crate) const REQUEST_BYTES: u64 = 1 << 20;

/// The way to Cinder.
pub struct Gateway {
    pub(crate) upstream: Upstream,
    /// A place for each request on its way.
    pub(crate) places: Budget,
    pub(crate) versions: Versions,
}

/// How long Cinder's document of versions is good, and how long Cinder is not asked for it after it was asked in vain.
const VERSIONS_FOR: Duration = Duration::from_secs(60);
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What Cinder said of its versions. Anyone may ask for it, so Cinder is asked now and then only.
#[derive(Default)]
pub(crate) struct Versions(Mutex<Known>);

#[derive(Default)]
struct Known {
    document: Option<Value>,
    ask_at: Option<Instant>,
}

impl Versions {
    /// What it said last, if ever. Blocks. Who asks meanwhile waits for the same answer.
    pub(crate) fn get(&self, upstream: &Upstream) -> Option<Value> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.ask_at.is_none_or(|at| at <= Instant::now()) {
            let pause = match upstream.versions() {
                Ok(document) => {
                    known.document = Some(document);
                    VERSIONS_FOR
                }
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "cinder does not say which versions it has");
                    AGAIN_AFTER
                }
            };
            known.ask_at = Some(Instant::now() + pause);
        }
        known.document.clone()
    }
}

impl Gateway {
    pub fn new(upstream: Upstream, settings: &config::Cinder) -> Self {
        let requests = settings.gateway_requests_max as u64;
        let share = (requests * 3 / 4).max(1);
        Self {
            upstream,
            versions: Versions::default(),
            places: Budget::new(
                requests.saturating_mul(REQUEST_BYTES),
                share.saturating_mul(REQUEST_BYTES),
            ),
        }
    }
}

/// The answer to a client where Cinder gave none. Only if Cinder could not be reached is it sure that it did nothing.
pub(crate) fn error_of(error: UpstreamError) -> Error {
    match error {
        UpstreamError::Target => Error::Invalid("Malformed request url".to_owned()),
        error @ UpstreamError::Connect(_) => Error::Unavailable {
            message: "Cinder cannot be reached. Backups can be listed meanwhile.".to_owned(),
            source: Some(error.into()),
        },
        error @ UpstreamError::Late => Error::NoAnswer {
            message: "Cinder has not answered in time.".to_owned(),
            source: Some(error.into()),
        },
        error @ (UpstreamError::Broken(_) | UpstreamError::TooLong | UpstreamError::Unreadable) => {
            Error::BadAnswer {
                message: "Cinder's answer has not come as a whole.".to_owned(),
                source: Some(error.into()),
            }
        }
    }
}
