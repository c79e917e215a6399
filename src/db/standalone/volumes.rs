//! Rows of `volumes`, `attachments` and `volume_types`.

use crate::db::page::{load_page, matching};
use crate::db::{self, DbConnection, DbResult};
use crate::model::column::Json;
use crate::model::id::{AttachmentId, ProjectId, VolumeId, VolumeTypeId};
use crate::model::job::Lease;
use crate::model::page::{Filter, Listed, Page};
use crate::model::schema::{attachments, snapshots, volume_types, volumes};
use crate::model::snapshot::SnapshotStatus;
use crate::model::standalone::attachment::Attachment;
use crate::model::standalone::volume::Volume;
use crate::model::standalone::volume_type::VolumeType;
use crate::model::time::Timestamp;
use crate::model::volume::{AttachStatus, HeldVolume, VolumeStatus};
use diesel::dsl::{count_star, sql};
use diesel::prelude::*;
use diesel::sql_types::Bool;
use std::collections::BTreeMap;

/// States that only a job can end, in the words of the index `volumes_busy`.
const IS_BUSY: &str =
    "status IN ('creating', 'deleting', 'extending', 'backing-up', 'restoring-backup')";

/// One page of the volumes that match.
pub fn list(
    connection: &mut DbConnection,
    filter: &Filter,
    page: &Page,
) -> DbResult<Listed<Volume>> {
    Ok(load_page!(
        volumes,
        Volume,
        "OCTET_LENGTH(metadata) + OCTET_LENGTH(image_metadata)",
        matching!(volumes, filter),
        page,
        connection
    ))
}

/// How many volumes match.
pub fn count(connection: &mut DbConnection, filter: &Filter) -> DbResult<i64> {
    Ok(matching!(volumes, filter).count().get_result(connection)?)
}

/// The volume, whosever it is.
pub fn find(connection: &mut DbConnection, id: &VolumeId) -> DbResult<Option<Volume>> {
    Ok(volumes::table
        .find(id)
        .select(Volume::as_select())
        .first(connection)
        .optional()?)
}

/// Volumes of this name, of all projects.
pub fn named(connection: &mut DbConnection, name: &str) -> DbResult<Vec<VolumeId>> {
    Ok(volumes::table
        .filter(volumes::name.eq(name))
        .order(volumes::id)
        .select(volumes::id)
        .load(connection)?)
}

/// Adds a volume.
pub fn insert(connection: &mut DbConnection, volume: &Volume) -> DbResult<()> {
    diesel::insert_into(volumes::table)
        .values(volume)
        .execute(connection)?;
    Ok(())
}

/// Removes a volume and what is left of its attachments.
pub fn remove(connection: &mut DbConnection, id: &VolumeId) -> DbResult<()> {
    diesel::delete(attachments::table.filter(attachments::volume_id.eq(id))).execute(connection)?;
    diesel::delete(volumes::table.find(id)).execute(connection)?;
    Ok(())
}

/// Moves a volume from one of some states to another and notes the state it came from. Growth that was accepted is
/// no longer counted. `false`: it is in none of them.
pub fn transition(
    connection: &mut DbConnection,
    id: &VolumeId,
    from: &[VolumeStatus],
    to: VolumeStatus,
    holder: Option<&str>,
    now: Timestamp,
) -> DbResult<bool> {
    let count = diesel::update(volumes::table.find(id))
        .filter(volumes::status.eq_any(from.to_vec()))
        .set((
            volumes::previous_status.eq(volumes::status.nullable()),
            volumes::status.eq(to),
            volumes::reserved_by.eq(holder),
            volumes::growth_gib.eq(0),
            volumes::updated_at.eq(now),
        ))
        .execute(connection)?;
    Ok(count == 1)
}

/// Counts the growth of a volume that is being extended, until that ends.
pub fn count_growth(connection: &mut DbConnection, id: &VolumeId, growth_gib: i64) -> DbResult<()> {
    diesel::update(volumes::table.find(id))
        .filter(volumes::status.eq(VolumeStatus::Extending))
        .set(volumes::growth_gib.eq(growth_gib))
        .execute(connection)?;
    Ok(())
}

/// Gives a held volume to a later run of the job that holds it.
pub fn hand_over(connection: &mut DbConnection, id: &VolumeId, holder: &str) -> DbResult<bool> {
    let count = diesel::update(volumes::table.find(id))
        .filter(volumes::reserved_by.is_not_null())
        .set(volumes::reserved_by.eq(holder))
        .execute(connection)?;
    Ok(count == 1)
}

/// Volumes in a state that only a job can end, with the job that holds them.
pub fn busy(connection: &mut DbConnection) -> DbResult<Vec<HeldVolume>> {
    let found: Vec<(VolumeId, VolumeStatus, Option<String>)> = volumes::table
        .filter(sql::<Bool>(IS_BUSY))
        .select((volumes::id, volumes::status, volumes::reserved_by))
        .load(connection)?;
    let held = found.into_iter().map(|(id, status, holder)| HeldVolume {
        id,
        status,
        job: holder.and_then(|holder| Lease::job_of(&holder)),
    });
    Ok(held.collect())
}

