//! What the process holds beside its jobs, part by part. What is left of `engine.memory` belongs to the jobs.

use crate::config::api::Api;
use bytesize::ByteSize;

/// The program's own pages, the database's cache, connections with their heads, and small answers.
pub(super) const PROGRAM_BYTES: u64 = 36 << 20;
/// What the upkeep of vaults may read at once.
pub const UPKEEP_BYTES: u64 = 20 << 20;

/// How many passwords are hashed at once at most, however many cores there are.
pub const PASSWORDS_AT_ONCE: usize = 2;
/// What argon2 takes for one of them.
pub(super) const PASSWORD_BYTES: u64 = 19 << 20;

/// What the rows, the text and all else of a list take, for each byte of metadata that a page may have. As JSON a byte is
/// up to six.
const LIST_FACTOR: u64 = 12;
/// Names and dates take room even where pages have little metadata.
const LIST_PAGE_MIN: ByteSize = ByteSize::kib(512);
/// How many lists of that size may be held at once.
const LISTS_AT_ONCE: u64 = 3;
/// What an object and its answer take, for each byte of its metadata.
const OBJECT_FACTOR: u64 = 8;
const OBJECT_MIN: ByteSize = ByteSize::kib(64);
/// How many objects of that size may be held at once.
const OBJECTS_AT_ONCE: u64 = 16;
/// How many of the largest bodies may be on their way at once.
const BODIES_AT_ONCE: u64 = 32;

/// Memory for requests and their answers, in bytes: about 30 MiB in all with the defaults of `[api]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestMemory {
    /// What one list takes while it is made.
    pub list: u64,
    /// For lists until their clients have taken them.
    pub lists: u64,
    /// What an object takes while its answer is made.
    pub object: u64,
    /// For all requests but lists.
    pub objects: u64,
    /// For bodies until they have come.
    pub bodies: u64,
}

impl RequestMemory {
    /// Bytes of text in a list without pages.
    pub fn list_text(&self) -> u64 {
        self.list / LIST_FACTOR
    }

    /// All parts together.
    pub(super) fn all(&self) -> u64 {
        [self.lists, self.objects, self.bodies]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

impl Api {
    /// How much memory these settings give to requests.
    pub fn memory(&self) -> RequestMemory {
        let times = |bytes: ByteSize, count: u64| bytes.as_u64().saturating_mul(count);
        let list = times(self.page_bytes_max.max(LIST_PAGE_MIN), LIST_FACTOR);
        let object = times(self.metadata_bytes_max.max(OBJECT_MIN), OBJECT_FACTOR);
        RequestMemory {
            list,
            lists: list.saturating_mul(LISTS_AT_ONCE),
            object,
            objects: object.saturating_mul(OBJECTS_AT_ONCE),
            bodies: times(self.body_bytes_max, BODIES_AT_ONCE),
        }
    }
}
