//! Volumes that are files or block devices on this machine.

use crate::volume::VolumeError;
use rustix::fs::{FallocateFlags, SeekFrom};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
/// Longest piece written at once. For longer ones the page cache takes long runs of fresh memory,
/// which virtual machines may not have yet: 0.4 GB/s were measured with 4 MiB, 3.8 with this.
const WRITE_BYTES: usize = 64 << 10;
/// Bytes compared at once where only differences are written.
const COMPARED_BYTES: usize = 4096;
/// Piece in which a sparse copy moves data.
const COPY_BYTES: usize = 1 << 20;

/// A file or block device to be read. Shared by many threads.
#[derive(Debug)]
pub struct FileReader {
    file: File,
    path: PathBuf,
    length: u64,
}

impl FileReader {
    /// Opens a file or block device; its length is what it is at this moment.
    pub fn open(path: &Path) -> Result<Self, VolumeError> {
        let (file, length) = open_measured(path, OpenOptions::new().read(true))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            length,
        })
    }

    /// Bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The same volume, cut to this length. An error if there is anything but zeros after it: a backend may round a volume
    /// up, but the volume must not hold more data than its size.
    pub fn limited(self, length: u64) -> Result<Self, VolumeError> {
        let mut piece = vec![0; COPY_BYTES];
        let mut at = length;
        while let Some(data) = self.next_data(at..self.length.max(at))? {
            at = data.start;
            while at < data.end {
                let count = (data.end - at).min(COPY_BYTES as u64) as usize;
                self.read_at(&mut piece[..count], at)?;
                if piece[..count].iter().any(|byte| *byte != 0) {
                    let detail = format!(
                        "it holds {} bytes, more than the {length} of its size, and not only zeros behind them; extend the volume, or shorten it",
                        self.length
                    );
                    return Err(self.error("read", io::Error::other(detail)));
                }
                at += count as u64;
            }
        }
        Ok(Self {
            length: self.length.min(length),
            ..self
        })
    }

    /// The next range within `range` that may hold data; everything before it is a hole. `None`:
    /// the rest is a hole. If holes are not known, everything may hold data. An error if the volume has become shorter than
    /// it was when it was opened.
    pub fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>, VolumeError> {
        if range.is_empty() {
            return Ok(None);
        }
        let start = match rustix::fs::seek(&self.file, SeekFrom::Data(range.start)) {
            Ok(start) => start.max(range.start),
            // A hole up to the end, or an end that has moved before the place.
            Err(rustix::io::Errno::NXIO) => return self.check_length().map(|()| None),
            Err(_) => return Ok(Some(range)),
        };
        if start >= range.end {
            return Ok(None);
        }
        let end = match rustix::fs::seek(&self.file, SeekFrom::Hole(start)) {
            Ok(end) if end > start => end.min(range.end),
            _ => range.end,
        };
        Ok(Some(start..end))
    }

    /// An error if the volume has become shorter than it was when it was opened.
    pub fn check_length(&self) -> Result<(), VolumeError> {
        check_length(&self.file, self.length).map_err(|source| self.error("read", source))
    }

    /// Fills the buffer from an offset; both lie within the volume.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), VolumeError> {
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|source| self.error("read", source))
    }

    fn error(&self, action: &'static str, source: io::Error) -> VolumeError {
        VolumeError::of_file(&self.path, action, source)
    }
}

fn check_length(file: &File, expected: u64) -> io::Result<()> {
    let length = rustix::fs::seek(file, SeekFrom::End(0))?;
    if length >= expected {
        return Ok(());
    }
    let detail =
        format!("it had {expected} bytes and now has {length}: it was shortened meanwhile");
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, detail))
}

/// A file or block device to be written. Shared by many threads, each writing its own ranges.
#[derive(Debug)]
pub struct FileWriter {
    file: File,
    path: PathBuf,
    length: u64,
    /// An extra delay of each write, for tests of a slow disk.
    #[cfg(test)]
    pub(crate) pause: std::time::Duration,
}

