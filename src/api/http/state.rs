//! What every handler works with.

use crate::api::http::budget::Budget;
use crate::api::http::gateway::Gateway;
use crate::config;
use crate::identity::Identity;
use crate::identity::policy::Policy;
use crate::service::Services;
use bytesize::ByteSize;
use std::sync::Arc;

/// What the rows, the text and all else of a list take, for each byte of metadata that a page may have. As JSON a byte is
/// up to six.
const LIST_FACTOR: u64 = 12;
/// Names and dates take room even where pages have little metadata.
const LIST_PAGE_MIN: ByteSize = ByteSize::kib(512);
/// How many lists of that size may be held at once. One place is left for others whatever a caller does.
const LISTS_AT_ONCE: u64 = 4;

/// What an object and its answer take, for each byte of its metadata.
const OBJECT_FACTOR: u64 = 8;
const OBJECT_MIN: ByteSize = ByteSize::kib(64);
/// How many objects of that size may be held at once, and by how many callers at least.
const OBJECTS_AT_ONCE: u64 = 32;
const CALLERS_AT_ONCE: u64 = 4;

/// How many of the largest bodies may be on their way at once.
const BODIES_AT_ONCE: u64 = 64;

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
            memory: Memory::of(&settings),
            settings,
            region,
            gateway: None,
        }
    }
}

/// Bounds the memory that requests and their answers take together, whoever takes the answers: 47 MiB with the defaults
/// of `[api]`. Beside it stand heads, and answers of at most
/// [`SMALL_BYTES`](crate::api::http::wire::SMALL_BYTES), one of each for a connection.
pub(crate) struct Memory {
    /// For bodies until they have come.
    pub(crate) bodies: Budget,
    pub(crate) lists: Budget,
    /// What a list takes while it is made.
    pub(crate) list_bytes: u64,
    /// For all other requests.
    pub(crate) objects: Budget,
    /// What an object takes while its answer is made.
    pub(crate) object_bytes: u64,
}

impl Memory {
    /// Bytes of text in a list without pages.
    pub(crate) fn list_text_bytes(&self) -> u64 {
        self.list_bytes / LIST_FACTOR
    }

    fn of(settings: &config::Api) -> Self {
        let page = settings.page_bytes_max.max(LIST_PAGE_MIN).as_u64();
        let list_bytes = page.saturating_mul(LIST_FACTOR);
        let object = settings.metadata_bytes_max.max(OBJECT_MIN).as_u64();
        let object_bytes = object.saturating_mul(OBJECT_FACTOR);
        let objects = object_bytes.saturating_mul(OBJECTS_AT_ONCE);
        let bodies = settings
            .body_bytes_max
            .as_u64()
            .saturating_mul(BODIES_AT_ONCE);
        Self {
            bodies: Budget::new(bodies, bodies / CALLERS_AT_ONCE),
            lists: Budget::new(
                list_bytes.saturating_mul(LISTS_AT_ONCE),
                list_bytes.saturating_mul(LISTS_AT_ONCE - 1),
            ),
            list_bytes,
            objects: Budget::new(objects, objects / CALLERS_AT_ONCE),
            object_bytes,
        }
    }
}
