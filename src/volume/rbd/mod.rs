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
use crate::volume::{Changes, Source, Target, VolumeError, VolumeReader, VolumeWriter};
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

/// A connection, or why there is none.
type Connection = Result<Arc<Pool>, Failure>;

/// One pool of a cluster, as the settings name it. It is connected to when the first image is opened. Cheap to clone.
#[derive(Clone)]
pub struct Backend {
    settings: config::Rbd,
    pool: Arc<Mutex<Option<Connection>>>,
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
        let source = match source.kind() {
            io::ErrorKind::PermissionDenied => {
                let (user, pool) = (&self.settings.user, &self.settings.pool);
                let why = format!(
                    "the cephx user {user:?} has no right to it; it needs mon 'profile rbd' and osd 'profile rbd pool={pool}'"
                );
                io::Error::new(io::ErrorKind::PermissionDenied, why)
            }
            _ => source,
        };
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

    /// Does something in the pool; once more over a new connection if Ceph has shut the old one out. It does that to a
    /// client that held an image and was taken for dead, and never forgives it.
    fn reach<T>(&self, work: impl Fn(&Arc<Pool>) -> io::Result<T>) -> io::Result<T> {
        let pool = self.pool()?;
        match work(&pool) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                tracing::warn!(%error, "the connection to Ceph is made anew");
                self.forget(&pool);
                work(&self.pool()?)
            }
            done => done,
        }
    }

    /// Forgets a connection, unless there is a newer one.
    fn forget(&self, pool: &Arc<Pool>) {
        let mut kept = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(&*kept, Some(Ok(kept)) if Arc::ptr_eq(kept, pool)) {
            *kept = None;
        }
    }

    fn open(&self, image: &str, access: Access<'_>) -> Result<Image, VolumeError> {
        self.reach(|pool| Image::open(pool.clone(), image, access))
            .map_err(|source| self.failed(image, "open", source))
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
        let ours =
            ours(&look).map_err(|source| self.failed(image, "list the snapshots of", source))?;
        Ok(ours.iter().any(|ours| ours.job == *job))
    }

    /// Opens what an image held when the job first asked for it, with what changed since an earlier backup.
    pub fn keep(
        &self,
        image: &str,
        job: &JobId,
        now: Timestamp,
        since: Option<&str>,
    ) -> Result<Source, VolumeError> {
        let open = |pool: &Arc<Pool>| -> io::Result<Source> {
            let writable = Image::open(pool.clone(), image, Access::Write)?;
            let of_job = |image| -> io::Result<Option<Ours>> {
                Ok(ours(image)?.into_iter().find(|ours| ours.job == *job))
            };
            let ours = match of_job(&writable)? {
                Some(ours) => ours,
                None => {
                    writable.create_snapshot(&snapshot_name(job, now))?;
                    of_job(&writable)?
                        .ok_or_else(|| io::Error::other("the snapshot that was made is gone"))?
                }
            };
            self.open_kept(image, &writable, &ours.snapshot, since)
        };
        self.reach(open)
            .map_err(|source| self.failed(image, "take a snapshot of", source))
    }

    /// Opens what an image held at a snapshot that a user keeps, with what changed since an earlier backup.
    pub fn open_at(
        &self,
        image: &str,
        snapshot: &str,
        since: Option<&str>,
    ) -> Result<Source, VolumeError> {
        let open = |pool: &Arc<Pool>| -> io::Result<Source> {
            let look = Image::open(pool.clone(), image, Access::Look)?;
            let mut listed = look.snapshots()?.into_iter();
            let wanted = listed.rfind(|listed| listed.name == snapshot);
            let wanted = wanted.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            self.open_kept(image, &look, &wanted, since)
        };
        self.reach(open)
            .map_err(|source| self.failed(image, "open a snapshot of", source))
    }

    /// Opens what an image holds now; it may change under the reader.
    pub fn open_now(&self, image: &str) -> Result<VolumeReader, VolumeError> {
        let reader = RbdReader::new(self.open(image, Access::Look)?, None);
        reader
            .map(|reader| VolumeReader::Rbd(Box::new(reader)))
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
        let open = || Image::open(writable.pool(), image, access);
        let earlier = since.map(|since| self.at(writable, since)).transpose()?;
        let earlier = earlier.flatten().filter(|at| at.id < snapshot.id);
        let changes = match earlier.zip(since) {
            Some((earlier, since)) => Some(self.changes(since, earlier, open()?, image)?),
            None => None,
        };
        let kept = self.kept(image, writable.id()?, snapshot.clone());
        Ok(Source {
            reader: VolumeReader::Rbd(Box::new(RbdReader::new(
                open()?,
                Some(Box::new(move || kept.is_there())),
            )?)),
            change_id: Some(format!("{}/{}", self.place_of(writable)?, snapshot.id)),
            changes,
        })
    }

    /// What change ids of an image begin with.
    fn place_of(&self, image: &Image) -> io::Result<String> {
        Ok(format!("rbd/{}/{}", self.place(), image.id()?))
    }

    /// The snapshot of an image that a change id names, if it is there.
    fn at(&self, image: &Image, change_id: &str) -> io::Result<Option<Snapshot>> {
        let place = format!("{}/", self.place_of(image)?);
        let id = change_id.strip_prefix(&place).map(str::parse::<u64>);
        let Some(Ok(id)) = id else {
            return Ok(None);
        };
        let mut listed = image.snapshots()?.into_iter();
        Ok(listed.find(|listed| listed.id == id))
    }

    fn kept(&self, image: &str, image_id: String, snapshot: Snapshot) -> Kept {
        Kept {
            backend: self.clone(),
            image: image.to_owned(),
            image_id,
            snapshot,
        }
    }

    fn changes(
        &self,
        since: &str,
        earlier: Snapshot,
        now: Image,
        image: &str,
    ) -> io::Result<Changes> {
        let kept = self.kept(image, now.id()?, earlier.clone());
        let (backend, image) = (self.clone(), image.to_owned());
        let changes = Changes::new(since.to_owned(), move |range| {
            now.differences(Some(&earlier.name), range)
                .map_err(|source| backend.failed(&image, "compare", source))
        });
        Ok(changes.while_kept(move || kept.is_there()))
    }

    /// Removes the snapshots that jobs have kept of an image, but for those that are to stay.
    pub fn sort_out(
        &self,
        image: &str,
        mut stays: impl FnMut(&JobId) -> bool,
    ) -> Result<(), VolumeError> {
        let writable = self.open(image, Access::Write)?;
        let mut sort_out = || -> io::Result<()> {
            for ours in ours(&writable)? {
                if !stays(&ours.job) {
                    writable.remove_snapshot(&ours.snapshot.name)?;
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

    /// Opens an image to fill it, with what changed since an earlier backup.
    pub fn open_target(&self, image: &str, since: Option<&str>) -> Result<Target, VolumeError> {
        let open = |pool: &Arc<Pool>| -> io::Result<Target> {
            let target = Image::open(pool.clone(), image, Access::Write)?;
            let earlier = since.map(|since| self.at(&target, since)).transpose()?;
            let changes = match earlier.flatten().zip(since) {
                // Seen through an image of its own, which has nothing to flush before it answers.
                Some((earlier, since)) => {
                    let now = Image::open(pool.clone(), image, Access::Look)?;
                    Some(self.changes(since, earlier, now, image)?)
                }
                None => None,
            };
            let name = format!("rbd image {}/{image}", self.settings.pool);
            Ok(Target {
                writer: VolumeWriter::Rbd(RbdWriter::new(target, name)?),
                changes,
            })
        };
        self.reach(open)
            .map_err(|source| self.failed(image, "open", source))
    }
}

/// A snapshot that something relies on. It cannot be held: Cinder removes it with the volume, and an administrator may.
pub(super) struct Kept {
    backend: Backend,
    image: String,
    image_id: String,
    snapshot: Snapshot,
}

impl Kept {
    /// Whether it is still there. It opens the image once more: an image that was opened for reading does not learn that
    /// others remove snapshots.
    pub(super) fn is_there(&self) -> Result<bool, VolumeError> {
        let (backend, name) = (&self.backend, self.image.as_str());
        let look = |pool: &Arc<Pool>| -> io::Result<bool> {
            let image = match Image::open(pool.clone(), name, Access::Look) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                opened => opened?,
            };
            Ok(image.id()? == self.image_id && image.snapshots()?.contains(&self.snapshot))
        };
        let looked = backend.reach(look);
        looked.map_err(|source| backend.failed(name, "look for a snapshot of", source))
    }
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
struct Ours {
    job: JobId,
    snapshot: Snapshot,
}

fn ours(image: &Image) -> io::Result<Vec<Ours>> {
    let listed = image.snapshots()?.into_iter();
    Ok(listed
        .filter_map(|snapshot| {
            let job = JobId::new(job_of(&snapshot.name)?);
            Some(Ours { job, snapshot })
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
