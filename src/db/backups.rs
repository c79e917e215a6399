//! Rows of `backups`.

use crate::db::page::{load_page, matching};
use crate::db::{self, DbConnection, DbResult};
use crate::model::backup::{Backup, BackupEvent, BackupStatus};
use crate::model::column::Json;
use crate::model::id::{BackupId, ProjectId, StorageId, VaultId, VolumeId};
use crate::model::page::{Filter, Listed, Page};
use crate::model::schema::{backups, noted_roots};
use crate::model::time::Timestamp;
use crate::model::volume::SavedVolume;
use diesel::dsl::{count_star, not};
use diesel::prelude::*;
use std::collections::{BTreeMap, HashSet};

/// Bytes of a page that a row counts for. Metadata is taken apart, and then takes over ten times as much as its
/// text; a bitmap takes what it is.
const BYTES: &str = "OCTET_LENGTH(metadata) + COALESCE(OCTET_LENGTH(pack_set), 0) / 16";

/// How many rows are named as examples.
const SOME: i64 = 10;

/// One page of the backups that match.
pub fn list(
    connection: &mut DbConnection,
    filter: &Filter,
    page: &Page,
) -> DbResult<Listed<Backup>> {
    Ok(load_page!(
        backups,
        Backup,
        BYTES,
        matching!(backups, filter),
        page,
        connection
    ))
}

/// How many backups match.
pub fn count(connection: &mut DbConnection, filter: &Filter) -> DbResult<i64> {
    Ok(matching!(backups, filter).count().get_result(connection)?)
}

/// The backup, whosever it is.
pub fn find(connection: &mut DbConnection, id: &BackupId) -> DbResult<Option<Backup>> {
    Ok(backups::table
        .find(id)
        .select(Backup::as_select())
        .first(connection)
        .optional()?)
}

/// Adds a backup.
pub fn insert(connection: &mut DbConnection, backup: &Backup) -> DbResult<()> {
    diesel::insert_into(backups::table)
        .values(backup)
        .execute(connection)?;
    Ok(())
}

/// Removes a backup.
pub fn remove(connection: &mut DbConnection, id: &BackupId) -> DbResult<()> {
    diesel::delete(backups::table.find(id)).execute(connection)?;
    forget_noted_root(connection, id)
}

/// Whether a row of this alias was made against one of `backups`, in the same project.
macro_rules! is_child_of {
    ($children:ident) => {
        $children
            .field(backups::parent_id)
            .eq(backups::id.nullable())
            .and($children.field(backups::project_id).eq(backups::project_id))
    };
}

/// Which of these backups are the parent of another of their project. An imported record may name any parent.
pub fn parents_among(
    connection: &mut DbConnection,
    ids: Vec<BackupId>,
) -> DbResult<HashSet<BackupId>> {
    let children = diesel::alias!(backups as children);
    let parents: Vec<BackupId> = backups::table
        .inner_join(children.on(is_child_of!(children)))
        .filter(backups::id.eq_any(ids))
        .select(backups::id)
        .distinct()
        .load(connection)?;
    Ok(parents.into_iter().collect())
}

/// The backup an incremental is made against: the newest available one of the volume, of the
/// project and in the storage. For a snapshot, one that is older than the snapshot, if there is
/// one (Cinder reference, 5.4).
pub fn parent_for(
    connection: &mut DbConnection,
    volume: &VolumeId,
    project: &ProjectId,
    storage: &StorageId,
    before: Option<Timestamp>,
) -> DbResult<Option<Backup>> {
    let candidates = || {
        backups::table
            .filter(
                backups::volume_id
                    .eq(volume)
                    .and(backups::project_id.eq(project))
                    .and(backups::storage_id.eq(storage))
                    .and(
                        backups::status.eq_any([BackupStatus::Available, BackupStatus::Restoring]),
                    ),
            )
            // The two databases sort NULL to different ends.
            .order((
                backups::data_timestamp.is_null(),
                backups::data_timestamp.desc(),
                backups::created_at.desc(),
            ))
            .select(Backup::as_select())
    };
    if let Some(moment) = before {
        let older = candidates()
            .filter(backups::data_timestamp.assume_not_null().lt(moment))
            .first(connection)
            .optional()?;
        if older.is_some() {
            return Ok(older);
        }
    }
    Ok(candidates().first(connection).optional()?)
}

