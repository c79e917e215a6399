//! Volume snapshots of the standalone catalogue (Cinder reference, 8.4).

use crate::db::standalone::{snapshots, volumes};
use crate::db::{self, DbConnection};
use crate::identity::RequestContext;
use crate::identity::policy::Rule;
use crate::model::column::Json;
use crate::model::error::Error;
use crate::model::id::{SnapshotId, VolumeId};
use crate::model::job::JobArgs;
use crate::model::page::{Filter, Listed, Page};
use crate::model::snapshot::SnapshotStatus;
use crate::model::standalone::snapshot::Snapshot;
use crate::model::time::Timestamp;
use crate::model::volume::VolumeStatus;
use crate::service::{Metadata, Services, check_marker};
use crate::volume::catalog::standalone::demand::Demand;

/// A request for a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateSnapshot {
    pub volume_id: VolumeId,
    pub name: Option<String>,
    pub description: Option<String>,
    pub metadata: Metadata,
    /// Whether a volume in use may be snapshotted.
    pub force: bool,
}

/// The fields that an update changes; `None` leaves a field as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotChanges {
    pub name: Option<Option<String>>,
    pub description: Option<Option<String>>,
}

/// The snapshot as it is now, which others that ask so wait for until the transaction ends. If it has gone over to
/// another project since it was looked at, it is not found.
fn locked_snapshot(c: &mut DbConnection, seen: &Snapshot) -> Result<Snapshot, Error> {
    db::lock(c, seen.id.as_str())?;
    snapshots::find(c, &seen.id)?
        .filter(|row| row.project_id == seen.project_id)
        .ok_or_else(|| Error::not_found("Snapshot", &seen.id))
}

/// Moves a snapshot to `deleting`, or refuses. What is asked of it waits until the transaction ends.
pub(super) fn give_up(c: &mut DbConnection, seen: &Snapshot, now: Timestamp) -> Result<(), Error> {
    let row = locked_snapshot(c, seen)?;
    refuse_used(c, &row.id)?;
    let from = [
        SnapshotStatus::Available,
        SnapshotStatus::Error,
        SnapshotStatus::ErrorDeleting,
    ];
    let (is_alone, to) = (row.group_snapshot_id.is_none(), SnapshotStatus::Deleting);
    if is_alone && snapshots::transition(c, &row.id, &from, to, None, now)? {
        Ok(())
    } else {
        Err(Error::invalid(
            "snapshot",
            "Snapshot status must be available or error and must not be part of a group.",
        ))
    }
}

/// Refuses to make a volume from a snapshot that is not available, or not the caller's any more. Its deletion waits
/// until the transaction ends.
pub(super) fn refuse_unavailable(
    c: &mut DbConnection,
    ctx: &RequestContext,
    id: &SnapshotId,
) -> Result<(), Error> {
    db::lock(c, id.as_str())?;
    let row = snapshots::find(c, id)?.filter(|row| ctx.sees(&row.project_id));
    match row {
        Some(row) if row.status == SnapshotStatus::Available => Ok(()),
        _ => Err(Error::Conflict(
            "The snapshot has just changed its state.".to_owned(),
        )),
    }
}

/// Refuses to delete a snapshot from which a volume is being made. A new one waits until the transaction ends.
pub(super) fn refuse_used(c: &mut DbConnection, id: &SnapshotId) -> Result<(), Error> {
    db::lock(c, id.as_str())?;
    if volumes::is_being_made_from(c, id)? {
        let message = "A volume is being made from the snapshot.";
        Err(Error::invalid("snapshot", message))
    } else {
        Ok(())
    }
}

impl Services {
    pub(crate) fn visible_snapshot(
        &self,
        ctx: &RequestContext,
        id: &SnapshotId,
    ) -> Result<Snapshot, Error> {
        let snapshot = self
            .catalog
            .standalone()?
            .snapshot(id)?
            .filter(|snapshot| ctx.sees(&snapshot.project_id))
            .ok_or_else(|| Error::not_found("Snapshot", id))?;
        ctx.authorize(Rule::SnapshotShow, &snapshot.project_id)?;
        Ok(snapshot)
    }

