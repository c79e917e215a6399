//! Moving bytes in and out of a standalone volume by hand: an attachment while it lasts.
//!
//! The volume's file is locked meanwhile. A transfer that was killed leaves its attachment behind;
//! the next one finds the file unlocked and takes that attachment over.

use crate::db::standalone::volumes;
use crate::db::{self, DbError};
use crate::model::column::Json;
use crate::model::id::{AttachmentId, VolumeId};
use crate::model::standalone::attachment::Attachment;
use crate::model::volume::{AttachMode, AttachStatus, VolumeStatus};
use crate::volume::VolumeError;
use crate::volume::catalog::CatalogError;
use crate::volume::catalog::standalone::Standalone;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// How an attachment of ours is known.
const HOST: &str = "embervault volume";

/// A volume held for a transfer.
pub struct Transfer {
    catalog: Standalone,
    volume: VolumeId,
    attachment: AttachmentId,
    path: PathBuf,
    /// Locked until the end.
    _file: File,
}

impl Transfer {
    /// Where the bytes are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the volume back.
    pub fn end(self) -> Result<(), CatalogError> {
        let now = self.catalog.clock.now();
        self.catalog.db.write(|c| -> Result<(), DbError> {
            db::lock(c, self.volume.as_str())?;
            volumes::remove_attachment(c, &self.attachment)?;
            let from = [VolumeStatus::InUse];
            volumes::transition(c, &self.volume, &from, VolumeStatus::Available, None, now)?;
            Ok(())
        })?;
        Ok(())
    }
}

impl Standalone {
    /// The volume of this id; without one, all volumes of this name, of all projects.
    pub fn volumes_called(&self, id_or_name: &str) -> Result<Vec<VolumeId>, CatalogError> {
        let id = VolumeId::new(id_or_name);
        Ok(self.db.read(|c| match volumes::find(c, &id)? {
            Some(_) => Ok(vec![id]),
            None => volumes::named(c, id_or_name),
        })?)
    }

    /// Holds an available volume for a transfer.
    pub fn begin_transfer(
        &self,
        id: &VolumeId,
        mode: AttachMode,
    ) -> Result<Transfer, CatalogError> {
        let row = self.volume(id)?.ok_or(CatalogError::NoVolume)?;
        let path = self.volume_path(id);
        let busy = || CatalogError::VolumeState(row.status);
        let file =
            File::open(&path).map_err(|source| VolumeError::of_file(&path, "open", source))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(busy()),
            Err(TryLockError::Error(source)) => {
                return Err(VolumeError::of_file(&path, "lock", source).into());
            }
        }
        let now = self.clock.now();
        let attachment = Attachment {
            id: AttachmentId::random(),
            volume_id: id.clone(),
            project_id: row.project_id.clone(),
            instance_id: None,
            host: Some(HOST.to_owned()),
            mountpoint: None,
            mode,
            status: AttachStatus::Attached,
            connector: Some(Json::new(serde_json::json!({ "host": HOST }))),
            attached_at: Some(now),
            created_at: now,
        };
        let attachment_id = self.db.write(|c| {
            // A snapshot or copy that is asked for waits from now on, or is found below.
            db::lock(c, id.as_str())?;
            let known = volumes::attachments_of(c, vec![id.clone()])?;
            let row = volumes::find(c, id)?;
            if let [left] = known.as_slice()
                && left.host.as_deref() == Some(HOST)
                && row.is_some_and(|row| row.status == VolumeStatus::InUse)
            {
                return Ok(left.id.clone());
            }
            if volumes::is_being_copied(c, id)? {
                return Err(CatalogError::BeingCopied);
            }
            let (from, to) = ([VolumeStatus::Available], VolumeStatus::InUse);
            if volumes::transition(c, id, &from, to, None, now)? {
                volumes::insert_attachment(c, &attachment)?;
                Ok(attachment.id.clone())
            } else {
                Err(busy())
            }
        })?;
        Ok(Transfer {
            catalog: self.clone(),
            volume: id.clone(),
            attachment: attachment_id,
            path,
            _file: file,
        })
    }
}
