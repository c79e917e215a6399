//! The door to volumes: their bytes, and the [`catalog`] that says whose they are and what state they are in.
//!
//! Requests, jobs and the engine know a volume by its id, a [`VolumeReader`] or a [`VolumeWriter`], never by a path.
//! No ioctl is made outside.
//!
//! Paths leave this floor in two places of standalone mode: the attachments API names the file of a volume, as
//! its clients are on the same machine, and `embervault volume import` and `export` open it.

pub mod brick;
pub mod catalog;
pub mod cinder;
mod extent_map;
pub mod file;
pub mod generated;
#[cfg(test)]
pub mod memory;
pub mod rbd;
mod reader;
mod tracking;
mod writer;

pub use reader::{Changes, Source, VolumeReader};
pub use writer::{Target, VolumeWriter};

use std::io;
use std::path::Path;

/// Failure while reading or writing a volume's bytes.
#[derive(Debug, thiserror::Error)]
#[error("{object}: {action} failed")]
pub struct VolumeError {
    /// The file or volume, as the operator knows it.
    pub object: String,
    pub action: &'static str,
    pub source: io::Error,
}

impl VolumeError {
    /// Of a file or block device: the message has its file name, not where it lies.
    fn of_file(path: &Path, action: &'static str, source: io::Error) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Self {
            object: format!("volume file {name}"),
            action,
            source,
        }
    }

    /// Whether a service did not answer in time, and may do so later. Errors of files and devices are never temporary.
    pub fn is_temporary(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NotConnected
        )
    }
}
