//! Storing and reading objects in a directory.
//!
//! OpenDAL keeps the memory into which it reads for the next time; here the memory is the caller's.
//!
//! OpenDAL looks whether the object exists and then renames over it, so two writers may both succeed; and it retries a
//! write into the same half-written file. But only one writer may create a backup's root or a vault's key. So objects are
//! stored here: a temporary name, fsync, a rename that never replaces, and fsync of the directory and of every directory
//! that was created for it.

use crate::store::temporary;
use rustix::fs::{CWD, RenameFlags};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Longest piece written at once. For longer ones the page cache takes long runs of fresh memory,
/// which virtual machines may not have yet: 0.4 GB/s were measured with 4 MiB, 3.8 with this.
const WRITE_BYTES: usize = 64 << 10;

/// Stores an object under a path relative to the root; `AlreadyExists` if there is one.
pub(super) fn put_new(root: &Path, path: &str, bytes: &[u8]) -> io::Result<()> {
    let target = root.join(path);
    let folder = target.parent().unwrap_or(root);
    make_folders(root, folder)?;
    if target.exists() {
        // The caller may use the existing object as its own, so it must be just as durable.
        make_durable(root, path)?;
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let temporary = root.join(temporary::name());
    let stored = write_whole(&temporary, bytes).and_then(|()| publish(&temporary, &target));
    if stored.is_err() {
        // Half an object under a temporary name would only take space.
        std::fs::remove_file(&temporary).ok();
    }
    stored?;
    sync(folder)
}

/// Reads an object, or a range of one, into memory that need not be empty; no more than so many bytes.
pub(super) fn read(
    root: &Path,
    path: &str,
    range: Option<Range<u64>>,
    bytes_max: usize,
    mut bytes: Vec<u8>,
) -> io::Result<Vec<u8>> {
    let file = File::open(root.join(path))?;
    let range = match range {
        Some(range) => range,
        None => 0..file.metadata()?.len(),
    };
    let length = usize::try_from(range.end - range.start)
        .ok()
        .filter(|length| *length <= bytes_max)
        .ok_or_else(too_long)?;
    // Bytes that are in the buffer already are not zeroed first.
    bytes.truncate(length);
    bytes.reserve_exact(length - bytes.len());
    bytes.resize(length, 0);
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes)
}

/// Makes sure that a file that is there survives a crash: the process that stored it may have died between
/// the rename and the sync of the directory.
pub(super) fn make_durable(root: &Path, path: &str) -> io::Result<()> {
    let target = root.join(path);
    File::open(&target)?.sync_all()?;
    let folders = target.ancestors().skip(1);
    folders
        .take_while(|folder| folder.starts_with(root))
        .try_for_each(sync)
}

/// Makes sure that a file that was removed stays so after a crash.
pub(super) fn make_removal_durable(root: &Path, path: &str) -> io::Result<()> {
    let folder = root.join(path);
    match sync(folder.parent().unwrap_or(root)) {
        // The folder was removed too.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create_new(true).write(true).open(path)?;
    for piece in bytes.chunks(WRITE_BYTES) {
        file.write_all(piece)?;
    }
    file.sync_all()
}

/// Gives the file its name unless another file has it. File systems that cannot do that by a rename (NFS) can do it by a
/// link.
fn publish(temporary: &Path, target: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, temporary, CWD, target, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::EXIST) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => {
            std::fs::hard_link(temporary, target)?;
            std::fs::remove_file(temporary)
        }
    }
}

/// Makes the folders that are missing between root and folder, each durable in its parent.
fn make_folders(root: &Path, folder: &Path) -> io::Result<()> {
    let mut missing: Vec<PathBuf> = folder
        .ancestors()
        .take_while(|path| path.starts_with(root) && !path.exists())
        .map(Path::to_owned)
        .collect();
    while let Some(path) = missing.pop() {
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            // Also if another thread created it, which may not have synced it yet.
            _ => sync(path.parent().unwrap_or(root))?,
        }
    }
    Ok(())
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

pub(super) fn too_long() -> io::Error {
    let text = "it is longer than anything that is read at once";
    io::Error::new(io::ErrorKind::FileTooLarge, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_object_is_written_to_its_last_byte() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..3 * WRITE_BYTES).map(|n| (n % 251) as u8).collect();
        for length in [0, WRITE_BYTES, WRITE_BYTES + 1, bytes.len()] {
            let path = dir.path().join(length.to_string());
            write_whole(&path, &bytes[..length]).unwrap();
            assert!(std::fs::read(&path).unwrap() == bytes[..length]);
        }
    }

    #[test]
    fn a_range_is_read_whole_or_not_at_all_into_memory_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..10_000).map(|n| (n % 251) as u8).collect();
        std::fs::write(dir.path().join("a"), &bytes).unwrap();
        let read = |path, range, memory| read(dir.path(), path, range, 8_000, memory);
        let mut memory = read("a", Some(1000..9000), vec![7; 20]).unwrap();
        assert!(memory == bytes[1000..9000] && memory.capacity() == 8000);
        memory = read("a", Some(2..5), memory).unwrap();
        assert!(memory == bytes[2..5] && memory.capacity() == 8000);
        memory = read("a", Some(2..4000), memory).unwrap();
        assert!(memory == bytes[2..4000]);
        let kind = |path, range| read(path, range, Vec::new()).unwrap_err().kind();
        assert_eq!(kind("a", Some(9_999..10_001)), io::ErrorKind::UnexpectedEof);
        assert_eq!(kind("a", Some(0..8_001)), io::ErrorKind::FileTooLarge);
        assert_eq!(kind("a", None), io::ErrorKind::FileTooLarge);
        assert_eq!(kind("b", None), io::ErrorKind::NotFound);
        std::fs::write(dir.path().join("b"), &bytes[..8000]).unwrap();
        assert!(read("b", None, memory).unwrap() == bytes[..8000]);
    }

    #[test]
    fn of_many_writers_of_one_name_one_wins_and_nothing_temporary_is_left() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(temporary::FOLDER)).unwrap();
        let won: usize = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..8_u8)
                .map(|number| {
                    let root = dir.path();
                    scope.spawn(move || put_new(root, "v/a/b", &vec![number; 100_000]).is_ok())
                })
                .collect();
            writers
                .into_iter()
                .map(|writer| usize::from(writer.join().unwrap()))
                .sum()
        });
        assert_eq!(won, 1);
        let bytes = std::fs::read(dir.path().join("v/a/b")).unwrap();
        assert!(bytes.len() == 100_000 && bytes.iter().all(|byte| *byte == bytes[0]));
        assert_eq!(
            std::fs::read_dir(dir.path().join(temporary::FOLDER))
                .unwrap()
                .count(),
            0
        );
        let again = put_new(dir.path(), "v/a/b", b"x").unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    }
}
