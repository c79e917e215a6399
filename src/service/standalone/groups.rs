//! Groups of volumes. The catalogue has nothing to do for them: a group is what its volumes say.

use crate::db::standalone::{groups, records, snapshots, types, volumes};
use crate::db::{self, DbConnection};
use crate::identity::RequestContext;
use crate::identity::policy::Rule;
use crate::model::column::Json;
use crate::model::error::Error;
use crate::model::id::{RecordId, SnapshotId, VolumeId, VolumeTypeId};
use crate::model::job::JobArgs;
use crate::model::page::{Filter, Listed, Page};
use crate::model::snapshot::SnapshotStatus;
use crate::model::standalone::group::{CONSISTENCY_GROUP_TYPE, Group, GroupSnapshot, GroupStatus};
use crate::model::standalone::snapshot::Snapshot;
use crate::model::standalone::stored::{Resource, Stored};
use crate::model::standalone::volume::Volume;
use crate::model::volume::VolumeStatus;
use crate::service::standalone::group_types::usable_group_type;
use crate::service::standalone::stored::locked_record;
use crate::service::standalone::types::usable_type;
use crate::service::{Metadata, Services};
use crate::volume::catalog::standalone::demand::Demand;
use std::collections::BTreeMap;

/// States in which a group, and a volume with it, may be deleted.
const DELETABLE: [VolumeStatus; 3] = [
    VolumeStatus::Available,
    VolumeStatus::Error,
    VolumeStatus::ErrorDeleting,
];

/// States in which a volume may join a group, or be copied with it.
const READY: [VolumeStatus; 2] = [VolumeStatus::Available, VolumeStatus::InUse];

/// A request for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateGroup {
    pub name: Option<String>,
    pub description: Option<String>,
    /// Id or name.
    pub group_type: String,
    /// Ids or names.
    pub volume_types: Vec<String>,
    pub availability_zone: Option<String>,
}

/// The source of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupSource {
    Group(RecordId),
    Snapshot(RecordId),
}

/// The fields that an update changes; `None` leaves a field as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupChanges {
    pub name: Option<String>,
    pub description: Option<String>,
    pub add_volumes: Vec<VolumeId>,
    pub remove_volumes: Vec<VolumeId>,
}

/// A volume that a new group is to have.
struct Member {
    size_gib: i64,
    volume_type_id: VolumeTypeId,
    snapshot_id: Option<SnapshotId>,
    source_volume_id: Option<VolumeId>,
}

impl Services {
    /// One page of the groups the caller may see.
    pub fn list_groups(
        &self,
        ctx: &RequestContext,
        filter: &Filter,
        page: &Page,
    ) -> Result<Listed<Stored<Group>>, Error> {
        self.list_stored(ctx, Rule::GroupList, filter, page)
    }

    /// One group.
    pub fn show_group(&self, ctx: &RequestContext, id: &RecordId) -> Result<Stored<Group>, Error> {
        self.owned_record(ctx, Rule::GroupShow, id)
    }

    /// The volumes of some groups, by the group's id.
    pub fn volumes_of_groups(
        &self,
        groups: &[Stored<Group>],
    ) -> Result<BTreeMap<RecordId, Vec<VolumeId>>, Error> {
        self.db.read(|c| -> Result<_, Error> {
            let mut volumes = BTreeMap::new();
            for group in groups {
                let ids = groups::volume_ids(c, &group.id)?;
                volumes.insert(group.id.clone(), ids);
            }
            Ok(volumes)
        })
    }

    /// Makes an empty group.
    pub fn create_group(
        &self,
        ctx: &RequestContext,
        wanted: CreateGroup,
    ) -> Result<Stored<Group>, Error> {
        ctx.authorize(Rule::GroupCreate, &ctx.project_id)?;
        let here = self.catalog.availability_zone();
        if let Some(zone) = wanted
            .availability_zone
            .as_ref()
            .filter(|zone| *zone != here)
        {
            let message = format!("Availability zone '{zone}' is invalid.");
            return Err(Error::Invalid(message));
        }
        self.db.write(|c| -> Result<_, Error> {
            let group_type = usable_group_type(c, ctx, &wanted.group_type)?;
            if group_type.name.as_deref() == Some(CONSISTENCY_GROUP_TYPE) {
                return Err(Error::Invalid(format!(
                    "Group_type {} is reserved for migrating CGs to groups. Migrated group can only be operated by \
                     CG APIs.",
                    group_type.id
                )));
            }
            // None of the types is deleted before the group is there.
            db::lock_shared(c, types::CHANGED)?;
            let mut volume_type_ids = Vec::new();
            for name in &wanted.volume_types {
                volume_type_ids.push(usable_type(c, ctx, name)?.id);
            }
            let body = Group {
                user_id: ctx.user_id.clone(),
                description: wanted.description.clone(),
                group_type_id: group_type.id,
                volume_type_ids,
                availability_zone: here.to_owned(),
                group_snapshot_id: None,
                source_group_id: None,
            };
            self.insert_group(c, ctx, wanted.name.clone(), body)
        })
    }