/// Moves a backup from any state in which the event is legal. `false`: it is in another state.
pub fn transition(
    connection: &mut DbConnection,
    id: &BackupId,
    event: BackupEvent,
    now: Timestamp,
) -> DbResult<bool> {
    // All states from which the event is legal are in one statement. If they were tried one after the other, a state
    // that changes meanwhile could be missed.
    for to in BackupStatus::ALL {
        let from: Vec<BackupStatus> = BackupStatus::before(event)
            .into_iter()
            .filter(|from| from.after(event) == Some(*to))
            .collect();
        if from.is_empty() {
            continue;
        }
        let moved = diesel::update(backups::table.find(id))
            .filter(backups::status.eq_any(from))
            .set((backups::status.eq(to), backups::updated_at.eq(now)))
            .execute(connection)?;
        if moved == 1 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Notes where a restore goes.
pub fn set_restore_volume(
    connection: &mut DbConnection,
    id: &BackupId,
    volume: &VolumeId,
) -> DbResult<()> {
    diesel::update(backups::table.find(id))
        .set(backups::restore_volume_id.eq(volume))
        .execute(connection)?;
    Ok(())
}

/// Backups of a vault whose data is under this root. A backup's own id is the name of its root only where
/// no other is noted: an import may bear the id of one backup and have the data of another.
#[diesel::dsl::auto_type(no_type_alias)]
pub fn has_root<'a>(vault: &'a VaultId, root: &'a BackupId) -> _ {
    // The vault in both halves: SQLite looks for an index for each of them alone.
    let is_own = backups::id.eq(root).and(backups::root_id.is_null());
    let is_noted = backups::root_id.eq(root);
    is_noted
        .and(backups::vault_id.eq(vault))
        .or(is_own.and(backups::vault_id.eq(vault)))
}

/// Other backups whose data is under the same root, and their states. A backup that got no vault has no
/// data.
pub fn sharing(
    connection: &mut DbConnection,
    backup: &Backup,
) -> DbResult<Vec<(BackupId, BackupStatus)>> {
    let Some(vault) = &backup.vault_id else {
        return Ok(Vec::new());
    };
    Ok(backups::table
        .filter(has_root(vault, backup.root_name()))
        .filter(backups::id.ne(&backup.id))
        .select((backups::id, backups::status))
        .load(connection)?)
}

/// A backup that has this root.
pub fn with_root(
    connection: &mut DbConnection,
    vault: &VaultId,
    root: &BackupId,
) -> DbResult<Option<Backup>> {
    Ok(backups::table
        .filter(has_root(vault, root))
        .order(backups::id)
        .select(Backup::as_select())
        .first(connection)
        .optional()?)
}

/// Fills the row of an imported backup from its record and its root; state and totals are set elsewhere.
pub fn set_imported(connection: &mut DbConnection, backup: &Backup) -> DbResult<()> {
    let Backup {
        id,
        project_id: _,
        user_id: _,
        storage_id,
        vault_id,
        volume_id,
        snapshot_id,
        parent_id,
        name,
        description,
        status: _,
        size_gib,
        object_count: _,
        fail_reason: _,
        availability_zone,
        container,
        metadata,
        data_timestamp,
        restore_volume_id: _,
        root_id,
        pack_set: _,
        logical_bytes: _,
        read_bytes: _,
        stored_bytes: _,
        deduplicated_bytes: _,
        created_at,
        updated_at: _,
        volume_type,
        volume_zone,
    } = backup;
    diesel::update(backups::table.find(id))
        .set((
            backups::storage_id.eq(storage_id),
            backups::vault_id.eq(vault_id),
            backups::root_id.eq(root_id),
            backups::volume_id.eq(volume_id),
            backups::snapshot_id.eq(snapshot_id),
            backups::parent_id.eq(parent_id),
            backups::name.eq(name),
            backups::description.eq(description),
            backups::metadata.eq(metadata),
            backups::size_gib.eq(size_gib),
            backups::availability_zone.eq(availability_zone),
            backups::container.eq(container),
            backups::data_timestamp.eq(data_timestamp),
            backups::created_at.eq(created_at),
            backups::volume_type.eq(volume_type),
            backups::volume_zone.eq(volume_zone),
        ))
        .execute(connection)?;
    Ok(())
}

/// Notes what volume it was that was backed up.
pub fn set_place(
    connection: &mut DbConnection,
    id: &BackupId,
    volume: &SavedVolume,
) -> DbResult<()> {
    diesel::update(backups::table.find(id))
        .set((
            backups::volume_type.eq(&volume.volume_type),
            backups::volume_zone.eq(&volume.availability_zone),
        ))
        .execute(connection)?;
    Ok(())
}

/// Makes a failed import a backup that has no data: what it was about to own stays in its vault, for others. Only while
/// it is being imported has a backup a pack set that is not available yet; call it in the transaction in which it fails.
pub fn disown(connection: &mut DbConnection, id: &BackupId) -> DbResult<()> {
    diesel::update(backups::table.find(id))
        .filter(backups::status.eq(BackupStatus::Error))
        .filter(backups::pack_set.is_not_null())
        .set((
            backups::vault_id.eq(None::<VaultId>),
            backups::root_id.eq(None::<BackupId>),
            backups::pack_set.eq(None::<Vec<u8>>),
        ))
        .execute(connection)?;
    Ok(())
}

/// Notes that the root of a backup is about to be stored.
pub fn note_root(connection: &mut DbConnection, backup: &BackupId) -> DbResult<()> {
    let row = noted_roots::backup.eq(backup.as_str());
    match connection {
        DbConnection::Postgres(connection) => diesel::insert_into(noted_roots::table)
            .values(row)
            .on_conflict_do_nothing()
            .execute(connection),
        DbConnection::Sqlite(connection) => diesel::insert_or_ignore_into(noted_roots::table)
            .values(row)
            .execute(connection),
    }?;
    Ok(())
}

/// Whether the root of a backup that has no pack set was noted.
pub fn is_root_noted(connection: &mut DbConnection, backup: &BackupId) -> DbResult<bool> {
    let noted = noted_roots::table.find(backup.as_str());
    Ok(diesel::select(diesel::dsl::exists(noted)).get_result(connection)?)
}

/// Forgets the note, as the backup is available, or is gone.
pub fn forget_noted_root(connection: &mut DbConnection, backup: &BackupId) -> DbResult<()> {
    diesel::delete(noted_roots::table.find(backup.as_str())).execute(connection)?;
    Ok(())
}

/// Failed backups of a vault with this reason.
pub fn failed_for(
    connection: &mut DbConnection,
    vault: &VaultId,
    reason: &str,
) -> DbResult<Vec<Backup>> {
    Ok(backups::table
        .filter(backups::vault_id.eq(vault))
        .filter(backups::status.eq(BackupStatus::Error))
        .filter(backups::fail_reason.eq(reason))
        .select(Backup::as_select())
        .load(connection)?)
}

/// Some backups of other projects that lie in these vaults, with their projects.
pub fn of_others_in(
    connection: &mut DbConnection,
    vaults: &[VaultId],
    project: &str,
) -> DbResult<Vec<(BackupId, ProjectId)>> {
    Ok(backups::table
        .filter(backups::vault_id.eq_any(vaults))
        .filter(backups::project_id.ne(project))
        .select((backups::id, backups::project_id))
        .limit(SOME)
        .load(connection)?)
}

/// Some backups of a project that lie in no vault of these.
pub fn of_project_outside(
    connection: &mut DbConnection,
    project: &str,
    vaults: &[VaultId],
) -> DbResult<Vec<BackupId>> {
    Ok(backups::table
        .filter(backups::project_id.eq(project))
        .filter(backups::vault_id.is_not_null())
        .filter(not(backups::vault_id.assume_not_null().eq_any(vaults)))
        .select(backups::id)
        .limit(SOME)
        .load(connection)?)
}

/// What a backup takes in its vault.
#[derive(Debug, Clone, Queryable)]
pub struct Stored {
    pub id: BackupId,
    pub project_id: ProjectId,
    pub name: Option<String>,
    pub created_at: Timestamp,
    /// Bytes of the volume that hold data.
    pub logical_bytes: i64,
    /// Bytes that the backup added to the storage.
    pub stored_bytes: i64,
    pub pack_set: Option<Vec<u8>>,
}

/// The next backups of a vault, by time, behind this one.
pub fn stored_in_vault(
    connection: &mut DbConnection,
    vault: &VaultId,
    after: Option<(Timestamp, &BackupId)>,
    most: i64,
) -> DbResult<Vec<Stored>> {
    let first = BackupId::new("");
    let (time, id) = after.unwrap_or((Timestamp(i64::MIN), &first));
    Ok(backups::table
        .filter(backups::vault_id.eq(vault))
        .filter(backups::created_at.ge(time))
        .filter(backups::created_at.gt(time).or(backups::id.gt(id)))
        .order((backups::created_at, backups::id))
        .limit(most)
        .select((
            backups::id,
            backups::project_id,
            backups::name,
            backups::created_at,
            backups::logical_bytes,
            backups::stored_bytes,
            backups::pack_set,
        ))
        .load(connection)?)
}

/// How many backups of its project name this one as their parent.
pub fn count_children(connection: &mut DbConnection, id: &BackupId) -> DbResult<i64> {
    let children = diesel::alias!(backups as children);
    Ok(backups::table
        .inner_join(children.on(is_child_of!(children)))
        .filter(backups::id.eq(id))
        .count()
        .get_result(connection)?)
}

/// Records that the data of an available backup is gone.
pub fn mark_lost(connection: &mut DbConnection, id: &BackupId, reason: &str) -> DbResult<()> {
    diesel::update(backups::table.find(id))
        .filter(backups::status.eq(BackupStatus::Available))
        .set((
            backups::status.eq(BackupStatus::Error),
            backups::fail_reason.eq(reason),
        ))
        .execute(connection)?;
    Ok(())
}

/// Records that the data of a backup is there, although it was not found before. `was`: the reason that was noted then.
pub fn mark_found(connection: &mut DbConnection, id: &BackupId, was: &str) -> DbResult<()> {
    diesel::update(backups::table.find(id))
        .filter(backups::status.eq(BackupStatus::Error))
        // Another reason may have been found meanwhile.
        .filter(backups::fail_reason.eq(was))
        .set((
            backups::status.eq(BackupStatus::Available),
            backups::fail_reason.eq(None::<String>),
        ))
        .execute(connection)?;
    Ok(())
}

/// Notes why something failed.
pub fn set_fail_reason(connection: &mut DbConnection, id: &BackupId, reason: &str) -> DbResult<()> {
    diesel::update(backups::table.find(id))
        .set(backups::fail_reason.eq(reason))
        .execute(connection)?;
    Ok(())
}

/// Notes that a worker took the backup up.
pub fn set_started(
    connection: &mut DbConnection,
    id: &BackupId,
    vault: &VaultId,
    availability_zone: &str,
    container: &str,
) -> DbResult<()> {
    diesel::update(backups::table.find(id))
        .filter(backups::availability_zone.is_null())
        .set(backups::availability_zone.eq(availability_zone))
        .execute(connection)?;
    diesel::update(backups::table.find(id))
        .filter(backups::container.is_null())
        .set(backups::container.eq(container))
        .execute(connection)?;
    diesel::update(backups::table.find(id))
        .set(backups::vault_id.eq(vault))
        .execute(connection)?;
    Ok(())
}

/// Records the moment whose bytes the backup will have.
pub fn set_data_timestamp(
    connection: &mut DbConnection,
    id: &BackupId,
    moment: Timestamp,
) -> DbResult<()> {
    diesel::update(backups::table.find(id))
        .set(backups::data_timestamp.eq(moment))
        .execute(connection)?;
    Ok(())
}

/// The totals of a finished backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    pub pack_set: Vec<u8>,
    pub object_count: i64,
    pub logical_bytes: i64,
    pub read_bytes: i64,
    pub stored_bytes: i64,
    pub deduplicated_bytes: i64,
}

