//! The catalogue of standalone mode: rows in our database, sparse raw files in a directory.

use crate::clock::Clock;
use crate::config;
use crate::db::{self, Db, DbConnection, DbError};
use crate::model::column::Json;
use crate::model::error::{Error, chain};
use crate::model::id::{JobId, SnapshotId, VolumeId, VolumeTypeId};
use crate::model::job::{JobState, Lease, RestoreTarget, RestoreVolume};
use crate::model::snapshot::{Snapshot, SnapshotStatus};
use crate::model::time::Timestamp;
use crate::model::volume::{
    DEFAULT_TYPE_NAME, GIB, RestoredFrom, SavedVolume, Volume, VolumeStatus, VolumeType,
};
use crate::volume::VolumeError;
use crate::volume::catalog::CatalogError;
use crate::volume::catalog::quota::Demand;
use crate::volume::file::{self, VolumeWriter};
use crate::volume::{Source, VolumeReader, tracking};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Names that a restore gave, and so may take away again (Cinder reference, 5.3).
const RESTORE_NAME_PREFIX: &str = "restore_backup_";
/// Metadata key that names the backup a volume came from.
const SOURCE_BACKUP_KEY: &str = "src_backup_id";

/// Our own volumes. Cheap to clone.
#[derive(Clone)]
pub struct Catalog {
    pub(super) db: Db,
    pub(super) clock: Clock,
    dir: PathBuf,
    tracks_changes: bool,
    pub availability_zone: String,
    pub(super) quota: config::Quota,
}

