//! The catalogue of standalone mode: rows in our database, sparse raw files in a directory.

mod copy;
pub mod demand;
mod held;
pub mod quota;
mod restore;
pub mod transfer;
mod work_files;

use crate::clock::Clock;
use crate::config;
use crate::db::standalone::{records, snapshots, types, volumes};
use crate::db::{self, Db, DbConnection, DbError};
use crate::model::column::Json;
use crate::model::error::{Error, chain};
use crate::model::id::{JobId, ProjectId, SnapshotId, VolumeId, VolumeTypeId};
use crate::model::job::{JobState, Lease};
use crate::model::progress::Progress;
use crate::model::snapshot::{SnapshotStatus, SourceSnapshot};
use crate::model::standalone::group::{CONSISTENCY_GROUP_TYPE, GroupType, Visibility};
use crate::model::standalone::snapshot::Snapshot;
use crate::model::standalone::stored::{Resource, Stored};
use crate::model::standalone::volume::Volume;
use crate::model::standalone::volume_type::{DEFAULT_TYPE_NAME, VolumeType};
use crate::model::time::Timestamp;
use crate::model::volume::{GIB, SavedVolume, SourceVolume, VolumeStatus, bytes_of};
use crate::volume::VolumeError;
use crate::volume::catalog::{CatalogError, Hold};
use crate::volume::file;
use crate::volume::{Source, VolumeReader, tracking};
use std::path::{Path, PathBuf};

/// Our own volumes; most of its calls are described at the port. Cheap to clone.
#[derive(Clone)]
pub struct Standalone {
    pub(super) db: Db,
    pub(super) clock: Clock,
    dir: PathBuf,
    tracks_changes: bool,
    pub(super) availability_zone: String,
    pub(super) quota: config::Quota,
}

impl Standalone {
    /// Opens the catalogue; makes its directory and the default volume type if need be.
    pub fn open(db: Db, clock: Clock, config: &config::Config) -> Result<Self, CatalogError> {
        let dir = config.volumes_dir();
        let made = std::fs::create_dir_all(&dir).and_then(|()| dir.canonicalize());
        let dir = made.map_err(|source| VolumeError::of_file(&dir, "create", source))?;
        let catalog = Self {
            db,
            clock,
            dir,
            tracks_changes: config.volumes.change_tracking,
            availability_zone: config.volumes.availability_zone.clone(),
            quota: config.quota.clone(),
        };
        catalog.ensure_default_type()?;
        catalog.ensure_consistency_group_type()?;
        Ok(catalog)
    }

    fn ensure_default_type(&self) -> Result<(), DbError> {
        let row = VolumeType {
            id: VolumeTypeId::random(),
            name: DEFAULT_TYPE_NAME.to_owned(),
            description: Some("Default Volume Type".to_owned()),
            is_public: true,
            extra_specs: Json::default(),
            created_at: self.clock.now(),
            updated_at: None,
            qos_specs_id: None,
            encryption: None,
            projects: Json::default(),
        };
        self.db.write(|c| {
            // Another process may start now.
            db::lock(c, types::CHANGED)?;
            match volumes::find_type(c, DEFAULT_TYPE_NAME)? {
                Some(_) => Ok(()),
                None => volumes::insert_type(c, &row),
            }
        })
    }

    fn ensure_consistency_group_type(&self) -> Result<(), DbError> {
        let spec = ("consistent_group_snapshot_enabled", "<is> True");
        let body = GroupType {
            description: Some("Default group type for migrating cgsnapshot".to_owned()),
            group_specs: [spec]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        };
        let row = Stored::new(
            ProjectId::new(""),
            Some(CONSISTENCY_GROUP_TYPE.to_owned()),
            Visibility::Public.as_str(),
            body,
            self.clock.now(),
        );
        self.db.write(|c| -> Result<(), DbError> {
            db::lock(c, GroupType::KIND)?;
            match records::named::<GroupType>(c, CONSISTENCY_GROUP_TYPE)? {
                Some(_) => Ok(()),
                None => Ok(records::insert(c, &row)?),
            }
        })
    }

