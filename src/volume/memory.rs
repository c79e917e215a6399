//! A volume in memory, for tests.

use crate::volume::VolumeError;
use std::io;
use std::ops::Range;
use std::sync::{Arc, RwLock};

/// The bytes of a volume. A clone is the same volume.
#[derive(Debug, Clone, Default)]
pub struct MemoryVolume(Arc<RwLock<Vec<u8>>>);

impl MemoryVolume {
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        Self(Arc::new(RwLock::new(bytes)))
    }

    /// Its current content.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.read().unwrap().clone()
    }

    pub(crate) fn length(&self) -> u64 {
        self.0.read().unwrap().len() as u64
    }

    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), VolumeError> {
        let bytes = self.0.read().unwrap();
        let range = within(&bytes, offset, buffer.len(), "read")?;
        buffer.copy_from_slice(&bytes[range]);
        Ok(())
    }

    pub(crate) fn write_at(&self, piece: &[u8], offset: u64) -> Result<(), VolumeError> {
        let mut bytes = self.0.write().unwrap();
        let range = within(&bytes, offset, piece.len(), "write")?;
        bytes[range].copy_from_slice(piece);
        Ok(())
    }

    pub(crate) fn zero(&self, range: Range<u64>) -> Result<(), VolumeError> {
        let length = usize::try_from(range.end - range.start).unwrap();
        self.write_at(&vec![0; length], range.start)
    }
}

fn within(
    bytes: &[u8],
    offset: u64,
    length: usize,
    action: &'static str,
) -> Result<Range<usize>, VolumeError> {
    let start = usize::try_from(offset).unwrap();
    match start.checked_add(length).filter(|end| *end <= bytes.len()) {
        Some(end) => Ok(start..end),
        None => Err(VolumeError {
            object: "volume in memory".to_owned(),
            action,
            source: io::ErrorKind::UnexpectedEof.into(),
        }),
    }
}
