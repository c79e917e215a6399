//! The door to volumes: their bytes, and the catalogue that says whose they are and what state
//! they are in. No ioctl and no path of a volume is known outside.

pub mod catalog;
mod extent_map;
pub mod file;
pub mod generated;
mod reader;
mod tracking;

pub use reader::{Changes, Source, VolumeReader};

use std::io;
use std::path::PathBuf;

/// Failure while reading or writing a volume's bytes.
#[derive(Debug, thiserror::Error)]
#[error("volume file {}: {action} failed", path.file_name().unwrap_or_default().to_string_lossy())]
pub struct VolumeError {
    pub path: PathBuf,
    pub action: &'static str,
    pub source: io::Error,
}

impl VolumeError {
    /// Whether there was no space left.
    pub fn is_full(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }
}