    /// The volume type used when none is asked for.
    pub fn default_type(&self) -> Result<VolumeType, CatalogError> {
        self.db.read(default_type)
    }

    /// The volume, whosever it is.
    pub fn volume(&self, id: &VolumeId) -> Result<Option<Volume>, CatalogError> {
        Ok(self.db.read(|c| volumes::find(c, id))?)
    }

    /// The snapshot, whosever it is.
    pub fn snapshot(&self, id: &SnapshotId) -> Result<Option<Snapshot>, CatalogError> {
        Ok(self.db.read(|c| snapshots::find(c, id))?)
    }

    /// Size and free space of the volumes' file system, GiB.
    pub fn space_gib(&self) -> (u64, u64) {
        match rustix::fs::statvfs(&self.dir) {
            Ok(space) => (
                space.f_blocks * space.f_frsize / GIB,
                space.f_bavail * space.f_frsize / GIB,
            ),
            Err(_) => (0, 0),
        }
    }

    /// Where a volume's bytes are.
    pub fn volume_path(&self, id: &VolumeId) -> PathBuf {
        self.dir.join(format!("volume-{id}.raw"))
    }

    /// Where a snapshot's bytes are.
    pub fn snapshot_path(&self, id: &SnapshotId) -> PathBuf {
        self.dir.join(format!("snapshot-{id}.raw"))
    }

    fn temporary_path(&self, job: &JobId) -> PathBuf {
        self.dir.join(format!("temporary-{job}.raw"))
    }

    /// Holds the volume, or the snapshot if one is named, for a backup, inside a transaction of the caller's.
    /// Repeatable; nothing happens if the job has let go already.
    pub fn hold_source(
        &self,
        c: &mut DbConnection,
        lease: &Lease,
        volume: &VolumeId,
        snapshot: Option<&SnapshotId>,
        force: bool,
    ) -> Result<Hold, CatalogError> {
        let now = self.clock.now();
        if let Some(id) = snapshot {
            return hold_snapshot(c, id, lease, now);
        }
        let from: &[VolumeStatus] = if force {
            &[VolumeStatus::Available, VolumeStatus::InUse]
        } else {
            &[VolumeStatus::Available]
        };
        let hold = hold_volume(c, volume, from, VolumeStatus::BackingUp, lease, now)?;
        let row = volumes::find(c, volume)?;
        let is_in_use = row.is_some_and(|row| row.previous_status == Some(VolumeStatus::InUse));
        Ok(match hold {
            Hold::Held { could_change } => Hold::Held {
                could_change: could_change || is_in_use,
            },
            Hold::Ended => Hold::Ended,
        })
    }

    /// Refuses a volume or snapshot, which is held, that has gone over to another project since it was looked at.
    pub fn check_owner(
        &self,
        c: &mut DbConnection,
        volume: &SourceVolume,
        snapshot: Option<&SourceSnapshot>,
    ) -> Result<(), CatalogError> {
        let now = volumes::find(c, &volume.id)?.map(|row| row.project_id);
        if now.as_ref() != Some(&volume.project_id) {
            return Err(CatalogError::NoVolume);
        }
        let Some(snapshot) = snapshot else {
            return Ok(());
        };
        let now = snapshots::find(c, &snapshot.id)?.map(|row| row.project_id);
        if now.as_ref() == Some(&snapshot.project_id) {
            Ok(())
        } else {
            Err(CatalogError::NoSnapshot)
        }
    }

    /// Whether an earlier run of the job has made a copy of the volume, which it is read from.
    pub fn has_copy(&self, job: &JobId, volume: &VolumeId) -> Result<bool, CatalogError> {
        let is_tracked = self.tracks_changes
            && tracking::clones(&self.dir, volume)?
                .iter()
                .any(|clone| clone.job() == *job);
        Ok(is_tracked || self.temporary_path(job).exists())
    }