/// Whether a snapshot or another volume is being made from this volume.
pub fn is_being_copied(connection: &mut DbConnection, id: &VolumeId) -> DbResult<bool> {
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

/// Whether a volume is being made from this snapshot.
pub fn is_being_made_from(
    connection: &mut DbConnection,
    snapshot: &crate::model::id::SnapshotId,
) -> DbResult<bool> {
    let made = volumes::table.filter(
        volumes::snapshot_id
            .eq(snapshot)
            .and(volumes::status.eq(VolumeStatus::Creating)),
    );
    Ok(diesel::select(diesel::dsl::exists(made)).get_result(connection)?)
}

/// Ends the hold of a lease, or of an earlier run of its job, on a volume. `false`: neither holds it.
pub fn release(
    connection: &mut DbConnection,
    id: &VolumeId,
    lease: &Lease,
    to: VolumeStatus,
    previous: VolumeStatus,
    now: Timestamp,
) -> DbResult<bool> {
    let held: Option<Option<String>> = volumes::table
        .find(id)
        .select(volumes::reserved_by)
        .first(connection)
        .optional()?;
    let Some(holder) = held.flatten().filter(|holder| lease.follows(holder)) else {
        return Ok(false);
    };
    let count = diesel::update(volumes::table.find(id))
        .filter(volumes::reserved_by.eq(holder))
        .set((
            volumes::status.eq(to),
            volumes::previous_status.eq(previous),
            volumes::reserved_by.eq(None::<String>),
            volumes::released_by.eq(&lease.job_id),
            volumes::updated_at.eq(now),
        ))
        .execute(connection)?;
    Ok(count == 1)
}

/// The fields that an update changes; `None` leaves a field as it is.
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
) -> DbResult<()> {
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
        .execute(connection)?;
    Ok(())
}

/// Sizes in GiB of the volumes that match.
pub fn sizes(connection: &mut DbConnection, filter: &Filter) -> DbResult<Vec<i64>> {
    Ok(matching!(volumes, filter)
        .select(volumes::size_gib)
        .load(connection)?)
}

/// Metadata of one volume.
pub type Metadata = Json<BTreeMap<String, String>>;

/// Metadata of the next volumes that match, in the order of their ids.
pub fn metadata_after(
    connection: &mut DbConnection,
    filter: &Filter,
    last: &VolumeId,
    limit: i64,
) -> DbResult<Vec<(VolumeId, Metadata)>> {
    Ok(matching!(volumes, filter)
        .filter(volumes::id.gt(last))
        .order(volumes::id)
        .limit(limit)
        .select((volumes::id, volumes::metadata))
        .load(connection)?)
}

/// Sets the type of a volume.
pub fn set_type(
    connection: &mut DbConnection,
    id: &VolumeId,
    volume_type: &crate::model::id::VolumeTypeId,
    now: Timestamp,
) -> DbResult<()> {
    diesel::update(volumes::table.find(id))
        .set((
            volumes::volume_type_id.eq(volume_type),
            volumes::updated_at.eq(now),
        ))
        .execute(connection)?;
    Ok(())
}

/// Replaces what is known of a volume's image.
pub fn set_image_metadata(
    connection: &mut DbConnection,
    id: &VolumeId,
    metadata: &Json<BTreeMap<String, String>>,
) -> DbResult<()> {
    diesel::update(volumes::table.find(id))
        .set(volumes::image_metadata.eq(metadata))
        .execute(connection)?;
    Ok(())
}

/// Removes all attachments of a volume.
pub fn remove_attachments(connection: &mut DbConnection, id: &VolumeId) -> DbResult<()> {
    diesel::delete(attachments::table.filter(attachments::volume_id.eq(id))).execute(connection)?;
    Ok(())
}

/// Volumes of each project that has any, and the sum of their sizes in GiB.
pub fn usage_by_project(connection: &mut DbConnection) -> DbResult<Vec<(ProjectId, i64, i64)>> {
    Ok(volumes::table
        .group_by(volumes::project_id)
        .order(volumes::project_id)
        .select((volumes::project_id, count_star(), db::sum("size_gib")))
        .load(connection)?)
}

/// Volumes of a project, and the sum in GiB of their sizes and of the growth that was accepted.
pub fn usage(connection: &mut DbConnection, project: &ProjectId) -> DbResult<(i64, i64)> {
    Ok(volumes::table
        .filter(volumes::project_id.eq(project))
        .select((count_star(), db::sum("size_gib + growth_gib")))
        .first(connection)?)
}

