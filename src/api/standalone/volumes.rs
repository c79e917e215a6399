//! `/volumes` and `/volumes/{id}/metadata`

use crate::api::http::call::Call;
use crate::api::http::kinds::{self, flag_word};
use crate::api::http::list::{Collection, ListQuery};
use crate::api::http::microversion::{
    BASE, METADATA_ETAG, STRICT_VOLUMES, SUMMARY_METADATA, VOLUME_DELETE_FORCE, VOLUME_GROUP,
};
use crate::api::http::python::{self, hex};
use crate::api::http::reply::Reply;
use crate::api::http::schema::{Field, Rule as Must, Schema, field};
use crate::api::standalone::views::{volume, volume_detail, volume_summary};
use crate::db::standalone::volumes::Changes;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::{BackupId, RecordId, SnapshotId, VolumeId};
use crate::service::Metadata;
use crate::service::standalone::volumes::{CreateVolume, VolumeDetail};
use md5::{Digest, Md5};
use serde_json::{Value, json};

type Result = std::result::Result<Reply, Error>;

pub(crate) static COLLECTION: Collection = Collection {
    name: "volumes",
    links: "volumes_links",
    columns: crate::model::standalone::volume::COLUMNS,
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

const CREATE_FIELDS: &[Field] = &[
    field("name", kinds::trimmed_text_or_null),
    field("description", kinds::trimmed_text_or_null),
    field("display_name", kinds::trimmed_text_or_null),
    field("display_description", kinds::trimmed_text_or_null),
    field("volume_type", kinds::text_or_null),
    field("metadata", kinds::metadata_or_null),
    field("snapshot_id", kinds::uuid_or_null),
    field("source_volid", kinds::uuid_or_null),
    field("consistencygroup_id", kinds::uuid_or_null),
    field("size", kinds::size_or_null),
    field("availability_zone", kinds::filled_or_null),
    field("multiattach", kinds::flag_or_null),
    field("image_id", kinds::text_or_null),
    field("imageRef", kinds::text_or_null),
    field("group_id", kinds::text_or_null).since(VOLUME_GROUP),
    // Cinder knows it since 3.47, and before heeds it all the same.
    field("backup_id", kinds::uuid_or_null),
];
const HINTS: &[Field] = &[field("OS-SCH-HNT:scheduler_hints", kinds::object_or_null)];
const CREATE: Schema = Schema::under("volume", CREATE_FIELDS, &[]).beside(HINTS);
const CREATE_STRICT: Schema =
    Schema::under("volume", CREATE_FIELDS, &[Must::NoOthers]).beside(HINTS);

const UPDATE_FIELDS: &[Field] = &[
    field("name", kinds::trimmed_text_or_null),
    field("description", kinds::trimmed_text_or_null),
    field("display_name", kinds::trimmed_text_or_null),
    field("display_description", kinds::trimmed_text_or_null),
    field("metadata", kinds::metadata),
];
const UPDATE: Schema = Schema::under("volume", UPDATE_FIELDS, &[Must::NoOthers]);
const UPDATE_STRICT: Schema = Schema::under(
    "volume",
    UPDATE_FIELDS,
    &[
        Must::NoOthers,
        Must::AnyOf(&[
            "name",
            "description",
            "display_name",
            "display_description",
            "metadata",
        ]),
    ],
);
const METADATA: Schema = Schema::whole(
    &[field("metadata", kinds::metadata)],
    &[Must::Required(&["metadata"]), Must::NoOthers],
);
const META: Schema = Schema::whole(
    &[field("meta", kinds::one_entry)],
    &[Must::Required(&["meta"]), Must::NoOthers],
);

pub(crate) fn id(call: &Call<'_>) -> VolumeId {
    VolumeId::new(call.parameter("id"))
}

pub(crate) fn create(call: &Call<'_>) -> Result {
    let fields = call.fields(if call.version >= STRICT_VOLUMES {
        &CREATE_STRICT
    } else {
        &CREATE
    })?;
    for key in UNSUPPORTED {
        if fields.value(key).is_some_and(|value| !value.is_null()) {
            return Err(Error::invalid(
                "input received",
                format!("{key} is not supported by this service."),
            ));
        }
    }
    if fields.flag("multiattach") {
        let message = "multiattach parameter has been removed. The default behavior is to use multiattach enabled volume types.";
        return Err(Error::Invalid(message.to_owned()));
    }
    let wanted = CreateVolume {
        size_gib: fields.number("size"),
        name: fields.change_of_either("name", "display_name").flatten(),
        description: fields
            .change_of_either("description", "display_description")
            .flatten(),
        volume_type: fields.text("volume_type"),
        availability_zone: fields.text("availability_zone"),
        metadata: fields.metadata("metadata").unwrap_or_default(),
        snapshot_id: fields.text("snapshot_id").map(SnapshotId::new),
        source_volume_id: fields.text("source_volid").map(VolumeId::new),
        backup_id: fields.text("backup_id").map(BackupId::new),
        group_id: if call.version >= VOLUME_GROUP {
            fields.text("group_id").map(RecordId::new)
        } else {
            None
        },
    };
    let detail = call.api.services.create_volume(call.ctx()?, wanted)?;
    Ok(Reply::json(202, json!({ "volume": volume(call, &detail) })))
}

pub(crate) fn list(call: &Call<'_>) -> Result {
    list_as(call, volume_summary)
}

pub(crate) fn list_detail(call: &Call<'_>) -> Result {
    list_as(call, volume_detail)
}

fn list_as(call: &Call<'_>, view: impl Fn(&Call<'_>, &VolumeDetail) -> Value) -> Result {
    let query = ListQuery::from_call(call, &COLLECTION)?;
    let services = &call.api.services;
    let found = services.list_volumes(call.ctx()?, &query.filter, &query.page, query.with_count)?;
    let show = |row: &VolumeDetail| Ok((row.volume.id.to_string(), view(call, row)));
    query.answer(call, &COLLECTION, &found.volumes, found.count, show)
}