impl FileWriter {
    /// Opens an existing file or block device.
    pub fn open(path: &Path) -> Result<Self, VolumeError> {
        let (file, length) = open_measured(path, OpenOptions::new().read(true).write(true))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            length,
            #[cfg(test)]
            pause: std::time::Duration::ZERO,
        })
    }

    /// Bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// An error if the file system has no room for this much data, beyond the blocks that the file has already.
    pub fn check_room(&self, data_bytes: u64) -> Result<(), VolumeError> {
        let check = || {
            let (space, file) = (rustix::fs::fstatvfs(&self.file)?, self.file.metadata()?);
            let taken = std::os::unix::fs::MetadataExt::blocks(&file) * 512;
            let (needed, free) = (
                data_bytes.saturating_sub(taken),
                space.f_bavail * space.f_frsize,
            );
            if !file.is_file() || needed <= free {
                return Ok(());
            }
            let detail = format!(
                "no space left: {needed} bytes are needed, and the volumes' file system has {free}"
            );
            Err(io::Error::new(io::ErrorKind::StorageFull, detail))
        };
        check().map_err(|source| self.error("write", source))
    }

    /// Writes a piece.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), VolumeError> {
        #[cfg(test)]
        std::thread::sleep(self.pause);
        let mut at = offset;
        for piece in bytes.chunks(WRITE_BYTES) {
            self.file
                .write_all_at(piece, at)
                .map_err(|source| self.error("write", source))?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Writes the blocks of a piece that are not there already.
    pub fn write_difference(&self, bytes: &[u8], offset: u64) -> Result<(), VolumeError> {
        let mut before = vec![0; bytes.len()];
        self.file
            .read_exact_at(&mut before, offset)
            .map_err(|source| self.error("read", source))?;
        // Blocks of the volume, wherever the piece begins.
        let first = COMPARED_BYTES - (offset % COMPARED_BYTES as u64) as usize;
        let mut differing = 0..0;
        let mut at = 0;
        while at < bytes.len() {
            let end = if at == 0 { first } else { at + COMPARED_BYTES }.min(bytes.len());
            if bytes[at..end] != before[at..end] {
                differing = if differing.end == at {
                    differing.start..end
                } else {
                    at..end
                };
            }
            let is_over = differing.end < end || end == bytes.len();
            if is_over && !differing.is_empty() {
                self.write_at(&bytes[differing.clone()], offset + differing.start as u64)?;
                differing = end..end;
            }
            at = end;
        }
        Ok(())
    }

    /// Makes a range read as zeros, by a hole if possible. Existing holes stay as they are.
    pub fn zero(&self, range: Range<u64>) -> Result<(), VolumeError> {
        let is_hole = range.is_empty()
            || match rustix::fs::seek(&self.file, SeekFrom::Data(range.start)) {
                Ok(data) => data >= range.end,
                Err(errno) => errno == rustix::io::Errno::NXIO,
            };
        if is_hole {
            return Ok(());
        }
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let length = range.end - range.start;
        if rustix::fs::fallocate(&self.file, punch, range.start, length).is_ok() {
            return Ok(());
        }
        let mut offset = range.start;
        while offset < range.end {
            let piece = (range.end - offset).min(ZEROS.len() as u64);
            self.write_at(&ZEROS[..piece as usize], offset)?;
            offset += piece;
        }
        Ok(())
    }

    /// Makes everything written durable. An error if the volume has become shorter than it was when it was
    /// opened.
    pub fn sync(&self) -> Result<(), VolumeError> {
        check_length(&self.file, self.length).map_err(|source| self.error("write", source))?;
        self.file
            .sync_all()
            .map_err(|source| self.error("sync", source))
    }

    fn error(&self, action: &'static str, source: io::Error) -> VolumeError {
        VolumeError::of_file(&self.path, action, source)
    }
}