/// Volumes and gigabytes of a project by volume type, under the names that quotas bear.
pub fn usage_by_type(
    connection: &mut DbConnection,
    project: &ProjectId,
) -> DbResult<BTreeMap<String, i64>> {
    let rows: Vec<(String, i64, i64)> = volumes::table
        .inner_join(volume_types::table.on(volume_types::id.eq(volumes::volume_type_id)))
        .filter(volumes::project_id.eq(project))
        .group_by(volume_types::name)
        .select((
            volume_types::name,
            count_star(),
            db::sum("volumes.size_gib + volumes.growth_gib"),
        ))
        .load(connection)?;
    let mut used = BTreeMap::new();
    for (name, count, size_gib) in rows {
        *used.entry(format!("volumes_{name}")).or_default() += count;
        *used.entry(format!("gigabytes_{name}")).or_default() += size_gib;
    }
    let rows: Vec<(String, i64, i64)> = snapshots::table
        .inner_join(volumes::table.on(volumes::id.eq(snapshots::volume_id)))
        .inner_join(volume_types::table.on(volume_types::id.eq(volumes::volume_type_id)))
        .filter(snapshots::project_id.eq(project))
        .group_by(volume_types::name)
        .select((
            volume_types::name,
            count_star(),
            db::sum("snapshots.size_gib"),
        ))
        .load(connection)?;
    for (name, count, size_gib) in rows {
        *used.entry(format!("snapshots_{name}")).or_default() += count;
        *used.entry(format!("gigabytes_{name}")).or_default() += size_gib;
    }
    Ok(used)
}

/// Attachments of some volumes, oldest first.
pub fn attachments_of(
    connection: &mut DbConnection,
    ids: Vec<VolumeId>,
) -> DbResult<Vec<Attachment>> {
    Ok(attachments::table
        .filter(attachments::volume_id.eq_any(ids))
        .order((attachments::created_at, attachments::id))
        .select(Attachment::as_select())
        .load(connection)?)
}

/// Attachments of a project, or of all, oldest first; of one volume alone, if it is given.
pub fn list_attachments(
    connection: &mut DbConnection,
    project: Option<&ProjectId>,
    volume: Option<&VolumeId>,
) -> DbResult<Vec<Attachment>> {
    let mut query = attachments::table.into_boxed();
    if let Some(project) = project {
        query = query.filter(attachments::project_id.eq(project));
    }
    if let Some(volume) = volume {
        query = query.filter(attachments::volume_id.eq(volume));
    }
    Ok(query
        .order((attachments::created_at, attachments::id))
        .select(Attachment::as_select())
        .load(connection)?)
}

/// The attachment, whosever it is.
pub fn find_attachment(
    connection: &mut DbConnection,
    id: &AttachmentId,
) -> DbResult<Option<Attachment>> {
    Ok(attachments::table
        .find(id)
        .select(Attachment::as_select())
        .first(connection)
        .optional()?)
}

/// Adds an attachment.
pub fn insert_attachment(connection: &mut DbConnection, row: &Attachment) -> DbResult<()> {
    diesel::insert_into(attachments::table)
        .values(row)
        .execute(connection)?;
    Ok(())
}

/// Notes what the attaching side said of itself, and how far the attachment is.
pub fn update_attachment(
    connection: &mut DbConnection,
    id: &AttachmentId,
    status: AttachStatus,
    connector: Option<&Json<serde_json::Value>>,
    attached_at: Option<Timestamp>,
) -> DbResult<()> {
    diesel::update(attachments::table.find(id))
        .set((
            attachments::status.eq(status),
            connector.map(|connector| attachments::connector.eq(connector)),
            attached_at.map(|moment| attachments::attached_at.eq(moment)),
        ))
        .execute(connection)?;
    Ok(())
}

/// Removes an attachment.
pub fn remove_attachment(connection: &mut DbConnection, id: &AttachmentId) -> DbResult<()> {
    diesel::delete(attachments::table.find(id)).execute(connection)?;
    Ok(())
}

/// Ids and names of all volume types, by name.
pub fn type_names(connection: &mut DbConnection) -> DbResult<Vec<(VolumeTypeId, String)>> {
    Ok(volume_types::table
        .order(volume_types::name)
        .select((volume_types::id, volume_types::name))
        .load(connection)?)
}

/// The volume type with this id or name.
pub fn find_type(connection: &mut DbConnection, id_or_name: &str) -> DbResult<Option<VolumeType>> {
    Ok(volume_types::table
        .filter(
            volume_types::id
                .eq(VolumeTypeId::new(id_or_name))
                .or(volume_types::name.eq(id_or_name)),
        )
        .select(VolumeType::as_select())
        .first(connection)
        .optional()?)
}

/// Adds a volume type.
pub fn insert_type(connection: &mut DbConnection, row: &VolumeType) -> DbResult<()> {
    diesel::insert_into(volume_types::table)
        .values(row)
        .execute(connection)?;
    Ok(())
}
