//! Rows that wait for a job that does not exist, and files that it has left. They are settled as if the job had failed,
//! so that no state lasts for ever and nothing takes room for ever, even if rows are lost.

use crate::db::{self, DbError, orphans};
use crate::model::backup::{BackupEvent, BackupStatus};
use crate::model::id::{BackupId, JobId};
use crate::model::job::{Job, JobArgs};
use crate::model::snapshot::HeldSnapshot;
use crate::model::volume::{HeldVolume, WorkFile};
use crate::tasks::{TaskError, Tasks};

const REASON: &str = "Its job was lost.";

/// Something that waits for a job that is not there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Orphan {
    WriteSession(JobId),
    Backup(BackupId, BackupStatus),
    Volume(HeldVolume),
    Snapshot(HeldSnapshot),
    File(WorkFile),
}

impl Tasks {
    /// Candidates. Settle one only if it is still here a lease later; its job may be about to be inserted.
    pub fn orphans(&self) -> Result<Vec<Orphan>, TaskError> {
        // Read these before the live jobs. A job that ends meanwhile has released its volume or snapshot before, and a
        // job that has made a file was inserted before.
        let volumes = self.catalog.held()?;
        let snapshots = self.catalog.held_snapshots()?;
        let files = self.catalog.work_files()?;
        let found = self.db.read(|c| -> Result<_, DbError> {
            let mut found: Vec<Orphan> = orphans::sessions(c)?
                .into_iter()
                .map(Orphan::WriteSession)
                .collect();
            let backups = orphans::backups(c)?;
            // Sessions wait for the next look: a backup must be marked as failed before its packs are released. Only
            // then does a collection remove its root before the packs.
            if backups
                .iter()
                .any(|(_, status)| *status == BackupStatus::Creating)
            {
                found.clear();
            }
            found.extend(
                backups
                    .into_iter()
                    .map(|(id, status)| Orphan::Backup(id, status)),
            );
            let live = orphans::live(c)?;
            let lost = volumes
                .iter()
                .filter(|held| !live.ends(held.id.as_str(), held.job.as_ref()));
            found.extend(lost.cloned().map(Orphan::Volume));
            let lost = snapshots
                .iter()
                .filter(|held| !live.ends(held.id.as_str(), held.job.as_ref()));
            found.extend(lost.cloned().map(Orphan::Snapshot));
            let lost = files.iter().filter(|file| !live.has(&file.of));
            found.extend(lost.cloned().map(Orphan::File));
            Ok(found)
        })?;
        Ok(found)
    }

    /// Settles an orphan as if its job had failed.
    pub fn settle_orphan(&self, orphan: &Orphan) -> Result<(), TaskError> {
        tracing::error!(?orphan, "settling an orphan: it has no job");
        let now = self.clock.now();
        match orphan {
            Orphan::WriteSession(job) => self.db.write(|c| db::packs::end_session(c, job))?,
            // A deletion that was begun is done again.
            Orphan::Backup(id, BackupStatus::Deleting) => {
                let args = JobArgs::DeleteBackup {
                    backup_id: id.clone(),
                };
                // In its project's turn, as if it had asked.
                let project_id = self.find_backup(id)?.map(|backup| backup.project_id);
                let job = Job {
                    project_id,
                    ..Job::new(args, now)
                };
                self.db.write(|c| db::jobs::insert(c, &job))?;
            }
            Orphan::Backup(id, status) => self.db.write(|c| -> Result<(), DbError> {
                if db::backups::transition(c, id, BackupEvent::Failed, now)? {
                    db::backups::set_fail_reason(c, id, REASON)?;
                    if *status == BackupStatus::Creating {
                        db::backups::disown(c, id)?;
                    }
                }
                Ok(())
            })?,
            Orphan::Volume(held) => self.catalog.give_back(held)?,
            Orphan::Snapshot(held) => self.catalog.give_snapshot_back(held)?,
            Orphan::File(left) => self.catalog.remove_work_file(left)?,
        }
        Ok(())
    }
}