    /// Opens what a held volume or snapshot contains, up to its size, at one moment; with what changed since an
    /// earlier backup, given by its change id, where that can be told. On file systems without
    /// reflinks a volume that is in use is copied first, which takes a while, and writes during it
    /// may tear.
    pub fn open_source(
        &self,
        lease: &Lease,
        volume: &VolumeId,
        snapshot: Option<&SnapshotId>,
        size_gib: i64,
        since: Option<&str>,
        progress: &Progress,
    ) -> Result<Source, CatalogError> {
        let (job, length) = (&lease.job_id, length(volume, size_gib)?);
        let open = |path: &Path| VolumeReader::open(path)?.limited(length);
        let content = match snapshot {
            Some(id) => self.snapshot_path(id),
            None => self.volume_path(volume),
        };
        if self.tracks_changes
            && let Some(kept) = tracking::keep(&self.dir, volume, job, &content)?
        {
            let changes = match since {
                Some(since) => tracking::changes_since(&self.dir, volume, since, &kept)?,
                None => None,
            };
            return Ok(Source {
                reader: open(&kept.path)?,
                change_id: Some(kept.change_id),
                changes,
            });
        }
        let row = self.volume(volume)?.ok_or(CatalogError::NoVolume)?;
        let temporary = self.temporary_path(job);
        // A copy that an earlier run has begun to read is read again, whatever state the volume is in by now.
        if !temporary.exists() {
            if snapshot.is_some() || row.previous_status != Some(VolumeStatus::InUse) {
                return Ok(Source::untracked(open(&content)?));
            }
            self.copy((&content, &temporary), 0, lease, progress)?;
        }
        Ok(Source::untracked(open(&temporary)?))
    }

    /// The current content of a volume, if it is there; held or not, so it may change under the reader.
    pub fn open_volume(&self, volume: &VolumeId) -> Option<VolumeReader> {
        VolumeReader::open(&self.volume_path(volume)).ok()
    }

    /// The data that a restored volume will take over from this one.
    pub fn saved(&self, volume: &VolumeId) -> Result<SavedVolume, CatalogError> {
        let row = self.volume(volume)?;
        Ok(row.map_or_else(SavedVolume::default, |row| SavedVolume {
            name: row.name,
            description: row.description,
            bootable: row.bootable,
            metadata: row.metadata.into_inner(),
            ..SavedVolume::default()
        }))
    }

    /// Ends a backup's hold: the volume goes back to its state. Repeatable.
    pub fn end_backup(
        &self,
        lease: &Lease,
        volume: &VolumeId,
        snapshot: Option<&SnapshotId>,
        succeeded: bool,
    ) -> Result<(), CatalogError> {
        let now = self.clock.now();
        let sorted_out = self
            .remove_copy(lease)
            .and_then(|()| self.sort_out_clones(lease, volume, snapshot.is_some(), succeeded));
        // Go on if a file could not be removed: it only takes room, but a volume that stays held is useless to its
        // owner.
        if let Err(CatalogError::Volume(error)) = &sorted_out {
            tracing::warn!(volume.id = %volume, error = %chain(error), "a copy that was made for a backup was not removed");
        } else {
            sorted_out?;
        }
        self.db.write(|c| -> Result<(), DbError> {
            if let Some(id) = snapshot {
                return snapshots::release(c, id, lease, now);
            }
            db::lock(c, volume.as_str())?;
            let Some(row) = volumes::find(c, volume)? else {
                return Ok(());
            };
            // It may have been detached meanwhile.
            let is_attached = !volumes::attachments_of(c, vec![volume.clone()])?.is_empty();
            let back = match row.previous_status {
                Some(VolumeStatus::InUse) if is_attached => VolumeStatus::InUse,
                _ => VolumeStatus::Available,
            };
            let previous = if succeeded {
                VolumeStatus::BackingUp
            } else {
                VolumeStatus::ErrorBackingUp
            };
            volumes::release(c, volume, lease, back, previous, now)?;
            Ok(())
        })?;
        Ok(())
    }

