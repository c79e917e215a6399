//! `/volumes/{id}/action` and `/snapshots/{id}/action`: those that clients of backups send.

use crate::api::body::Fields;
use crate::api::call::{Call, Reply};
use crate::api::volumes::id;
use crate::db::volumes::Changes;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::SnapshotId;
use crate::model::snapshot::SnapshotStatus;
use crate::model::volume::VolumeStatus;
use serde_json::Value;

type Result = std::result::Result<Reply, Error>;

fn no_such_action(name: &str) -> Error {
    Error::Invalid(format!(
        "There is no such action: {name}. Verify the request body and Content-Type header and try again."
    ))
}

pub(super) fn on_volume(call: &Call<'_>) -> Result {
    let (name, value) = call.body()?.action()?;
    match name {
        "os-extend" => extend(call, value),
        "os-reset_status" => reset_status(call, value),
        "os-set_bootable" => set_bootable(call, value),
        "os-update_readonly_flag" => set_readonly(call, value),
        other => Err(no_such_action(other)),
    }
}

fn extend(call: &Call<'_>, value: &Value) -> Result {
    let fields = Fields::of("os-extend", value)?;
    fields.only(&["new_size"])?;
    fields.require("new_size")?;
    let size = fields.size("new_size")?.ok_or_else(|| {
        Error::invalid("input received", "new_size must be a whole number of GiB")
    })?;
    call.api
        .services
        .extend_volume(call.ctx()?, &id(call), size)?;
    Ok(Reply::empty(202))
}

fn reset_status(call: &Call<'_>, value: &Value) -> Result {
    let fields = Fields::of("os-reset_status", value)?;
    fields.only(&["status", "attach_status", "migration_status"])?;
    let word = fields.text("status")?.flatten().unwrap_or_default();
    let status = VolumeStatus::parse(&word.to_lowercase())
        .filter(|status| *status != VolumeStatus::Deleting)
        .ok_or_else(|| Error::Invalid(format!("Cannot reset-state to {word}")))?;
    call.api
        .services
        .reset_volume_status(call.ctx()?, &id(call), status)?;
    Ok(Reply::empty(202))
}

fn set_bootable(call: &Call<'_>, value: &Value) -> Result {
    let fields = Fields::of("os-set_bootable", value)?;
    fields.only(&["bootable"])?;
    fields.require("bootable")?;
    let changes = Changes {
        bootable: Some(fields.flag("bootable")?),
        ..Changes::default()
    };
    let services = &call.api.services;
    services.update_volume(call.ctx()?, &id(call), Rule::VolumeSetBootable, &changes)?;
    Ok(Reply::empty(200))
}

fn set_readonly(call: &Call<'_>, value: &Value) -> Result {
    let fields = Fields::of("os-update_readonly_flag", value)?;
    fields.only(&["readonly"])?;
    fields.require("readonly")?;
    let changes = Changes {
        readonly: Some(fields.flag("readonly")?),
        ..Changes::default()
    };
    let services = &call.api.services;
    services.update_volume(call.ctx()?, &id(call), Rule::VolumeSetReadonly, &changes)?;
    Ok(Reply::empty(202))
}

pub(super) fn on_snapshot(call: &Call<'_>) -> Result {
    let (name, value) = call.body()?.action()?;
    if name != "os-reset_status" {
        return Err(no_such_action(name));
    }
    let fields = Fields::of("os-reset_status", value)?;
    fields.only(&["status"])?;
    let word = fields.text("status")?.flatten().unwrap_or_default();
    let status = SnapshotStatus::parse(&word.to_lowercase())
        .ok_or_else(|| Error::Invalid(format!("Invalid snapshot status {word}")))?;
    let id = SnapshotId::new(call.parameter("id"));
    call.api
        .services
        .reset_snapshot_status(call.ctx()?, &id, status)?;
    Ok(Reply::empty(202))
}
