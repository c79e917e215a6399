//! What a job makes at Cinder, and connects to this machine, for itself alone: for volumes that are not in Ceph.
//!
//! A backup reads a volume of its own, which Cinder makes from a snapshot: the tenant's, or one of its own that goes as
//! soon as the volume is there. Both are in the service's own project. A restore connects its target. Each is noted before
//! it is made, and found by the job's id in its metadata, so a later run goes on with it, and whoever ends the job or finds
//! it without one removes it.
//!
//! Volumes are connected in whatever state they are, without an attachment: that is how Cinder's own backups do it. A
//! target stays in `restoring-backup` meanwhile, so nobody else attaches it. Cinder does not keep what it was told of the
//! machine, so that is noted too. How the volume is reached is asked again when it is needed, as there may be a password
//! in it.

use crate::db::temporaries::{self, Asking, Temporary};
use crate::db::volume_holds;
use crate::model::error::chain;
use crate::model::id::{JobId, SnapshotId, VolumeId};
use crate::model::job::Lease;
use crate::model::progress::Progress;
use crate::model::volume::VolumeStatus;
use crate::volume::brick::{self, Brick, BrickError};
use crate::volume::catalog::CatalogError;
use crate::volume::catalog::cinder::Cinder;
use crate::volume::catalog::cinder::restore::is_at_a_machine;
use crate::volume::cinder::CinderError;
use crate::volume::{Source, Target};
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The key of the job's id in the metadata of what was made for it.
const JOB_KEY: &str = "embervault_job";
const SNAPSHOT: &str = "snapshot";
const VOLUME: &str = "volume";
/// Between two looks at what Cinder makes.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long the end of a job waits until Cinder has removed something. What stays longer is removed later.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(20);

impl Cinder {
    /// Whether an earlier run of the job has begun a copy, which is that of its moment.
    pub(super) fn has_temporary(&self, job: &JobId) -> Result<bool, CatalogError> {
        if self.db.read(|c| temporaries::find(c, job))?.is_none() {
            return Ok(false);
        }
        let is_good = |(_, status): &(String, String)| !status.starts_with(ERROR);
        Ok(self.made(VOLUME, job)?.iter().any(is_good)
            || self.made(SNAPSHOT, job)?.iter().any(is_good))
    }

    fn made(&self, kind: &str, job: &JobId) -> Result<Vec<(String, String)>, CatalogError> {
        Ok(self.client.found_by(kind, (JOB_KEY, job.as_str()))?)
    }

    /// Opens a copy of a volume, or of a snapshot of it, that Cinder makes now, or has made for an earlier run of the job.
    pub(super) fn open_copy(
        &self,
        brick: &Brick,
        lease: &Lease,
        volume: &VolumeId,
        snapshot: Option<&SnapshotId>,
        progress: &Progress,
    ) -> Result<Source, CatalogError> {
        let wait = Wait {
            until: Instant::now() + brick.copy_timeout(),
            progress,
        };
        let copy = match self.made(VOLUME, &lease.job_id)?.pop() {
            Some((id, _)) => id,
            None => {
                let own = match snapshot {
                    Some(_) => None,
                    None => {
                        Some(self.make(lease, SNAPSHOT, ("volume_id", volume.as_str()), &wait)?)
                    }
                };
                let from = snapshot.map(SnapshotId::as_str).or(own.as_deref());
                let from = from.ok_or(CatalogError::NoSnapshot)?;
                self.make(lease, VOLUME, ("snapshot_id", from), &wait)?
            }
        };
        self.until_available(lease, VOLUME, &copy, &wait)?;
        // While it is there, the volume's owner cannot delete the volume. Some backends need it as long as the copy.
        for (id, _) in self.made(SNAPSHOT, &lease.job_id)? {
            if let Err(error) = self.client.delete_snapshot(&id) {
                tracing::debug!(snapshot.id = %id, error = %chain(&error), "a snapshot stays until the end of its backup");
            }
        }
        let path = self.connect(brick, lease, &VolumeId::new(&copy))?;
        Ok(Source::untracked(brick::reader(&path)?))
    }

    /// Has a snapshot or volume made, unless an earlier run has, and waits for it. Its id.
    fn make(
        &self,
        lease: &Lease,
        kind: &'static str,
        of: (&str, &str),
        wait: &Wait<'_>,
    ) -> Result<String, CatalogError> {
        let id = match self.made(kind, &lease.job_id)?.pop() {
            Some((id, _)) => id,
            None => {
                let now = self.clock.now();
                let asking = self.db.write(|c| temporaries::ask(c, lease, now))?;
                if asking == Asking::Over {
                    return Err(CatalogError::HoldEnded);
                }
                let marker = (JOB_KEY, lease.job_id.as_str());
                let made = self.client.make_own(kind, of, marker);
                let is_answer = matches!(
                    &made,
                    Ok(_)
                        | Err(CinderError::Refused {
                            status: 400..=499,
                            ..
                        })
                );
                if is_answer && asking == Asking::Alone {
                    self.db.write(|c| temporaries::answered(c, &lease.job_id))?;
                }
                made?
            }
        };
        self.until_available(lease, kind, &id, wait)?;
        Ok(id)
    }

