//! A service's session at its Keystone: its own token, and questions about the tokens of others.

use crate::clock::Clock;
use crate::keystone::answer::Token;
use crate::keystone::client::{Catalog, Client};
use crate::keystone::error::ClientError;
use crate::keystone::kept::{Kept, KeptToken};
use crate::model::time::Timestamp;
use http::HeaderValue;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;

/// Our own token is renewed when less than this is left of it, or less than half of what it had.
const RENEWAL: Duration = Duration::from_secs(120);

/// A Keystone with a token of our own, which is renewed once where Keystone refuses it.
pub struct Session {
    client: Client,
    own: Kept<ClientError>,
    clock: Clock,
    handle: Handle,
    /// The project of our own token.
    project_id: Mutex<Option<String>>,
}

/// A token of our own.
#[derive(Debug, Clone)]
pub struct OwnToken {
    pub token: HeaderValue,
    pub project_id: String,
}

impl Session {
    /// Keystone need not be there yet.
    pub fn new(client: Client, clock: Clock, handle: Handle) -> Self {
        Self {
            client,
            own: Kept::new(None, ClientError::is_passing),
            clock,
            handle,
            project_id: Mutex::default(),
        }
    }

    /// A token of our own, other than one that was refused.
    pub async fn own(&self, refused: Option<&HeaderValue>) -> Result<OwnToken, Arc<ClientError>> {
        let token = self.token(refused).await?;
        let project_id = self
            .project_id
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Ok(OwnToken {
            token,
            project_id: project_id.clone().unwrap_or_default(),
        })
    }

    /// Keystone's answer about a token; `None` if it is not valid.
    pub fn validate(
        &self,
        subject: &HeaderValue,
        may_be_expired: bool,
    ) -> Result<Option<Token>, Arc<ClientError>> {
        self.handle.block_on(self.ask(subject, may_be_expired))
    }

    async fn ask(
        &self,
        subject: &HeaderValue,
        may_be_expired: bool,
    ) -> Result<Option<Token>, Arc<ClientError>> {
        let own = self.token(None).await?;
        let answer = match self.client.validate(&own, subject, may_be_expired).await {
            // Our own token was revoked, or Keystone has new keys.
            Err(ClientError::Status(401)) => {
                let own = self.token(Some(&own)).await?;
                self.client.validate(&own, subject, may_be_expired).await
            }
            other => other,
        };
        answer.map_err(Arc::new)
    }

    async fn token(&self, refused: Option<&HeaderValue>) -> Result<HeaderValue, Arc<ClientError>> {
        self.own.get(refused, || self.log_in()).await
    }

    async fn log_in(&self) -> Result<KeptToken, ClientError> {
        let (token, described) = self.client.log_in(Catalog::LeftOut).await?;
        *self
            .project_id
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = described.project_id().map(str::to_owned);
        let (expires_at, now) = (described.expires_at()?, self.clock.now());
        let good_for = good_for(expires_at, now)?;
        let left = Duration::from_secs(expires_at.seconds_since(now));
        Ok(KeptToken {
            token,
            renew_at: Some(Instant::now() + good_for),
            expires_at: Some(Instant::now() + left),
        })
    }
}

/// How long a new token is used. One that is renewed at once would be renewed for each request.
fn good_for(expires_at: Timestamp, now: Timestamp) -> Result<Duration, ClientError> {
    match expires_at.seconds_since(now) {
        0 => Err(ClientError::Clocks),
        left => {
            let left = Duration::from_secs(left);
            Ok(left.saturating_sub(RENEWAL).max(left / 2))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_new_token_is_renewed_at_once() {
        let now = Timestamp(1_700_000_000_000_000);
        let good_for = |seconds: i64| {
            let expires_at = Timestamp(now.0 + seconds * 1_000_000);
            super::good_for(expires_at, now).map(|time| time.as_millis())
        };
        assert_eq!(good_for(3600).unwrap(), 3_480_000);
        assert_eq!(good_for(240).unwrap(), 120_000);
        assert_eq!(good_for(60).unwrap(), 30_000);
        assert_eq!(good_for(1).unwrap(), 500);
        // Our clock is ahead.
        for seconds in [0, -1, -3600] {
            assert!(matches!(good_for(seconds), Err(ClientError::Clocks)));
        }
    }
}
