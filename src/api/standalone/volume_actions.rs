//! `/volumes/{id}/action` and `/snapshots/{id}/action`.

use crate::api::http::call::{Call, no_such_action};
use crate::api::http::microversion::{BASE, EXTEND_IN_USE};
use crate::api::http::reply::Reply;
use crate::api::http::schema::{Rule as Must, Schema, field};
use crate::api::http::{kinds, python};
use crate::api::standalone::volumes::id;
use crate::db::standalone::volumes::Changes;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::SnapshotId;
use crate::model::snapshot::SnapshotStatus;
use crate::model::volume::VolumeStatus::{Attaching, Available, Detaching, InUse, Reserved};
use crate::model::volume::{AttachMode, AttachStatus, VolumeStatus};
use crate::service::standalone::volume_actions::{Attach, ResetVolume};
use serde_json::{Value, json};

type Result<T = Reply> = std::result::Result<T, Error>;

const EXTEND: Schema = Schema::under(
    "os-extend",
    &[field("new_size", kinds::size)],
    &[Must::Required(&["new_size"]), Must::NoOthers],
);
const RESET: Schema = Schema::whole(&[field("os-reset_status", reset_body)], &[]);
const RESET_FIELDS: Schema = Schema::under(
    "os-reset_status",
    &[
        field("status", volume_status),
        field("attach_status", attach_status),
        field("migration_status", migration_status),
    ],
    &[Must::NoOthers],
);
const SET_BOOTABLE: Schema = Schema::under(
    "os-set_bootable",
    &[field("bootable", kinds::flag)],
    &[Must::Required(&["bootable"]), Must::NoOthers],
);
const SET_READONLY: Schema = Schema::under(
    "os-update_readonly_flag",
    &[field("readonly", kinds::flag)],
    &[Must::Required(&["readonly"]), Must::NoOthers],
);
const ATTACH: Schema = Schema::under(
    "os-attach",
    &[
        field("instance_uuid", kinds::uuid),
        field("mountpoint", kinds::filled),
        field("host_name", kinds::text),
        field("mode", kinds::attach_mode),
    ],
    &[
        Must::Required(&["mountpoint"]),
        Must::AnyOf(&["instance_uuid", "host_name"]),
        Must::NoOthers,
    ],
);
const DETACH: Schema = Schema::under(
    "os-detach",
    &[field("attachment_id", kinds::uuid_or_null)],
    &[Must::NoOthers],
)
.or_null();
const FORCE_DETACH: Schema = Schema::under(
    "os-force_detach",
    &[
        field("connector", text_or_object_or_null),
        field("attachment_id", kinds::text_or_null),
    ],
    &[Must::NoOthers],
);
const CONNECT: Schema = Schema::under(
    "os-initialize_connection",
    &[field("connector", object_or_text)],
    &[Must::Required(&["connector"]), Must::NoOthers],
);
const DISCONNECT: Schema = Schema::under(
    "os-terminate_connection",
    &[field("connector", text_or_object_or_null)],
    &[Must::Required(&["connector"]), Must::NoOthers],
);
const RETYPE: Schema = Schema::under(
    "os-retype",
    &[
        field("new_type", kinds::string),
        field("migration_policy", migration_policy),
    ],
    &[Must::Required(&["new_type"]), Must::NoOthers],
);
const SET_IMAGE_METADATA: Schema = Schema::under(
    "os-set_image_metadata",
    &[field("metadata", kinds::metadata)],
    &[Must::Required(&["metadata"]), Must::NoOthers],
);
const UNSET_IMAGE_METADATA: Schema = Schema::under(
    "os-unset_image_metadata",
    &[field("key", kinds::filled)],
    &[Must::Required(&["key"]), Must::NoOthers],
);
const RESET_SNAPSHOT: Schema = Schema::under(
    "os-reset_status",
    &[field("status", snapshot_status)],
    &[Must::Required(&["status"]), Must::NoOthers],
);
const UPDATE_SNAPSHOT: Schema = Schema::under(
    "os-update_snapshot_status",
    &[field("status", kinds::string), field("progress", progress)],
    &[Must::Required(&["status"]), Must::NoOthers],
);