/// Opens a file or device; its end is its length, also where metadata knows none.
fn open_measured(path: &Path, options: &OpenOptions) -> Result<(File, u64), VolumeError> {
    let open = || {
        let mut file = options.open(path)?;
        let length = io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
        Ok((file, length))
    };
    open().map_err(|source| VolumeError::of_file(path, "open", source))
}

/// Makes a sparse file of a length, unless there is one: that may have been made longer since. It appears with its
/// length.
pub fn create(path: &Path, length: u64) -> Result<(), VolumeError> {
    if path.exists() {
        return Ok(());
    }
    let partial = path.with_extension(format!("{}.partial", uuid::Uuid::new_v4()));
    appear("create", path, &partial, |file| {
        file.set_len(length)?;
        file.sync_all()?;
        Ok(true)
    })
    .map(drop)
}

/// Renames a file, unless a file has that name already: then nothing happens. An error if neither exists.
pub fn publish(from: &Path, to: &Path) -> Result<(), VolumeError> {
    use rustix::fs::{CWD, RenameFlags};
    use rustix::io::Errno;
    let publish = || match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => sync_parent(to),
        Err(Errno::EXIST) => Ok(()),
        Err(Errno::NOENT) if to.exists() => Ok(()),
        // File systems that cannot rename so (NFS) can link so.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => match std::fs::hard_link(from, to) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked.and_then(|()| sync_parent(to)),
        },
        Err(errno) => Err(errno.into()),
    };
    publish().map_err(|source| VolumeError::of_file(to, "name", source))
}

/// Makes an existing file longer; one that is that long already stays as it is.
pub fn extend(path: &Path, length: u64) -> Result<(), VolumeError> {
    let make = || {
        let file = OpenOptions::new().write(true).open(path)?;
        if file.metadata()?.len() < length {
            file.set_len(length)?;
        }
        file.sync_all()
    };
    make().map_err(|source| VolumeError::of_file(path, "extend", source))
}

/// Makes `to` a copy of `from` with a length of at least `length`, unless there is one: sharing blocks where the file
/// system can (a reflink), else copying the data and leaving holes out. It is filled under the name `partial`, and
/// appears only when it is whole. `false`: the caller may not go on, and nothing has appeared.
pub fn clone(
    from: &Path,
    to: &Path,
    length: u64,
    partial: &Path,
    may_go_on: &dyn Fn() -> bool,
) -> Result<bool, VolumeError> {
    appear("copy", to, partial, |target| {
        let source = File::open(from)?;
        if rustix::fs::ioctl_ficlone(target, &source).is_err()
            && !copy_sparse(&source, target, may_go_on)?
        {
            return Ok(false);
        }
        if target.metadata()?.len() < length {
            target.set_len(length)?;
        }
        target.sync_all()?;
        // Check again, as making it durable may have taken long.
        Ok(may_go_on())
    })
}

/// Whether the file system of a directory never writes to shared blocks in place, and has extent maps of one address
/// space.
pub(super) fn never_overwrites_shared(dir: &Path) -> bool {
    const XFS: i64 = 0x5846_5342;
    const BTRFS: i64 = 0x9123_683e;
    rustix::fs::statfs(dir).is_ok_and(|found| [XFS, BTRFS].contains(&found.f_type))
}

/// Makes `to` share the blocks of `from`; it appears only when it is whole. No other caller may use the name `to`.
/// `false`: the file system cannot do that.
pub(super) fn reflink(from: &Path, to: &Path) -> Result<bool, VolumeError> {
    appear("clone", to, &to.with_extension("partial"), |target| {
        let source = File::open(from)?;
        if rustix::fs::ioctl_ficlone(target, &source).is_err() {
            return Ok(false);
        }
        target.sync_all()?;
        Ok(true)
    })
}

