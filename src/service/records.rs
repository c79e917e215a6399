//! Exported and imported records of backups (Cinder reference, 3.8 and 3.9).

use crate::db;
use crate::identity::RequestContext;
use crate::identity::policy::Rule;
use crate::model::backup::{Backup, BackupStatus};
use crate::model::error::Error;
use crate::model::id::BackupId;
use crate::model::record::{self, BackupRecord, RecordError};
use crate::service::{Metadata, Services, asker};
use uuid::Uuid;

impl Services {
    /// The record of an available backup.
    pub fn export_backup(
        &self,
        ctx: &RequestContext,
        id: &BackupId,
    ) -> Result<BackupRecord, Error> {
        let (backup, _) = self.show_backup(ctx, id)?;
        ctx.authorize(Rule::BackupExport, &backup.project_id)?;
        let vault = match (&backup.status, &backup.vault_id) {
            (BackupStatus::Available, Some(vault)) => vault.clone(),
            (status, _) => {
                let message = format!("Backup status must be available and not {status}.");
                return Err(Error::invalid("backup", message));
            }
        };
        self.check_backup_service()?;
        let children = self.db.read(|c| db::backups::count_children(c, id))?;
        Ok(BackupRecord::of(&backup, &vault, &self.host, children))
    }

    /// Accepts a record: its data is looked for by a job.
    pub fn import_backup(
        &self,
        ctx: &RequestContext,
        service: &str,
        url: &str,
    ) -> Result<Backup, Error> {
        ctx.authorize(Rule::BackupImport, &ctx.project_id)?;
        if self.is_backup_disabled()? {
            return Err(Error::Unavailable {
                message: format!("Service {service} could not be found."),
                source: None,
            });
        }
        let record = record::decode(url).map_err(|error| match error {
            RecordError::NotARecord => Error::Invalid(error.to_string()),
            _ => Error::invalid("input received", error),
        })?;
        // Written as ids are written here, so that it can be found again.
        let is_id = Uuid::parse_str(&record.id).is_ok_and(|id| id.to_string() == record.id);
        if !is_id {
            let message = "The record's id is not a UUID.";
            return Err(Error::invalid("input received", message));
        }
        self.metadata_limits
            .check_new(record.metadata.as_ref().unwrap_or(&Metadata::new()))?;
        self.admission
            .import_backup(&asker(ctx), record, ctx.is_admin())
    }
}
