//! Ceph RBD: images read at a snapshot and written, in user space.
//!
//! A backup reads a snapshot of its own. The newest one is kept, so that the next backup asks Ceph what changed since.
//! Its name is one of those that Cinder's driver removes when the tenant deletes the volume, and hides otherwise:
//! `backup.<id>.snap.<anything>`; the id is that of the job. With another name the volume could never be deleted.

mod library;

use crate::config;
use crate::model::id::JobId;
use crate::model::time::Timestamp;
use crate::volume::{Changes, Source, VolumeError, VolumeReader};
use library::{Access, Cluster, Image, Pool, Snapshot};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// The end of the names of our snapshots.
const MARK: &str = ".embervault";
/// How much is asked about holes at once.
const WINDOW_BYTES: u64 = 64 << 20;
/// Blocks that are compared before they are written.
const BLOCK_BYTES: usize = 4096;

/// One pool of a cluster, as the settings name it. It is connected to when the first image is opened. Cheap to clone.
#[derive(Clone)]
pub struct Backend {
    settings: config::Rbd,
    pool: Arc<Mutex<Option<Arc<Pool>>>>,
    /// The cluster's id and the pool's number.
    place: Arc<Mutex<Option<String>>>,
}

impl Backend {
    /// A pool that need not be there yet.
    pub fn new(settings: config::Rbd) -> Self {
        Self {
            settings,
            pool: Arc::default(),
            place: Arc::default(),
        }
    }

    fn failed(&self, image: &str, action: &'static str, source: io::Error) -> VolumeError {
        VolumeError {
            object: format!("rbd image {}/{image}", self.settings.pool),
            action,
            source,
        }
    }

    /// The pool; connects if nobody did before.
    fn pool(&self) -> io::Result<Arc<Pool>> {
        let mut kept = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = &*kept {
            return Ok(pool.clone());
        }
        let settings = &self.settings;
        let cluster = Cluster::connect(
            &settings.conf,
            &settings.user,
            settings.keyring.as_deref(),
            settings.timeout,
        )?;
        let id = cluster.id()?;
        let pool = Arc::new(Pool::open(Arc::new(cluster), &settings.pool)?);
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(format!("{id}/{}", pool.id()));
        *kept = Some(pool.clone());
        Ok(pool)
    }

    fn open(&self, image: &str, access: Access<'_>) -> Result<Image, VolumeError> {
        let open = || Image::open(self.pool()?, image, access);
        open().map_err(|source| self.failed(image, "open", source))
    }

    /// Connects, if that was not done before. The place of the pool.
    pub fn connect(&self) -> Result<String, VolumeError> {
        let connected = self.pool().map(|_| self.place());
        connected.map_err(|source| VolumeError {
            object: format!("rbd pool {}", self.settings.pool),
            action: "open",
            source,
        })
    }

    /// The cluster's id and the pool's number; empty before the first connection.
    fn place(&self) -> String {
        let place = self
            .place
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        place.unwrap_or_default()
    }

    /// Whether a job has made its snapshot of an image.
    pub fn has_snapshot(&self, image: &str, job: &JobId) -> Result<bool, VolumeError> {
        let look = self.open(image, Access::Look)?;
        let kept =
            kept(&look).map_err(|source| self.failed(image, "list the snapshots of", source))?;
        Ok(kept.iter().any(|kept| kept.job == *job))
    }

    /// Opens what an image held when the job first asked for it, with what changed since an earlier backup.
    pub fn keep(
        &self,
        image: &str,
        job: &JobId,
        now: Timestamp,
        since: Option<&str>,
    ) -> Result<Source, VolumeError> {
        let open = || -> io::Result<Source> {
            let writable = Image::open(self.pool()?, image, Access::Write)?;
            let ours = match kept(&writable)?.into_iter().find(|kept| kept.job == *job) {
                Some(ours) => ours,
                None => {
                    writable.create_snapshot(&snapshot_name(job, now))?;
                    let found = kept(&writable)?.into_iter().find(|kept| kept.job == *job);
                    found.ok_or_else(|| io::Error::other("the snapshot that was made is gone"))?
                }
            };
            self.open_kept(image, &writable, &ours.snapshot, since)
        };
        open().map_err(|source| self.failed(image, "take a snapshot of", source))
    }

    /// Opens what an image held at a snapshot that somebody else keeps, with what changed since an earlier backup.
    pub fn open_at(
        &self,
        image: &str,
        snapshot: &str,
        since: Option<&str>,
    ) -> Result<Source, VolumeError> {
        let open = || -> io::Result<Source> {
            let look = Image::open(self.pool()?, image, Access::Look)?;
            let mut listed = look.snapshots()?.into_iter();
            let wanted = listed.rfind(|listed| listed.name == snapshot);
            let wanted = wanted.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            self.open_kept(image, &look, &wanted, since)
        };
        open().map_err(|source| self.failed(image, "open a snapshot of", source))
    }

    /// Opens what an image holds now; it may change under the reader.
    pub fn open_now(&self, image: &str) -> Result<VolumeReader, VolumeError> {
        let reader = RbdReader::new(self.open(image, Access::Look)?);
        reader
            .map(VolumeReader::Rbd)
            .map_err(|source| self.failed(image, "open", source))
    }

