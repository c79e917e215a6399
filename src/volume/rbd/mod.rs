//! Ceph RBD: images read at a snapshot and written, in user space.
//!
//! A backup reads a snapshot of its own. The newest one is kept, so that the next backup asks Ceph what changed since.
//! Its name is one of those that Cinder's driver removes when the tenant deletes the volume, and hides otherwise:
//! `backup.<id>.snap.<anything>`; the id is that of the job. With another name the volume could never be deleted.

mod library;
pub(in crate::volume) mod reader;
pub(in crate::volume) mod writer;

use crate::config;
use crate::model::id::JobId;
use crate::model::time::Timestamp;
use crate::volume::{Changes, Source, VolumeError, VolumeReader};
use library::{Access, Cluster, Image, Pool, Snapshot};
use reader::RbdReader;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use writer::RbdWriter;

/// The end of the names of our snapshots.
const MARK: &str = ".embervault";

/// So long the failure of a connection answers for those who ask next. Otherwise each of them would wait for a cluster
/// that is away, one after another.
const FAILURE_KEPT: Duration = Duration::from_secs(5);

/// One pool of a cluster, as the settings name it. It is connected to when the first image is opened. Cheap to clone.
#[derive(Clone)]
pub struct Backend {
    settings: config::Rbd,
    pool: Arc<Mutex<Option<Result<Arc<Pool>, Failure>>>>,
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

    /// The pool; connects with the first call.
    fn pool(&self) -> io::Result<Arc<Pool>> {
        let mut kept = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some(Ok(pool)) => return Ok(pool.clone()),
            Some(Err(failure)) if failure.at.elapsed() < FAILURE_KEPT => {
                return Err(failure.again());
            }
            Some(Err(_)) | None => {}
        }
        let connected = self.make_connection();
        *kept = Some(match &connected {
            Ok(pool) => Ok(pool.clone()),
            Err(error) => Err(Failure::now(error)),
        });
        connected
    }

    fn make_connection(&self) -> io::Result<Arc<Pool>> {
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
        Ok(pool)
    }

    fn open(&self, image: &str, access: Access<'_>) -> Result<Image, VolumeError> {
        let opened = self.image(image, access);
        opened.map_err(|source| self.failed(image, "open", source))
    }

    /// Opens an image. A cluster that has shut this client out is connected to anew: for it that is another client.
    fn image(&self, image: &str, access: Access<'_>) -> io::Result<Image> {
        let pool = self.pool()?;
        match Image::open(pool.clone(), image, access) {
            Err(error) if is_shut_out(&error) => {
                self.forget(&pool);
                Image::open(self.pool()?, image, access)
            }
            opened => opened,
        }
    }

    /// Lets go of a connection, unless another caller has made a new one.
    fn forget(&self, pool: &Arc<Pool>) {
        let mut kept = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(&*kept, Some(Ok(kept)) if Arc::ptr_eq(kept, pool)) {
            *kept = None;
        }
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
            let writable = self.image(image, Access::Write)?;
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

    /// Opens what an image held at a snapshot that a user keeps, with what changed since an earlier backup.
    pub fn open_at(
        &self,
        image: &str,
        snapshot: &str,
        since: Option<&str>,
    ) -> Result<Source, VolumeError> {
        let open = || -> io::Result<Source> {
            let look = self.image(image, Access::Look)?;
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
        let open = || self.image(image, access);
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
            let writable = self.image(image, Access::Write)?;
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
        let name = format!("rbd image {}/{image}", self.settings.pool);
        RbdWriter::new(target, name).map_err(|source| self.failed(image, "open", source))
    }
}

/// Whether the cluster refuses this client: it held the lock of an image while it was halted, and another one broke
/// that lock.
pub(in crate::volume) fn is_shut_out(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESHUTDOWN)
}

/// Why a connection could not be made, and when.
struct Failure {
    at: Instant,
    kind: io::ErrorKind,
    text: String,
}

impl Failure {
    fn now(error: &io::Error) -> Self {
        Self {
            at: Instant::now(),
            kind: error.kind(),
            text: error.to_string(),
        }
    }

    fn again(&self) -> io::Error {
        io::Error::new(self.kind, self.text.clone())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_was_shut_out_may_come_back_as_another() {
        let shut_out = io::Error::from_raw_os_error(libc::ESHUTDOWN);
        let error = VolumeError {
            object: "rbd image volumes/volume-1".to_owned(),
            action: "write",
            source: shut_out,
        };
        assert!(error.is_temporary());
        assert!(!is_shut_out(&io::ErrorKind::TimedOut.into()));
    }

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
