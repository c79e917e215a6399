//! `/backups`

use crate::api::body::Fields;
use crate::api::call::{Call, Reply};
use crate::api::list::{Collection, ListQuery};
use crate::api::microversion::{BACKUP_METADATA, BACKUP_SORT_NAME, BACKUP_ZONE};
use crate::api::views::{backup_detail, backup_summary};
use crate::api::volume_actions::no_such_action;
use crate::db::backups::Changes;
use crate::model::backup::BackupStatus;
use crate::model::error::Error;
use crate::model::id::{BackupId, SnapshotId, VolumeId};
use crate::model::record::SERVICE;
use crate::service::backups::{CreateBackup, RestoreBackup};
use serde_json::{Value, json};

type Result = std::result::Result<Reply, Error>;

pub(super) static COLLECTION: Collection = Collection {
    name: "backups",
    links: "backups_links",
    columns: crate::model::backup::COLUMNS,
    filters: &["name", "status", "volume_id"],
    sorted_by_name: BACKUP_SORT_NAME,
};

fn id(call: &Call<'_>) -> BackupId {
    BackupId::new(call.parameter("id"))
}

pub(super) fn create(call: &Call<'_>) -> Result {
    let fields = call.body()?.object("backup")?;
    let mut known = vec![
        "volume_id",
        "container",
        "name",
        "description",
        "incremental",
        "force",
        "snapshot_id",
    ];
    if call.version >= BACKUP_METADATA {
        known.push("metadata");
    }
    if call.version >= BACKUP_ZONE {
        known.push("availability_zone");
    }
    fields.only(&known)?;
    let wanted = CreateBackup {
        volume_id: VolumeId::new(fields.required_uuid("volume_id")?),
        snapshot_id: fields.uuid("snapshot_id")?.map(SnapshotId::new),
        name: fields.text("name")?.flatten(),
        description: fields.description("description")?.flatten(),
        container: fields.text("container")?.flatten(),
        availability_zone: fields.text("availability_zone")?.flatten(),
        metadata: fields.metadata("metadata", true)?.unwrap_or_default(),
        incremental: fields.flag("incremental")?,
        force: fields.flag("force")?,
    };
    let backup = call.api.services.create_backup(call.ctx()?, wanted)?;
    Ok(Reply::json(
        202,
        json!({ "backup": backup_summary(call, &backup) }),
    ))
}

pub(super) fn list(call: &Call<'_>) -> Result {
    list_as(call, |call, backup, _| backup_summary(call, backup))
}

pub(super) fn list_detail(call: &Call<'_>) -> Result {
    list_as(call, backup_detail)
}

fn list_as(
    call: &Call<'_>,
    view: impl Fn(&Call<'_>, &crate::model::backup::Backup, bool) -> Value,
) -> Result {
    let query = ListQuery::from_call(call, &COLLECTION)?;
    let services = &call.api.services;
    let found = services.list_backups(call.ctx()?, &query.filter, &query.page, query.with_count)?;
    let last = found.backups.last().map(|backup| backup.id.to_string());
    let items = found
        .backups
        .iter()
        .map(|backup| view(call, backup, found.parents.contains(&backup.id)))
        .collect();
    Ok(Reply::json(
        200,
        query.answer(call, &COLLECTION, items, last, found.count),
    ))
}

pub(super) fn show(call: &Call<'_>) -> Result {
    let (backup, has_dependents) = call.api.services.show_backup(call.ctx()?, &id(call))?;
    let view = backup_detail(call, &backup, has_dependents);
    Ok(Reply::json(200, json!({ "backup": view })))
}

pub(super) fn update(call: &Call<'_>) -> Result {
    let fields = call.body()?.object("backup")?;
    let mut known = vec!["name", "description"];
    if call.version >= BACKUP_METADATA {
        known.push("metadata");
    }
    fields.only(&known)?;
    let changes = Changes {
        name: fields.text("name")?,
        description: fields.description("description")?,
        metadata: fields.metadata("metadata", false)?,
    };
    let backup = call
        .api
        .services
        .update_backup(call.ctx()?, &id(call), &changes)?;
    Ok(Reply::json(
        200,
        json!({ "backup": backup_summary(call, &backup) }),
    ))
}

pub(super) fn delete(call: &Call<'_>) -> Result {
    call.api.services.delete_backup(call.ctx()?, &id(call))?;
    Ok(Reply::empty(202))
}

pub(super) fn export_record(call: &Call<'_>) -> Result {
    let record = call.api.services.export_backup(call.ctx()?, &id(call))?;
    let view = json!({ "backup_service": SERVICE, "backup_url": record.encode() });
    Ok(Reply::json(200, json!({ "backup-record": view })))
}

pub(super) fn import_record(call: &Call<'_>) -> Result {
    let fields = call.body()?.object("backup-record")?;
    fields.only(&["backup_service", "backup_url"])?;
    let service = fields.required_text("backup_service")?;
    let url = fields.base64("backup_url")?;
    let ctx = call.ctx()?;
    let backup = call.api.services.import_backup(ctx, &service, url)?;
    Ok(Reply::json(
        201,
        json!({ "backup": backup_summary(call, &backup) }),
    ))
}

pub(super) fn action(call: &Call<'_>) -> Result {
    let (name, value) = call.body()?.action()?;
    let (ctx, services) = (call.ctx()?, &call.api.services);
    match name {
        "os-reset_status" => services.reset_backup(ctx, &id(call), wanted_status(value)?)?,
        "os-force_delete" => services.force_delete_backup(ctx, &id(call))?,
        other => return Err(no_such_action(other)),
    }
    Ok(Reply::empty(202))
}

fn wanted_status(value: &Value) -> std::result::Result<BackupStatus, Error> {
    let fields = Fields::of("os-reset_status", value)?;
    fields.only(&["status"])?;
    let word = fields.required_text("status")?;
    match BackupStatus::parse(&word.to_lowercase()) {
        Some(status @ (BackupStatus::Available | BackupStatus::Error)) => Ok(status),
        _ => Err(Error::Invalid(format!(
            "Backup status: {word} is invalid, valid statuses are: ['available', 'error']."
        ))),
    }
}

pub(super) fn restore(call: &Call<'_>) -> Result {
    let fields = call.body()?.object("restore")?;
    fields.only(&["volume_id", "name"])?;
    let wanted = RestoreBackup {
        volume_id: fields.uuid("volume_id")?.map(VolumeId::new),
        name: fields.text("name")?.flatten(),
    };
    let restoring = call
        .api
        .services
        .restore_backup(call.ctx()?, &id(call), wanted)?;
    let view = json!({
        "backup_id": id(call),
        "volume_id": restoring.volume_id,
        "volume_name": restoring.volume_name,
    });
    Ok(Reply::json(202, json!({ "restore": view })))
}
