//! Restores (Cinder reference, 3.7).

use crate::admission::{Admission, Asker};
use crate::db;
use crate::model::backup::BackupEvent;
use crate::model::error::Error;
use crate::model::id::{BackupId, VolumeId};
use crate::model::job::{JobArgs, RestoreTarget};
use crate::model::volume::SourceVolume;
use crate::volume::catalog::{CatalogError, Hold};

impl Admission {
    /// Accepts a restore of a backup: to an existing volume as it was looked at, or to one that is made for it.
    pub fn restore_backup(
        &self,
        asker: &Asker<'_>,
        id: &BackupId,
        target: &RestoreTarget,
        existing: Option<&SourceVolume>,
    ) -> Result<(), Error> {
        let args = JobArgs::RestoreBackup {
            backup_id: id.clone(),
            target: target.clone(),
        };
        let now = self.clock.now();
        self.admit(asker, args, |c, lease| {
            if !db::backups::transition(c, id, BackupEvent::RestoreRequested, now)? {
                return Err(Error::invalid("backup", "Backup status must be available"));
            }
            self.catalog
                .hold_target(c, lease, target)
                .and_then(Hold::could_change)
                .and_then(|_| match existing {
                    Some(volume) => self.catalog.check_owner(c, volume, None),
                    None => Ok(()),
                })
                .map_err(|error| refused_target(error, &target.volume_id))?;
            Ok(db::backups::set_restore_volume(c, id, &target.volume_id)?)
        })
    }
}

/// The answer for a target that is, or has just become, in another state.
pub fn target_not_available() -> Error {
    Error::invalid("volume", "Volume to be restored to must be available")
}

fn refused_target(error: CatalogError, volume: &VolumeId) -> Error {
    match error {
        CatalogError::NoVolume => Error::not_found("Volume", volume),
        CatalogError::VolumeState(_) | CatalogError::BeingCopied => target_not_available(),
        other => other.into(),
    }
}
