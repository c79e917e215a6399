//! Errors of requests to a Cinder.

use crate::keystone::{ClientError, TrustError};
use std::sync::Arc;

/// Why Cinder did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum CinderError {
    #[error("cinder cannot be asked, as there is no token for it")]
    Token(#[source] Arc<ClientError>),
    #[error("cinder does not answer")]
    Reach(#[source] reqwest::Error),
    /// With Cinder's own words.
    #[error("cinder answers {status} to {what}: {message}")]
    Refused {
        what: String,
        status: u16,
        message: String,
    },
    #[error("cinder's answer to {0} is not understood")]
    Unreadable(String),
    #[error("cinder.cacert")]
    Trust(#[from] TrustError),
}

impl CinderError {
    /// Whether the same request may succeed later.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Reach(_) | Self::Token(_) => true,
            Self::Refused { status, .. } => *status >= 500 || [408, 409, 413, 429].contains(status),
            Self::Unreadable(_) | Self::Trust(_) => false,
        }
    }
}
