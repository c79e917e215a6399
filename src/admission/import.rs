//! Backups from exported records (Cinder reference, 3.9).

use crate::admission::{Admission, Asker};
use crate::db;
use crate::model::backup::Backup;
use crate::model::description::Description;
use crate::model::error::Error;
use crate::model::id::BackupId;
use crate::model::job::JobArgs;
use crate::model::record::BackupRecord;

impl Admission {
    /// Accepts a record: its data is looked for by the job, in vaults of any project if the asker may have it.
    pub fn import_backup(
        &self,
        asker: &Asker<'_>,
        mut record: BackupRecord,
        of_any_project: bool,
    ) -> Result<Backup, Error> {
        // What Cinder shows while the import has not happened.
        let described = Description::blank(
            BackupId::new(&record.id),
            asker.project_id.clone(),
            asker.user_id.clone(),
            self.clock.now(),
        );
        let backup = Backup::new(described, self.default_storage.clone());
        let size_gib = record.size;
        // What a driver would make of the record; nothing here does.
        record.driver_info.clear();
        let args = JobArgs::ImportBackup {
            backup_id: backup.id.clone(),
            record: Box::new(record),
            of_any_project,
        };
        let exists = || Error::invalid("backup", "Backup already exists in database.");
        self.admit(asker, args, |c, _| {
            if db::backups::find(c, &backup.id)?.is_some() {
                return Err(exists());
            }
            self.check_quota(c, asker.project_id, size_gib)?;
            // An import of the same record in another project, or a rebuild, may have come in between.
            db::backups::insert(c, &backup).map_err(|error| {
                if db::is_duplicate(&error) {
                    exists()
                } else {
                    error.into()
                }
            })
        })?;
        Ok(backup)
    }
}
