//! What every handler works with.

use crate::api::http::budget::Budget;
use crate::api::http::gateway::Gateway;
use crate::config::{self, RequestMemory};
use crate::identity::Identity;
use crate::identity::policy::Policy;
use crate::service::Services;
use std::sync::Arc;

/// How many callers may at once hold as much as one may, of objects and of bodies.
const CALLERS_AT_ONCE: u64 = 4;

/// What the API needs.
pub struct Api {
    pub services: Services,
    pub identity: Identity,
    pub policy: Arc<Policy>,
    pub settings: config::Api,
    pub region: String,
    /// The way to Cinder, where this service stands in front of it.
    pub gateway: Option<Gateway>,
    pub(crate) memory: Memory,
}

impl Api {
    pub fn new(
        services: Services,
        identity: Identity,
        policy: Arc<Policy>,
        settings: config::Api,
        region: String,
    ) -> Self {
        Self {
            services,
            identity,
            policy,
            memory: Memory::of(settings.memory()),
            settings,
            region,
            gateway: None,
        }
    }
}

/// Bounds the memory that requests and their answers take together, whoever takes the answers. Beside it stand heads,
/// and answers of at most [`SMALL_BYTES`](crate::api::http::wire::SMALL_BYTES), one of each for a connection.
pub(crate) struct Memory {
    pub(crate) parts: RequestMemory,
    /// For bodies until they have come.
    pub(crate) bodies: Budget,
    pub(crate) lists: Budget,
    /// For all other requests.
    pub(crate) objects: Budget,
}

impl Memory {
    fn of(parts: RequestMemory) -> Self {
        let shared = |bytes: u64| Budget::new(bytes, bytes / CALLERS_AT_ONCE);
        Self {
            bodies: shared(parts.bodies),
            // One place is left for others whatever a caller does.
            lists: Budget::new(parts.lists, parts.lists - parts.list),
            objects: shared(parts.objects),
            parts,
        }
    }
}
