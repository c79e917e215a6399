//! Group snapshots: a snapshot of each volume of a group. Their state is that of the snapshots,
//! until an administrator sets it.

use crate::db::standalone::{groups, records, snapshots, types};
use crate::db::{self, DbConnection};
use crate::identity::RequestContext;
use crate::identity::policy::Rule;
use crate::model::column::Json;
use crate::model::error::Error;
use crate::model::id::{RecordId, SnapshotId};
use crate::model::job::JobArgs;
use crate::model::page::{Filter, Listed, Page};
use crate::model::snapshot::SnapshotStatus;
use crate::model::standalone::group::{Group, GroupSnapshot, GroupStatus};
use crate::model::standalone::snapshot::Snapshot;
use crate::model::standalone::stored::Stored;
use crate::model::standalone::volume::Volume;
use crate::model::time::Timestamp;
use crate::model::volume::VolumeStatus;
use crate::service::standalone::groups::{invalid_group, locked_snapshots, locked_volumes};
use crate::service::standalone::snapshots::refuse_used;
use crate::service::standalone::stored::locked_record;
use crate::service::{Metadata, Services};
use crate::volume::catalog::standalone::demand::Demand;

/// States in which snapshots may be deleted.
const DELETABLE: [SnapshotStatus; 3] = [
    SnapshotStatus::Available,
    SnapshotStatus::Error,
    SnapshotStatus::ErrorDeleting,
];

impl Services {
    /// One page of the group snapshots the caller may see.
    pub fn list_group_snapshots(
        &self,
        ctx: &RequestContext,
        filter: &Filter,
        page: &Page,
    ) -> Result<Listed<Stored<GroupSnapshot>>, Error> {
        self.settle_group_snapshots()?;
        self.list_stored(ctx, Rule::GroupSnapshotList, filter, page)
    }

    /// One group snapshot.
    pub fn show_group_snapshot(
        &self,
        ctx: &RequestContext,
        id: &RecordId,
    ) -> Result<Stored<GroupSnapshot>, Error> {
        self.settle_group_snapshots()?;
        self.owned_record(ctx, Rule::GroupSnapshotShow, id)
    }

    /// Accepts a snapshot of each volume of a group.
    pub fn create_group_snapshot(
        &self,
        ctx: &RequestContext,
        group_id: &RecordId,
        name: Option<String>,
        description: Option<String>,
    ) -> Result<Stored<GroupSnapshot>, Error> {
        let group: Stored<Group> = self.owned_record(ctx, Rule::GroupSnapshotCreate, group_id)?;
        let body = GroupSnapshot {
            user_id: ctx.user_id.clone(),
            description,
            group_id: group.id,
            group_type_id: group.body.group_type_id,
            is_reset: false,
        };
        let status = GroupStatus::Creating.as_str();
        let project = ctx.project_id.clone();
        let row = Stored::new(project, name, status, body, self.clock.now());
        self.write_with_jobs(ctx, |c| {
            db::lock_project(c, &ctx.project_id)?;
            // Before the volumes: requests that make or retype a volume take both locks in this order.
            db::lock_shared(c, types::CHANGED)?;
            let volumes = members(c, group_id)?;
            records::insert(c, &row)?;
            let mut jobs = Vec::new();
            for volume in volumes {
                let snapshot = self.snapshot_in(ctx, &row, &volume);
                let demand = Demand::snapshot(snapshot.size_gib, &volume.volume_type_id);
                self.catalog
                    .standalone()?
                    .check_quota(c, &ctx.project_id, &demand, true)?;
                snapshots::insert(c, &snapshot)?;
                jobs.push(JobArgs::CreateSnapshot {
                    snapshot_id: snapshot.id,
                });
            }
            Ok(((), jobs))
        })?;
        Ok(row)
    }

    fn snapshot_in(
        &self,
        ctx: &RequestContext,
        group_snapshot: &Stored<GroupSnapshot>,
        volume: &Volume,
    ) -> Snapshot {
        Snapshot {
            id: SnapshotId::random(),
            volume_id: volume.id.clone(),
            project_id: ctx.project_id.clone(),
            user_id: ctx.user_id.clone(),
            name: group_snapshot.name.clone(),
            description: group_snapshot.body.description.clone(),
            size_gib: volume.size_gib,
            status: SnapshotStatus::Creating,
            metadata: Json::new(Metadata::new()),
            reserved_by: None,
            released_by: None,
            group_snapshot_id: Some(group_snapshot.id.to_string()),
            progress: None,
            created_at: self.clock.now(),
            updated_at: None,
            taken_at: None,
        }
    }

    /// Accepts the deletion of a group snapshot and of its snapshots.
    pub fn delete_group_snapshot(&self, ctx: &RequestContext, id: &RecordId) -> Result<(), Error> {
        self.settle_group_snapshots()?;
        self.owned_record::<GroupSnapshot>(ctx, Rule::GroupSnapshotDelete, id)?;
        let now = self.clock.now();
        self.write_with_jobs(ctx, |c| {
            let mut row = locked_record::<GroupSnapshot>(c, id)?;
            check_deletable(&row)?;
            let mut jobs = Vec::new();
            for snapshot in locked_snapshots(c, id)? {
                refuse_used(c, &snapshot.id)?;
                let to = SnapshotStatus::Deleting;
                if !snapshots::transition(c, &snapshot.id, &DELETABLE, to, None, now)? {
                    let message = "Snapshot status must be available or error.";
                    return Err(Error::invalid("snapshot", message));
                }
                jobs.push(JobArgs::DeleteSnapshot {
                    snapshot_id: snapshot.id,
                });
            }
            row.status = GroupStatus::Deleting.to_string();
            row.body.is_reset = false;
            records::update(c, &row, now)?;
            Ok(((), jobs))
        })
    }

