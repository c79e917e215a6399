//! Failures of requests, grouped by what a client could do about them.
//!
//! `Display` is safe to show to the client; `source()` is for the operator's log. No HTTP word
//! stands here: `api::http::fault` maps each kind to a status.

use std::error::Error as StdError;

/// Anything a floor below can attach as the operator's detail.
pub type Cause = Box<dyn StdError + Send + Sync>;

/// Failure of a request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request cannot be carried out as stated; the text says what to change.
    #[error("{0}")]
    Invalid(String),
    /// The named resource does not exist, or not for this caller.
    #[error("{0}")]
    NotFound(String),
    /// The caller's roles do not allow the rule of this name.
    #[error("Policy doesn't allow {0} to be performed.")]
    Forbidden(&'static str),
    /// No valid credentials came with the request.
    #[error("The request you have made requires authentication.")]
    Unauthenticated,
    /// A quota or another bound would be exceeded. Class is Cinder's name for the case, shown in front of the text.
    #[error("{message}")]
    OverQuota {
        class: Option<&'static str>,
        message: String,
    },
    /// Too much is asked for at once, or too often; the same may be asked again so many seconds later.
    #[error("Too many requests. Try again in {retry_after} s.")]
    TooMany { retry_after: u64 },
    /// The resource is in use in a way that rules the request out.
    #[error("{0}")]
    Conflict(String),
    /// The object has changed since the client read it.
    #[error("Precondition Failed")]
    Stale,
    /// The identity service cannot be asked; why is for the log alone.
    #[error("the identity service is unavailable: {0}")]
    IdentityUnavailable(String),
    /// Something this service depends on is away for now.
    #[error("{message}")]
    Unavailable {
        message: String,
        #[source]
        source: Option<Cause>,
    },
    /// Another service was asked and has not answered in time. It may have done as asked.
    #[error("{message}")]
    NoAnswer {
        message: String,
        #[source]
        source: Option<Cause>,
    },
    /// The answer of another service has not come as a whole, or is not understood. It may have done as asked.
    #[error("{message}")]
    BadAnswer {
        message: String,
        #[source]
        source: Option<Cause>,
    },
    /// A bug, or a broken part of the installation. The client learns nothing of it.
    #[error("The server has either erred or is incapable of performing the requested operation.")]
    Internal(#[source] Cause),
}

/// The text for what is wrong in a way that has no text of its own.
pub const MALFORMED: &str = "The server could not comply with the request since it is either malformed or otherwise incorrect.";

impl Error {
    /// A refused request with Cinder's prefix for its class, as in `Invalid volume: …`.
    pub fn invalid(class: &str, message: impl std::fmt::Display) -> Self {
        Self::Invalid(format!("Invalid {class}: {message}"))
    }

    /// A missing resource in Cinder's words.
    pub fn not_found(kind: &str, id: impl std::fmt::Display) -> Self {
        Self::NotFound(format!("{kind} {id} could not be found."))
    }

    /// A bug or a broken part: the text goes to the log, never to the client.
    pub fn internal(cause: impl Into<Cause>) -> Self {
        Self::Internal(cause.into())
    }
}

/// An error and all its causes in one line, for logs.
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}