    fn open_kept(
        &self,
        image: &str,
        writable: &Image,
        snapshot: &Snapshot,
        since: Option<&str>,
    ) -> io::Result<Source> {
        let access = Access::Snapshot(&snapshot.name);
        let open = || Image::open(self.pool()?, image, access);
        let place = format!("rbd/{}/{}", self.place(), writable.id()?);
        let before = since.and_then(|since| {
            let id = since
                .strip_prefix(&format!("{place}/"))?
                .parse::<u64>()
                .ok()?;
            Some((since.to_owned(), id))
        });
        let changes = match before {
            Some((since, id)) if id < snapshot.id => {
                let listed = writable.snapshots()?;
                match listed.into_iter().find(|listed| listed.id == id) {
                    Some(earlier) => Some(self.changes(since, earlier, open()?, image)),
                    None => None,
                }
            }
            _ => None,
        };
        Ok(Source {
            reader: VolumeReader::Rbd(RbdReader::new(open()?)?),
            change_id: Some(format!("{place}/{}", snapshot.id)),
            changes,
        })
    }

    fn changes(&self, since: String, earlier: Snapshot, now: Image, image: &str) -> Changes {
        let (backend, image) = (self.clone(), image.to_owned());
        Changes::new(since, move |range| {
            now.differences(Some(&earlier.name), range)
                .map_err(|source| backend.failed(&image, "compare", source))
        })
    }

    /// Removes the snapshots that jobs have kept of an image, but for those that are to stay.
    pub fn sort_out(
        &self,
        image: &str,
        mut stays: impl FnMut(&JobId) -> bool,
    ) -> Result<(), VolumeError> {
        let mut sort_out = || -> io::Result<()> {
            let writable = Image::open(self.pool()?, image, Access::Write)?;
            for kept in kept(&writable)? {
                if !stays(&kept.job) {
                    writable.remove_snapshot(&kept.snapshot.name)?;
                }
            }
            Ok(())
        };
        sort_out().map_err(|source| self.failed(image, "remove snapshots of", source))
    }

    /// Removes the snapshot that a job has made of an image.
    pub fn remove_snapshot_of(&self, image: &str, job: &JobId) -> Result<(), VolumeError> {
        self.sort_out(image, |kept| kept != job)
    }

    /// Opens an image to fill it.
    pub fn open_target(&self, image: &str) -> Result<RbdWriter, VolumeError> {
        let target = self.open(image, Access::Write)?;
        let length = target
            .size()
            .map_err(|source| self.failed(image, "open", source))?;
        Ok(RbdWriter {
            image: target,
            name: format!("rbd image {}/{image}", self.settings.pool),
            length,
        })
    }
}

/// A snapshot that a backup has made.
struct Kept {
    job: JobId,
    snapshot: Snapshot,
}

fn kept(image: &Image) -> io::Result<Vec<Kept>> {
    let listed = image.snapshots()?.into_iter();
    Ok(listed
        .filter_map(|snapshot| {
            let job = JobId::new(job_of(&snapshot.name)?);
            Some(Kept { job, snapshot })
        })
        .collect())
}

fn snapshot_name(job: &JobId, now: Timestamp) -> String {
    let seconds = now.0.div_euclid(1_000_000);
    format!("backup.{job}.snap.{seconds}{MARK}")
}

/// The job in the name of a snapshot of ours. Cinder's own backups have names of the same form, and need their snapshots.
fn job_of(name: &str) -> Option<&str> {
    let (job, time) = name.strip_prefix("backup.")?.split_once(".snap.")?;
    time.ends_with(MARK).then_some(job)
}

/// Extents of the window that was asked about last, and where it lies.
type Window = (Range<u64>, Vec<Range<u64>>);

/// An image at a snapshot.
pub struct RbdReader {
    image: Image,
    length: u64,
    windows: Mutex<Vec<Window>>,
}

impl std::fmt::Debug for RbdReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RbdReader")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// As many threads read at once as there are windows.
const WINDOWS: usize = 8;

impl RbdReader {
    fn new(image: Image) -> io::Result<Self> {
        Ok(Self {
            length: image.size()?,
            image,
            windows: Mutex::default(),
        })
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), VolumeError> {
        self.image
            .read(buffer, offset)
            .map_err(|source| failed("read", source))
    }

    /// The next part of a range that has data.
    pub(super) fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>, VolumeError> {
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

    /// The same image, cut to this length; an error if there is data behind it.
    pub(super) fn limited(mut self, length: u64) -> Result<Self, VolumeError> {
        if length < self.length {
            if self.next_data(length..self.length)?.is_some() {
                let why = format!("it holds more than its size of {length} bytes");
                return Err(failed("open", io::Error::other(why)));
            }
            self.length = length;
        }
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
    fn done<T>(&self, action: &'static str, result: io::Result<T>) -> Result<T, VolumeError> {
        result.map_err(|source| VolumeError {
            object: self.name.clone(),
            action,
            source,
        })
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), VolumeError> {
        self.done("write", self.image.write(bytes, offset))
    }

    /// Writes the blocks of a piece that are not there already.
    pub(super) fn write_difference(&self, bytes: &[u8], offset: u64) -> Result<(), VolumeError> {
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
    pub(super) fn zero(&self, range: Range<u64>) -> Result<(), VolumeError> {
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

    pub(super) fn sync(&self) -> Result<(), VolumeError> {
        self.done("flush", self.image.flush())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_kept_snapshot_is_one_that_cinder_removes() {
        let job = JobId::new("6f5d6a1e-0a3e-4a57-9d0c-1c2d3e4f5a6b");
        let name = snapshot_name(&job, Timestamp(1_764_000_000_000_001));
        assert_eq!(name, format!("backup.{job}.snap.1764000000.embervault"));
        assert_eq!(job_of(&name), Some(job.as_str()));
        assert_eq!(job_of("snapshot-1"), None);
        let of_cinders_backup = format!("backup.{job}.snap.1764000000.12");
        assert_eq!(job_of(&of_cinders_backup), None);
    }
}
