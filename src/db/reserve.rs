//! Room on the disk that is kept for the database alone.
//!
//! SQLite lies on the same disk as everything else by default. Where that disk is full, recording that
//! something failed, or was deleted, would fail for the same reason. So a file beside the database holds some
//! MiB; when a transaction finds no room the file is emptied, and the transaction is run again. The file is
//! filled again once there is room to spare.

use rustix::fs::FallocateFlags;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes kept: some thousand small transactions, and the log of the largest.
const RESERVE_BYTES: u64 = 16 << 20;
/// Free bytes below which the disk is full. Then the reserve is given up at a start: SQLite needs files of its
/// own to open.
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

    /// Makes room for a start on a full disk.
    pub(super) fn make_room_to_start(&self) {
        if self.free_bytes().is_some_and(|free| free < START_BYTES) {
            self.release();
        }
    }

    /// Gives the room up. `false`: there was none.
    pub(super) fn release(&self) -> bool {
        let is_held = self.held_bytes() > 0;
        let emptied = OpenOptions::new()
            .write(true)
            .open(&self.path)
            .and_then(|file| file.set_len(0));
        is_held && emptied.is_ok()
    }

    /// Takes the room again, if the disk has it to spare. `false`: the disk is full, or was so, and has not
    /// the room again.
    pub(super) fn fill(&self) -> bool {
        let free = self.free_bytes().unwrap_or(u64::MAX);
        if self.held_bytes() >= RESERVE_BYTES {
            return free >= START_BYTES;
        }
        if free >= RESERVE_BYTES + START_BYTES {
            return match self.take() {
                Ok(()) => true,
                Err(error) => {
                    // Where blocks cannot be allocated ahead there is no reserve.
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
        // The file is there, and empty: the room was given up. On a disk that never had so much it is not there.
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
