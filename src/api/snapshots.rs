//! `/snapshots`

use crate::api::call::{Call, Reply};
use crate::api::list::ListQuery;
use crate::api::microversion::SNAPSHOT_NO_FORCE;
use crate::api::views::snapshot as view;
use crate::model::error::Error;
use crate::model::id::{SnapshotId, VolumeId};
use crate::service::snapshots::{CreateSnapshot, SnapshotChanges};
use serde_json::json;

type Result = std::result::Result<Reply, Error>;

const FILTERS: [&str; 3] = ["name", "status", "volume_id"];

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
        return Err(Error::Invalid(
            "Invalid input for field/attribute force. Value: False. False is not one of [True]"
                .to_owned(),
        ));
    }
    let wanted = CreateSnapshot {
        volume_id: VolumeId::new(fields.required_uuid("volume_id")?),
        name: match fields.text("name")? {
            None => fields.text("display_name")?.flatten(),
            name => name.flatten(),
        },
        description: match fields.description("description")? {
            None => fields.description("display_description")?.flatten(),
            text => text.flatten(),
        },
        metadata: fields.metadata("metadata", true)?.unwrap_or_default(),
        force: force || needs_none,
    };
    let snapshot = call.api.services.create_snapshot(call.ctx()?, wanted)?;
    Ok(Reply::json(
        202,
        json!({ "snapshot": view(call, &snapshot, false) }),
    ))
}

pub(super) fn list(call: &Call<'_>) -> Result {
    list_as(call, false)
}

pub(super) fn list_detail(call: &Call<'_>) -> Result {
    list_as(call, true)
}

fn list_as(call: &Call<'_>, is_detail: bool) -> Result {
    let query = ListQuery::from_call(call, &FILTERS)?;
    let services = &call.api.services;
    let (snapshots, count) =
        services.list_snapshots(call.ctx()?, &query.filter, &query.page, query.with_count)?;
    let last = snapshots.last().map(|snapshot| snapshot.id.to_string());
    let items = snapshots
        .iter()
        .map(|snapshot| view(call, snapshot, is_detail))
        .collect();
    Ok(Reply::json(
        200,
        query.answer(call, "snapshots", items, last, count),
    ))
}

pub(super) fn show(call: &Call<'_>) -> Result {
    let snapshot = call.api.services.show_snapshot(call.ctx()?, &id(call))?;
    Ok(Reply::json(
        200,
        json!({ "snapshot": view(call, &snapshot, true) }),
    ))
}

pub(super) fn update(call: &Call<'_>) -> Result {
    let fields = call.body()?.object("snapshot")?;
    fields.only(&["name", "display_name", "description", "display_description"])?;
    let changes = SnapshotChanges {
        name: match fields.text("name")? {
            None => fields.text("display_name")?,
            name => name,
        },
        description: match fields.description("description")? {
            None => fields.description("display_description")?,
            text => text,
        },
        metadata: None,
    };
    let snapshot = call
        .api
        .services
        .update_snapshot(call.ctx()?, &id(call), changes)?;
    Ok(Reply::json(
        200,
        json!({ "snapshot": view(call, &snapshot, false) }),
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
    let known = call
        .api
        .services
        .show_snapshot(call.ctx()?, &id(call))?
        .metadata
        .into_inner();
    set_metadata(call, known)
}

pub(super) fn replace_metadata(call: &Call<'_>) -> Result {
    set_metadata(call, crate::service::Metadata::new())
}

fn set_metadata(call: &Call<'_>, mut metadata: crate::service::Metadata) -> Result {
    let body = call.body.clone().unwrap_or_default();
    let fields = crate::api::body::Fields::of("metadata", &body)?;
    fields.only(&["metadata"])?;
    fields.require("metadata")?;
    metadata.extend(fields.metadata("metadata", false)?.unwrap_or_default());
    let changes = SnapshotChanges {
        metadata: Some(metadata),
        ..SnapshotChanges::default()
    };
    let snapshot = call
        .api
        .services
        .update_snapshot(call.ctx()?, &id(call), changes)?;
    Ok(Reply::json(200, json!({ "metadata": *snapshot.metadata })))
}
