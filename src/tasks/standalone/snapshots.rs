//! The jobs of the standalone catalogue's snapshots.

use crate::db::standalone::snapshots;
use crate::db::{self, DbConnection};
use crate::jobs::Claimed;
use crate::model::id::SnapshotId;
use crate::model::job::{JobState, SnapshotWork};
use crate::model::snapshot::SnapshotStatus;
use crate::tasks::{TaskError, Tasks};

impl Tasks {
    pub(crate) fn attempt_snapshot(
        &self,
        claimed: &Claimed,
        id: &SnapshotId,
        work: SnapshotWork,
    ) -> Result<(), TaskError> {
        match work {
            SnapshotWork::Create => self.create_snapshot(claimed, id),
            SnapshotWork::Delete => self.remove_snapshot(claimed, id, JobState::Completed),
        }
    }

    fn create_snapshot(&self, claimed: &Claimed, id: &SnapshotId) -> Result<(), TaskError> {
        let snapshot = self
            .catalog
            .standalone()?
            .snapshot(id)?
            .filter(|snapshot| snapshot.status == SnapshotStatus::Creating)
            .ok_or(TaskError::Subject("the snapshot has changed its state"))?;
        let catalog = self.catalog.standalone()?;
        // A copy that an earlier run made is kept, and so is its moment.
        if !catalog.has_snapshot(id) {
            let now = self.clock.now();
            self.under_lease(&claimed.lease, |c| snapshots::set_taken_at(c, id, now))?;
        }
        catalog.make_snapshot(&snapshot, &claimed.lease, &claimed.progress)?;
        let now = self.clock.now();
        self.settle(&claimed.lease, |c| {
            let (from, to) = ([SnapshotStatus::Creating], SnapshotStatus::Available);
            if snapshots::transition(c, id, &from, to, None, now)? {
                Ok(())
            } else {
                Err(TaskError::Subject("the snapshot has changed its state"))
            }
        })
    }

    /// Removes file and row, and ends the job so.
    pub(crate) fn remove_snapshot(
        &self,
        claimed: &Claimed,
        id: &SnapshotId,
        end: JobState,
    ) -> Result<(), TaskError> {
        self.catalog.standalone()?.remove_snapshot(id)?;
        self.settle_as(&claimed.lease, end, |c| Ok(snapshots::remove(c, id)?))
    }

    /// Part of the transaction that ends the job.
    pub(crate) fn snapshot_not_removed(
        &self,
        connection: &mut DbConnection,
        id: &SnapshotId,
    ) -> db::DbResult<()> {
        let (from, to) = ([SnapshotStatus::Deleting], SnapshotStatus::ErrorDeleting);
        snapshots::transition(connection, id, &from, to, None, self.clock.now())?;
        Ok(())
    }

    pub(crate) fn snapshot_failed(
        &self,
        claimed: &Claimed,
        id: &SnapshotId,
        work: SnapshotWork,
        reason: &str,
    ) -> Result<(), TaskError> {
        let to = match work {
            SnapshotWork::Create => SnapshotStatus::Error,
            SnapshotWork::Delete => SnapshotStatus::ErrorDeleting,
        };
        let from = [SnapshotStatus::Creating, SnapshotStatus::Deleting];
        let now = self.clock.now();
        self.discard(claimed, reason, |c| {
            snapshots::transition(c, id, &from, to, None, now).map(|_| ())
        })
    }
}