pub(crate) fn show(call: &Call<'_>) -> Result {
    let detail = call.api.services.show_volume(call.ctx()?, &id(call))?;
    Ok(Reply::json(
        200,
        json!({ "volume": volume_detail(call, &detail) }),
    ))
}

pub(crate) fn update(call: &Call<'_>) -> Result {
    let fields = call.fields(if call.version >= STRICT_VOLUMES {
        &UPDATE_STRICT
    } else {
        &UPDATE
    })?;
    let changes = Changes {
        name: fields.change_of_either("name", "display_name"),
        description: fields.change_of_either("description", "display_description"),
        metadata: fields.metadata("metadata"),
        ..Changes::default()
    };
    let services = &call.api.services;
    let detail = services.update_volume(call.ctx()?, &id(call), Rule::VolumeUpdate, &changes)?;
    Ok(Reply::json(200, json!({ "volume": volume(call, &detail) })))
}

pub(crate) fn delete(call: &Call<'_>) -> Result {
    let flag = |name: &str| match call.query(name) {
        None => Ok(false),
        Some(word) => flag_word(word).ok_or_else(|| {
            Error::Invalid(format!("Value '{word}' for '{name}' is not a boolean."))
        }),
    };
    let cascade = flag("cascade")?;
    let force = flag("force")? && call.version >= VOLUME_DELETE_FORCE;
    let (ctx, services) = (call.ctx()?, &call.api.services);
    if force {
        services.force_delete_volume(ctx, &id(call), Rule::VolumeDeleteForce)?
    } else {
        services.delete_volume(ctx, &id(call), cascade)?
    }
    Ok(Reply::empty(202).bare())
}

/// `GET /volumes/summary`
pub(crate) fn summary(call: &Call<'_>) -> Result {
    let query = ListQuery::from_call(call, &COLLECTION)?;
    let services = &call.api.services;
    let with_metadata = call.version >= SUMMARY_METADATA;
    let most = with_metadata.then_some(query.page.bytes_max);
    let found = services.summarize_volumes(call.ctx()?, &query.filter, most)?;
    let mut view = json!({ "total_count": found.count, "total_size": found.size_gib });
    if with_metadata {
        view["metadata"] = json!(found.metadata.of_keys);
    }
    Ok(Reply::json(200, json!({ "volume-summary": view })))
}

/// Standalone volumes are not encrypted.
pub(crate) fn encryption(call: &Call<'_>) -> Result {
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

pub(crate) fn show_metadata(call: &Call<'_>) -> Result {
    let metadata = visible_metadata(call)?;
    let reply = Reply::json(200, json!({ "metadata": metadata }));
    Ok(if call.version >= METADATA_ETAG {
        reply.bare().with_header("Etag", etag(&metadata))
    } else {
        reply
    })
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

pub(crate) fn show_metadata_key(call: &Call<'_>) -> Result {
    let key = call.parameter("key");
    let metadata = visible_metadata(call)?;
    let value = metadata.get(key).ok_or_else(|| no_key(call))?;
    Ok(Reply::json(200, json!({ "meta": { key: value } })))
}

pub(crate) fn set_metadata_key(call: &Call<'_>) -> Result {
    let entries = call.fields(&META)?.metadata("meta");
    let (key, value) = call.entry(&entries.unwrap_or_default())?;
    let services = &call.api.services;
    services.change_volume_metadata(call.ctx()?, &id(call), |metadata| {
        metadata.insert(key.clone(), value.clone());
        Ok(())
    })?;
    Ok(Reply::json(200, json!({ "meta": { key: value } })))
}

pub(crate) fn delete_metadata_key(call: &Call<'_>) -> Result {
    let key = call.parameter("key");
    call.api
        .services
        .change_volume_metadata(call.ctx()?, &id(call), |metadata| {
            metadata.remove(key).map(|_| ()).ok_or_else(|| no_key(call))
        })?;
    Ok(Reply::empty(200).bare())
}