    /// Removes the copy that a backup has read, unless a later run of its job reads it.
    fn remove_copy(&self, lease: &Lease) -> Result<(), CatalogError> {
        let job = self.db.read(|c| db::jobs::find(c, &lease.job_id))?;
        if job.is_none_or(|job| job.attempt == lease.attempt) {
            file::remove(&self.temporary_path(&lease.job_id))?;
        }
        Ok(())
    }

    /// Removes the clones that were kept for change tracking, except those of jobs that still run and the one just
    /// made. After the backup of a snapshot, which may be older than the last backup, the clone before it stays too.
    fn sort_out_clones(
        &self,
        lease: &Lease,
        volume: &VolumeId,
        of_snapshot: bool,
        succeeded: bool,
    ) -> Result<(), CatalogError> {
        let (ours, mut others): (Vec<_>, Vec<_>) = tracking::clones(&self.dir, volume)?
            .into_iter()
            .partition(|clone| clone.job() == lease.job_id);
        if !succeeded {
            let job = self.db.read(|c| db::jobs::find(c, &lease.job_id))?;
            // A worker that was overtaken must not remove the clone of its successor.
            others = if job.is_some_and(|job| job.attempt == lease.attempt) {
                ours
            } else {
                Vec::new()
            };
        } else if of_snapshot {
            others.pop();
        }
        for clone in others {
            let job = self.db.read(|c| db::jobs::find(c, &clone.job()))?;
            let is_done = job.is_none_or(|job| {
                let goes_on = matches!(job.state, JobState::Available | JobState::Running);
                !goes_on || job.id == lease.job_id
            });
            if is_done {
                file::remove(&clone.path)?;
            }
        }
        Ok(())
    }

    /// Makes a volume's file: empty, or from a snapshot or another volume. Repeatable.
    pub fn make_volume(
        &self,
        volume: &Volume,
        lease: &Lease,
        progress: &Progress,
    ) -> Result<(), CatalogError> {
        let path = self.volume_path(&volume.id);
        let length = length(&volume.id, volume.size_gib)?;
        let source = match (&volume.snapshot_id, &volume.source_volume_id) {
            (Some(snapshot), _) => Some(self.snapshot_path(snapshot)),
            (None, Some(source)) => Some(self.volume_path(source)),
            (None, None) => None,
        };
        match source {
            Some(source) => self.copy((&source, &path), length, lease, progress),
            None => Ok(file::create(&path, length)?),
        }
    }

    /// Removes a volume's file. Repeatable.
    pub fn remove_volume(&self, id: &VolumeId) -> Result<(), CatalogError> {
        for clone in tracking::clones(&self.dir, id)? {
            file::remove(&clone.path)?;
        }
        self.remove_targets(id, None)?;
        Ok(file::remove(&self.volume_path(id))?)
    }

    /// Makes a volume's file longer. Repeatable.
    pub fn extend_volume(&self, id: &VolumeId, size_gib: i64) -> Result<(), CatalogError> {
        let length = length(id, size_gib)?;
        Ok(file::extend(&self.volume_path(id), length)?)
    }

    /// Whether a snapshot's file is there, which is whole then.
    pub fn has_snapshot(&self, id: &SnapshotId) -> bool {
        self.snapshot_path(id).exists()
    }

    /// Makes a snapshot's file. Repeatable.
    pub fn make_snapshot(
        &self,
        snapshot: &Snapshot,
        lease: &Lease,
        progress: &Progress,
    ) -> Result<(), CatalogError> {
        let (from, to) = (
            self.volume_path(&snapshot.volume_id),
            self.snapshot_path(&snapshot.id),
        );
        self.copy((&from, &to), 0, lease, progress)
    }

    /// Removes a snapshot's file. Repeatable.
    pub fn remove_snapshot(&self, id: &SnapshotId) -> Result<(), CatalogError> {
        Ok(file::remove(&self.snapshot_path(id))?)
    }
}

