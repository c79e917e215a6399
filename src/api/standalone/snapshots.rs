//! `/snapshots`

use crate::api::http::call::Call;
use crate::api::http::kinds;
use crate::api::http::list::{Collection, ListQuery};
use crate::api::http::microversion::{SNAPSHOT_NO_FORCE, SNAPSHOT_SORT_NAME};
use crate::api::http::reply::Reply;
use crate::api::http::schema::{Rule, Schema, field};
use crate::api::standalone::views::{snapshot as view, snapshot_detail, snapshot_summary};
use crate::model::error::Error;
use crate::model::id::{SnapshotId, VolumeId};
use crate::model::standalone::snapshot::Snapshot;
use crate::service::standalone::snapshots::{CreateSnapshot, SnapshotChanges};
use serde_json::{Value, json};

type Result = std::result::Result<Reply, Error>;

pub(crate) static COLLECTION: Collection = Collection {
    name: "snapshots",
    links: "snapshots_links",
    columns: crate::model::standalone::snapshot::COLUMNS,
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

const CREATE: Schema = Schema::under(
    "snapshot",
    &[
        field("name", kinds::text_or_null),
        field("display_name", kinds::text_or_null),
        field("description", kinds::description),
        field("volume_id", kinds::uuid_or_null),
        field("force", kinds::flag),
        field("metadata", kinds::metadata_or_null),
    ],
    &[Rule::Required(&["volume_id"]), Rule::NoOthers],
);
const UPDATE: Schema = Schema::under(
    "snapshot",
    &[
        field("name", kinds::text_or_null),
        field("description", kinds::description),
        field("display_name", kinds::text_or_null),
        field("display_description", kinds::description),
    ],
    &[
        Rule::NoOthers,
        Rule::AnyOf(&["name", "description", "display_name", "display_description"]),
    ],
);
const METADATA: Schema = Schema::whole(
    &[field("metadata", kinds::metadata)],
    &[Rule::Required(&["metadata"])],
);
const META: Schema = Schema::whole(
    &[field("meta", kinds::one_entry)],
    &[Rule::Required(&["meta"])],
);

fn id(call: &Call<'_>) -> SnapshotId {
    SnapshotId::new(call.parameter("id"))
}

pub(crate) fn create(call: &Call<'_>) -> Result {
    let fields = call.fields(&CREATE)?;
    let force = fields.flag("force");
    // Since then a snapshot of a volume in use needs no permission, and refusing it is an error.
    let needs_none = call.version >= SNAPSHOT_NO_FORCE;
    if needs_none && fields.value("force").is_some() && !force {
        let message = "Since microversion 3.66 the 'force' flag is invalid for this request.  For backward compatability, however, when the 'force' flag is passed with a value evaluating to True, it is silently ignored.";
        return Err(Error::Invalid(message.to_owned()));
    }
    let wanted = CreateSnapshot {
        // A null names no volume, and the answer says so.
        volume_id: VolumeId::new(fields.text("volume_id").unwrap_or("None".to_owned())),
        name: fields.change_of_either("name", "display_name").flatten(),
        description: fields.text("description"),
        metadata: fields.metadata("metadata").unwrap_or_default(),
        force: force || needs_none,
    };
    let snapshot = call.api.services.create_snapshot(call.ctx()?, wanted)?;
    Ok(Reply::json(
        202,
        json!({ "snapshot": view(call, &snapshot) }),
    ))
}

pub(crate) fn list(call: &Call<'_>) -> Result {
    list_as(call, |_, snapshot| snapshot_summary(snapshot))
}

pub(crate) fn list_detail(call: &Call<'_>) -> Result {
    list_as(call, snapshot_detail)
}

fn list_as(call: &Call<'_>, view: impl Fn(&Call<'_>, &Snapshot) -> Value) -> Result {
    let query = ListQuery::from_call(call, &COLLECTION)?;
    let services = &call.api.services;
    let (snapshots, count) =
        services.list_snapshots(call.ctx()?, &query.filter, &query.page, query.with_count)?;
    let show = |row: &Snapshot| Ok((row.id.to_string(), view(call, row)));
    query.answer(call, &COLLECTION, &snapshots, count, show)
}

pub(crate) fn show(call: &Call<'_>) -> Result {
    let snapshot = call.api.services.show_snapshot(call.ctx()?, &id(call))?;
    Ok(Reply::json(
        200,
        json!({ "snapshot": snapshot_detail(call, &snapshot) }),
    ))
}

pub(crate) fn update(call: &Call<'_>) -> Result {
    let fields = call.fields(&UPDATE)?;
    let changes = SnapshotChanges {
        name: fields.change_of_either("name", "display_name"),
        description: fields.change_of_either("description", "display_description"),
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

pub(crate) fn delete(call: &Call<'_>) -> Result {
    call.api.services.delete_snapshot(call.ctx()?, &id(call))?;
    Ok(Reply::empty(202).bare())
}

pub(crate) fn show_metadata(call: &Call<'_>) -> Result {
    let snapshot = call.api.services.show_snapshot(call.ctx()?, &id(call))?;
    Ok(Reply::json(200, json!({ "metadata": *snapshot.metadata })))
}

pub(crate) fn merge_metadata(call: &Call<'_>) -> Result {
    change_metadata(call, false)
}

pub(crate) fn replace_metadata(call: &Call<'_>) -> Result {
    change_metadata(call, true)
}

fn change_metadata(call: &Call<'_>, is_replacement: bool) -> Result {
    let wanted = call.fields(&METADATA)?.metadata("metadata");
    let wanted = wanted.unwrap_or_default();
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

pub(crate) fn show_metadata_key(call: &Call<'_>) -> Result {
    let snapshot = call.api.services.show_snapshot(call.ctx()?, &id(call))?;
    let key = call.parameter("key");
    let value = snapshot.metadata.get(key).ok_or_else(|| no_key(call))?;
    Ok(Reply::json(200, json!({ "meta": { key: value } })))
}

pub(crate) fn set_metadata_key(call: &Call<'_>) -> Result {
    let entries = call.fields(&META)?.metadata("meta");
    let (key, value) = call.entry(&entries.unwrap_or_default())?;
    let services = &call.api.services;
    services.change_snapshot_metadata(call.ctx()?, &id(call), |metadata| {
        metadata.insert(key.clone(), value.clone());
        Ok(())
    })?;
    Ok(Reply::json(200, json!({ "meta": { key: value } })))
}

pub(crate) fn delete_metadata_key(call: &Call<'_>) -> Result {
    let key = call.parameter("key");
    let services = &call.api.services;
    services.change_snapshot_metadata(call.ctx()?, &id(call), |metadata| {
        metadata.remove(key).map(|_| ()).ok_or_else(|| no_key(call))
    })?;
    Ok(Reply::empty(200).bare())
}