/// Fills a file under the name `partial`, until it is whole and durable, and then gives it the name `to`, unless a file
/// has that already. Otherwise, or if `fill` fails or returns `false`, nothing is left of it.
///
/// No two callers may use the same `partial`: of one that was halted, the other would publish the file, and the first
/// would write into it when it wakes.
fn appear(
    action: &'static str,
    to: &Path,
    partial: &Path,
    fill: impl FnOnce(&File) -> io::Result<bool>,
) -> Result<bool, VolumeError> {
    let make = || {
        let target = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(partial)?;
        fill(&target)
    };
    let made = make().map_err(|source| VolumeError::of_file(to, action, source));
    let made = made.and_then(|is_whole| {
        if is_whole {
            publish(partial, to)?;
        }
        Ok(is_whole)
    });
    // It has the other name by now, or it is not needed.
    std::fs::remove_file(partial).ok();
    made
}

/// Copies the data of a file, and leaves its holes out. `false`: the caller may not go on.
fn copy_sparse(source: &File, target: &File, may_go_on: &dyn Fn() -> bool) -> io::Result<bool> {
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut buffer = vec![0; COPY_BYTES];
    let mut offset = 0;
    while offset < length {
        let start = match rustix::fs::seek(source, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(_) => offset,
        };
        let end = rustix::fs::seek(source, SeekFrom::Hole(start)).unwrap_or(length);
        let mut at = start;
        while at < end {
            if !may_go_on() {
                return Ok(false);
            }
            let piece = (end - at).min(COPY_BYTES as u64) as usize;
            source.read_exact_at(&mut buffer[..piece], at)?;
            target.write_all_at(&buffer[..piece], at)?;
            at += piece as u64;
        }
        offset = end;
    }
    Ok(true)
}

