//! The door to a storage: one bucket, container or directory of objects, through OpenDAL.
//!
//! Calls block; any thread that is not running async code may make them. An object is either there whole or not at all.

mod call;
pub mod check;
mod directory;
mod drivers;
pub mod key;
mod meter;
mod open;
mod sweep;
mod swift;
mod temporary;

use crate::store::call::{Called, Caller, Load, Until};
use crate::store::directory::too_long;
use crate::store::key::Key;
use bytes::Bytes;
use futures_util::TryStreamExt;
use opendal::{Entry, ErrorKind, Operator};
use std::cell::Cell;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

pub use call::Outcome;
pub use drivers::OpenError;

/// Longest object that is read whole; others are read in ranges. Also the longest range.
const WHOLE_BYTES_MAX: usize = 72 << 20;
/// Bytes of an object that are compared at once.
const COMPARED_BYTES: usize = 4 << 20;

/// The operation on an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    Put,
    Get,
    GetRange,
    Head,
    Delete,
    List,
}

impl Verb {
    /// The verb in one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Put => "put",
            Verb::Get => "get",
            Verb::GetRange => "get_range",
            Verb::Head => "head",
            Verb::Delete => "delete",
            Verb::List => "list",
        }
    }
}

/// Why a call failed, as far as it matters to the caller.
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
    /// The storage denies access.
    Denied,
    /// Anything else. If retries could help, they were made.
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
            StoreErrorKind::Denied => "the backup storage refused our credentials",
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

/// Called after every try of a call, with how it ended and how long it took.
pub type Observer = Arc<dyn Fn(Verb, Outcome, Duration) + Send + Sync>;

/// How a new object comes to be there whole or not at all.
#[derive(Debug, Clone)]
enum Creation {
    /// The storage does it by itself.
    Put,
    /// Stored under a temporary name and renamed.
    Rename,
    /// A file below this directory.
    File(PathBuf),
}

/// One storage. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    operator: Operator,
    caller: Caller,
    handle: Handle,
    creation: Creation,
    hook: Option<Hook>,
    observer: Option<Observer>,
}

/// Abilities of a storage beyond the required ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// It says that it can refuse to replace an object.
    pub conditional_create: bool,
}

impl Store {
    /// The same storage, with a hook.
    pub fn with_hook(mut self, hook: Hook) -> Self {
        self.hook = Some(hook);
        self
    }

    /// The same storage with an observer, which is called after every try of a call.
    pub fn with_observer(mut self, observer: Observer) -> Self {
        self.observer = Some(observer);
        self
    }

    /// The same storage for another job: its share of the limits of bytes per second is its own.
    pub fn for_another_job(mut self) -> Self {
        self.caller = self.caller.for_another_job();
        self
    }

    /// The same storage; calls end when the token is cancelled.
    pub fn stopped_by(mut self, stop: CancellationToken) -> Self {
        self.caller = self.caller.stopped_by(stop);
        self
    }

    /// The storage's abilities beyond the required ones.
    pub fn abilities(&self) -> Abilities {
        let is_file = matches!(self.creation, Creation::File(_));
        Abilities {
            conditional_create: is_file || self.is_conditional(),
        }
    }

    fn is_conditional(&self) -> bool {
        let capability = self.operator.info().capability();
        matches!(self.creation, Creation::Put) && capability.write_with_if_not_exists
    }

    /// Stores a new object, whole or not at all. An existing object is not replaced if the storage can refuse that;
    /// directories always can.
    pub fn put_new(&self, key: &Key, bytes: impl Into<Bytes>) -> Result<(), StoreError> {
        self.put_new_until(key, bytes, &|| None)
    }

    /// The same; no try begins, and none is waited for, once `until` is over.
    pub fn put_new_until(
        &self,
        key: &Key,
        bytes: impl Into<Bytes>,
        until: Until<'_>,
    ) -> Result<(), StoreError> {
        let (path, bytes) = (key.to_string(), bytes.into());
        let load = Load::Up(bytes.len() as u64);
        let create = || self.create(&path, bytes.clone());
        let called = self.call_until(Verb::Put, &path, (load, until), create)?;
        match called
            .result
            .map_err(|error| failed(Verb::Put, &path, error))
        {
            // An earlier try may have stored it although it seemed to fail.
            Err(error) if error.kind == StoreErrorKind::Exists && called.was_repeated => {
                if self.holds(key, &bytes)? {
                    Ok(())
                } else {
                    Err(error)
                }
            }
            result => result,
        }
    }

