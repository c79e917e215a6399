//! Writing an image.

use crate::volume::VolumeError;
use crate::volume::rbd::library::{Image, WINDOW_BYTES};
use std::io;
use std::ops::Range;

/// Blocks that are compared before they are written.
const BLOCK_BYTES: usize = 4096;

/// An image that is filled.
pub struct RbdWriter {
    image: Image,
    name: String,
    length: u64,
}

impl std::fmt::Debug for RbdWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RbdWriter")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl RbdWriter {
    pub(super) fn new(image: Image, name: String) -> io::Result<Self> {
        Ok(Self {
            length: image.size()?,
            image,
            name,
        })
    }

    fn done<T>(&self, action: &'static str, result: io::Result<T>) -> Result<T, VolumeError> {
        result.map_err(|source| VolumeError {
            object: self.name.clone(),
            action,
            source,
        })
    }

    pub(in crate::volume) fn length(&self) -> u64 {
        self.length
    }

    pub(in crate::volume) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), VolumeError> {
        self.done("write", self.image.write(bytes, offset))
    }

    /// Writes the blocks of a piece that are not there already.
    pub(in crate::volume) fn write_difference(
        &self,
        bytes: &[u8],
        offset: u64,
    ) -> Result<(), VolumeError> {
        let mut there = vec![0; bytes.len()];
        self.done("read", self.image.read(&mut there, offset))?;
        let mut run: Option<Range<usize>> = None;
        let blocks = bytes.chunks(BLOCK_BYTES).zip(there.chunks(BLOCK_BYTES));
        for (number, (wanted, there)) in blocks.enumerate() {
            let at = number * BLOCK_BYTES;
            match (&mut run, wanted == there) {
                (Some(run), false) => run.end = at + wanted.len(),
                (None, false) => run = Some(at..at + wanted.len()),
                (_, true) => {
                    if let Some(run) = run.take() {
                        self.write_at(&bytes[run.clone()], offset + run.start as u64)?;
                    }
                }
            }
        }
        match run {
            Some(run) => self.write_at(&bytes[run.clone()], offset + run.start as u64),
            None => Ok(()),
        }
    }

    /// Makes a range read as zeros. What has no data already is left alone.
    pub(in crate::volume) fn zero(&self, range: Range<u64>) -> Result<(), VolumeError> {
        let mut at = range.start;
        while at < range.end {
            let end = (at - at % WINDOW_BYTES + WINDOW_BYTES).min(range.end);
            let with_data = self.image.differences(None, at..end);
            for part in self.done("list the extents of", with_data)? {
                self.done("zero", self.image.zero(part))?;
            }
            at = end;
        }
        Ok(())
    }

    pub(in crate::volume) fn sync(&self) -> Result<(), VolumeError> {
        self.done("flush", self.image.flush())
    }
}