    fn insert_group(
        &self,
        c: &mut DbConnection,
        ctx: &RequestContext,
        name: Option<String>,
        body: Group,
    ) -> Result<Stored<Group>, Error> {
        db::lock_project(c, &ctx.project_id)?;
        let quota = db::quotas::limits(c, Some(&ctx.project_id), &self.quota)?;
        let groups = records::count::<Group>(c, &ctx.project_id)?;
        if !quota.allows("groups", groups + 1) {
            return Err(Error::OverQuota {
                class: Some("GroupLimitExceeded"),
                message: format!(
                    "Maximum number of groups allowed ({}) exceeded",
                    quota.limit("groups")
                ),
            });
        }
        let status = GroupStatus::Available.as_str();
        let project = ctx.project_id.clone();
        let row = Stored::new(project, name, status, body, self.clock.now());
        records::insert(c, &row)?;
        Ok(row)
    }

    /// Makes a group and, of each volume or snapshot of the source, a volume in it.
    pub fn create_group_from(
        &self,
        ctx: &RequestContext,
        name: Option<String>,
        description: Option<String>,
        source: &GroupSource,
    ) -> Result<Stored<Group>, Error> {
        ctx.authorize(Rule::GroupCreate, &ctx.project_id)?;
        let (group_id, snapshot_id) = match source {
            GroupSource::Group(id) => (id.clone(), None),
            GroupSource::Snapshot(id) => {
                let snapshot = self.show_group_snapshot(ctx, id)?;
                (snapshot.body.group_id, Some(id.clone()))
            }
        };
        self.owned_record::<Group>(ctx, Rule::GroupShow, &group_id)?;
        self.write_with_jobs(ctx, |c| {
            db::lock_project(c, &ctx.project_id)?;
            // Before the volumes: requests that make or retype a volume take both locks in this order.
            db::lock_shared(c, types::CHANGED)?;
            let source = locked_record::<Group>(c, &group_id)?;
            let members = match &snapshot_id {
                None => clones_of_volumes(c, &source.id)?,
                Some(id) => volumes_from_snapshots(c, id)?,
            };
            let body = Group {
                user_id: ctx.user_id.clone(),
                description: description.clone(),
                source_group_id: snapshot_id.is_none().then(|| group_id.clone()),
                group_snapshot_id: snapshot_id.clone(),
                ..source.body
            };
            let group = self.insert_group(c, ctx, name.clone(), body)?;
            let mut jobs = Vec::new();
            for wanted in members {
                let volume = self.member(ctx, &group.id, wanted);
                self.catalog.standalone()?.check_quota(
                    c,
                    &ctx.project_id,
                    &Demand::volume(volume.size_gib, &volume.volume_type_id),
                    true,
                )?;
                volumes::insert(c, &volume)?;
                jobs.push(JobArgs::CreateVolume {
                    is_copy: volume.is_copy(),
                    volume_id: volume.id,
                });
            }
            Ok((group, jobs))
        })
    }

    fn member(&self, ctx: &RequestContext, group: &RecordId, wanted: Member) -> Volume {
        Volume {
            id: VolumeId::random(),
            project_id: ctx.project_id.clone(),
            user_id: ctx.user_id.clone(),
            name: None,
            description: None,
            size_gib: wanted.size_gib,
            status: VolumeStatus::Creating,
            previous_status: None,
            volume_type_id: wanted.volume_type_id,
            bootable: false,
            readonly: None,
            snapshot_id: wanted.snapshot_id,
            source_volume_id: wanted.source_volume_id,
            availability_zone: self.catalog.availability_zone().to_owned(),
            metadata: Json::new(Metadata::new()),
            reserved_by: None,
            released_by: None,
            group_id: Some(group.to_string()),
            multiattach: false,
            image_metadata: Json::default(),
            created_at: self.clock.now(),
            updated_at: None,
        }
    }

