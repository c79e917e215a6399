//! The door to a storage: one bucket, container or directory of objects, through OpenDAL.
//!
//! Calls block; they may come from any thread that is not running async code. An object is either
//! there whole or not at all.

mod directory;
pub mod key;
mod open;

use crate::store::key::Key;
use bytes::Bytes;
use opendal::{ErrorKind, Operator};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::runtime::Handle;

pub use open::OpenError;

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    Put,
    Get,
    GetRange,
    Delete,
    List,
}

/// Why a call failed, by what the caller could do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// The object does not exist.
    Missing,
    /// The object exists already.
    Exists,
    /// The object is shorter than it must be.
    Truncated,
    /// The storage has no space left.
    Full,
    /// Anything else; retries have been made where they could help.
    Other,
}

/// A failed call.
#[derive(Debug)]
pub struct StoreError {
    pub kind: StoreErrorKind,
    pub verb: Verb,
    pub object: String,
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            StoreErrorKind::Missing => "object is missing",
            StoreErrorKind::Exists => "object exists already",
            StoreErrorKind::Truncated => "object is truncated",
            StoreErrorKind::Full => "no space left on the backup storage",
            StoreErrorKind::Other => "backup storage failed",
        };
        write!(f, "{}: {what}", self.object)
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}

/// Sees every call before it is made, and may fail it in place of the storage. For tests that
/// count calls or plan faults.
pub type Hook = Arc<dyn Fn(Verb, &str) -> Result<(), StoreErrorKind> + Send + Sync>;

/// One storage. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    operator: Operator,
    handle: Handle,
    /// Where the objects lie, if they are files.
    directory: Option<PathBuf>,
    hook: Option<Hook>,
}

impl Store {
    /// The same storage, with a hook.
    pub fn with_hook(mut self, hook: Hook) -> Self {
        self.hook = Some(hook);
        self
    }

    /// Stores a new object, whole or not at all. An object of that name is not replaced where the
    /// storage can tell; directories always can.
    pub fn put_new(&self, key: &Key, bytes: impl Into<Bytes>) -> Result<(), StoreError> {
        let bytes = bytes.into();
        let path = key.to_string();
        self.before(Verb::Put, &path)?;
        if let Some(root) = &self.directory {
            return directory::put_new(root, &path, &bytes)
                .map_err(|error| not_stored(&path, error));
        }
        let conditional = self.operator.info().capability().write_with_if_not_exists;
        let write = self
            .operator
            .write_with(&path, bytes)
            .if_not_exists(conditional);
        self.handle
            .block_on(async { write.await })
            .map(|_| ())
            .map_err(|error| failed(Verb::Put, &path, error))
    }

    /// A whole object.
    pub fn get(&self, key: &Key) -> Result<Vec<u8>, StoreError> {
        let path = key.to_string();
        self.before(Verb::Get, &path)?;
        self.handle
            .block_on(self.operator.read(&path))
            .map(|buffer| buffer.to_vec())
            .map_err(|error| failed(Verb::Get, &path, error))
    }

    /// A range of an object, exactly as long as asked for.
    pub fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let path = key.to_string();
        self.before(Verb::GetRange, &path)?;
        let length = range.end - range.start;
        let read = self.operator.read_with(&path).range(range);
        let bytes = self
            .handle
            .block_on(async { read.await })
            .map_err(|error| failed(Verb::GetRange, &path, error))?
            .to_vec();
        if bytes.len() as u64 != length {
            return Err(StoreError {
                kind: StoreErrorKind::Truncated,
                verb: Verb::GetRange,
                object: path,
                source: None,
            });
        }
        Ok(bytes)
    }

    /// Removes an object; one that is not there is no error.
    pub fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let path = key.to_string();
        self.before(Verb::Delete, &path)?;
        self.handle
            .block_on(self.operator.delete(&path))
            .map_err(|error| failed(Verb::Delete, &path, error))
    }

    /// Names and sizes of all objects whose name starts with a folder, which ends in `/`.
    pub fn list(&self, folder: &str) -> Result<Vec<(String, u64)>, StoreError> {
        self.before(Verb::List, folder)?;
        let listed = self
            .handle
            .block_on(async { self.operator.list_with(folder).recursive(true).await })
            .map_err(|error| failed(Verb::List, folder, error))?;
        Ok(listed
            .into_iter()
            .filter(|entry| entry.metadata().is_file())
            .map(|entry| (entry.path().to_owned(), entry.metadata().content_length()))
            .collect())
    }

    fn before(&self, verb: Verb, path: &str) -> Result<(), StoreError> {
        let Some(hook) = &self.hook else {
            return Ok(());
        };
        hook(verb, path).map_err(|kind| StoreError {
            kind,
            verb,
            object: path.to_owned(),
            source: None,
        })
    }
}

fn failed(verb: Verb, object: &str, error: opendal::Error) -> StoreError {
    let kind = match error.kind() {
        ErrorKind::NotFound => StoreErrorKind::Missing,
        ErrorKind::AlreadyExists | ErrorKind::ConditionNotMatch => StoreErrorKind::Exists,
        ErrorKind::RangeNotSatisfied => StoreErrorKind::Truncated,
        _ => StoreErrorKind::Other,
    };
    StoreError {
        kind,
        verb,
        object: object.to_owned(),
        source: Some(error.into()),
    }
}

fn not_stored(object: &str, error: io::Error) -> StoreError {
    let kind = match error.kind() {
        io::ErrorKind::AlreadyExists => StoreErrorKind::Exists,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreErrorKind::Full,
        _ => StoreErrorKind::Other,
    };
    StoreError {
        kind,
        verb: Verb::Put,
        object: object.to_owned(),
        source: Some(error.into()),
    }
}