    fn until_available(
        &self,
        lease: &Lease,
        kind: &'static str,
        id: &str,
        wait: &Wait<'_>,
    ) -> Result<(), CatalogError> {
        let mut pause = PAUSE;
        loop {
            let made = self.made(kind, &lease.job_id)?;
            let status = made.into_iter().find(|(found, _)| found == id);
            let status = status.map_or_else(|| "gone".to_owned(), |(_, status)| status);
            match status.as_str() {
                "available" => return Ok(()),
                "creating" | "downloading" if Instant::now() < wait.until => wait.pause(pause)?,
                _ => return Err(CatalogError::NotCopied(kind, status)),
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Connects a volume to this machine. Where it lies there.
    fn connect(
        &self,
        brick: &Brick,
        lease: &Lease,
        volume: &VolumeId,
    ) -> Result<PathBuf, CatalogError> {
        let connector = brick.connector().map_err(|e| not_connected(volume, e))?;
        if let Some(earlier) = self.db.read(|c| temporaries::find(c, &lease.job_id))? {
            let is_elsewhere = earlier.connector.as_deref().is_some_and(|earlier| {
                serde_json::from_str::<Value>(earlier).ok().as_ref() != Some(&connector)
            });
            if is_elsewhere {
                self.disconnect(&earlier)?;
            }
        }
        let text = connector.to_string();
        let is_ours = self
            .db
            .write(|c| temporaries::connect(c, lease, volume, &text))?;
        if !is_ours {
            return Err(CatalogError::HoldEnded);
        }
        let connection = self
            .client
            .initialize_connection(volume.as_str(), &connector)?;
        let connected = brick.connect(&connection);
        connected.map_err(|error| not_connected(volume, error))
    }

    /// Connects the target of a restore, and opens it.
    pub(super) fn open_connected(
        &self,
        brick: &Brick,
        lease: &Lease,
        volume: &VolumeId,
    ) -> Result<Target, CatalogError> {
        let path = self.connect(brick, lease, volume)?;
        Ok(Target::untracked(brick::writer(&path)?))
    }

    /// Disconnects what a job has connected: from this machine, if it was this one, and at Cinder. From another one that
    /// has died, it is disconnected only at Cinder.
    fn disconnect(&self, of: &Temporary) -> Result<(), CatalogError> {
        let (Some(volume), Some(noted)) = (&of.volume, &of.connector) else {
            return Ok(());
        };
        let connector = serde_json::from_str::<Value>(noted).unwrap_or_default();
        let found = self.client.volume(volume.as_str())?;
        // One that a machine has by now is its owner's, and no connection of ours.
        if found.is_some_and(|found| !is_at_a_machine(&found)) {
            if let Some(brick) = &self.brick
                && brick::is_of_this_machine(&connector)
            {
                let connection = self
                    .client
                    .initialize_connection(volume.as_str(), &connector)?;
                let done = brick.disconnect(&connection);
                done.map_err(|error| not_connected(volume, error))?;
            }
            self.client
                .terminate_connection(volume.as_str(), &connector)?;
        }
        self.db.write(|c| temporaries::disconnected(c, &of.job))?;
        Ok(())
    }

    /// Removes all that a job has made for itself.
    pub(super) fn remove_temporaries(&self, job: &JobId) -> Result<(), CatalogError> {
        let Some(of) = self.db.read(|c| temporaries::find(c, job))? else {
            return Ok(());
        };
        self.disconnect(&of)?;
        let is_all_gone = self.remove(VOLUME, job)? && self.remove(SNAPSHOT, job)?;
        // What was asked for and never answered may come yet.
        if is_all_gone && !of.may_grow(self.clock.now()) {
            self.db.write(|c| temporaries::end(c, job))?;
        }
        Ok(())
    }

    /// `false`: Cinder was asked to, and takes long.
    fn remove(&self, kind: &'static str, job: &JobId) -> Result<bool, CatalogError> {
        let began = Instant::now();
        loop {
            let made = self.made(kind, job)?;
            if made.is_empty() {
                return Ok(true);
            }
            for (id, status) in &made {
                match kind {
                    _ if status == VolumeStatus::Deleting.as_str() => {}
                    VOLUME => self.client.delete_volume(id)?,
                    _ => self.client.delete_snapshot(id)?,
                }
            }
            if began.elapsed() > REMOVAL_PATIENCE {
                return Ok(false);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Removes what a run has made for itself, unless a later run of the job needs it. What cannot be removed now is
    /// found later.
    pub(super) fn clear(&self, lease: &Lease) {
        let clear = || -> Result<(), CatalogError> {
            let hold = self.db.read(|c| volume_holds::find(c, &lease.job_id))?;
            if hold.is_some_and(|hold| hold.attempt > lease.attempt) {
                return Ok(());
            }
            self.remove_temporaries(&lease.job_id)
        };
        if let Err(error) = clear() {
            let error = chain(&error);
            tracing::warn!(job.id = %lease.job_id, error, "what was made for a job could not be removed yet");
        }
    }
}

/// Says to the log why a volume could not be connected or disconnected; its owner gets to know only what concerns the
/// volume itself.
fn not_connected(volume: &VolumeId, error: BrickError) -> CatalogError {
    if let BrickError::Format(_) = error {
        return error.into();
    }
    let error = chain(&error);
    tracing::error!(volume.id = %volume, error, "os-brick failed: check that this machine reaches the storage, and run `embervault cloud check`");
    CatalogError::NotConnected
}

/// The state of what could not be made, and the beginning of others.
const ERROR: &str = "error";

/// How long a run waits for Cinder.
struct Wait<'a> {
    until: Instant,
    progress: &'a Progress,
}

impl Wait<'_> {
    fn pause(&self, pause: Duration) -> Result<(), CatalogError> {
        let until = Instant::now() + pause;
        while Instant::now() < until {
            if self.progress.is_asked_to_stop() {
                return Err(CatalogError::Stopped);
            }
            if self.progress.is_overdue() {
                return Err(CatalogError::Overdue);
            }
            std::thread::sleep(PAUSE / 5);
        }
        Ok(())
    }
}