/// Removes a file; one that is not there is no error, also where nothing can be removed.
pub fn remove(path: &Path) -> Result<(), VolumeError> {
    let is_there = || std::fs::symlink_metadata(path).is_ok();
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound && is_there() => {
            Err(VolumeError::of_file(path, "remove", source))
        }
        _ => Ok(()),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_is_equal_sparse_and_longer_where_asked() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        create(&from, 8 << 20).unwrap();
        let writer = FileWriter::open(&from).unwrap();
        writer.write_at(&[7; 5000], 3 << 20).unwrap();
        assert!(clone(&from, &to, 9 << 20, &dir.path().join("c"), &|| true).unwrap());
        let mut expected = std::fs::read(&from).unwrap();
        expected.resize(9 << 20, 0);
        assert_eq!(std::fs::read(&to).unwrap(), expected);
        let reader = FileReader::open(&to).unwrap();
        let data = reader.next_data(0..9 << 20).unwrap().unwrap();
        assert!(data.start <= 3 << 20 && data.end >= (3 << 20) + 5000);
        assert!(
            data.end - data.start < 1 << 20,
            "the copy is not sparse: {data:?}"
        );
    }

    #[test]
    fn what_is_created_late_does_not_shorten_what_was_extended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.raw");
        let length = || std::fs::metadata(&path).unwrap().len();
        create(&path, 10 << 20).unwrap();
        assert_eq!(length(), 10 << 20);
        extend(&path, 20 << 20).unwrap();
        create(&path, 10 << 20).unwrap();
        extend(&path, 10 << 20).unwrap();
        assert_eq!(length(), 20 << 20);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn who_wakes_late_changes_nothing_that_another_has_made() {
        let dir = tempfile::tempdir().unwrap();
        let (to, partials) = (
            dir.path().join("a"),
            ["b", "c"].map(|name| dir.path().join(name)),
        );
        let made = appear("copy", &to, &partials[0], |early| {
            early.write_all_at(&[1; 8192], 0)?;
            let made = appear("copy", &to, &partials[1], |late| {
                late.write_all_at(&[2; 4096], 0)?;
                assert!(!to.exists(), "half of it was seen");
                late.write_all_at(&[2; 4096], 4096)?;
                Ok(true)
            });
            assert!(made.unwrap());
            let owner = OpenOptions::new().write(true).open(&to)?;
            owner.write_all_at(&[3; 4096], 0)?;
            early.write_all_at(&[1; 4096], 0)?;
            Ok(true)
        });
        assert!(made.unwrap());
        let expected = [[3; 4096], [2; 4096]].concat();
        assert!(std::fs::read(&to).unwrap() == expected);
        assert!(!partials.iter().any(|partial| partial.exists()));
    }

    #[test]
    fn a_copy_stops_between_two_pieces_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let [from, to, partial] = ["a", "b", "c"].map(|name| dir.path().join(name));
        create(&from, 8 << 20).unwrap();
        let writer = FileWriter::open(&from).unwrap();
        writer.write_at(&vec![7; 8 << 20], 0).unwrap();
        let [source, target] = [&from, &partial].map(|path| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            options.open(path).unwrap()
        });
        let asked = std::cell::Cell::new(0);
        let may_go_on = || {
            asked.set(asked.get() + 1);
            asked.get() <= 3
        };
        assert!(!copy_sparse(&source, &target, &may_go_on).unwrap());
        assert_eq!(
            rustix::fs::seek(&target, SeekFrom::Hole(0)).unwrap(),
            3 << 20
        );
        // Where blocks are shared there are no pieces; it does not appear all the same.
        assert!(!clone(&from, &to, 0, &partial, &|| false).unwrap());
        assert!(!to.exists() && !partial.exists());
    }

    #[test]
    fn a_file_that_was_shortened_while_it_was_read_is_an_error_and_no_hole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        create(&path, 1 << 20).unwrap();
        let reader = FileReader::open(&path).unwrap();
        assert_eq!(reader.next_data(0..1 << 20).unwrap(), None);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(1 << 19).unwrap();
        assert!(reader.next_data(3 << 18..1 << 20).is_err());
        assert!(reader.check_length().is_err());
    }

    #[test]
    fn an_excess_of_zeros_is_passed_over_and_any_other_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        create(&path, (1 << 20) + 512).unwrap();
        let open = || FileReader::open(&path).unwrap().limited(1 << 20);
        assert_eq!(open().unwrap().length(), 1 << 20);
        let writer = FileWriter::open(&path).unwrap();
        writer.write_at(&[0; 512], 1 << 20).unwrap();
        assert_eq!(open().unwrap().length(), 1 << 20);
        writer.write_at(&[7], (1 << 20) + 511).unwrap();
        let error = open().unwrap_err();
        assert!(error.source.to_string().contains("more than"), "{error:?}");
        let longer = FileReader::open(&path).unwrap().limited(1 << 21).unwrap();
        assert_eq!(longer.length(), (1 << 20) + 512);
    }

    #[test]
    fn only_blocks_that_differ_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        create(&path, 1 << 20).unwrap();
        let writer = FileWriter::open(&path).unwrap();
        let mut wanted = vec![0; 300_000];
        wanted[5000] = 1;
        wanted[299_999] = 2;
        writer.write_difference(&wanted, 4096).unwrap();
        writer.write_difference(&wanted[1000..], 5096).unwrap();
        assert_eq!(std::fs::read(&path).unwrap()[4096..304_096], wanted[..]);
        let used = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&path).unwrap());
        assert!(used * 512 < 32 << 10, "zeros were written over zeros");
    }

    #[test]
    fn a_zeroed_range_reads_as_zeros_and_its_neighbours_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        create(&path, 1 << 20).unwrap();
        let writer = FileWriter::open(&path).unwrap();
        writer.write_at(&vec![9; 1 << 20], 0).unwrap();
        writer.zero(1000..200_001).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes[1000..200_001].iter().all(|byte| *byte == 0));
        assert!(
            bytes[..1000]
                .iter()
                .chain(&bytes[200_001..])
                .all(|byte| *byte == 9)
        );
    }
}
