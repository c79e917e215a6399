//! The volume that a restore writes to: held or made, given back, or removed.

use crate::db::standalone::volumes;
use crate::db::{self, DbConnection, DbError};
use crate::model::column::Json;
use crate::model::id::VolumeId;
use crate::model::job::{Lease, RestoreTarget, RestoreVolume};
use crate::model::standalone::volume::Volume;
use crate::model::volume::{RestoredFrom, VolumeStatus};
use crate::volume::catalog::standalone::demand::Demand;
use crate::volume::catalog::standalone::{Standalone, default_type, hold_volume, length};
use crate::volume::catalog::{CatalogError, Hold};
use crate::volume::file::{self, FileWriter};
use crate::volume::{VolumeError, VolumeWriter};
use std::path::PathBuf;

impl Standalone {
    /// Takes over the target that the request holds. Repeatable.
    pub fn begin_restore(
        &self,
        lease: &Lease,
        target: &RestoreTarget,
    ) -> Result<Hold, CatalogError> {
        let (id, to) = (&target.volume_id, VolumeStatus::RestoringBackup);
        let now = self.clock.now();
        // In whatever state the volume is, it does not belong to the job any more, and its owner may have written to
        // it.
        match self.db.write(|c| hold_volume(c, id, &[], to, lease, now)) {
            Err(CatalogError::VolumeState(_)) => Ok(Hold::Ended),
            hold => hold,
        }
    }

    /// Holds the target of a restore, an existing volume or one that is made for it, inside a transaction of the
    /// caller's, so that a request is accepted or refused as a whole.
    pub fn hold_target(
        &self,
        c: &mut DbConnection,
        lease: &Lease,
        target: &RestoreTarget,
    ) -> Result<Hold, CatalogError> {
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
    ) -> Result<Hold, CatalogError> {
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
        db::lock_project(c, &wanted.project_id)?;
        let demand = Demand::volume(row.size_gib, &row.volume_type_id);
        self.check_quota(c, &wanted.project_id, &demand, false)
            .map_err(CatalogError::Refused)?;
        volumes::insert(c, &row)?;
        Ok(Hold::Held { could_change: true })
    }

    fn hold_existing_target(
        &self,
        c: &mut DbConnection,
        lease: &Lease,
        volume: &VolumeId,
    ) -> Result<Hold, CatalogError> {
        let now = self.clock.now();
        let (from, to) = ([VolumeStatus::Available], VolumeStatus::RestoringBackup);
        db::lock(c, volume.as_str())?;
        if volumes::is_being_copied(c, volume)? {
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
        let length = length(volume, row.size_gib)?;
        let mut path = self.volume_path(volume);
        if row.previous_status != Some(VolumeStatus::Creating) {
            // A volume that an earlier restore could not make has none.
            file::create(&path, length)?;
        } else if !path.exists() {
            self.remove_targets(volume, Some(lease))?;
            path = self.target_path(lease, volume);
            file::create(&path, length.max(bytes))?;
        }
        let writer = FileWriter::open(&path)?;
        writer.check_room(data_bytes)?;
        Ok(VolumeWriter::File(writer))
    }

    /// Gives a file that this run has made and filled the volume's name, unless another run was first: then
    /// that one's is as good. Nothing else ever gives a volume that a restore makes its file.
    pub fn finish_target(&self, lease: &Lease, volume: &VolumeId) -> Result<(), CatalogError> {
        file::publish(&self.target_path(lease, volume), &self.volume_path(volume))?;
        file::remove(&self.target_path(lease, volume))?;
        self.remove_targets(volume, Some(lease))
    }

    /// Frees the disk space that this run has taken for a volume that it could not make.
    pub fn give_target_back(&self, lease: &Lease, volume: &VolumeId) -> Result<(), CatalogError> {
        Ok(file::remove(&self.target_path(lease, volume))?)
    }

    /// Removes the files that runs of restores have left of a volume: all, or those of earlier runs of a job.
    pub(super) fn remove_targets(
        &self,
        volume: &VolumeId,
        before: Option<&Lease>,
    ) -> Result<(), CatalogError> {
        let listed = std::fs::read_dir(&self.dir)
            .map_err(|source| VolumeError::of_file(&self.dir, "list", source))?;
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
            let Some(row) = volumes::find(c, volume)? else {
                return Ok(());
            };
            let to = match result {
                Ok(_) => VolumeStatus::Available,
                Err(()) => VolumeStatus::ErrorRestoring,
            };
            let released =
                volumes::release(c, volume, lease, to, VolumeStatus::RestoringBackup, now)?;
            if let (true, Ok(restored)) = (released, result) {
                volumes::update(c, volume, &changes(&row, restored), now)?;
            }
            Ok(())
        })?;
        Ok(())
    }
}

/// The fields of a target after its restore.
fn changes(target: &Volume, restored: &RestoredFrom) -> volumes::Changes {
    let taken = restored.taken_over(&target.id, target.name.as_deref(), target.bootable);
    let (name, description) = taken.naming.map_or((None, None), |(name, description)| {
        (Some(Some(name)), Some(description))
    });
    volumes::Changes {
        name,
        description,
        metadata: Some(taken.metadata),
        bootable: taken.becomes_bootable.then_some(true),
        ..volumes::Changes::default()
    }
}
