//! `/volumes/{id}/action` and `/snapshots/{id}/action`.

use crate::api::body::Fields;
use crate::api::call::{Call, Reply};
use crate::api::microversion::EXTEND_IN_USE;
use crate::api::volumes::id;
use crate::db::volumes::Changes;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::SnapshotId;
use crate::model::snapshot::SnapshotStatus;
use crate::model::volume::VolumeStatus::{Attaching, Available, Detaching, InUse, Reserved};
use crate::model::volume::{AttachMode, AttachStatus, VolumeStatus};
use crate::service::volume_actions::{Attach, ResetVolume};
use serde_json::{Value, json};

type Result = std::result::Result<Reply, Error>;

pub(super) fn no_such_action(name: &str) -> Error {
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
        "os-reserve" => go(call, Rule::VolumeReserve, &[Available], Attaching),
        "os-unreserve" => go(
            call,
            Rule::VolumeUnreserve,
            &[Attaching, Reserved],
            Available,
        ),
        "os-begin_detaching" => go(call, Rule::VolumeBeginDetaching, &[InUse], Detaching),
        "os-roll_detaching" => go(call, Rule::VolumeRollDetaching, &[Detaching], InUse),
        "os-attach" => attach(call, value),
        "os-detach" => detach(call, Rule::VolumeDetach, value),
        "os-force_detach" => detach(call, Rule::VolumeForceDetach, value),
        "os-initialize_connection" => initialize_connection(call, value),
        "os-terminate_connection" => terminate_connection(call, value),
        "os-retype" => retype(call, value),
        "os-set_image_metadata" => set_image_metadata(call, value),
        "os-show_image_metadata" => show_image_metadata(call),
        "os-unset_image_metadata" => unset_image_metadata(call, value),
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

fn extend(call: &Call<'_>, value: &Value) -> Result {
    let fields = Fields::of("os-extend", value)?;
    fields.only(&["new_size"])?;
    fields.require("new_size")?;
    let size = fields.size("new_size")?.ok_or_else(|| {
        Error::invalid("input received", "new_size must be a whole number of GiB")
    })?;
    let may_be_in_use = call.version >= EXTEND_IN_USE;
    call.api
        .services
        .extend_volume(call.ctx()?, &id(call), size, may_be_in_use)?;
    Ok(Reply::empty(202))
}

fn reset_status(call: &Call<'_>, value: &Value) -> Result {
    call.ctx()?
        .authorize(Rule::VolumeResetStatus, &call.ctx()?.project_id)?;
    let fields = Fields::of("os-reset_status", value)?;
    fields.only(&["status", "attach_status", "migration_status"])?;
    let word = |key: &str| -> std::result::Result<Option<String>, Error> {
        let text = fields.text(key)?.flatten().map(|text| text.to_lowercase());
        Ok(text.filter(|text| !text.is_empty()))
    };
    let (status, attach, migration) = (
        word("status")?,
        word("attach_status")?,
        word("migration_status")?,
    );
    if status.is_none() && attach.is_none() && migration.is_none() {
        let message = "Must specify 'status', 'attach_status' or 'migration_status' for update.";
        return Err(Error::Invalid(message.to_owned()));
    }
    let wanted = ResetVolume {
        status: status.map(|word| volume_status(&word)).transpose()?,
        attach_status: attach.map(|word| attach_status(&word)).transpose()?,
    };
    let services = &call.api.services;
    services.reset_volume(call.ctx()?, &id(call), wanted)?;
    Ok(Reply::empty(202))
}

fn volume_status(word: &str) -> std::result::Result<VolumeStatus, Error> {
    VolumeStatus::parse(word)
        .filter(|status| *status != VolumeStatus::Deleting)
        .ok_or_else(|| {
            let words: Vec<&str> = VolumeStatus::ALL
                .iter()
                .filter(|status| **status != VolumeStatus::Deleting)
                .map(VolumeStatus::as_str)
                .collect();
            let allowed = words.join(", ");
            Error::Invalid(format!(
                "Must specify a valid status: {word} is none of {allowed}."
            ))
        })
}

fn attach_status(word: &str) -> std::result::Result<AttachStatus, Error> {
    match AttachStatus::parse(word) {
        Some(status @ (AttachStatus::Attached | AttachStatus::Detached)) => Ok(status),
        _ => Err(Error::Invalid(format!(
            "Must specify a valid attach_status: {word} is neither attached nor detached."
        ))),
    }
}

/// The one flag of an action.
fn flag(name: &'static str, key: &str, value: &Value) -> std::result::Result<bool, Error> {
    let fields = Fields::of(name, value)?;
    fields.only(&[key])?;
    fields.require(key)?;
    fields.flag(key)
}

fn set_bootable(call: &Call<'_>, value: &Value) -> Result {
    let changes = Changes {
        bootable: Some(flag("os-set_bootable", "bootable", value)?),
        ..Changes::default()
    };
    let services = &call.api.services;
    services.update_volume(call.ctx()?, &id(call), Rule::VolumeSetBootable, &changes)?;
    Ok(Reply::empty(200))
}

fn set_readonly(call: &Call<'_>, value: &Value) -> Result {
    let changes = Changes {
        readonly: Some(flag("os-update_readonly_flag", "readonly", value)?),
        ..Changes::default()
    };
    let services = &call.api.services;
    services.update_volume(call.ctx()?, &id(call), Rule::VolumeSetReadonly, &changes)?;
    Ok(Reply::empty(202))
}

fn attach(call: &Call<'_>, value: &Value) -> Result {
    let fields = Fields::of("os-attach", value)?;
    let instance_id = fields.uuid("instance_uuid")?;
    let host = fields.text("host_name")?.flatten();
    if instance_id.is_some() == host.is_some() {
        let message = "Invalid request to attach volume to an invalid target: give instance_uuid or host_name.";
        return Err(Error::Invalid(message.to_owned()));
    }
    let mode = match fields.text("mode")?.flatten() {
        None => AttachMode::ReadWrite,
        Some(word) => AttachMode::parse(&word).ok_or_else(|| {
            Error::Invalid(format!("Invalid request to attach volume with an invalid mode {word}. Attaching mode should be 'rw' or 'ro'."))
        })?,
    };
    let how = Attach {
        instance_id,
        host,
        mountpoint: fields.required_text("mountpoint")?,
        mode,
    };
    let services = &call.api.services;
    services.attach_volume(call.ctx()?, &id(call), how)?;
    Ok(Reply::empty(202))
}

fn detach(call: &Call<'_>, rule: Rule, value: &Value) -> Result {
    let attachment = match value {
        Value::Null => None,
        value => Fields::of("os-detach", value)?.uuid("attachment_id")?,
    };
    let services = &call.api.services;
    services.detach_volume(call.ctx()?, &id(call), rule, attachment.as_deref())?;
    Ok(Reply::empty(202))
}

fn connector(name: &'static str, value: &Value) -> std::result::Result<(), Error> {
    let fields = Fields::of(name, value)?;
    match fields.require("connector")? {
        Value::Object(_) | Value::Null => Ok(()),
        _ => Err(Error::Invalid(
            "The connector must be an object.".to_owned(),
        )),
    }
}

fn initialize_connection(call: &Call<'_>, value: &Value) -> Result {
    connector("os-initialize_connection", value)?;
    let services = &call.api.services;
    let rule = Rule::VolumeInitializeConnection;
    let volume = services.check_connection(call.ctx()?, &id(call), rule)?;
    let info = json!({
        "driver_volume_type": "local",
        "data": {
            "device_path": services.catalog.volume_path(&volume.id),
            "access_mode": "rw",
            "encrypted": false,
        },
        "enforce_multipath": false,
    });
    Ok(Reply::json(200, json!({ "connection_info": info })))
}

fn terminate_connection(call: &Call<'_>, value: &Value) -> Result {
    connector("os-terminate_connection", value)?;
    let rule = Rule::VolumeTerminateConnection;
    let services = &call.api.services;
    services.check_connection(call.ctx()?, &id(call), rule)?;
    Ok(Reply::empty(202))
}

fn retype(call: &Call<'_>, value: &Value) -> Result {
    let fields = Fields::of("os-retype", value)?;
    fields.only(&["new_type", "migration_policy"])?;
    let new_type = fields.required_text("new_type")?;
    let policy = fields.text("migration_policy")?.flatten();
    if !matches!(policy.as_deref(), None | Some("never" | "on-demand")) {
        let message = "migration_policy must be 'on-demand' or 'never'.";
        return Err(Error::invalid("input received", message));
    }
    let services = &call.api.services;
    services.retype_volume(call.ctx()?, &id(call), &new_type)?;
    Ok(Reply::empty(202))
}

fn set_image_metadata(call: &Call<'_>, value: &Value) -> Result {
    let fields = Fields::of("os-set_image_metadata", value)?;
    fields.only(&["metadata"])?;
    fields.require("metadata")?;
    let wanted = fields.metadata("metadata", false)?.unwrap_or_default();
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

fn unset_image_metadata(call: &Call<'_>, value: &Value) -> Result {
    let fields = Fields::of("os-unset_image_metadata", value)?;
    fields.only(&["key"])?;
    let key = fields.required_text("key")?;
    let services = &call.api.services;
    services.change_image_metadata(call.ctx()?, &id(call), |metadata| {
        metadata.remove(&key).map(|_| ()).ok_or_else(|| {
            let volume = id(call);
            Error::NotFound(format!("Volume {volume} has no metadata with key {key}."))
        })
    })?;
    Ok(Reply::empty(200))
}

pub(super) fn on_snapshot(call: &Call<'_>) -> Result {
    let (name, value) = call.body()?.action()?;
    let id = SnapshotId::new(call.parameter("id"));
    let (ctx, services) = (call.ctx()?, &call.api.services);
    match name {
        "os-reset_status" => {
            let fields = Fields::of("os-reset_status", value)?;
            fields.only(&["status"])?;
            let status = snapshot_status(&fields.required_text("status")?)?;
            services.reset_snapshot_status(ctx, &id, status)?;
        }
        "os-update_snapshot_status" => {
            let fields = Fields::of("os-update_snapshot_status", value)?;
            fields.only(&["status", "progress"])?;
            let status = snapshot_status(&fields.required_text("status")?)?;
            let progress = fields.text("progress")?.flatten();
            if progress.as_deref().is_some_and(|text| !is_percentage(text)) {
                let message = "progress must be a percentage such as 50%.";
                return Err(Error::Invalid(message.to_owned()));
            }
            services.update_snapshot_status(ctx, &id, status, progress.as_deref())?;
        }
        "os-force_delete" => services.force_delete_snapshot(ctx, &id)?,
        other => return Err(no_such_action(other)),
    }
    Ok(Reply::empty(202))
}

fn is_percentage(text: &str) -> bool {
    text.strip_suffix('%')
        .and_then(|digits| digits.parse().ok())
        .is_some_and(|number: u32| number <= 100)
}

fn snapshot_status(word: &str) -> std::result::Result<SnapshotStatus, Error> {
    SnapshotStatus::parse(&word.to_lowercase())
        .ok_or_else(|| Error::Invalid(format!("Invalid snapshot status {word}")))
}