    /// Stores an object in place of the existing one, whole or not at all.
    pub fn replace(&self, key: &Key, bytes: impl Into<Bytes>) -> Result<(), StoreError> {
        self.replace_until(key, bytes, &|| None)
    }

    /// The same; no try begins, and none is waited for, once `until` is over.
    pub fn replace_until(
        &self,
        key: &Key,
        bytes: impl Into<Bytes>,
        until: Until<'_>,
    ) -> Result<(), StoreError> {
        let (path, bytes) = (key.to_string(), bytes.into());
        let load = Load::Up(bytes.len() as u64);
        let write = || async {
            match &self.creation {
                Creation::Put => self.operator.write(&path, bytes.clone()).await.map(drop),
                Creation::Rename | Creation::File(_) => {
                    self.write_and_rename(&path, bytes.clone()).await
                }
            }
        };
        let called = self.call_until(Verb::Put, &path, (load, until), write)?;
        called
            .result
            .map_err(|error| failed(Verb::Put, &path, error))
    }

    async fn create(&self, path: &str, bytes: Bytes) -> Result<(), opendal::Error> {
        match &self.creation {
            Creation::Put if self.is_conditional() => {
                let write = self.operator.write_with(path, bytes).if_not_exists(true);
                write.await.map(drop)
            }
            // A later writer finds the object. Only two writers at the same moment may both succeed.
            Creation::Put => {
                self.refuse_existing(path).await?;
                self.operator.write(path, bytes).await.map(drop)
            }
            Creation::Rename => self.create_by_rename(path, bytes).await,
            Creation::File(root) => {
                let (root, path) = (root.clone(), path.to_owned());
                tokio::task::spawn_blocking(move || directory::put_new(&root, &path, &bytes))
                    .await
                    .map_err(|error| io::Error::other(error.to_string()))
                    .flatten()
                    .map_err(not_stored)
            }
        }
    }

    async fn refuse_existing(&self, path: &str) -> Result<(), opendal::Error> {
        if self.operator.exists(path).await? {
            Err(opendal::Error::new(ErrorKind::AlreadyExists, "it exists"))
        } else {
            Ok(())
        }
    }

    async fn create_by_rename(&self, path: &str, bytes: Bytes) -> Result<(), opendal::Error> {
        self.refuse_existing(path).await?;
        self.write_and_rename(path, bytes).await
    }

    async fn write_and_rename(&self, path: &str, bytes: Bytes) -> Result<(), opendal::Error> {
        let temporary = temporary::name();
        let stored = match self.operator.write(&temporary, bytes).await {
            Ok(_) => self.operator.rename(&temporary, path).await,
            Err(error) => Err(error),
        };
        if stored.is_err() {
            // Half an object under a temporary name would only take space.
            self.operator.delete(&temporary).await.ok();
        }
        stored
    }

    /// Reads a whole object; refuses one that is too long.
    pub fn get(&self, key: &Key) -> Result<Vec<u8>, StoreError> {
        let path = key.to_string();
        let read = || self.fetch(&path, None, Vec::new());
        let called = self.call(Verb::Get, &path, Load::Whole, read)?;
        let bytes = called
            .result
            .map_err(|error| failed(Verb::Get, &path, error))?;
        self.caller.came_down(bytes.len() as u64);
        Ok(bytes)
    }

