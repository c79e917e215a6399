//! Space on the disk that is reserved for the database.
//!
//! By default SQLite is on the same disk as everything else. When that disk is full, the database could not even record
//! that a job failed or that something was deleted. So a file beside the database holds a few MiB. When a transaction
//! finds no space, the file is emptied and the transaction runs again. The file is filled again once the disk has
//! space to spare.

use rustix::fs::FallocateFlags;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes reserved: enough for some thousand small transactions, or for the log of the largest one.
const RESERVE_BYTES: u64 = 16 << 20;
/// The disk counts as full below this many free bytes. A start then releases the reserve, as SQLite has to create
/// files when it opens.
const START_BYTES: u64 = 4 << 20;

/// The reserve of one SQLite database.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// The reserve beside a database; nothing is written yet.
    pub(super) fn beside(database: &Path) -> Self {
        let mut name = database.as_os_str().to_owned();
        name.push("-reserve");
        Self { path: name.into() }
    }

    /// Releases the reserve if the disk is full, so that SQLite can open.
    pub(super) fn make_room_to_start(&self) {
        if self.free_bytes().is_some_and(|free| free < START_BYTES) {
            self.release();
        }
    }

    /// Releases the reserve. `false`: there was none.
    pub(super) fn release(&self) -> bool {
        let is_held = self.held_bytes() > 0;
        let emptied = OpenOptions::new()
            .write(true)
            .open(&self.path)
            .and_then(|file| file.set_len(0));
        is_held && emptied.is_ok()
    }

    /// Fills the reserve if the disk has space to spare. `false`: the disk is full, or there is not yet enough space to
    /// fill a reserve that was released.
    pub(super) fn fill(&self) -> bool {
        let free = self.free_bytes().unwrap_or(u64::MAX);
        if self.held_bytes() >= RESERVE_BYTES {
            return free >= START_BYTES;
        }
        if free >= RESERVE_BYTES + START_BYTES {
            return match self.take() {
                Ok(()) => true,
                Err(error) => {
                    // A file system that cannot allocate blocks in advance has no reserve.
                    let is_full = matches!(
                        error.kind(),
                        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                    );
                    if !is_full {
                        std::fs::remove_file(&self.path).ok();
                    }
                    !is_full
                }
            };
        }
        // An empty file means that the reserve was released. On a disk that never had the space there is no file.
        !self.path.exists() && free >= START_BYTES
    }

    fn take(&self) -> io::Result<()> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&self.path)?;
        Ok(rustix::fs::fallocate(
            &file,
            FallocateFlags::empty(),
            0,
            RESERVE_BYTES,
        )?)
    }

    fn held_bytes(&self) -> u64 {
        let Ok(metadata) = File::open(&self.path).and_then(|file| file.metadata()) else {
            return 0;
        };
        metadata.len().min(metadata.blocks() * 512)
    }

    fn free_bytes(&self) -> Option<u64> {
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let space = rustix::fs::statvfs(folder).ok()?;
        Some(space.f_bavail * space.f_frsize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_held_given_up_once_and_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::beside(&dir.path().join("db"));
        assert!(!reserve.release());
        assert!(reserve.fill() && reserve.held_bytes() == RESERVE_BYTES);
        assert!(reserve.release() && !reserve.release());
        assert_eq!(reserve.held_bytes(), 0);
        assert!(reserve.fill());
    }
}
