//! `/snapshots`

use crate::api::call::{Call, Reply};
use crate::api::list::{Collection, ListQuery};
use crate::api::microversion::{SNAPSHOT_NO_FORCE, SNAPSHOT_SORT_NAME};
use crate::api::views::{snapshot as view, snapshot_detail, snapshot_summary};
use crate::model::error::Error;
use crate::model::id::{SnapshotId, VolumeId};
use crate::model::snapshot::Snapshot;
use crate::service::snapshots::{CreateSnapshot, SnapshotChanges};
use serde_json::{Value, json};

type Result = std::result::Result<Reply, Error>;

pub(super) static COLLECTION: Collection = Collection {
    name: "snapshots",
    links: "snapshots_links",
    columns: crate::model::snapshot::COLUMNS,
    filters: &[
        "name",
        "status",
        "volume_id",
        "metadata",
        "availability_zone",
        "consumes_quota",
    ],
    sorted_by_name: SNAPSHOT_SORT_NAME,
};

fn id(call: &Call<'_>) -> SnapshotId {
    SnapshotId::new(call.parameter("id"))
}

pub(super) fn create(call: &Call<'_>) -> Result {
    let fields = call.body()?.object("snapshot")?;
    fields.only(&[
        "volume_id",
        "name",
        "display_name",
        "description",
        "display_description",
        "force",
        "metadata",
    ])?;
    let force = fields.flag("force")?;
    // Since then a snapshot of a volume in use needs no permission, and refusing it is an error.
    let needs_none = call.version >= SNAPSHOT_NO_FORCE;
    if needs_none && fields.value("force").is_some() && !force {
        let message = "Since microversion 3.66 the 'force' flag is invalid for this request.  For backward compatability, however, when the 'force' flag is passed with a value evaluating to True, it is silently ignored.";
        return Err(Error::Invalid(message.to_owned()));
    }
    let wanted = CreateSnapshot {
        // A null names no volume, and that is what the client is told.
        volume_id: match fields.require("volume_id")? {
            Value::Null => VolumeId::new("None"),
            _ => VolumeId::new(fields.required_uuid("volume_id")?),
        },
        name: fields.name()?.flatten(),
        description: fields.about()?.flatten(),
        metadata: fields.metadata("metadata", true)?.unwrap_or_default(),
        force: force || needs_none,
    };
    let snapshot = call.api.services.create_snapshot(call.ctx()?, wanted)?;
    Ok(Reply::json(
        202,
        json!({ "snapshot": view(call, &snapshot) }),
    ))
}

pub(super) fn list(call: &Call<'_>) -> Result {
    list_as(call, |_, snapshot| snapshot_summary(snapshot))
}

pub(super) fn list_detail(call: &Call<'_>) -> Result {
    list_as(call, snapshot_detail)
}

fn list_as(call: &Call<'_>, view: impl Fn(&Call<'_>, &Snapshot) -> Value) -> Result {
    let query = ListQuery::from_call(call, &COLLECTION)?;
    let services = &call.api.services;
    let (snapshots, count) =
        services.list_snapshots(call.ctx()?, &query.filter, &query.page, query.with_count)?;
    let last = snapshots.last().map(|snapshot| snapshot.id.to_string());
    let items = snapshots
        .iter()
        .map(|snapshot| view(call, snapshot))
        .collect();
    Ok(Reply::json(
        200,
        query.answer(call, &COLLECTION, items, last, count),
    ))
}

pub(super) fn show(call: &Call<'_>) -> Result {
    let snapshot = call.api.services.show_snapshot(call.ctx()?, &id(call))?;
    Ok(Reply::json(
        200,
        json!({ "snapshot": snapshot_detail(call, &snapshot) }),
    ))
}

pub(super) fn update(call: &Call<'_>) -> Result {
    let fields = call.body()?.object("snapshot")?;
    fields.only(&["name", "display_name", "description", "display_description"])?;
    let changes = SnapshotChanges {
        name: fields.name()?,
        description: fields.about()?,
        metadata: None,
    };
    let snapshot = call
        .api
        .services
        .update_snapshot(call.ctx()?, &id(call), changes)?;
    Ok(Reply::json(
        200,
        json!({ "snapshot": view(call, &snapshot) }),
    ))
}

pub(super) fn delete(call: &Call<'_>) -> Result {
    call.api.services.delete_snapshot(call.ctx()?, &id(call))?;
    Ok(Reply::empty(202))
}

pub(super) fn show_metadata(call: &Call<'_>) -> Result {
    let snapshot = call.api.services.show_snapshot(call.ctx()?, &id(call))?;
    Ok(Reply::json(200, json!({ "metadata": *snapshot.metadata })))
}

pub(super) fn merge_metadata(call: &Call<'_>) -> Result {
    change_metadata(call, false)
}

pub(super) fn replace_metadata(call: &Call<'_>) -> Result {
    change_metadata(call, true)
}

fn change_metadata(call: &Call<'_>, is_replacement: bool) -> Result {
    let wanted = call.metadata_body()?;
    let services = &call.api.services;
    let metadata = services.change_snapshot_metadata(call.ctx()?, &id(call), |metadata| {
        if is_replacement {
            metadata.clear();
        }
        metadata.extend(wanted.clone());
        Ok(())
    })?;
    Ok(Reply::json(200, json!({ "metadata": metadata })))
}

fn no_key(call: &Call<'_>) -> Error {
    Error::NotFound(format!(
        "Snapshot {} has no metadata with key {}.",
        id(call),
        call.parameter("key")
    ))
}

pub(super) fn show_metadata_key(call: &Call<'_>) -> Result {
    let snapshot = call.api.services.show_snapshot(call.ctx()?, &id(call))?;
    let key = call.parameter("key");
    let value = snapshot.metadata.get(key).ok_or_else(|| no_key(call))?;
    Ok(Reply::json(200, json!({ "meta": { key: value } })))
}

pub(super) fn set_metadata_key(call: &Call<'_>) -> Result {
    let (key, value) = call.metadata_entry()?;
    let services = &call.api.services;
    services.change_snapshot_metadata(call.ctx()?, &id(call), |metadata| {
        metadata.insert(key.clone(), value.clone());
        Ok(())
    })?;
    Ok(Reply::json(200, json!({ "meta": { key: value } })))
}

pub(super) fn delete_metadata_key(call: &Call<'_>) -> Result {
    let key = call.parameter("key");
    let services = &call.api.services;
    services.change_snapshot_metadata(call.ctx()?, &id(call), |metadata| {
        metadata.remove(key).map(|_| ()).ok_or_else(|| no_key(call))
    })?;
    Ok(Reply::empty(200))
}