/// Stores the result of a finished backup; `transition` makes it available.
pub fn set_finished(
    connection: &mut DbConnection,
    id: &BackupId,
    finished: &Finished,
) -> DbResult<()> {
    diesel::update(backups::table.find(id))
        .set((
            backups::pack_set.eq(&finished.pack_set),
            backups::object_count.eq(finished.object_count),
            backups::logical_bytes.eq(finished.logical_bytes),
            backups::read_bytes.eq(finished.read_bytes),
            backups::stored_bytes.eq(finished.stored_bytes),
            backups::deduplicated_bytes.eq(finished.deduplicated_bytes),
        ))
        .execute(connection)?;
    Ok(())
}

/// The fields that an update changes; `None` leaves a field as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    pub name: Option<Option<String>>,
    pub description: Option<Option<String>>,
    pub metadata: Option<BTreeMap<String, String>>,
}

/// Changes name, description or metadata.
pub fn update(
    connection: &mut DbConnection,
    id: &BackupId,
    changes: &Changes,
    now: Timestamp,
) -> DbResult<()> {
    if *changes == Changes::default() {
        return Ok(());
    }
    let metadata = changes.metadata.clone().map(Json::new);
    diesel::update(backups::table.find(id))
        .set((
            changes.name.as_ref().map(|name| backups::name.eq(name)),
            changes
                .description
                .as_ref()
                .map(|text| backups::description.eq(text)),
            metadata
                .as_ref()
                .map(|metadata| backups::metadata.eq(metadata)),
            Some(backups::updated_at.eq(now)),
        ))
        .execute(connection)?;
    Ok(())
}

/// Backups of a project, and the sum of their sizes in GiB.
pub fn usage(connection: &mut DbConnection, project: &ProjectId) -> DbResult<(i64, i64)> {
    Ok(backups::table
        .filter(backups::project_id.eq(project))
        .select((count_star(), db::sum("size_gib")))
        .first(connection)?)
}
