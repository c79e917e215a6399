//! Reading an image as it was at a snapshot.

use crate::volume::VolumeError;
use crate::volume::rbd::library::{Image, WINDOW_BYTES};
use std::io;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Extents of the window that was asked about last, and where it lies.
type Window = (Range<u64>, Vec<Range<u64>>);

/// Whether a snapshot is still there.
type IsThere = dyn Fn() -> Result<bool, VolumeError> + Send + Sync;

/// An image at a snapshot.
pub struct RbdReader {
    image: Image,
    length: u64,
    windows: Mutex<Vec<Window>>,
    /// Of the snapshot that is read.
    is_there: Option<Box<IsThere>>,
}

impl std::fmt::Debug for RbdReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RbdReader")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// Of what lies behind a volume's size, so much is looked at at a time.
const PIECE_BYTES: usize = 4 << 20;
/// As many threads read at once as there are windows.
const WINDOWS: usize = 8;

impl RbdReader {
    /// Of an image, at a snapshot if it can be asked whether that is still there.
    pub(super) fn new(image: Image, is_there: Option<Box<IsThere>>) -> io::Result<Self> {
        Ok(Self {
            length: image.size()?,
            image,
            windows: Mutex::default(),
            is_there,
        })
    }

    /// An error if the snapshot is not there any more. Ceph reads what it has removed as zeros.
    pub(in crate::volume) fn check(&self) -> Result<(), VolumeError> {
        match &self.is_there {
            Some(is_there) if !is_there()? => {
                let why = "the snapshot that is read was removed, or the volume was deleted";
                Err(failed("read", io::Error::other(why)))
            }
            _ => Ok(()),
        }
    }

    pub(in crate::volume) fn length(&self) -> u64 {
        self.length
    }

    pub(in crate::volume) fn read_at(
        &self,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<(), VolumeError> {
        self.image
            .read(buffer, offset)
            .map_err(|source| failed("read", source))
    }

    /// The next part of a range that has data.
    pub(in crate::volume) fn next_data(
        &self,
        range: Range<u64>,
    ) -> Result<Option<Range<u64>>, VolumeError> {
        let mut at = range.start;
        while at < range.end {
            let start = at - at % WINDOW_BYTES;
            let window = start..(start + WINDOW_BYTES).min(self.length);
            let end = range.end.min(window.end);
            if let Some(found) = self.data_within(window.clone(), at..end)? {
                return Ok(Some(found));
            }
            at = window.end.max(at + 1);
        }
        Ok(None)
    }

    /// The first part of `range` with data; `range` lies in the window.
    fn data_within(
        &self,
        window: Range<u64>,
        range: Range<u64>,
    ) -> Result<Option<Range<u64>>, VolumeError> {
        let first = |extents: &[Range<u64>]| {
            let found = extents.iter().find(|extent| extent.end > range.start)?;
            let part = found.start.max(range.start)..found.end.min(range.end);
            (!part.is_empty()).then_some(part)
        };
        {
            let windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, extents)) = windows.iter().find(|(known, _)| *known == window) {
                return Ok(first(extents));
            }
        }
        let extents = self
            .image
            .differences(None, window.clone())
            .map_err(|source| failed("list the extents of", source))?;
        let found = first(&extents);
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() == WINDOWS {
            windows.remove(0);
        }
        windows.push((window, extents));
        Ok(found)
    }

    /// The same image, cut to this length; an error if there is anything but zeros after it.
    pub(in crate::volume) fn limited(mut self, length: u64) -> Result<Self, VolumeError> {
        let mut at = length;
        let mut piece = vec![0; PIECE_BYTES];
        while let Some(data) = self.next_data(at..self.length)? {
            let end = data.end.min(data.start + PIECE_BYTES as u64);
            let bytes = &mut piece[..usize::try_from(end - data.start).unwrap_or(PIECE_BYTES)];
            self.read_at(bytes, data.start)?;
            if bytes.iter().any(|byte| *byte != 0) {
                let why = format!(
                    "it holds more than its {length} bytes: it was extended after the backup was asked for; make another backup"
                );
                return Err(failed("open", io::Error::other(why)));
            }
            at = end;
        }
        self.length = self.length.min(length);
        Ok(self)
    }
}

fn failed(action: &'static str, source: io::Error) -> VolumeError {
    VolumeError {
        object: "rbd image".to_owned(),
        action,
        source,
    }
}
