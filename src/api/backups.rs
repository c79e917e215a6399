//! `/backups`

use crate::admission::create::CreateBackup;
use crate::api::http::call::{Call, no_such_action};
use crate::api::http::kinds;
use crate::api::http::links::{iso, links};
use crate::api::http::list::{Collection, ListQuery};
use crate::api::http::microversion::{
    BACKUP_METADATA, BACKUP_PROJECT, BACKUP_SORT_NAME, BACKUP_USER, BACKUP_ZONE,
};
use crate::api::http::reply::Reply;
use crate::api::http::schema::{Rule, Schema, field};
use crate::db::backups::Changes;
use crate::identity::policy;
use crate::model::backup::{Backup, BackupStatus};
use crate::model::error::Error;
use crate::model::id::{BackupId, SnapshotId, VolumeId};
use crate::model::job::NewTarget;
use crate::model::record::SERVICE;
use crate::service::backups::RestoreBackup;
use serde_json::{Value, json};

type Result = std::result::Result<Reply, Error>;

pub(super) static COLLECTION: Collection = Collection {
    name: "backups",
    links: "backups_links",
    columns: crate::model::backup::COLUMNS,
    filters: &["name", "status", "volume_id"],
    sorted_by_name: BACKUP_SORT_NAME,
};

const CREATE: Schema = Schema::under(
    "backup",
    &[
        field("volume_id", kinds::uuid),
        field("container", kinds::text_or_null),
        field("description", kinds::description),
        field("incremental", kinds::flag),
        field("force", kinds::flag),
        field("name", kinds::text_or_null),
        field("snapshot_id", kinds::uuid_or_null),
        field("metadata", kinds::metadata_or_null).since(BACKUP_METADATA),
        field("availability_zone", kinds::text_or_null).since(BACKUP_ZONE),
    ],
    &[Rule::Required(&["volume_id"]), Rule::NoOthers],
);
const UPDATE: Schema = Schema::under(
    "backup",
    &[
        field("name", kinds::text_or_null),
        field("description", kinds::description),
        field("metadata", kinds::metadata).since(BACKUP_METADATA),
    ],
    &[Rule::NoOthers],
)
.or_null();
const RESTORE: Schema = Schema::under(
    "restore",
    &[
        field("name", kinds::text_or_null),
        field("volume_id", kinds::uuid_or_null),
    ],
    &[Rule::NoOthers],
)
.or_null();
const IMPORT: Schema = Schema::under(
    "backup-record",
    &[
        field("backup_service", kinds::text),
        field("backup_url", kinds::base64),
    ],
    &[
        Rule::Required(&["backup_service", "backup_url"]),
        Rule::NoOthers,
    ],
);
const RESET: Schema = Schema::under(
    "os-reset_status",
    &[field("status", wanted_status)],
    &[Rule::Required(&["status"]), Rule::NoOthers],
);

fn id(call: &Call<'_>) -> BackupId {
    BackupId::new(call.parameter("id"))
}

