//! Writing a volume's bytes, wherever they go.

use crate::volume::file::FileWriter;
#[cfg(test)]
use crate::volume::memory::MemoryVolume;
use crate::volume::rbd::writer::RbdWriter;
use crate::volume::{Changes, VolumeError};
use std::ops::Range;
use std::path::Path;

/// A volume to be written. Shared by many threads, each writing its own ranges.
#[derive(Debug)]
pub enum VolumeWriter {
    File(FileWriter),
    Rbd(RbdWriter),
    #[cfg(test)]
    Memory(MemoryVolume),
}

/// A volume to be restored to.
pub struct Target {
    pub writer: VolumeWriter,
    /// What changed since it held what the backup holds, if that is known.
    pub changes: Option<Changes>,
}

impl Target {
    /// A volume that may hold anything.
    pub fn untracked(writer: VolumeWriter) -> Self {
        Self {
            writer,
            changes: None,
        }
    }
}

impl VolumeWriter {
    /// Opens an existing file or block device.
    pub fn open(path: &Path) -> Result<Self, VolumeError> {
        FileWriter::open(path).map(Self::File)
    }

    /// Bytes.
    pub fn length(&self) -> u64 {
        match self {
            Self::File(file) => file.length(),
            Self::Rbd(image) => image.length(),
            #[cfg(test)]
            Self::Memory(memory) => memory.length(),
        }
    }

    /// Writes a piece.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), VolumeError> {
        match self {
            Self::File(file) => file.write_at(bytes, offset),
            Self::Rbd(image) => image.write_at(bytes, offset),
            #[cfg(test)]
            Self::Memory(memory) => memory.write_at(bytes, offset),
        }
    }

    /// Writes the blocks of a piece that are not there already.
    pub fn write_difference(&self, bytes: &[u8], offset: u64) -> Result<(), VolumeError> {
        match self {
            Self::File(file) => file.write_difference(bytes, offset),
            Self::Rbd(image) => image.write_difference(bytes, offset),
            #[cfg(test)]
            Self::Memory(memory) => memory.write_at(bytes, offset),
        }
    }

    /// Makes a range read as zeros, by a hole where that is possible. What is a hole already is
    /// left alone.
    pub fn zero(&self, range: Range<u64>) -> Result<(), VolumeError> {
        match self {
            Self::File(file) => file.zero(range),
            Self::Rbd(image) => image.zero(range),
            #[cfg(test)]
            Self::Memory(memory) => memory.zero(range),
        }
    }

    /// Makes everything written durable. An error if the volume has become shorter than it was when it was
    /// opened.
    pub fn sync(&self) -> Result<(), VolumeError> {
        match self {
            Self::File(file) => file.sync(),
            Self::Rbd(image) => image.sync(),
            #[cfg(test)]
            Self::Memory(_) => Ok(()),
        }
    }
}
