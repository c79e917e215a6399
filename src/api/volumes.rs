//! `/volumes` and `/volumes/{id}/metadata`

use crate::api::body::flag_word;
use crate::api::call::{Call, Reply};
use crate::api::list::{Collection, ListQuery};
use crate::api::microversion::{
    BASE, METADATA_ETAG, STRICT_VOLUMES, SUMMARY_METADATA, VOLUME_DELETE_FORCE, VOLUME_GROUP,
};
use crate::api::python::{self, hex};
use crate::api::views::{volume, volume_detail, volume_summary};
use crate::db::volumes::Changes;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::{BackupId, RecordId, SnapshotId, VolumeId};
use crate::service::Metadata;
use crate::service::volumes::{CreateVolume, VolumeDetail};
use md5::{Digest, Md5};
use serde_json::{Value, json};

type Result = std::result::Result<Reply, Error>;

pub(super) static COLLECTION: Collection = Collection {
    name: "volumes",
    links: "volumes_links",
    columns: crate::model::volume::COLUMNS,
    filters: &[
        "name",
        "status",
        "metadata",
        "bootable",
        "migration_status",
        "availability_zone",
        "group_id",
        "size",
        "created_at",
        "updated_at",
        "consumes_quota",
    ],
    sorted_by_name: BASE,
};

/// Keys of a volume's creation that name something a standalone catalogue does not have.
const UNSUPPORTED: [&str; 3] = ["imageRef", "image_id", "consistencygroup_id"];

pub(super) fn id(call: &Call<'_>) -> VolumeId {
    VolumeId::new(call.parameter("id"))
}

pub(super) fn create(call: &Call<'_>) -> Result {
    let fields = call.body()?.object_among("volume")?;
    if call.version >= STRICT_VOLUMES {
        let known = [
            "size",
            "name",
            "display_name",
            "description",
            "display_description",
            "volume_type",
            "metadata",
            "snapshot_id",
            "source_volid",
            "availability_zone",
            "multiattach",
            "backup_id",
            "group_id",
        ];
        fields.only(&[&known[..], &UNSUPPORTED[..]].concat())?;
    }
    for key in UNSUPPORTED {
        if fields.value(key).is_some_and(|value| !value.is_null()) {
            return Err(Error::invalid(
                "input received",
                format!("{key} is not supported by this service."),
            ));
        }
    }
    if fields.flag("multiattach")? {
        let message = "multiattach parameter has been removed. The default behavior is to use multiattach enabled volume types.";
        return Err(Error::Invalid(message.to_owned()));
    }
    let wanted = CreateVolume {
        size_gib: fields.size("size")?,
        name: fields.name()?.flatten(),
        description: fields.about()?.flatten(),
        volume_type: fields.text("volume_type")?.flatten(),
        availability_zone: fields.text("availability_zone")?.flatten(),
        metadata: fields.metadata("metadata", true)?.unwrap_or_default(),
        snapshot_id: fields.uuid("snapshot_id")?.map(SnapshotId::new),
        source_volume_id: fields.uuid("source_volid")?.map(VolumeId::new),
        backup_id: fields.uuid("backup_id")?.map(BackupId::new),
        group_id: match call.version >= VOLUME_GROUP {
            true => fields.uuid("group_id")?.map(RecordId::new),
            false => None,
        },
    };
    let detail = call.api.services.create_volume(call.ctx()?, wanted)?;
    Ok(Reply::json(202, json!({ "volume": volume(call, &detail) })))
}

pub(super) fn list(call: &Call<'_>) -> Result {
    list_as(call, volume_summary)
}

pub(super) fn list_detail(call: &Call<'_>) -> Result {
    list_as(call, volume_detail)
}

fn list_as(call: &Call<'_>, view: impl Fn(&Call<'_>, &VolumeDetail) -> Value) -> Result {
    let query = ListQuery::from_call(call, &COLLECTION)?;
    let services = &call.api.services;
    let found = services.list_volumes(call.ctx()?, &query.filter, &query.page, query.with_count)?;
    let last = found
        .volumes
        .last()
        .map(|detail| detail.volume.id.to_string());
    let items = found
        .volumes
        .iter()
        .map(|detail| view(call, detail))
        .collect();
    Ok(Reply::json(
        200,
        query.answer(call, &COLLECTION, items, last, found.count),
    ))
}

pub(super) fn show(call: &Call<'_>) -> Result {
    let detail = call.api.services.show_volume(call.ctx()?, &id(call))?;
    Ok(Reply::json(
        200,
        json!({ "volume": volume_detail(call, &detail) }),
    ))
}