fn object_or_text(key: &str, value: &Value) -> Result<()> {
    match value {
        Value::Object(_) | Value::String(_) => Ok(()),
        _ => Err(kinds::wrong_type(key, value, "'object', 'string'")),
    }
}

fn text_or_object_or_null(key: &str, value: &Value) -> Result<()> {
    match value {
        Value::Object(_) | Value::String(_) | Value::Null => Ok(()),
        _ => Err(kinds::wrong_type(key, value, "'string', 'object', 'null'")),
    }
}

fn migration_policy(key: &str, value: &Value) -> Result<()> {
    match value {
        Value::String(_) | Value::Null => kinds::word(key, value, &["on-demand", "never"]),
        _ => Err(kinds::wrong_type(key, value, "'string', 'null'")),
    }
}

/// Requires that something to set is named, before anything else of it is looked at.
fn reset_body(key: &str, value: &Value) -> Result<()> {
    let map = kinds::map(key, value)?;
    let is_named = |name: &&str| match map.get(*name) {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(_) => true,
    };
    if !["status", "attach_status", "migration_status"]
        .iter()
        .any(is_named)
    {
        let message = "Must specify 'status', 'attach_status' or 'migration_status' for update.";
        return Err(Error::Invalid(message.to_owned()));
    }
    RESET_FIELDS.check(key, value, BASE)?;
    Ok(())
}

/// A state to be set; none if the text is empty.
fn state(what: &str, key: &str, value: &Value, words: &[&str], valid: &str) -> Result<()> {
    match value {
        Value::Null => Ok(()),
        Value::String(text) if text.is_empty() => Ok(()),
        Value::String(_) => kinds::status(what, value, |word| words.contains(&word), valid),
        _ => Err(kinds::wrong_type(key, value, "'string', 'null'")),
    }
}

fn volume_status(key: &str, value: &Value) -> Result<()> {
    let words: Vec<&str> = VolumeStatus::ALL.iter().map(VolumeStatus::as_str).collect();
    state("Volume", key, value, &words, &python::tuple(&words))
}

fn attach_status(key: &str, value: &Value) -> Result<()> {
    let valid = "['attached', 'detached']";
    state(
        "Volume attach",
        key,
        value,
        &["attached", "detached"],
        valid,
    )
}

/// Nothing migrates here; the words are Cinder's.
fn migration_status(key: &str, value: &Value) -> Result<()> {
    let words = [
        "migrating",
        "error",
        "success",
        "completing",
        "none",
        "starting",
    ];
    state(
        "Volume migration",
        key,
        value,
        &words,
        &python::tuple(&words),
    )
}

fn snapshot_status(key: &str, value: &Value) -> Result<()> {
    let words: Vec<&str> = SnapshotStatus::ALL
        .iter()
        .map(SnapshotStatus::as_str)
        .collect();
    kinds::string(key, value)?;
    kinds::status(
        "Snapshot",
        value,
        |word| words.contains(&word),
        &python::tuple(&words),
    )
}

fn progress(_: &str, value: &Value) -> Result<()> {
    let refused = |more: &str| {
        let message = format!("progress must be an integer percentage{more}");
        Err(Error::invalid("input received", message))
    };
    let text = match value {
        Value::Null => return Ok(()),
        Value::String(text) if text.is_empty() => return Ok(()),
        Value::String(text) => text,
        _ => return refused(""),
    };
    let last = text.chars().next_back().map_or(0, char::len_utf8);
    let (number, sign) = text.split_at(text.len() - last);
    match (number.trim().parse::<i64>(), sign) {
        (Err(_), _) => refused(""),
        (Ok(0..=100), "%") => Ok(()),
        (Ok(_), _) => refused(" between 0 and 100"),
    }
}