    /// Sets the state by hand, for administrators.
    pub fn reset_group_snapshot_status(
        &self,
        ctx: &RequestContext,
        id: &RecordId,
        status: GroupStatus,
    ) -> Result<(), Error> {
        self.owned_record::<GroupSnapshot>(ctx, Rule::GroupSnapshotResetStatus, id)?;
        self.change_record(id, |_, row: &mut Stored<GroupSnapshot>| {
            row.status = status.to_string();
            row.body.is_reset = true;
            Ok(())
        })?;
        Ok(())
    }

    /// Brings the states of group snapshots up to those of their snapshots. The jobs that make and
    /// delete snapshots know nothing of groups.
    pub(super) fn settle_group_snapshots(&self) -> Result<(), Error> {
        let ids = self.db.read(unsettled)?;
        if ids.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        self.db.write(|c| -> Result<(), Error> {
            for id in &ids {
                settle(c, id, now)?;
            }
            Ok(())
        })
    }
}

fn unsettled(c: &mut DbConnection) -> Result<Vec<RecordId>, Error> {
    let mut ids = Vec::new();
    for status in [GroupStatus::Creating, GroupStatus::Deleting] {
        for row in records::in_status::<GroupSnapshot>(c, status.as_str())? {
            if present_status(c, &row)? != Some(status) {
                ids.push(row.id);
            }
        }
    }
    Ok(ids)
}

fn settle(c: &mut DbConnection, id: &RecordId, now: Timestamp) -> Result<(), Error> {
    db::lock(c, id.as_str())?;
    let Some(mut row) = records::find::<GroupSnapshot>(c, id)? else {
        return Ok(());
    };
    match present_status(c, &row)? {
        None => records::remove(c, id)?,
        Some(status) => {
            row.status = status.to_string();
            records::update(c, &row, now)?;
        }
    }
    Ok(())
}

/// The state a group snapshot should be in now; `None`: it is gone.
fn present_status(
    c: &mut DbConnection,
    row: &Stored<GroupSnapshot>,
) -> Result<Option<GroupStatus>, Error> {
    let status = GroupStatus::parse(&row.status);
    match status {
        Some(status @ (GroupStatus::Creating | GroupStatus::Deleting)) if !row.body.is_reset => {
            let snapshots = groups::snapshots(c, &row.id)?;
            Ok(status_by(status, &snapshots))
        }
        _ => Ok(status),
    }
}

/// The status that a group snapshot which is being made or deleted has come to; `None`: it is gone.
fn status_by(status: GroupStatus, snapshots: &[Snapshot]) -> Option<GroupStatus> {
    let is_any = |wanted: SnapshotStatus| snapshots.iter().any(|row| row.status == wanted);
    if status == GroupStatus::Deleting {
        return match (snapshots.is_empty(), is_any(SnapshotStatus::Deleting)) {
            (true, _) => None,
            (false, true) => Some(GroupStatus::Deleting),
            (false, false) => Some(GroupStatus::ErrorDeleting),
        };
    }
    if is_any(SnapshotStatus::Creating) {
        Some(GroupStatus::Creating)
    } else if is_any(SnapshotStatus::Error) {
        Some(GroupStatus::Error)
    } else {
        Some(GroupStatus::Available)
    }
}

/// The volumes of a group that can be snapshotted now.
fn members(c: &mut DbConnection, group_id: &RecordId) -> Result<Vec<Volume>, Error> {
    let group = locked_record::<Group>(c, group_id)?;
    if group.status != GroupStatus::Available.as_str() {
        return Err(invalid_group(format!(
            "Group {group_id} status must be available, but current status is: {}.",
            group.status
        )));
    }
    let volumes = locked_volumes(c, group_id)?;
    if volumes.is_empty() {
        let message = "Group is empty. No group snapshot will be created.";
        return Err(invalid_group(message));
    }
    let is_busy =
        |row: &&Volume| !matches!(row.status, VolumeStatus::Available | VolumeStatus::InUse);
    if let Some(busy) = volumes.iter().find(is_busy) {
        let message = format!(
            "Volume {} status must be available, but current status is: {}.",
            busy.id, busy.status
        );
        return Err(Error::invalid("volume", message));
    }
    Ok(volumes)
}

fn check_deletable(row: &Stored<GroupSnapshot>) -> Result<(), Error> {
    let deletable = [
        GroupStatus::Available,
        GroupStatus::Error,
        GroupStatus::ErrorDeleting,
    ];
    if deletable.iter().any(|status| status.as_str() == row.status) {
        Ok(())
    } else {
        Err(Error::invalid(
            "group snapshot",
            format!(
                "GroupSnapshot status must be available or error, but current status is: {}.",
                row.status
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_snapshots_a_deleted_group_snapshot_is_gone_and_a_new_one_is_available() {
        assert_eq!(status_by(GroupStatus::Deleting, &[]), None);
        let made = status_by(GroupStatus::Creating, &[]);
        assert_eq!(made, Some(GroupStatus::Available));
    }
}