impl Catalog {
    /// Opens the catalogue; makes its directory and the default volume type if need be.
    pub fn open(db: Db, clock: Clock, config: &config::Config) -> Result<Self, CatalogError> {
        let dir = config.volumes_dir();
        let made = std::fs::create_dir_all(&dir).and_then(|()| dir.canonicalize());
        let dir = made.map_err(|source| VolumeError {
            path: dir.clone(),
            action: "create",
            source,
        })?;
        let catalog = Self {
            db,
            clock,
            dir,
            tracks_changes: config.volumes.change_tracking,
            availability_zone: config.volumes.availability_zone.clone(),
            quota: config.quota.clone(),
        };
        catalog.ensure_default_type()?;
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
            match db::volumes::find_type(c, DEFAULT_TYPE_NAME)? {
                Some(_) => Ok(()),
                None => db::volumes::insert_type(c, &row),
            }
            .map_err(DbError::from)
        })
    }

    /// The volume type used when none is asked for.
    pub fn default_type(&self) -> Result<VolumeType, CatalogError> {
        self.db.read(default_type)
    }

    /// The volume, whosever it is.
    pub fn volume(&self, id: &VolumeId) -> Result<Option<Volume>, CatalogError> {
        Ok(self
            .db
            .read(|c| db::volumes::find(c, id).map_err(DbError::from))?)
    }

    /// The snapshot, whosever it is.
    pub fn snapshot(&self, id: &SnapshotId) -> Result<Option<Snapshot>, CatalogError> {
        Ok(self
            .db
            .read(|c| db::snapshots::find(c, id).map_err(DbError::from))?)
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

    /// Holds the volume, or the snapshot if one is named, for a backup. Repeatable; nothing happens
    /// if the job has let go already.
    pub fn begin_backup(
        &self,
        lease: &Lease,
        volume: &VolumeId,
        snapshot: Option<&SnapshotId>,
        force: bool,
    ) -> Result<(), CatalogError> {
        self.db
            .write(|c| self.hold_source(c, lease, volume, snapshot, force))
    }

    /// The same inside a transaction of the caller's, so that a request is accepted or refused as a whole.
    pub fn hold_source(
        &self,
        c: &mut DbConnection,
        lease: &Lease,
        volume: &VolumeId,
        snapshot: Option<&SnapshotId>,
        force: bool,
    ) -> Result<(), CatalogError> {
        let now = self.clock.now();
        if let Some(id) = snapshot {
            return hold_snapshot(c, id, lease, now);
        }
        let from: &[VolumeStatus] = if force {
            &[VolumeStatus::Available, VolumeStatus::InUse]
        } else {
            &[VolumeStatus::Available]
        };
        hold_volume(c, volume, from, VolumeStatus::BackingUp, lease, now)
    }

    /// Opens what a held volume or snapshot contains, up to its size, at one moment; with what changed since an
    /// earlier backup, given by its change id, where that can be told. On file systems without
    /// reflinks a volume that is in use is copied first, which takes a while, and writes during it
    /// may tear.
    pub fn open_source(
        &self,
        job: &JobId,
        volume: &VolumeId,
        snapshot: Option<&SnapshotId>,
        size_gib: i64,
        since: Option<&str>,
    ) -> Result<Source, CatalogError> {
        let length = u64::try_from(size_gib).unwrap_or(0) * GIB;
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
        if snapshot.is_some() || row.previous_status != Some(VolumeStatus::InUse) {
            return Ok(Source::untracked(open(&content)?));
        }
        let temporary = self.temporary_path(job);
        if !temporary.exists() {
            file::clone(&content, &temporary, 0)?;
        }
        Ok(Source::untracked(open(&temporary)?))
    }

    /// What a volume holds now, if it is there; held or not, so it may change under the reader.
    pub fn open_volume(&self, volume: &VolumeId) -> Option<VolumeReader> {
        VolumeReader::open(&self.volume_path(volume)).ok()
    }

    /// What a restored volume will take over from this one.
    pub fn saved(&self, volume: &VolumeId) -> Result<SavedVolume, CatalogError> {
        let row = self.volume(volume)?;
        Ok(row.map_or_else(SavedVolume::default, |row| SavedVolume {
            name: row.name,
            description: row.description,
            bootable: row.bootable,
            metadata: row.metadata.into_inner(),
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
        let removed = file::remove(&self.temporary_path(&lease.job_id)).map_err(CatalogError::from);
        let sorted_out =
            removed.and(self.sort_out_clones(lease, volume, snapshot.is_some(), succeeded));
        // Files that stay take room; a volume that stays held is lost to its owner.
        if let Err(CatalogError::Volume(error)) = &sorted_out {
            tracing::warn!(volume.id = %volume, error = %chain(error), "a copy made for a backup was not removed");
        } else {
            sorted_out?;
        }
        self.db.write(|c| -> Result<(), DbError> {
            if let Some(id) = snapshot {
                return Ok(db::snapshots::release(c, id, lease, now)?);
            }
            let Some(row) = db::volumes::find(c, volume)? else {
                return Ok(());
            };
            // Whoever had it in use may have let go meanwhile.
            let is_attached = !db::volumes::attachments_of(c, vec![volume.clone()])?.is_empty();
            let back = match row.previous_status {
                Some(VolumeStatus::InUse) if is_attached => VolumeStatus::InUse,
                _ => VolumeStatus::Available,
            };
            let previous = match succeeded {
                true => VolumeStatus::BackingUp,
                false => VolumeStatus::ErrorBackingUp,
            };
            db::volumes::release(c, volume, lease, back, previous, now)?;
            Ok(())
        })?;
        Ok(())
    }

    /// Of the clones kept for change tracking, those of jobs that still run stay, and of the others
    /// the one just made. After the backup of a snapshot, which may be older than the last backup,
    /// the one before it stays too.
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
            let job = self
                .db
                .read(|c| db::jobs::find(c, &lease.job_id).map_err(DbError::from))?;
            // A worker that was overtaken must not take the clone of its successor.
            others = match job.is_some_and(|job| job.attempt == lease.attempt) {
                true => ours,
                false => Vec::new(),
            };
        } else if of_snapshot {
            others.pop();
        }
        for clone in others {
            let job = self
                .db
                .read(|c| db::jobs::find(c, &clone.job()).map_err(DbError::from))?;
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

    /// Holds the target of a restore: an existing volume, or one that is made for it. Repeatable; nothing
    /// happens if the job has let go already.
    pub fn begin_restore(&self, lease: &Lease, target: &RestoreTarget) -> Result<(), CatalogError> {
        self.db.write(|c| self.hold_target(c, lease, target))
    }

    /// The same inside a transaction of the caller's, so that a request is accepted or refused as a whole.
    pub fn hold_target(
        &self,
        c: &mut DbConnection,
        lease: &Lease,
        target: &RestoreTarget,
    ) -> Result<(), CatalogError> {
        match &target.create {
            Some(wanted) => self.create_target(c, lease, &target.volume_id, wanted),
            None => self.hold_existing_target(c, lease, &target.volume_id),
        }
    }

    fn create_target(
        &self,
        c: &mut DbConnection,
        lease: &Lease,
        id: &VolumeId,
        wanted: &RestoreVolume,
    ) -> Result<(), CatalogError> {
        let volume_type = default_type(c)?;
        let now = self.clock.now();
        let row = Volume {
            id: id.clone(),
            project_id: wanted.project_id.clone(),
            user_id: wanted.user_id.clone(),
            name: Some(wanted.name.clone()),
            description: Some("auto-created_from_restore_from_backup".to_owned()),
            size_gib: wanted.size_gib,
            status: VolumeStatus::RestoringBackup,
            previous_status: Some(VolumeStatus::Creating),
            volume_type_id: volume_type.id,
            bootable: false,
            readonly: None,
            snapshot_id: None,
            source_volume_id: None,
            availability_zone: self.availability_zone.clone(),
            metadata: Json::default(),
            reserved_by: Some(lease.holder()),
            released_by: None,
            group_id: None,
            multiattach: false,
            image_metadata: Json::default(),
            created_at: now,
            updated_at: None,
        };
        if db::volumes::find(c, id).map_err(DbError::from)?.is_some() {
            let to = VolumeStatus::RestoringBackup;
            return hold_volume(c, id, &[], to, lease, now);
        }
        db::lock_project(c, &wanted.project_id).map_err(DbError::from)?;
        let demand = Demand::volume(row.size_gib, &row.volume_type_id);
        self.check_quota(c, &wanted.project_id, &demand, false)
            .map_err(CatalogError::Refused)?;
        Ok(db::volumes::insert(c, &row).map_err(DbError::from)?)
    }

    fn hold_existing_target(
        &self,
        c: &mut DbConnection,
        lease: &Lease,
        volume: &VolumeId,
    ) -> Result<(), CatalogError> {
        let now = self.clock.now();
        let (from, to) = ([VolumeStatus::Available], VolumeStatus::RestoringBackup);
        db::lock(c, volume.as_str()).map_err(DbError::from)?;
        if db::volumes::is_being_copied(c, volume).map_err(DbError::from)? {
            return Err(CatalogError::BeingCopied);
        }
        hold_volume(c, volume, &from, to, lease, now)
    }

    /// The file of a volume that a run of a restore makes. It is that run's alone until it is whole and takes
    /// the volume's name. So a run that was halted and overtaken, however late it wakes, can neither write nor
    /// empty a volume that its successor has made.
    fn target_path(&self, lease: &Lease, volume: &VolumeId) -> PathBuf {
        let (job, attempt) = (&lease.job_id, lease.attempt);
        self.dir
            .join(format!("restoring-{volume}-{job}-{attempt}.raw"))
    }

    /// Opens a held target; makes a file if the restore is to make the volume: of the volume's size, or of as
    /// many bytes as the backup has, where an earlier version took more than its size. An error if the data
    /// does not fit on the disk.
    pub fn open_target(
        &self,
        lease: &Lease,
        volume: &VolumeId,
        bytes: u64,
        data_bytes: u64,
    ) -> Result<VolumeWriter, CatalogError> {
        let row = self.volume(volume)?.ok_or(CatalogError::NoVolume)?;
        let mut path = self.volume_path(volume);
        if row.previous_status != Some(VolumeStatus::Creating) {
            // A volume that an earlier restore could not make has none.
            file::create_new(&path, row.size_bytes())?;
        } else if !path.exists() {
            self.remove_targets(volume, Some(lease))?;
            path = self.target_path(lease, volume);
            file::create(&path, row.size_bytes().max(bytes))?;
        }
        let writer = VolumeWriter::open(&path)?;
        writer.check_room(data_bytes)?;
        Ok(writer)
    }

    /// Gives a file that this run has made and filled the volume's name, unless another run was first: then
    /// that one's is as good. Nothing else ever gives a volume that a restore makes its file.
    pub fn finish_target(&self, lease: &Lease, volume: &VolumeId) -> Result<(), CatalogError> {
        file::publish(&self.target_path(lease, volume), &self.volume_path(volume))?;
        file::remove(&self.target_path(lease, volume))?;
        self.remove_targets(volume, Some(lease))
    }

    /// Gives back what this run has taken of the disk for a volume that it was to make and could not.
    pub fn give_target_back(&self, lease: &Lease, volume: &VolumeId) -> Result<(), CatalogError> {
        Ok(file::remove(&self.target_path(lease, volume))?)
    }

    /// Removes the files that runs of restores have left of a volume: all, or those of earlier runs of a job.
    fn remove_targets(
        &self,
        volume: &VolumeId,
        before: Option<&Lease>,
    ) -> Result<(), CatalogError> {
        let listed = std::fs::read_dir(&self.dir).map_err(|source| VolumeError {
            path: self.dir.clone(),
            action: "list",
            source,
        })?;
        let prefix = format!("restoring-{volume}-");
        for entry in listed.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(run) = name.strip_prefix(&prefix) else {
                continue;
            };
            let is_earlier = |lease: &Lease| {
                let attempt = run
                    .strip_prefix(&format!("{}-", lease.job_id))
                    .and_then(|rest| rest.strip_suffix(".raw")?.parse::<i32>().ok());
                attempt.is_some_and(|attempt| attempt < lease.attempt)
            };
            if before.is_none_or(is_earlier) {
                file::remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Ends a restore's hold on its target: with the saved metadata, or in `error_restoring`.
    /// Repeatable.
    pub fn end_restore(
        &self,
        lease: &Lease,
        volume: &VolumeId,
        result: Result<&RestoredFrom, ()>,
    ) -> Result<(), CatalogError> {
        let now = self.clock.now();
        self.db.write(|c| -> Result<(), DbError> {
            let Some(row) = db::volumes::find(c, volume)? else {
                return Ok(());
            };
            let to = match result {
                Ok(_) => VolumeStatus::Available,
                Err(()) => VolumeStatus::ErrorRestoring,
            };
            let released =
                db::volumes::release(c, volume, lease, to, VolumeStatus::RestoringBackup, now)?;
            if let (true, Ok(restored)) = (released, result) {
                db::volumes::update(c, volume, &taken_over(&row, restored), now)?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Makes a volume's file: empty, or from a snapshot or another volume. Repeatable.
    pub fn make_volume(&self, volume: &Volume) -> Result<(), CatalogError> {
        let path = self.volume_path(&volume.id);
        let source = match (&volume.snapshot_id, &volume.source_volume_id) {
            (Some(snapshot), _) => Some(self.snapshot_path(snapshot)),
            (None, Some(source)) => Some(self.volume_path(source)),
            (None, None) => None,
        };
        match source {
            // A copy appears only when it is whole.
            Some(_) if path.exists() => {}
            Some(source) => file::clone(&source, &path, volume.size_bytes())?,
            None => file::create(&path, volume.size_bytes())?,
        }
        Ok(())
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
        let length = u64::try_from(size_gib).unwrap_or(0) * GIB;
        Ok(file::extend(&self.volume_path(id), length)?)
    }

    /// Makes a snapshot's file. Repeatable.
    pub fn make_snapshot(&self, snapshot: &Snapshot) -> Result<(), CatalogError> {
        let path = self.snapshot_path(&snapshot.id);
        if !path.exists() {
            file::clone(&self.volume_path(&snapshot.volume_id), &path, 0)?;
        }
        Ok(())
    }

    /// Removes a snapshot's file. Repeatable.
    pub fn remove_snapshot(&self, id: &SnapshotId) -> Result<(), CatalogError> {
        Ok(file::remove(&self.snapshot_path(id))?)
    }
}

fn default_type(c: &mut DbConnection) -> Result<VolumeType, CatalogError> {
    let found = db::volumes::find_type(c, DEFAULT_TYPE_NAME).map_err(DbError::from)?;
    found.ok_or_else(|| CatalogError::Refused(Error::internal("the default volume type is gone")))
}

/// Moves a volume into a state that the lease holds: from states in which it is free, or from an
/// earlier run of the same job. Where another transaction was faster, its result is looked at
/// again, so that a refusal names the state that caused it.
fn hold_volume(
    connection: &mut db::DbConnection,
    volume: &VolumeId,
    free: &[VolumeStatus],
    to: VolumeStatus,
    lease: &Lease,
    now: Timestamp,
) -> Result<(), CatalogError> {
    let holder = lease.holder();
    loop {
        let row = db::volumes::find(connection, volume).map_err(DbError::from)?;
        let row = row.ok_or(CatalogError::NoVolume)?;
        if row.released_by.as_ref() == Some(&lease.job_id) {
            return Ok(());
        }
        let is_ours = row.reserved_by.is_some_and(|holder| lease.follows(&holder));
        if !is_ours && !free.contains(&row.status) {
            return Err(CatalogError::VolumeState(row.status));
        }
        let held = match is_ours {
            true => db::volumes::hand_over(connection, volume, &holder),
            false => db::volumes::transition(connection, volume, free, to, Some(&holder), now),
        };
        if held.map_err(DbError::from)? {
            return Ok(());
        }
    }
}

/// The same for a snapshot, which is free when it is available.
fn hold_snapshot(
    connection: &mut db::DbConnection,
    snapshot: &SnapshotId,
    lease: &Lease,
    now: Timestamp,
) -> Result<(), CatalogError> {
    let holder = lease.holder();
    loop {
        let row = db::snapshots::find(connection, snapshot).map_err(DbError::from)?;
        let row = row.ok_or(CatalogError::NoSnapshot)?;
        if row.released_by.as_ref() == Some(&lease.job_id) {
            return Ok(());
        }
        let is_ours = row.reserved_by.is_some_and(|holder| lease.follows(&holder));
        let from = match (is_ours, row.status) {
            (true, status) => status,
            (false, SnapshotStatus::Available) => SnapshotStatus::Available,
            (false, status) => return Err(CatalogError::SnapshotState(status.to_string())),
        };
        let to = SnapshotStatus::BackingUp;
        let held = db::snapshots::transition(connection, snapshot, &[from], to, Some(&holder), now);
        if held.map_err(DbError::from)? {
            return Ok(());
        }
    }
}

/// What a target becomes after its restore (Cinder reference, 5.3).
fn taken_over(target: &Volume, restored: &RestoredFrom) -> db::volumes::Changes {
    let saved = &restored.saved;
    let name = target.name.as_deref().unwrap_or_default();
    let takes_name = (name.is_empty() || name.starts_with(RESTORE_NAME_PREFIX))
        && saved.name.as_deref().is_some_and(|name| !name.is_empty());
    let mut metadata: BTreeMap<String, String> = saved.metadata.clone();
    if target.id != restored.source_volume_id || metadata.contains_key(SOURCE_BACKUP_KEY) {
        metadata.insert(SOURCE_BACKUP_KEY.to_owned(), restored.backup_id.to_string());
    }
    db::volumes::Changes {
        name: takes_name.then(|| saved.name.clone()),
        description: takes_name.then(|| saved.description.clone()),
        metadata: Some(metadata),
        bootable: (saved.bootable && !target.bootable).then_some(true),
        ..db::volumes::Changes::default()
    }
}
