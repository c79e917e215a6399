//! The jobs of the standalone catalogue's snapshots.

use crate::db::{self, DbError};
use crate::jobs::Claimed;
use crate::model::id::SnapshotId;
use crate::model::job::{JobArgs, JobState};
use crate::model::snapshot::SnapshotStatus;
use crate::tasks::{TaskError, Tasks};

impl Tasks {
    pub(super) fn create_snapshot(
        &self,
        claimed: &Claimed,
        id: &SnapshotId,
    ) -> Result<(), TaskError> {
        let snapshot = self
            .catalog
            .snapshot(id)?
            .filter(|snapshot| snapshot.status == SnapshotStatus::Creating)
            .ok_or(TaskError::Subject("the snapshot has changed its state"))?;
        self.catalog.make_snapshot(&snapshot)?;
        let now = self.clock.now();
        self.settle(&claimed.lease, |c| {
            let (from, to) = ([SnapshotStatus::Creating], SnapshotStatus::Available);
            match db::snapshots::transition(c, id, &from, to, None, now).map_err(DbError::from)? {
                true => Ok(()),
                false => Err(TaskError::Subject("the snapshot has changed its state")),
            }
        })
    }

    /// Removes file and row, and ends the job so.
    pub(super) fn remove_snapshot(
        &self,
        claimed: &Claimed,
        id: &SnapshotId,
        end: JobState,
    ) -> Result<(), TaskError> {
        self.catalog.remove_snapshot(id)?;
        self.settle_as(&claimed.lease, end, |c| {
            Ok(db::snapshots::remove(c, id).map_err(DbError::from)?)
        })
    }

    pub(super) fn snapshot_failed(
        &self,
        claimed: &Claimed,
        id: &SnapshotId,
        reason: &str,
    ) -> Result<(), TaskError> {
        let to = match &*claimed.job.args {
            JobArgs::DeleteSnapshot { .. } => SnapshotStatus::ErrorDeleting,
            _ => SnapshotStatus::Error,
        };
        let from = [SnapshotStatus::Creating, SnapshotStatus::Deleting];
        let now = self.clock.now();
        self.discard(claimed, reason, |c| {
            db::snapshots::transition(c, id, &from, to, None, now).map(|_| ())
        })
    }
}
