//! From a storage's URL to a store with retries, timeouts and bounded concurrency.

use crate::store::Store;
use crate::store::directory::TEMPORARY;
use opendal::layers::{ConcurrentLimitLayer, RetryLayer, TimeoutLayer};
use opendal::{Operator, services};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Handle;

/// Calls to one storage at once.
const CALLS_MAX: usize = 64;
/// Temporary files older than this belong to nobody any more.
const TEMPORARY_AGE_MAX: Duration = Duration::from_secs(3600);

/// Why a storage could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("storage URL {0:?}: only fs:DIRECTORY is supported")]
    Url(String),
    #[error("storage directory {}", path.display())]
    Directory {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("storage {url}")]
    Backend { url: String, source: opendal::Error },
}

impl Store {
    /// Opens a storage: `fs:DIRECTORY` makes the directory if need be.
    pub fn open(url: &str, handle: Handle) -> Result<Self, OpenError> {
        let Some(path) = url.strip_prefix("fs:").filter(|path| !path.is_empty()) else {
            return Err(OpenError::Url(url.to_owned()));
        };
        let directory = make_directory(Path::new(path))?;
        clean_temporary(&directory.join(TEMPORARY));
        let backend = services::Fs::default().root(&directory.to_string_lossy());
        let operator = Operator::new(backend).map_err(|source| OpenError::Backend {
            url: url.to_owned(),
            source,
        })?;
        Ok(Self {
            operator: guarded(operator),
            handle,
            directory: Some(directory),
            hook: None,
        })
    }

    /// A storage in memory, for tests.
    pub fn memory(handle: Handle) -> Self {
        let operator = Operator::new(services::Memory::default())
            .expect("memory needs no settings that could be wrong");
        Self {
            operator,
            handle,
            directory: None,
            hook: None,
        }
    }
}

fn guarded(operator: Operator) -> Operator {
    operator
        .layer(
            TimeoutLayer::new()
                .with_timeout(Duration::from_secs(60))
                .with_io_timeout(Duration::from_secs(120)),
        )
        .layer(
            RetryLayer::new()
                .with_jitter()
                .with_min_delay(Duration::from_millis(200))
                .with_max_delay(Duration::from_secs(10))
                .with_max_times(5),
        )
        .layer(ConcurrentLimitLayer::new(CALLS_MAX))
}

fn make_directory(path: &Path) -> Result<PathBuf, OpenError> {
    std::fs::create_dir_all(path.join(TEMPORARY))
        .and_then(|()| path.canonicalize())
        .map_err(|source| OpenError::Directory {
            path: path.to_owned(),
            source,
        })
}

/// Removes what a killed process left half-written. Failure is harmless: it is tried again.
fn clean_temporary(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let age = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .ok()
            .and_then(|modified| modified.elapsed().ok());
        if age.is_some_and(|age| age > TEMPORARY_AGE_MAX) {
            std::fs::remove_file(entry.path()).ok();
        }
    }
}