pub(super) fn update(call: &Call<'_>) -> Result {
    let fields = call.body()?.object("volume")?;
    fields.only(&[
        "name",
        "display_name",
        "description",
        "display_description",
        "metadata",
    ])?;
    if call.version >= STRICT_VOLUMES && fields.is_empty() {
        return Err(Error::Invalid(
            "Invalid input for field/attribute volume. Value: {}. {} is not valid under any of the given schemas"
                .to_owned(),
        ));
    }
    let changes = Changes {
        name: fields.name()?,
        description: fields.about()?,
        metadata: fields.metadata("metadata", true)?,
        ..Changes::default()
    };
    let services = &call.api.services;
    let detail = services.update_volume(call.ctx()?, &id(call), Rule::VolumeUpdate, &changes)?;
    Ok(Reply::json(200, json!({ "volume": volume(call, &detail) })))
}

pub(super) fn delete(call: &Call<'_>) -> Result {
    let flag = |name: &str| match call.query(name) {
        None => Ok(false),
        Some(word) => flag_word(word).ok_or_else(|| {
            Error::Invalid(format!("Value '{word}' for '{name}' is not a boolean."))
        }),
    };
    let cascade = flag("cascade")?;
    let force = flag("force")? && call.version >= VOLUME_DELETE_FORCE;
    let (ctx, services) = (call.ctx()?, &call.api.services);
    match force {
        true => services.force_delete_volume(ctx, &id(call), Rule::VolumeDeleteForce)?,
        false => services.delete_volume(ctx, &id(call), cascade)?,
    }
    Ok(Reply::empty(202).bare())
}

/// `GET /volumes/summary`
pub(super) fn summary(call: &Call<'_>) -> Result {
    let query = ListQuery::from_call(call, &COLLECTION)?;
    let found = call
        .api
        .services
        .summarize_volumes(call.ctx()?, &query.filter)?;
    let mut view = json!({ "total_count": found.count, "total_size": found.size_gib });
    if call.version >= SUMMARY_METADATA {
        view["metadata"] = json!(found.metadata);
    }
    Ok(Reply::json(200, json!({ "volume-summary": view })))
}

/// Standalone volumes are not encrypted.
pub(super) fn encryption(call: &Call<'_>) -> Result {
    call.api.services.show_volume(call.ctx()?, &id(call))?;
    Ok(Reply::json(200, json!({ "encryption_key_id": null })))
}

/// The metadata, if the caller may see it.
fn visible_metadata(call: &Call<'_>) -> std::result::Result<Metadata, Error> {
    let detail = call.api.services.show_volume(call.ctx()?, &id(call))?;
    let volume = detail.volume;
    call.ctx()?
        .authorize(Rule::VolumeMetadataShow, &volume.project_id)?;
    Ok(volume.metadata.into_inner())
}

pub(super) fn show_metadata(call: &Call<'_>) -> Result {
    let metadata = visible_metadata(call)?;
    let reply = Reply::json(200, json!({ "metadata": metadata }));
    Ok(match call.version >= METADATA_ETAG {
        true => reply.bare().with_header("Etag", etag(&metadata)),
        false => reply,
    })
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
    let metadata = services.change_volume_metadata(call.ctx()?, &id(call), |metadata| {
        check_match(call, metadata)?;
        if is_replacement {
            metadata.clear();
        }
        metadata.extend(wanted.clone());
        Ok(())
    })?;
    Ok(Reply::json(200, json!({ "metadata": metadata })))
}

/// The mark of some metadata, which a client may ask to be unchanged (`If-Match`).
fn etag(metadata: &Metadata) -> String {
    let json = json!({ "metadata": metadata });
    hex(&Md5::digest(python::json(&json)))
}

fn check_match(call: &Call<'_>, metadata: &Metadata) -> std::result::Result<(), Error> {
    match &call.if_match {
        Some(wanted) if call.version >= METADATA_ETAG && *wanted != etag(metadata) => {
            Err(Error::Stale)
        }
        _ => Ok(()),
    }
}

fn no_key(call: &Call<'_>) -> Error {
    Error::NotFound(format!(
        "Volume {} has no metadata with key {}.",
        id(call),
        call.parameter("key")
    ))
}

pub(super) fn show_metadata_key(call: &Call<'_>) -> Result {
    let key = call.parameter("key");
    let metadata = visible_metadata(call)?;
    let value = metadata.get(key).ok_or_else(|| no_key(call))?;
    Ok(Reply::json(200, json!({ "meta": { key: value } })))
}

pub(super) fn set_metadata_key(call: &Call<'_>) -> Result {
    let (key, value) = call.metadata_entry()?;
    let services = &call.api.services;
    services.change_volume_metadata(call.ctx()?, &id(call), |metadata| {
        metadata.insert(key.clone(), value.clone());
        Ok(())
    })?;
    Ok(Reply::json(200, json!({ "meta": { key: value } })))
}

pub(super) fn delete_metadata_key(call: &Call<'_>) -> Result {
    let key = call.parameter("key");
    call.api
        .services
        .change_volume_metadata(call.ctx()?, &id(call), |metadata| {
            metadata.remove(key).map(|_| ()).ok_or_else(|| no_key(call))
        })?;
    Ok(Reply::empty(200))
}