pub(crate) fn on_volume(call: &Call<'_>) -> Result {
    match call.action()? {
        "os-extend" => extend(call),
        "os-reset_status" => reset_status(call),
        "os-set_bootable" => set_bootable(call),
        "os-update_readonly_flag" => set_readonly(call),
        "os-reserve" => go(call, Rule::VolumeReserve, &[Available], Attaching),
        "os-unreserve" => go(
            call,
            Rule::VolumeUnreserve,
            &[Attaching, Reserved],
            Available,
        ),
        "os-begin_detaching" => go(call, Rule::VolumeBeginDetaching, &[InUse], Detaching),
        "os-roll_detaching" => go(call, Rule::VolumeRollDetaching, &[Detaching], InUse),
        "os-attach" => attach(call),
        "os-detach" => detach(call),
        "os-force_detach" => force_detach(call),
        "os-initialize_connection" => initialize_connection(call),
        "os-terminate_connection" => terminate_connection(call),
        "os-retype" => retype(call),
        "os-set_image_metadata" => set_image_metadata(call),
        "os-show_image_metadata" => show_image_metadata(call),
        "os-unset_image_metadata" => unset_image_metadata(call),
        "os-force_delete" => {
            let services = &call.api.services;
            let rule = Rule::VolumeForceDelete;
            services.force_delete_volume(call.ctx()?, &id(call), rule)?;
            Ok(Reply::empty(202))
        }
        other => Err(no_such_action(other)),
    }
}

fn go(call: &Call<'_>, rule: Rule, from: &[VolumeStatus], to: VolumeStatus) -> Result {
    let services = &call.api.services;
    services.move_volume(call.ctx()?, &id(call), rule, from, to)?;
    Ok(Reply::empty(202))
}

fn extend(call: &Call<'_>) -> Result {
    let size = call.fields(&EXTEND)?.number("new_size").unwrap_or_default();
    let may_be_in_use = call.version >= EXTEND_IN_USE;
    call.api
        .services
        .extend_volume(call.ctx()?, &id(call), size, may_be_in_use)?;
    Ok(Reply::empty(202))
}

fn reset_status(call: &Call<'_>) -> Result {
    call.fields(&RESET)?;
    let fields = call.fields(&RESET_FIELDS)?;
    let word = |key: &str| fields.raw(key).unwrap_or_default().to_lowercase();
    let wanted = ResetVolume {
        status: VolumeStatus::parse(&word("status")),
        attach_status: AttachStatus::parse(&word("attach_status")),
    };
    if wanted.status == Some(VolumeStatus::Deleting) {
        let message = "Cannot reset-state to deleting.";
        return Err(Error::Invalid(message.to_owned()));
    }
    let services = &call.api.services;
    services.reset_volume(call.ctx()?, &id(call), wanted)?;
    Ok(Reply::empty(202))
}

fn set_bootable(call: &Call<'_>) -> Result {
    let changes = Changes {
        bootable: Some(call.fields(&SET_BOOTABLE)?.flag("bootable")),
        ..Changes::default()
    };
    let services = &call.api.services;
    services.update_volume(call.ctx()?, &id(call), Rule::VolumeSetBootable, &changes)?;
    Ok(Reply::empty(200))
}

fn set_readonly(call: &Call<'_>) -> Result {
    let changes = Changes {
        readonly: Some(call.fields(&SET_READONLY)?.flag("readonly")),
        ..Changes::default()
    };
    let services = &call.api.services;
    services.update_volume(call.ctx()?, &id(call), Rule::VolumeSetReadonly, &changes)?;
    Ok(Reply::empty(202))
}

fn attach(call: &Call<'_>) -> Result {
    let fields = call.fields(&ATTACH)?;
    let mode = fields.raw("mode").and_then(AttachMode::parse);
    let how = Attach {
        instance_id: fields.text("instance_uuid"),
        host: fields.text("host_name"),
        mountpoint: fields.required("mountpoint"),
        mode: mode.unwrap_or(AttachMode::ReadWrite),
    };
    let services = &call.api.services;
    services.attach_volume(call.ctx()?, &id(call), how)?;
    Ok(Reply::empty(202))
}

fn detach(call: &Call<'_>) -> Result {
    let is_null = |body: &Value| body.get("os-detach").is_some_and(Value::is_null);
    let attachment = if call.body.as_ref().is_some_and(is_null) {
        None
    } else {
        call.fields(&DETACH)?.raw("attachment_id")
    };
    detach_as(call, Rule::VolumeDetach, attachment)
}