    /// Accepts a snapshot.
    pub fn create_snapshot(
        &self,
        ctx: &RequestContext,
        wanted: CreateSnapshot,
    ) -> Result<Snapshot, Error> {
        let volume = self.visible_volume(ctx, &wanted.volume_id)?;
        ctx.authorize(Rule::SnapshotCreate, &volume.project_id)?;
        self.metadata_limits.check_new(&wanted.metadata)?;
        let is_ready = match volume.status {
            VolumeStatus::Available => true,
            VolumeStatus::InUse => wanted.force,
            _ => false,
        };
        if !is_ready {
            let message = format!(
                "Volume {} status must be available, but current status is: {}.",
                volume.id, volume.status
            );
            return Err(Error::invalid("volume", message));
        }
        let snapshot = Snapshot {
            id: SnapshotId::random(),
            volume_id: volume.id.clone(),
            project_id: ctx.project_id.clone(),
            user_id: ctx.user_id.clone(),
            name: wanted.name,
            description: wanted.description,
            size_gib: volume.size_gib,
            status: SnapshotStatus::Creating,
            metadata: Json::new(wanted.metadata),
            reserved_by: None,
            released_by: None,
            group_snapshot_id: None,
            progress: None,
            created_at: self.clock.now(),
            updated_at: None,
            taken_at: None,
        };
        let args = JobArgs::CreateSnapshot {
            snapshot_id: snapshot.id.clone(),
        };
        self.write_with_job(ctx, args, |c| {
            db::lock_project(c, &ctx.project_id)?;
            let demand = Demand::snapshot(volume.size_gib, &volume.volume_type_id);
            self.catalog
                .standalone()?
                .check_quota(c, &ctx.project_id, &demand, true)?;
            self.check_source(c, &volume)?;
            Ok(snapshots::insert(c, &snapshot)?)
        })?;
        Ok(snapshot)
    }

    /// One page of the snapshots the caller may see, and how many match in all if asked for.
    pub fn list_snapshots(
        &self,
        ctx: &RequestContext,
        filter: &Filter,
        page: &Page,
        with_count: bool,
    ) -> Result<(Listed<Snapshot>, Option<i64>), Error> {
        ctx.authorize(Rule::SnapshotList, &ctx.project_id)?;
        self.db.read(|c| {
            if let Some(marker) = &page.marker {
                let found = snapshots::find(c, &SnapshotId::new(marker));
                check_marker(found, |row| ctx.sees(&row.project_id), "Snapshot", marker)?;
            }
            let snapshots = snapshots::list(c, filter, page)?;
            let count = if with_count {
                Some(snapshots::count(c, filter)?)
            } else {
                None
            };
            Ok((snapshots, count))
        })
    }

    /// One snapshot.
    pub fn show_snapshot(&self, ctx: &RequestContext, id: &SnapshotId) -> Result<Snapshot, Error> {
        self.visible_snapshot(ctx, id)
    }

    /// Changes name or description.
    pub fn update_snapshot(
        &self,
        ctx: &RequestContext,
        id: &SnapshotId,
        changes: SnapshotChanges,
    ) -> Result<Snapshot, Error> {
        let snapshot = self.visible_snapshot(ctx, id)?;
        ctx.authorize(Rule::SnapshotUpdate, &snapshot.project_id)?;
        let now = self.clock.now();
        let SnapshotChanges { name, description } = changes;
        self.db.write(|c| -> Result<(), Error> {
            locked_snapshot(c, &snapshot)?;
            let (name, description) = (name.as_ref(), description.as_ref());
            Ok(snapshots::update(c, id, name, description, None, now)?)
        })?;
        self.visible_snapshot(ctx, id)
    }

