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
    #[error("keystone's new token has expired by our clock: the clocks differ")]
    Clocks,
}

impl ClientError {
    /// Whether another try of a log-in may succeed.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            ClientError::Reach(_) => true,
            ClientError::LogIn(status) | ClientError::Status(status) => {
                *status >= 500 || [408, 429].contains(status)
            }
            ClientError::NoToken
            | ClientError::Unreadable
            | ClientError::NoExpiry
            | ClientError::Clocks => false,
        }
    }
}