pub(super) fn create(call: &Call<'_>) -> Result {
    let fields = call.fields(&CREATE)?;
    let wanted = CreateBackup {
        volume_id: VolumeId::new(fields.required("volume_id")),
        snapshot_id: fields.text("snapshot_id").map(SnapshotId::new),
        name: fields.text("name"),
        description: fields.text("description"),
        container: fields.text("container"),
        availability_zone: fields.text("availability_zone"),
        metadata: fields.metadata("metadata").unwrap_or_default(),
        incremental: fields.flag("incremental"),
        force: fields.flag("force"),
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

fn list_as(call: &Call<'_>, view: impl Fn(&Call<'_>, &Backup, bool) -> Value) -> Result {
    let query = ListQuery::from_call(call, &COLLECTION)?;
    let services = &call.api.services;
    let found = services.list_backups(call.ctx()?, &query.filter, &query.page, query.with_count)?;
    let show = |row: &Backup| {
        let has_dependents = found.parents.contains(&row.id);
        Ok((row.id.to_string(), view(call, row, has_dependents)))
    };
    query.answer(call, &COLLECTION, &found.backups, found.count, show)
}

pub(super) fn show(call: &Call<'_>) -> Result {
    let (backup, has_dependents) = call.api.services.show_backup(call.ctx()?, &id(call))?;
    let view = backup_detail(call, &backup, has_dependents);
    Ok(Reply::json(200, json!({ "backup": view })))
}

pub(super) fn update(call: &Call<'_>) -> Result {
    let fields = call.fields(&UPDATE)?;
    let changes = Changes {
        name: fields.change("name"),
        description: fields.change("description"),
        metadata: fields.metadata("metadata"),
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
    let fields = call.fields(&IMPORT)?;
    let service = fields.required("backup_service");
    let url = fields.required("backup_url");
    let ctx = call.ctx()?;
    let backup = call.api.services.import_backup(ctx, &service, &url)?;
    Ok(Reply::json(
        201,
        json!({ "backup": backup_summary(call, &backup) }),
    ))
}

pub(super) fn action(call: &Call<'_>) -> Result {
    let (ctx, services) = (call.ctx()?, &call.api.services);
    match call.action()? {
        "os-reset_status" => {
            let word = call.fields(&RESET)?.required("status").to_lowercase();
            let status = BackupStatus::parse(&word).unwrap_or(BackupStatus::Error);
            services.reset_backup(ctx, &id(call), status)?;
        }
        "os-force_delete" => services.force_delete_backup(ctx, &id(call))?,
        other => return Err(no_such_action(other)),
    }
    Ok(Reply::empty(202))
}

/// The states that an administrator may set.
fn wanted_status(key: &str, value: &Value) -> std::result::Result<(), Error> {
    let valid = ["available", "error"];
    kinds::string(key, value)?;
    kinds::status(
        "Backup",
        value,
        |word| valid.contains(&word),
        "['available', 'error']",
    )
}

pub(super) fn restore(call: &Call<'_>) -> Result {
    let fields = call.fields(&RESTORE)?;
    let wanted = RestoreBackup {
        volume_id: fields.text("volume_id").map(VolumeId::new),
        name: fields.text("name"),
        new: NewTarget {
            description: Some("auto-created_from_restore_from_backup".to_owned()),
            ..NewTarget::default()
        },
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

/// The view of a backup that create, update and the plain list show.
pub(super) fn backup_summary(call: &Call<'_>, backup: &Backup) -> Value {
    let links = links(call, "backups", backup.id.as_str());
    json!({ "id": backup.id, "name": backup.name, "links": links })
}

/// The view of a backup that show and the detail list show.
pub(super) fn backup_detail(call: &Call<'_>, backup: &Backup, has_dependents: bool) -> Value {
    let Backup {
        id,
        project_id,
        user_id,
        storage_id: _,
        vault_id: _,
        volume_id,
        snapshot_id,
        parent_id: _,
        name,
        description,
        status,
        size_gib,
        object_count,
        fail_reason,
        availability_zone,
        container,
        metadata,
        data_timestamp,
        restore_volume_id: _,
        root_id: _,
        pack_set: _,
        logical_bytes: _,
        read_bytes: _,
        stored_bytes: _,
        deduplicated_bytes: _,
        created_at,
        updated_at,
        volume_type: _,
        volume_zone: _,
    } = backup;
    let mut view = json!({
        "id": id,
        "status": status.as_str(),
        "size": size_gib,
        "object_count": object_count,
        "availability_zone": availability_zone,
        "container": container,
        "created_at": created_at.iso(),
        "updated_at": iso(updated_at),
        "name": name,
        "description": description,
        "fail_reason": fail_reason,
        "volume_id": volume_id,
        "links": links(call, "backups", id.as_str()),
        "is_incremental": backup.is_incremental(),
        "has_dependent_backups": has_dependents,
        "snapshot_id": snapshot_id,
        "data_timestamp": iso(data_timestamp),
    });
    let shows_owner = call.ctx.as_ref().is_some_and(|ctx| {
        ctx.authorize(policy::Rule::BackupProjectAttribute, project_id)
            .is_ok()
    });
    if call.version >= BACKUP_PROJECT && shows_owner {
        view["os-backup-project-attr:project_id"] = json!(project_id);
    }
    if call.version >= BACKUP_METADATA {
        view["metadata"] = json!(**metadata);
    }
    if call.version >= BACKUP_USER && shows_owner {
        view["user_id"] = json!(user_id);
    }
    view
}
