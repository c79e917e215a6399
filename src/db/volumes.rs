//! Rows of `volumes`, `attachments` and `volume_types`.

use crate::db::DbConnection;
use crate::db::page::load_page;
use crate::model::column::Json;
use crate::model::id::{AttachmentId, ProjectId, VolumeId, VolumeTypeId};
use crate::model::job::Lease;
use crate::model::page::{Filter, Page};
use crate::model::schema::{attachments, snapshots, volume_types, volumes};
use crate::model::snapshot::SnapshotStatus;
use crate::model::time::Timestamp;
use crate::model::volume::{AttachStatus, Attachment, Volume, VolumeStatus, VolumeType};
use diesel::prelude::*;
use std::collections::BTreeMap;

type Backend = <DbConnection as diesel::Connection>::Backend;

fn matching(filter: &Filter) -> volumes::BoxedQuery<'_, Backend> {
    let mut query = volumes::table.into_boxed();
    if let Some(project) = &filter.project {
        query = query.filter(volumes::project_id.eq(project));
    }
    if let Some(name) = &filter.name {
        query = query.filter(volumes::name.eq(name));
    }
    if let Some(status) = &filter.status {
        query = query.filter(volumes::status.eq(status));
    }
    query
}

/// One page of the volumes that match.
pub fn list(
    connection: &mut DbConnection,
    filter: &Filter,
    page: &Page,
) -> QueryResult<Vec<Volume>> {
    load_page!(volumes, Volume, matching(filter), page, connection)
}

/// How many volumes match.
pub fn count(connection: &mut DbConnection, filter: &Filter) -> QueryResult<i64> {
    matching(filter).count().get_result(connection)
}

/// The volume, whosever it is.
pub fn find(connection: &mut DbConnection, id: &VolumeId) -> QueryResult<Option<Volume>> {
    volumes::table
        .find(id)
        .select(Volume::as_select())
        .first(connection)
        .optional()
}

/// Adds a volume.
pub fn insert(connection: &mut DbConnection, volume: &Volume) -> QueryResult<()> {
    diesel::insert_into(volumes::table)
        .values(volume)
        .execute(connection)
        .map(|_| ())
}

/// Removes a volume and what is left of its attachments.
pub fn remove(connection: &mut DbConnection, id: &VolumeId) -> QueryResult<()> {
    diesel::delete(attachments::table.filter(attachments::volume_id.eq(id))).execute(connection)?;
    diesel::delete(volumes::table.find(id))
        .execute(connection)
        .map(|_| ())
}

