//! Failures between a service and its Keystone.

/// Why Keystone gave no answer that helps.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("keystone does not answer")]
    Reach(#[source] reqwest::Error),
    #[error("keystone answers a log-in with {0}")]
    LogIn(u16),
    #[error("keystone answers {0}")]
    Status(u16),
    #[error("keystone's login gave no token")]
    NoToken,
    #[error("keystone's answer is not understood")]
    Unreadable,
    #[error("keystone's answer has no time of expiry")]
    NoExpiry,
}