    /// Changes name and description, and which volumes belong to the group.
    pub fn update_group(
        &self,
        ctx: &RequestContext,
        id: &RecordId,
        changes: GroupChanges,
    ) -> Result<(), Error> {
        self.owned_record::<Group>(ctx, Rule::GroupUpdate, id)?;
        let now = self.clock.now();
        self.change_record(id, |c, row: &mut Stored<Group>| {
            if row.status != GroupStatus::Available.as_str() {
                return Err(invalid_group(format!(
                    "Cannot update group {id}, status must be available."
                )));
            }
            let changed = changes.remove_volumes.iter().chain(&changes.add_volumes);
            lock_volumes(c, changed.cloned().collect())?;
            for volume in &changes.remove_volumes {
                check_removable(c, row, volume)?;
                groups::set_group(c, volume, None, now)?;
            }
            for volume in &changes.add_volumes {
                check_addable(c, row, volume)?;
                groups::set_group(c, volume, Some(id), now)?;
            }
            if let Some(name) = &changes.name {
                row.name = Some(name.clone());
            }
            if let Some(description) = &changes.description {
                row.body.description = Some(description.clone());
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Removes a group, with its volumes if it has any and the caller says so.
    pub fn delete_group(
        &self,
        ctx: &RequestContext,
        id: &RecordId,
        with_volumes: bool,
    ) -> Result<(), Error> {
        self.owned_record::<Group>(ctx, Rule::GroupDelete, id)?;
        self.settle_group_snapshots()?;
        self.write_with_jobs(ctx, |c| {
            let group = locked_record::<Group>(c, id)?;
            check_deletable(c, &group)?;
            let volumes = locked_volumes(c, id)?;
            if !volumes.is_empty() && !with_volumes {
                return Err(invalid_group(format!(
                    "Group {id} still contains volumes. The delete-volumes flag is required to delete it."
                )));
            }
            let mut jobs = Vec::new();
            for volume in volumes {
                self.give_up(c, &volume)?;
                jobs.push(JobArgs::DeleteVolume {
                    volume_id: volume.id,
                });
            }
            records::remove(c, id)?;
            Ok(((), jobs))
        })
    }

    /// Takes a volume, which is locked, out of its group, and marks it as one to be deleted.
    fn give_up(&self, c: &mut DbConnection, volume: &Volume) -> Result<(), Error> {
        let (id, now) = (&volume.id, self.clock.now());
        if !volumes::attachments_of(c, vec![id.clone()])?.is_empty() {
            let message = format!("Volume {id} in the group is attached. Need to detach first.");
            return Err(invalid_group(message));
        }
        if snapshots::any_of(c, id)? {
            let message = format!("Volume {id} in the group still has dependent snapshots.");
            return Err(invalid_group(message));
        }
        if volumes::is_being_copied(c, id)? {
            let message = format!("A copy of volume {id} in the group is being taken.");
            return Err(invalid_group(message));
        }
        let to = VolumeStatus::Deleting;
        if !volumes::transition(c, id, &DELETABLE, to, None, now)? {
            return Err(invalid_group(format!(
                "Volume {id} in the group has status {} and cannot be deleted.",
                volume.status
            )));
        }
        Ok(groups::set_group(c, id, None, now)?)
    }

    /// Sets the state by hand, for administrators.
    pub fn reset_group_status(
        &self,
        ctx: &RequestContext,
        id: &RecordId,
        status: GroupStatus,
    ) -> Result<(), Error> {
        self.owned_record::<Group>(ctx, Rule::GroupResetStatus, id)?;
        self.change_record(id, |_, row: &mut Stored<Group>| {
            row.status = status.to_string();
            Ok(())
        })?;
        Ok(())
    }

    /// Refuses to make a volume in a group that is not the caller's, or not for its type. The group
    /// cannot go away before the transaction ends.
    pub(super) fn check_group(
        &self,
        c: &mut DbConnection,
        ctx: &RequestContext,
        id: &RecordId,
        volume_type: &VolumeTypeId,
    ) -> Result<(), Error> {
        let group = locked_record::<Group>(c, id)?;
        if group.project_id != ctx.project_id {
            return Err(Group::missing(id));
        }
        if group.body.volume_type_ids.contains(volume_type) {
            Ok(())
        } else {
            Err(Error::invalid(
                "input received",
                format!(
                    "Invalid volume_type {volume_type} provided for the volume: the group {id} does not support it."
                ),
            ))
        }
    }
}

pub(super) fn invalid_group(message: impl std::fmt::Display) -> Error {
    Error::invalid("group", message)
}

/// The volumes of a group; none of them is attached, restored to or copied until the transaction ends.
pub(super) fn locked_volumes(c: &mut DbConnection, group: &RecordId) -> Result<Vec<Volume>, Error> {
    let ids = groups::volume_ids(c, group)?;
    lock_volumes(c, ids)?;
    Ok(groups::volumes(c, group)?)
}

/// Locks volumes in one order, so that two that do so never wait for each other.
fn lock_volumes(c: &mut DbConnection, mut ids: Vec<VolumeId>) -> Result<(), Error> {
    ids.sort();
    for id in &ids {
        db::lock(c, id.as_str())?;
    }
    Ok(())
}

/// The snapshots of a group snapshot; none of them is deleted or used until the transaction ends.
pub(super) fn locked_snapshots(
    c: &mut DbConnection,
    group_snapshot: &RecordId,
) -> Result<Vec<Snapshot>, Error> {
    let mut ids: Vec<SnapshotId> = groups::snapshots(c, group_snapshot)?
        .into_iter()
        .map(|snapshot| snapshot.id)
        .collect();
    ids.sort();
    for id in &ids {
        db::lock(c, id.as_str())?;
    }
    Ok(groups::snapshots(c, group_snapshot)?)
}

fn clones_of_volumes(c: &mut DbConnection, group: &RecordId) -> Result<Vec<Member>, Error> {
    let volumes = locked_volumes(c, group)?;
    if volumes.is_empty() {
        let message = "Source group is empty. No group will be created.";
        return Err(invalid_group(message));
    }
    if let Some(busy) = volumes.iter().find(|row| !READY.contains(&row.status)) {
        return Err(invalid_group(format!(
            "Volume {} of the source group has status {}.",
            busy.id, busy.status
        )));
    }
    let members = volumes.into_iter().map(|volume| Member {
        size_gib: volume.size_gib,
        volume_type_id: volume.volume_type_id,
        snapshot_id: None,
        source_volume_id: Some(volume.id),
    });
    Ok(members.collect())
}

fn volumes_from_snapshots(c: &mut DbConnection, id: &RecordId) -> Result<Vec<Member>, Error> {
    let snapshots = locked_snapshots(c, id)?;
    if snapshots.is_empty() {
        let message = "Group snapshot is empty. No group will be created.";
        return Err(invalid_group(message));
    }
    let mut members = Vec::new();
    for snapshot in snapshots {
        if snapshot.status != SnapshotStatus::Available {
            return Err(invalid_group(format!(
                "Snapshot {} of the group snapshot has status {}.",
                snapshot.id, snapshot.status
            )));
        }
        let volume = volumes::find(c, &snapshot.volume_id)?;
        let volume = volume.ok_or_else(|| Error::not_found("Volume", &snapshot.volume_id))?;
        members.push(Member {
            size_gib: snapshot.size_gib,
            volume_type_id: volume.volume_type_id,
            snapshot_id: Some(snapshot.id),
            source_volume_id: None,
        });
    }
    Ok(members)
}

fn check_removable(
    c: &mut DbConnection,
    group: &Stored<Group>,
    id: &VolumeId,
) -> Result<(), Error> {
    let group_id = &group.id;
    let volume = volumes::find(c, id)?;
    let is_member = |row: Volume| row.group_id.as_deref() == Some(group_id.as_str());
    if volume.is_some_and(is_member) {
        Ok(())
    } else {
        Err(Error::invalid(
            "volume",
            format!(
                "Cannot remove volume {id} from group {group_id} because it is not in the group."
            ),
        ))
    }
}

fn check_addable(c: &mut DbConnection, group: &Stored<Group>, id: &VolumeId) -> Result<(), Error> {
    let found = volumes::find(c, id)?;
    let why = match found.filter(|row| row.project_id == group.project_id) {
        None => "volume cannot be found".to_owned(),
        Some(row) if row.group_id.is_some() => "it is already in a group".to_owned(),
        Some(row) if !group.body.volume_type_ids.contains(&row.volume_type_id) => format!(
            "volume type {} is not supported by the group",
            row.volume_type_id
        ),
        Some(row) if !READY.contains(&row.status) => {
            format!("volume is in an invalid state: {}", row.status)
        }
        Some(_) => return Ok(()),
    };
    let group_id = &group.id;
    let message = format!("Cannot add volume {id} to group {group_id} because {why}.");
    Err(Error::invalid("volume", message))
}

fn check_deletable(c: &mut DbConnection, group: &Stored<Group>) -> Result<(), Error> {
    let deletable = [GroupStatus::Available, GroupStatus::Error];
    if !deletable
        .iter()
        .any(|status| status.as_str() == group.status)
    {
        return Err(invalid_group(format!(
            "Group status must be available or error, but current status is: {}",
            group.status
        )));
    }
    let snapshots = records::all::<GroupSnapshot>(c)?;
    if snapshots.iter().any(|row| row.body.group_id == group.id) {
        Err(invalid_group("Group has dependent group snapshots."))
    } else {
        Ok(())
    }
}
