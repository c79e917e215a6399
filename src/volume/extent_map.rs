//! The changes between two files that share blocks, by comparing their extent maps.
//!
//! If two reflinked files have a range at the same place on the disk, the bytes are the same, because file systems with
//! reflinks never write to a shared block. Extents whose place is not certain (compressed, inline, not yet allocated)
//! count as changed.

use crate::volume::VolumeError;
use rustix::ioctl::{Updater, ioctl, opcode};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Extents asked for at once: 14 KiB.
const EXTENTS: usize = 256;
/// Write out what is only in memory first.
const FLAG_SYNC: u32 = 1;
const EXTENT_LAST: u32 = 0x1;
const EXTENT_UNWRITTEN: u32 = 0x800;
/// Unknown place, delayed allocation, encoded, encrypted, not aligned, inline, tail.
const EXTENT_UNCERTAIN: u32 = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400;

/// `struct fiemap` of the kernel, with room for extents.
#[repr(C)]
struct Map {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [RawExtent; EXTENTS],
}

/// `struct fiemap_extent` of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RawExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// `_IOWR('f', 11, struct fiemap)`; the size in it is that of the 32 bytes before the extents.
const FS_IOC_FIEMAP: rustix::ioctl::Opcode = opcode::read_write::<[u8; 32]>(b'f', 11);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// Reads as zeros.
    Nowhere,
    At(u64),
    Uncertain,
}

impl Extent {
    /// The place of what lies so many bytes behind.
    fn after(self, bytes: u64) -> Self {
        match self {
            Self::At(physical) => Self::At(physical + bytes),
            other => other,
        }
    }
}

/// Two files of which the newer began as a clone of the older, or both as clones of one.
pub(super) struct FilePair {
    older: (File, PathBuf),
    newer: (File, PathBuf),
}

impl FilePair {
    pub(super) fn open(older: &Path, newer: &Path) -> Result<Self, VolumeError> {
        let open = |path: &Path| {
            File::open(path)
                .map(|file| (file, path.to_owned()))
                .map_err(|source| VolumeError::of_file(path, "open", source))
        };
        Ok(Self {
            older: open(older)?,
            newer: open(newer)?,
        })
    }

    /// The parts of a range in which the files may differ, ascending.
    pub(super) fn changed(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, VolumeError> {
        let older = places(&self.older, &range)?;
        let newer = places(&self.newer, &range)?;
        Ok(differences(&older, &newer))
    }
}

/// The places of a range, from its start to its end without a gap.
fn places(
    (file, path): &(File, PathBuf),
    range: &Range<u64>,
) -> Result<Vec<(Range<u64>, Extent)>, VolumeError> {
    let mut found: Vec<(Range<u64>, Extent)> = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let extents = map(file, at..range.end)
            .map_err(|errno| VolumeError::of_file(path, "map", errno.into()))?;
        let is_last =
            extents.len() < EXTENTS || extents.iter().any(|extent| extent.flags & EXTENT_LAST != 0);
        for extent in extents {
            let start = extent.logical.max(at);
            let end = (extent.logical + extent.length).min(range.end);
            if start >= end {
                continue;
            }
            if at < start {
                found.push((at..start, Extent::Nowhere));
            }
            let place = match extent.flags {
                flags if flags & EXTENT_UNCERTAIN != 0 => Extent::Uncertain,
                flags if flags & EXTENT_UNWRITTEN != 0 => Extent::Nowhere,
                _ => Extent::At(extent.physical).after(start - extent.logical),
            };
            found.push((start..end, place));
            at = end;
        }
        if is_last && at < range.end {
            found.push((at..range.end, Extent::Nowhere));
            at = range.end;
        }
    }
    Ok(found)
}

#[allow(
    unsafe_code,
    reason = "the kernel fills a structure of ours; no library binds this call"
)]
fn map(file: &File, range: Range<u64>) -> rustix::io::Result<Vec<RawExtent>> {
    let mut map = Box::new(Map {
        start: range.start,
        length: range.end - range.start,
        flags: FLAG_SYNC,
        mapped_extents: 0,
        extent_count: EXTENTS as u32,
        reserved: 0,
        extents: [RawExtent::default(); EXTENTS],
    });
    // SAFETY: the structure has the layout of `struct fiemap`, followed by as many extents as
    // `extent_count` says; the kernel writes nothing beyond them.
    unsafe {
        ioctl(file, Updater::<FS_IOC_FIEMAP, Map>::new(map.as_mut()))?;
    }
    let count = (map.mapped_extents as usize).min(EXTENTS);
    Ok(map.extents[..count].to_vec())
}

fn differences(older: &[(Range<u64>, Extent)], newer: &[(Range<u64>, Extent)]) -> Vec<Range<u64>> {
    let mut changed: Vec<Range<u64>> = Vec::new();
    let (mut left, mut right) = (older.iter().peekable(), newer.iter().peekable());
    while let (Some((old, old_place)), Some((new, new_place))) = (left.peek(), right.peek()) {
        let part = old.start.max(new.start)..old.end.min(new.end);
        let before = old_place.after(part.start - old.start);
        let after = new_place.after(part.start - new.start);
        if before != after || after == Extent::Uncertain {
            match changed.last_mut() {
                Some(last) if last.end == part.start => last.end = part.end,
                _ => changed.push(part.clone()),
            }
        }
        if old.end == part.end {
            left.next();
        }
        if new.end == part.end {
            right.next();
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_elsewhere_or_is_not_told_has_changed() {
        let older = [
            (0..100, Extent::At(1000)),
            (100..200, Extent::Nowhere),
            (200..300, Extent::Uncertain),
            (300..400, Extent::At(5000)),
        ];
        let newer = [
            (0..40, Extent::At(1000)),
            (40..50, Extent::At(9000)),
            (50..100, Extent::At(1050)),
            (100..150, Extent::Nowhere),
            (150..200, Extent::At(7000)),
            (200..300, Extent::Uncertain),
            (300..350, Extent::At(5000)),
            (350..400, Extent::Nowhere),
        ];
        let changed = differences(&older, &newer);
        assert_eq!(changed, [40..50, 150..300, 350..400]);
    }
}
