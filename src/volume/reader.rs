//! Reading a volume's bytes, wherever they come from.

use crate::volume::VolumeError;
use crate::volume::file::FileReader;
use crate::volume::generated::Generated;
#[cfg(test)]
use crate::volume::memory::MemoryVolume;
use crate::volume::rbd::reader::RbdReader;
use std::ops::Range;
use std::path::Path;

/// A volume to be read. Shared by many threads.
#[derive(Debug)]
pub enum VolumeReader {
    File(FileReader),
    Generated(Generated),
    Rbd(Box<RbdReader>),
    #[cfg(test)]
    Memory(MemoryVolume),
}

impl VolumeReader {
    /// Opens a file or block device; its length is what it is at this moment.
    pub fn open(path: &Path) -> Result<Self, VolumeError> {
        FileReader::open(path).map(Self::File)
    }

    /// Bytes.
    pub fn length(&self) -> u64 {
        match self {
            Self::File(file) => file.length(),
            Self::Generated(generated) => generated.length(),
            Self::Rbd(image) => image.length(),
            #[cfg(test)]
            Self::Memory(memory) => memory.length(),
        }
    }

    /// The next range within `range` that may hold data; everything before it is a hole. `None`:
    /// the rest is a hole. If holes are not known, everything may hold data. An error if the volume has become shorter than
    /// it was when it was opened.
    pub fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>, VolumeError> {
        match self {
            Self::File(file) => file.next_data(range),
            Self::Generated(generated) => generated.next_data(range),
            Self::Rbd(image) => image.next_data(range),
            #[cfg(test)]
            Self::Memory(_) => Ok((!range.is_empty()).then_some(range)),
        }
    }

    /// An error if the volume has become shorter than it was when it was opened, or is gone: what was read since may be
    /// zeros that it never held.
    pub fn check_length(&self) -> Result<(), VolumeError> {
        match self {
            Self::File(file) => file.check_length(),
            Self::Generated(_) => Ok(()),
            Self::Rbd(image) => image.check(),
            #[cfg(test)]
            Self::Memory(_) => Ok(()),
        }
    }

    /// The same volume, cut to this length; an error if there is anything but zeros after it.
    pub fn limited(self, length: u64) -> Result<Self, VolumeError> {
        match self {
            Self::File(file) => file.limited(length).map(Self::File),
            Self::Generated(generated) => Ok(Self::Generated(generated)),
            Self::Rbd(image) => image
                .limited(length)
                .map(|image| Self::Rbd(Box::new(image))),
            #[cfg(test)]
            Self::Memory(memory) => Ok(Self::Memory(memory)),
        }
    }

    /// Fills the buffer from an offset; both lie within the volume.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), VolumeError> {
        match self {
            Self::File(file) => file.read_at(buffer, offset),
            Self::Generated(generated) => generated.read_at(buffer, offset),
            Self::Rbd(image) => image.read_at(buffer, offset),
            #[cfg(test)]
            Self::Memory(memory) => memory.read_at(buffer, offset),
        }
    }
}

/// A volume at one moment, to be backed up.
pub struct Source {
    pub reader: VolumeReader,
    /// The source's own name for this state of its content, if it can later report what changed since.
    pub change_id: Option<String>,
    /// The changes since an earlier state.
    pub changes: Option<Changes>,
}

impl Source {
    /// A source that tracks no changes.
    pub fn untracked(reader: VolumeReader) -> Self {
        Self {
            reader,
            change_id: None,
            changes: None,
        }
    }
}

type ChangedWithin = dyn Fn(Range<u64>) -> Result<Vec<Range<u64>>, VolumeError> + Send + Sync;
type IsKept = dyn Fn() -> Result<bool, VolumeError> + Send + Sync;

/// The changes since a named state of the content.
pub struct Changes {
    /// Change id of that state.
    pub since: String,
    within: Box<ChangedWithin>,
    is_kept: Box<IsKept>,
}

impl Changes {
    /// Changes that a function reports: for a range, the parts that may have changed, ascending.
    pub fn new(
        since: String,
        within: impl Fn(Range<u64>) -> Result<Vec<Range<u64>>, VolumeError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            since,
            within: Box::new(within),
            is_kept: Box::new(|| Ok(true)),
        }
    }

    /// The same changes, where the earlier state may be removed while they are asked for. The function says whether it is
    /// there.
    pub fn while_kept(
        self,
        is_kept: impl Fn() -> Result<bool, VolumeError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            is_kept: Box::new(is_kept),
            ..self
        }
    }

    /// Whether the earlier state is still there. If it is not, what was reported before may be wrong.
    pub fn hold(&self) -> Result<bool, VolumeError> {
        (self.is_kept)()
    }

    /// The parts of a range that may have changed, ascending.
    pub fn within(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, VolumeError> {
        (self.within)(range)
    }
}