/// Moves a volume from one of some states to another and notes the state it came from.
/// `false`: it is in none of them.
pub fn transition(
    connection: &mut DbConnection,
    id: &VolumeId,
    from: &[VolumeStatus],
    to: VolumeStatus,
    holder: Option<&str>,
    now: Timestamp,
) -> QueryResult<bool> {
    for state in from {
        let moved = diesel::update(volumes::table.find(id))
            .filter(volumes::status.eq(state))
            .set((
                volumes::status.eq(to),
                volumes::previous_status.eq(state),
                volumes::reserved_by.eq(holder),
                volumes::updated_at.eq(now),
            ))
            .execute(connection)?;
        if moved == 1 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Gives a held volume to a later run of the job that holds it.
pub fn hand_over(connection: &mut DbConnection, id: &VolumeId, holder: &str) -> QueryResult<bool> {
    diesel::update(volumes::table.find(id))
        .filter(volumes::reserved_by.is_not_null())
        .set(volumes::reserved_by.eq(holder))
        .execute(connection)
        .map(|count| count == 1)
}

/// Whether a snapshot or another volume is being made from this volume.
pub fn is_being_copied(connection: &mut DbConnection, id: &VolumeId) -> QueryResult<bool> {
    let is_snapshotted: bool = diesel::select(diesel::dsl::exists(
        snapshots::table.filter(
            snapshots::volume_id
                .eq(id)
                .and(snapshots::status.eq(SnapshotStatus::Creating)),
        ),
    ))
    .get_result(connection)?;
    let is_cloned: bool = diesel::select(diesel::dsl::exists(
        volumes::table.filter(
            volumes::source_volume_id
                .eq(id)
                .and(volumes::status.eq(VolumeStatus::Creating)),
        ),
    ))
    .get_result(connection)?;
    Ok(is_snapshotted || is_cloned)
}

/// Ends the hold of a lease, or of an earlier run of its job, on a volume. `false`: neither holds it.
pub fn release(
    connection: &mut DbConnection,
    id: &VolumeId,
    lease: &Lease,
    to: VolumeStatus,
    previous: VolumeStatus,
    now: Timestamp,
) -> QueryResult<bool> {
    let held: Option<Option<String>> = volumes::table
        .find(id)
        .select(volumes::reserved_by)
        .first(connection)
        .optional()?;
    let Some(holder) = held.flatten().filter(|holder| lease.follows(holder)) else {
        return Ok(false);
    };
    diesel::update(volumes::table.find(id))
        .filter(volumes::reserved_by.eq(holder))
        .set((
            volumes::status.eq(to),
            volumes::previous_status.eq(previous),
            volumes::reserved_by.eq(None::<String>),
            volumes::released_by.eq(&lease.job_id),
            volumes::updated_at.eq(now),
        ))
        .execute(connection)
        .map(|count| count == 1)
}

/// What an update changes; `None` leaves a field as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    pub name: Option<Option<String>>,
    pub description: Option<Option<String>>,
    pub metadata: Option<BTreeMap<String, String>>,
    pub bootable: Option<bool>,
    pub readonly: Option<bool>,
    pub size_gib: Option<i64>,
}

/// Changes what a client may change.
pub fn update(
    connection: &mut DbConnection,
    id: &VolumeId,
    changes: &Changes,
    now: Timestamp,
) -> QueryResult<()> {
    let metadata = changes.metadata.clone().map(Json::new);
    diesel::update(volumes::table.find(id))
        .set((
            changes.name.as_ref().map(|name| volumes::name.eq(name)),
            changes
                .description
                .as_ref()
                .map(|text| volumes::description.eq(text)),
            metadata
                .as_ref()
                .map(|metadata| volumes::metadata.eq(metadata)),
            changes.bootable.map(|flag| volumes::bootable.eq(flag)),
            changes.readonly.map(|flag| volumes::readonly.eq(flag)),
            changes.size_gib.map(|size| volumes::size_gib.eq(size)),
            Some(volumes::updated_at.eq(now)),
        ))
        .execute(connection)
        .map(|_| ())
}

/// Volumes of a project, and the sum of their sizes in GiB.
pub fn usage(connection: &mut DbConnection, project: &ProjectId) -> QueryResult<(i64, i64)> {
    let sizes: Vec<i64> = volumes::table
        .filter(volumes::project_id.eq(project))
        .select(volumes::size_gib)
        .load(connection)?;
    Ok((
        i64::try_from(sizes.len()).unwrap_or(i64::MAX),
        sizes.iter().sum(),
    ))
}

/// Attachments of some volumes, oldest first.
pub fn attachments_of(
    connection: &mut DbConnection,
    ids: Vec<VolumeId>,
) -> QueryResult<Vec<Attachment>> {
    attachments::table
        .filter(attachments::volume_id.eq_any(ids))
        .order((attachments::created_at, attachments::id))
        .select(Attachment::as_select())
        .load(connection)
}

/// Attachments of a project, or of all, oldest first.
pub fn list_attachments(
    connection: &mut DbConnection,
    project: Option<&ProjectId>,
) -> QueryResult<Vec<Attachment>> {
    let mut query = attachments::table.into_boxed();
    if let Some(project) = project {
        query = query.filter(attachments::project_id.eq(project));
    }
    query
        .order((attachments::created_at, attachments::id))
        .select(Attachment::as_select())
        .load(connection)
}

/// The attachment, whosever it is.
pub fn find_attachment(
    connection: &mut DbConnection,
    id: &AttachmentId,
) -> QueryResult<Option<Attachment>> {
    attachments::table
        .find(id)
        .select(Attachment::as_select())
        .first(connection)
        .optional()
}

/// Adds an attachment.
pub fn insert_attachment(connection: &mut DbConnection, row: &Attachment) -> QueryResult<()> {
    diesel::insert_into(attachments::table)
        .values(row)
        .execute(connection)
        .map(|_| ())
}

/// Notes what the attaching side said of itself, and how far the attachment is.
pub fn update_attachment(
    connection: &mut DbConnection,
    id: &AttachmentId,
    status: AttachStatus,
    connector: Option<&Json<serde_json::Value>>,
    attached_at: Option<Timestamp>,
) -> QueryResult<()> {
    diesel::update(attachments::table.find(id))
        .set((
            attachments::status.eq(status),
            connector.map(|connector| attachments::connector.eq(connector)),
            attached_at.map(|moment| attachments::attached_at.eq(moment)),
        ))
        .execute(connection)
        .map(|_| ())
}

/// Removes an attachment.
pub fn remove_attachment(connection: &mut DbConnection, id: &AttachmentId) -> QueryResult<()> {
    diesel::delete(attachments::table.find(id))
        .execute(connection)
        .map(|_| ())
}

/// All volume types, by name.
pub fn list_types(connection: &mut DbConnection) -> QueryResult<Vec<VolumeType>> {
    volume_types::table
        .order(volume_types::name)
        .select(VolumeType::as_select())
        .load(connection)
}

/// The volume type with this id or name.
pub fn find_type(
    connection: &mut DbConnection,
    id_or_name: &str,
) -> QueryResult<Option<VolumeType>> {
    volume_types::table
        .filter(
            volume_types::id
                .eq(VolumeTypeId::new(id_or_name))
                .or(volume_types::name.eq(id_or_name)),
        )
        .select(VolumeType::as_select())
        .first(connection)
        .optional()
}

/// Adds a volume type.
pub fn insert_type(connection: &mut DbConnection, row: &VolumeType) -> QueryResult<()> {
    diesel::insert_into(volume_types::table)
        .values(row)
        .execute(connection)
        .map(|_| ())
}
