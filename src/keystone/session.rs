//! The service at its Keystone, for those that block.

use crate::clock::Clock;
use crate::keystone::answer::Token;
use crate::keystone::client::{Catalog, Client};
use crate::keystone::error::ClientError;
use crate::keystone::kept::{Kept, KeptToken};
use http::HeaderValue;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;

/// Our own token is renewed when less than this is left of it.
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
            own: Kept::new(None),
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
        let left = described.expires_at()?.seconds_since(self.clock.now());
        let left = Duration::from_secs(left);
        Ok(KeptToken {
            token,
            renew_at: Some(Instant::now() + left.saturating_sub(RENEWAL)),
        })
    }
}