    /// Accepts a deletion.
    pub fn delete_snapshot(&self, ctx: &RequestContext, id: &SnapshotId) -> Result<(), Error> {
        let snapshot = self.visible_snapshot(ctx, id)?;
        ctx.authorize(Rule::SnapshotDelete, &snapshot.project_id)?;
        let now = self.clock.now();
        let args = JobArgs::DeleteSnapshot {
            snapshot_id: id.clone(),
        };
        self.write_with_job(ctx, args, |c| give_up(c, &snapshot, now))
    }

    /// Changes metadata by a function of what is there, in one step.
    pub fn change_snapshot_metadata(
        &self,
        ctx: &RequestContext,
        id: &SnapshotId,
        mut change: impl FnMut(&mut Metadata) -> Result<(), Error>,
    ) -> Result<Metadata, Error> {
        let snapshot = self.visible_snapshot(ctx, id)?;
        ctx.authorize(Rule::SnapshotMetadataUpdate, &snapshot.project_id)?;
        let now = self.clock.now();
        self.db.write(|c| {
            let row = locked_snapshot(c, &snapshot)?;
            let mut metadata = (*row.metadata).clone();
            change(&mut metadata)?;
            self.metadata_limits.check(&row.metadata, &metadata)?;
            snapshots::update(c, id, None, None, Some(metadata.clone()), now)?;
            Ok(metadata)
        })
    }

    /// Sets the state by hand, for administrators.
    pub fn reset_snapshot_status(
        &self,
        ctx: &RequestContext,
        id: &SnapshotId,
        status: SnapshotStatus,
    ) -> Result<(), Error> {
        let snapshot = self.visible_snapshot(ctx, id)?;
        ctx.authorize(Rule::SnapshotResetStatus, &snapshot.project_id)?;
        let now = self.clock.now();
        self.db.write(|c| {
            locked_snapshot(c, &snapshot)?;
            snapshots::transition(c, id, SnapshotStatus::ALL, status, None, now)?;
            Ok(())
        })
    }

    /// Notes how far another service is with creating or deleting a snapshot.
    pub fn update_snapshot_status(
        &self,
        ctx: &RequestContext,
        id: &SnapshotId,
        status: SnapshotStatus,
        progress: Option<&str>,
    ) -> Result<(), Error> {
        let snapshot = self.visible_snapshot(ctx, id)?;
        ctx.authorize(Rule::SnapshotUpdateStatus, &snapshot.project_id)?;
        let from = snapshot.status;
        let is_legal = match from {
            SnapshotStatus::Creating => {
                use SnapshotStatus::{Available, Creating, Error};
                matches!(status, Creating | Available | Error)
            }
            SnapshotStatus::Deleting => {
                matches!(
                    status,
                    SnapshotStatus::Deleting | SnapshotStatus::ErrorDeleting
                )
            }
            _ => false,
        };
        let is_ours = self
            .db
            .read(|c| db::jobs::live_for(c, id.as_str()))?
            .is_some();
        if !is_legal || is_ours {
            let message = format!(
                "Provided snapshot status {status} not allowed for snapshot with status {from}."
            );
            return Err(Error::Invalid(message));
        }
        let now = self.clock.now();
        self.db.write(|c| {
            locked_snapshot(c, &snapshot)?;
            snapshots::transition(c, id, &[from], status, None, now)?;
            if let Some(progress) = progress {
                snapshots::set_progress(c, id, progress)?;
            }
            Ok(())
        })
    }

    /// Accepts a deletion in any state.
    pub fn force_delete_snapshot(
        &self,
        ctx: &RequestContext,
        id: &SnapshotId,
    ) -> Result<(), Error> {
        let snapshot = self.visible_snapshot(ctx, id)?;
        ctx.authorize(Rule::SnapshotForceDelete, &snapshot.project_id)?;
        let now = self.clock.now();
        let args = JobArgs::DeleteSnapshot {
            snapshot_id: id.clone(),
        };
        self.delete_by_force(ctx, args, |c| {
            locked_snapshot(c, &snapshot)?;
            let to = SnapshotStatus::Deleting;
            snapshots::transition(c, id, SnapshotStatus::ALL, to, None, now)?;
            Ok(())
        })
    }
}