fn force_detach(call: &Call<'_>) -> Result {
    let attachment = call.fields(&FORCE_DETACH)?.raw("attachment_id");
    detach_as(call, Rule::VolumeForceDetach, attachment)
}

fn detach_as(call: &Call<'_>, rule: Rule, attachment: Option<&str>) -> Result {
    let services = &call.api.services;
    services.detach_volume(call.ctx()?, &id(call), rule, attachment)?;
    Ok(Reply::empty(202))
}

fn initialize_connection(call: &Call<'_>) -> Result {
    call.fields(&CONNECT)?;
    let services = &call.api.services;
    let rule = Rule::VolumeInitializeConnection;
    let volume = services.check_connection(call.ctx()?, &id(call), rule)?;
    let info = json!({
        "driver_volume_type": "local",
        "data": {
            "device_path": services.catalog.standalone()?.volume_path(&volume.id),
            "access_mode": "rw",
            "encrypted": false,
        },
        "enforce_multipath": false,
    });
    Ok(Reply::json(200, json!({ "connection_info": info })))
}

fn terminate_connection(call: &Call<'_>) -> Result {
    call.fields(&DISCONNECT)?;
    let rule = Rule::VolumeTerminateConnection;
    let services = &call.api.services;
    services.check_connection(call.ctx()?, &id(call), rule)?;
    Ok(Reply::empty(202))
}

fn retype(call: &Call<'_>) -> Result {
    let new_type = call.fields(&RETYPE)?.required("new_type");
    let services = &call.api.services;
    services.retype_volume(call.ctx()?, &id(call), &new_type)?;
    Ok(Reply::empty(202))
}

fn set_image_metadata(call: &Call<'_>) -> Result {
    let wanted = call.fields(&SET_IMAGE_METADATA)?.metadata("metadata");
    let wanted = wanted.unwrap_or_default();
    let services = &call.api.services;
    let metadata = services.change_image_metadata(call.ctx()?, &id(call), |metadata| {
        metadata.extend(wanted.clone());
        Ok(())
    })?;
    Ok(Reply::json(200, json!({ "metadata": metadata })))
}

fn show_image_metadata(call: &Call<'_>) -> Result {
    let detail = call.api.services.show_volume(call.ctx()?, &id(call))?;
    let metadata = &*detail.volume.image_metadata;
    Ok(Reply::json(200, json!({ "metadata": metadata })))
}

fn unset_image_metadata(call: &Call<'_>) -> Result {
    let key = call.fields(&UNSET_IMAGE_METADATA)?.required("key");
    let services = &call.api.services;
    services.change_image_metadata(call.ctx()?, &id(call), |metadata| {
        metadata.remove(&key).map(|_| ()).ok_or_else(|| {
            let volume = id(call);
            Error::NotFound(format!("Volume {volume} has no metadata with key {key}."))
        })
    })?;
    Ok(Reply::empty(200).bare())
}

pub(crate) fn on_snapshot(call: &Call<'_>) -> Result {
    let id = SnapshotId::new(call.parameter("id"));
    let (ctx, services) = (call.ctx()?, &call.api.services);
    match call.action()? {
        "os-reset_status" => {
            let word = call.fields(&RESET_SNAPSHOT)?.required("status");
            services.reset_snapshot_status(ctx, &id, snapshot_state(&word)?)?;
        }
        "os-update_snapshot_status" => {
            let fields = call.fields(&UPDATE_SNAPSHOT)?;
            let progress = fields.raw("progress").filter(|text| !text.is_empty());
            let status = snapshot_state(&fields.required("status"))?;
            services.update_snapshot_status(ctx, &id, status, progress)?;
            return Ok(Reply::empty(202).bare());
        }
        "os-force_delete" => services.force_delete_snapshot(ctx, &id)?,
        other => return Err(no_such_action(other)),
    }
    Ok(Reply::empty(202))
}

fn snapshot_state(word: &str) -> Result<SnapshotStatus> {
    SnapshotStatus::parse(&word.to_lowercase())
        .ok_or_else(|| Error::Invalid(format!("Invalid snapshot status {word}")))
}
