//! Backups of volumes and snapshots (Cinder reference, 3.1).

use crate::admission::{Admission, Asker};
use crate::db::{self, DbConnection};
use crate::model::backup::Backup;
use crate::model::description::Description;
use crate::model::error::Error;
use crate::model::id::{BackupId, SnapshotId, VolumeId};
use crate::model::job::{BackupSource, JobArgs};
use crate::model::metadata::Metadata;
use crate::model::snapshot::{SnapshotStatus, SourceSnapshot};
use crate::model::time::Timestamp;
use crate::model::volume::{SavedVolume, SourceVolume, VolumeStatus};
use crate::volume::catalog::{CatalogError, Hold};

/// A request for a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateBackup {
    pub volume_id: VolumeId,
    pub snapshot_id: Option<SnapshotId>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub container: Option<String>,
    pub availability_zone: Option<String>,
    pub metadata: Metadata,
    pub incremental: bool,
    pub force: bool,
}

impl Admission {
    /// Accepts a backup of this volume, or of this snapshot of it.
    pub fn create_backup(
        &self,
        asker: &Asker<'_>,
        wanted: CreateBackup,
        volume: &SourceVolume,
        snapshot: Option<&SourceSnapshot>,
    ) -> Result<Backup, Error> {
        if let Some(why) = &volume.unsupported {
            return Err(Error::invalid("volume", why));
        }
        match snapshot {
            Some(snapshot) => check_snapshot(snapshot)?,
            None => check_volume(volume, wanted.force)?,
        }
        let taken_at = snapshot.map(|snapshot| snapshot.data_timestamp);
        let CreateBackup {
            volume_id,
            snapshot_id,
            name,
            description,
            container,
            availability_zone,
            metadata,
            incremental,
            force,
        } = wanted;
        let described = Description {
            id: BackupId::random(),
            project_id: asker.project_id.clone(),
            user_id: asker.user_id.clone(),
            volume_id: volume_id.clone(),
            snapshot_id: snapshot_id.clone(),
            // Chosen while other backups of the project wait.
            parent_id: None,
            name,
            description,
            metadata,
            size_gib: volume.size_gib,
            availability_zone,
            container,
            created_at: self.clock.now(),
            data_timestamp: None,
            volume: SavedVolume::default(),
        };
        let mut backup = Backup::new(described, self.default_storage.clone());
        let args = JobArgs::CreateBackup {
            backup_id: backup.id.clone(),
            source: BackupSource {
                volume_id: volume_id.clone(),
                snapshot_id: snapshot_id.clone(),
            },
            force,
        };
        self.admit(asker, args, |c, lease| {
            // Hold first: a backup of a source that is not free must not count against the quota. A refusal of either
            // undoes both.
            self.catalog
                .hold_source(c, lease, &volume_id, snapshot_id.as_ref(), force)
                .and_then(Hold::could_change)
                .and_then(|could_change| {
                    self.catalog.check_owner(c, volume, snapshot)?;
                    Ok(could_change)
                })
                .map_err(|error| refused_source(error, &volume_id))?;
            // The volume could change until it was held, and the hold may have waited for others.
            let held_at = self.clock.now();
            backup.created_at = held_at;
            backup.updated_at = Some(held_at);
            backup.data_timestamp = Some(taken_at.unwrap_or(held_at));
            self.check_quota(c, asker.project_id, backup.size_gib)?;
            if incremental {
                backup.parent_id = Some(parent_of(c, &backup, taken_at)?);
            }
            Ok(db::backups::insert(c, &backup)?)
        })?;
        Ok(backup)
    }
}

/// The backup against which an incremental one is made; that of a snapshot against one from before the snapshot.
fn parent_of(
    c: &mut DbConnection,
    backup: &Backup,
    taken_at: Option<Timestamp>,
) -> Result<BackupId, Error> {
    let parent = db::backups::parent_for(
        c,
        &backup.volume_id,
        &backup.project_id,
        &backup.storage_id,
        taken_at,
    )?;
    parent.map(|parent| parent.id).ok_or_else(|| {
        Error::invalid(
            "backup",
            "No backups available to do an incremental backup.",
        )
    })
}

fn check_snapshot(snapshot: &SourceSnapshot) -> Result<(), Error> {
    match snapshot.status {
        SnapshotStatus::Available => Ok(()),
        status => Err(Error::invalid(
            "snapshot",
            snapshot_message(status.as_str()),
        )),
    }
}

fn snapshot_message(status: &str) -> String {
    format!("Snapshot to be backed up must be available, but the current status is \"{status}\".")
}

fn check_volume(volume: &SourceVolume, force: bool) -> Result<(), Error> {
    match volume.status {
        VolumeStatus::Available => Ok(()),
        VolumeStatus::InUse if force => Ok(()),
        VolumeStatus::InUse => Err(Error::invalid(
            "volume",
            "Backing up an in-use volume must use the force flag.",
        )),
        status => Err(Error::invalid("volume", volume_message(status))),
    }
}

fn volume_message(status: VolumeStatus) -> String {
    format!(
        "Volume to be backed up must be available or in-use, but the current status is \"{status}\"."
    )
}

/// The answer to a request that came after another one: Cinder's, for the state the source is in now.
fn refused_source(error: CatalogError, volume: &VolumeId) -> Error {
    match error {
        CatalogError::NoVolume => Error::not_found("Volume", volume),
        CatalogError::VolumeState(status) => Error::invalid("volume", volume_message(status)),
        CatalogError::SnapshotState(status) => {
            Error::invalid("snapshot", snapshot_message(&status))
        }
        other => other.into(),
    }
}