/// The bytes of a volume; an error that names it if it can have no such size.
fn length(volume: &VolumeId, size_gib: i64) -> Result<u64, CatalogError> {
    bytes_of(size_gib).map_err(|source| CatalogError::Size {
        volume: volume.clone(),
        source,
    })
}

fn default_type(c: &mut DbConnection) -> Result<VolumeType, CatalogError> {
    let found = volumes::find_type(c, DEFAULT_TYPE_NAME)?;
    found.ok_or_else(|| CatalogError::Refused(Error::internal("the default volume type is gone")))
}

/// Holds a volume for a lease: from a state in which it is free, or from an earlier run of the same job. If another
/// transaction was faster, the row is read again, so that a refusal names the state that caused it. A volume that was
/// free could change until now.
fn hold_volume(
    connection: &mut db::DbConnection,
    volume: &VolumeId,
    free: &[VolumeStatus],
    to: VolumeStatus,
    lease: &Lease,
    now: Timestamp,
) -> Result<Hold, CatalogError> {
    let holder = lease.holder();
    // Not while an attachment is being made or ended.
    db::lock(connection, volume.as_str())?;
    loop {
        let row = volumes::find(connection, volume)?;
        let row = row.ok_or(CatalogError::NoVolume)?;
        if row.released_by.as_ref() == Some(&lease.job_id) {
            return Ok(Hold::Ended);
        }
        let is_ours = row.reserved_by.is_some_and(|holder| lease.follows(&holder));
        if !is_ours && !free.contains(&row.status) {
            return Err(CatalogError::VolumeState(row.status));
        }
        let held = if is_ours {
            volumes::hand_over(connection, volume, &holder)
        } else {
            volumes::transition(connection, volume, free, to, Some(&holder), now)
        };
        if held? {
            return Ok(Hold::Held {
                could_change: !is_ours,
            });
        }
    }
}

/// The same for a snapshot, which is free when it is available. Its bytes never change.
fn hold_snapshot(
    connection: &mut db::DbConnection,
    snapshot: &SnapshotId,
    lease: &Lease,
    now: Timestamp,
) -> Result<Hold, CatalogError> {
    let holder = lease.holder();
    loop {
        let row = snapshots::find(connection, snapshot)?;
        let row = row.ok_or(CatalogError::NoSnapshot)?;
        if row.released_by.as_ref() == Some(&lease.job_id) {
            return Ok(Hold::Ended);
        }
        let is_ours = row.reserved_by.is_some_and(|holder| lease.follows(&holder));
        let from = match (is_ours, row.status) {
            (true, status) => status,
            (false, SnapshotStatus::Available) => SnapshotStatus::Available,
            (false, status) => return Err(CatalogError::SnapshotState(status.to_string())),
        };
        let to = SnapshotStatus::BackingUp;
        let held = snapshots::transition(connection, snapshot, &[from], to, Some(&holder), now);
        if held? {
            return Ok(Hold::Held {
                could_change: false,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, DataDir};

    #[test]
    fn a_size_that_no_volume_has_is_refused_and_the_volume_named() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            data_dir: DataDir(dir.path().to_owned()),
            ..Config::default()
        };
        let db = Db::open(&config.database_url()).unwrap();
        let catalog = Standalone::open(db, Clock::System, &config).unwrap();
        let (lease, id) = (Lease::unclaimed(&JobId::random()), VolumeId::random());
        file::create(&catalog.volume_path(&id), GIB).unwrap();
        for size in [-1, i64::MIN, i64::MAX] {
            let progress = Progress::default();
            let opened = catalog.open_source(&lease, &id, None, size, None, &progress);
            let opened = opened.map(drop);
            for refused in [opened, catalog.extend_volume(&id, size)] {
                let error = refused.unwrap_err();
                assert!(matches!(error, CatalogError::Size { .. }), "{error:?}");
                let said = chain(&error);
                assert!(said.contains(id.as_str()) && said.contains(&size.to_string()));
            }
        }
    }
}