    /// A range of an object, exactly as long as asked for.
    pub fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        self.read_range(key, range, &mut bytes)?;
        Ok(bytes)
    }

    /// The same, into memory that need not be empty.
    pub fn read_range(
        &self,
        key: &Key,
        range: Range<u64>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let path = key.to_string();
        let length = range.end - range.start;
        // A try that fails may keep the memory; the next one allocates again.
        let memory = Cell::new(std::mem::take(bytes));
        let read = || self.fetch(&path, Some(range.clone()), memory.take());
        let called = self.call(Verb::GetRange, &path, Load::Down(length), read)?;
        *bytes = called
            .result
            .map_err(|error| failed(Verb::GetRange, &path, error))?;
        if bytes.len() as u64 != length {
            return Err(StoreError {
                kind: StoreErrorKind::Truncated,
                verb: Verb::GetRange,
                object: path,
                source: None,
            });
        }
        Ok(())
    }

    /// Whether an object is there and has these bytes.
    pub fn holds(&self, key: &Key, bytes: &[u8]) -> Result<bool, StoreError> {
        if self.length(key)? != Some(bytes.len() as u64) {
            return Ok(false);
        }
        let (mut at, mut found) = (0, Vec::new());
        for piece in bytes.chunks(COMPARED_BYTES) {
            let end = at + piece.len() as u64;
            self.read_range(key, at..end, &mut found)?;
            if found != piece {
                return Ok(false);
            }
            at = end;
        }
        Ok(true)
    }

    /// Reads into our own memory as the bytes arrive, so that they are in memory only once.
    async fn fetch(
        &self,
        path: &str,
        range: Option<Range<u64>>,
        mut bytes: Vec<u8>,
    ) -> Result<Vec<u8>, opendal::Error> {
        if let Creation::File(root) = &self.creation {
            let (root, path) = (root.clone(), path.to_owned());
            let read = move || directory::read(&root, &path, range, WHOLE_BYTES_MAX, bytes);
            return tokio::task::spawn_blocking(read)
                .await
                .map_err(|error| io::Error::other(error.to_string()))
                .flatten()
                .map_err(not_read);
        }
        bytes.clear();
        let reader = self.operator.reader(path).await?;
        let mut stream = match range {
            None => reader.into_stream(..).await?,
            Some(range) => {
                let length = usize::try_from(range.end - range.start).ok();
                let length = length.filter(|length| *length <= WHOLE_BYTES_MAX);
                bytes.reserve_exact(length.ok_or_else(|| not_read(too_long()))?);
                reader.into_stream(range).await?
            }
        };
        while let Some(piece) = stream.try_next().await? {
            if bytes.len() + piece.len() > WHOLE_BYTES_MAX {
                return Err(not_read(too_long()));
            }
            for part in piece {
                bytes.extend_from_slice(&part);
            }
        }
        Ok(bytes)
    }

    /// Length of an object in bytes; `None` if it is not there.
    pub fn length(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        let path = key.to_string();
        let stat = || async { self.operator.stat(&path).await };
        let called = self.call(Verb::Head, &path, Load::Nothing, stat)?;
        match called.result {
            Ok(found) => Ok(Some(found.content_length())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(Verb::Head, &path, error)),
        }
    }

    /// Removes an object; one that is not there is no error.
    pub fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.delete_until(key, &|| None)
    }

    /// Removes an object, and a crash of the machine does not bring it back.
    pub fn delete_durably(&self, key: &Key) -> Result<(), StoreError> {
        self.delete(key)?;
        let Creation::File(root) = &self.creation else {
            return Ok(());
        };
        let path = key.to_string();
        directory::make_removal_durable(root, &path)
            .map_err(not_stored)
            .map_err(|error| failed(Verb::Delete, &path, error))
    }

    /// Removes an object; no try begins, and none is waited for, once `until` is over.
    pub fn delete_until(&self, key: &Key, until: Until<'_>) -> Result<(), StoreError> {
        self.remove(&key.to_string(), until)
    }

    fn remove(&self, object: &str, until: Until<'_>) -> Result<(), StoreError> {
        let delete = || async { self.operator.delete(object).await };
        let called = self.call_until(Verb::Delete, object, (Load::Nothing, until), delete)?;
        called
            .result
            .map_err(|error| failed(Verb::Delete, object, error))
    }

    /// Names and sizes of all objects whose name starts with a folder, which ends in `/`. A folder
    /// that is not there holds nothing. All names are in memory: folders that may hold very many objects
    /// are listed one sub-folder at a time.
    pub fn list(&self, folder: &str) -> Result<Vec<(String, u64)>, StoreError> {
        let mut listed = self.entries(folder, true)?;
        listed.retain(|entry| entry.metadata().is_file());
        Ok(listed
            .into_iter()
            .map(|entry| (entry.path().to_owned(), entry.metadata().content_length()))
            .collect())
    }

    /// The folders directly below a folder; each name ends in `/`, as the folder's does.
    pub fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let listed = self.entries(folder, false)?;
        let folders = listed.iter().filter(|entry| entry.metadata().is_dir());
        let mut folders: Vec<String> = folders.map(|entry| entry.path().to_owned()).collect();
        folders.retain(|found| found != folder);
        // A listing that was resumed after a fault may name a folder twice.
        folders.sort();
        folders.dedup();
        Ok(folders)
    }

    fn entries(&self, folder: &str, recursive: bool) -> Result<Vec<Entry>, StoreError> {
        self.ask_hook(Verb::List, folder)?;
        let can_resume = self.operator.info().capability().list_with_start_after;
        let open = |after: Option<String>| async move {
            let list = self.operator.lister_with(folder).recursive(recursive);
            match after.filter(|_| can_resume) {
                Some(after) => list.start_after(&after).await,
                None => list.await,
            }
        };
        let report = |outcome, duration| self.report(Verb::List, outcome, duration);
        let listed = self.caller.list(can_resume, open, report);
        match self.handle.block_on(listed) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            listed => listed.map_err(|error| failed(Verb::List, folder, error)),
        }
    }

    fn call<T, F>(
        &self,
        verb: Verb,
        path: &str,
        load: Load,
        make: impl Fn() -> F,
    ) -> Result<Called<T>, StoreError>
    where
        F: Future<Output = Result<T, opendal::Error>>,
    {
        self.call_until(verb, path, (load, &|| None), make)
    }

    /// Waits for a call from a thread that is not running async code.
    fn call_until<T, F>(
        &self,
        verb: Verb,
        path: &str,
        how: (Load, Until<'_>),
        make: impl Fn() -> F,
    ) -> Result<Called<T>, StoreError>
    where
        F: Future<Output = Result<T, opendal::Error>>,
    {
        self.ask_hook(verb, path)?;
        let report = |outcome, duration| self.report(verb, outcome, duration);
        Ok(self.handle.block_on(self.caller.call(how, make, report)))
    }

    fn ask_hook(&self, verb: Verb, path: &str) -> Result<(), StoreError> {
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

    fn report(&self, verb: Verb, outcome: Outcome, duration: Duration) {
        if let Some(observer) = &self.observer {
            observer(verb, outcome, duration);
        }
    }

    /// Makes sure that an object that another process stored survives a crash of the machine. Only a directory can show
    /// objects that are not durable yet.
    pub fn make_durable(&self, key: &Key) -> Result<(), StoreError> {
        let Creation::File(root) = &self.creation else {
            return Ok(());
        };
        let path = key.to_string();
        directory::make_durable(root, &path)
            .map_err(not_stored)
            .map_err(|error| failed(Verb::Put, &path, error))
    }
}

fn failed(verb: Verb, object: &str, error: opendal::Error) -> StoreError {
    let kind = match error.kind() {
        ErrorKind::NotFound => StoreErrorKind::Missing,
        ErrorKind::AlreadyExists | ErrorKind::ConditionNotMatch => StoreErrorKind::Exists,
        ErrorKind::RangeNotSatisfied => StoreErrorKind::Truncated,
        ErrorKind::PermissionDenied => StoreErrorKind::Denied,
        _ if is_short(&error) => StoreErrorKind::Truncated,
        _ if is_full(&error) => StoreErrorKind::Full,
        _ => StoreErrorKind::Other,
    };
    StoreError {
        kind,
        verb,
        object: object.to_owned(),
        source: Some(error.into()),
    }
}

/// Whether the object ended before the range did; OpenDAL has no kind for that. An answer that was cut off on its way is a
/// temporary fault with another text.
fn is_short(error: &opendal::Error) -> bool {
    !error.is_temporary() && error.message().starts_with("reader got too little data")
}

/// Whether there is no space left, which OpenDAL has no kind for.
fn is_full(error: &opendal::Error) -> bool {
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    let text = error.to_string();
    io.is_some_and(|io| {
        matches!(
            io.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }) || ["QuotaExceeded", "507 Insufficient", "status: 507"]
        .iter()
        .any(|sign| text.contains(sign))
}

fn not_read(error: io::Error) -> opendal::Error {
    let lasting = |kind| opendal::Error::new(kind, "the object cannot be read so");
    match error.kind() {
        io::ErrorKind::UnexpectedEof => lasting(ErrorKind::RangeNotSatisfied).set_source(error),
        io::ErrorKind::FileTooLarge => lasting(ErrorKind::Unexpected).set_source(error),
        _ => opendal::raw::new_std_io_error(error),
    }
}

fn not_stored(error: io::Error) -> opendal::Error {
    let kind = match error.kind() {
        io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
        _ => ErrorKind::Unexpected,
    };
    opendal::Error::new(kind, "the file could not be written").set_source(error)
}
