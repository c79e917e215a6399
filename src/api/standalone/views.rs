//! Records -> JSON, as each microversion shows them (Cinder reference, 2 and 8). Records are taken
//! apart without `..`: a new column does not compile until the API has an opinion.

use crate::api::http::call::Call;
use crate::api::http::links::{iso, links};
use crate::api::http::microversion::{
    CONSUMES_QUOTA, SNAPSHOT_GROUP, SNAPSHOT_USER, VOLUME_CLUSTER, VOLUME_GROUP, VOLUME_PROVIDER,
    VOLUME_SHARED_TARGETS, VOLUME_TYPE_ID,
};
use crate::model::snapshot::SnapshotStatus;
use crate::model::standalone::attachment::Attachment;
use crate::model::standalone::snapshot::Snapshot;
use crate::model::standalone::volume::Volume;
use crate::model::time::Timestamp;
use crate::model::volume::AttachStatus;
use crate::service::standalone::attachments::AttachmentDetail;
use crate::service::standalone::volumes::VolumeDetail;
use serde_json::{Value, json};

/// The view of a volume in the plain list.
pub(crate) fn volume_summary(call: &Call<'_>, detail: &VolumeDetail) -> Value {
    let volume = &detail.volume;
    let links = links(call, "volumes", volume.id.as_str());
    json!({ "id": volume.id, "name": volume.name, "links": links })
}

/// The view of a volume that create and update show.
pub(crate) fn volume(call: &Call<'_>, detail: &VolumeDetail) -> Value {
    let VolumeDetail {
        volume,
        volume_type,
        attachments,
    } = detail;
    let Volume {
        id,
        project_id: _,
        user_id,
        name,
        description,
        size_gib,
        status,
        previous_status: _,
        volume_type_id,
        bootable,
        readonly,
        snapshot_id,
        source_volume_id,
        availability_zone,
        metadata,
        reserved_by: _,
        released_by: _,
        group_id,
        multiattach,
        image_metadata: _,
        created_at,
        updated_at,
    } = volume;
    let is_admin = call.ctx.as_ref().is_some_and(|ctx| ctx.is_admin());
    let mut shown = (**metadata).clone();
    if let Some(readonly) = readonly {
        let word = if *readonly { "True" } else { "False" };
        shown.insert("readonly".to_owned(), word.to_owned());
    }
    let mut view = json!({
        "id": id,
        "status": status.as_str(),
        "size": size_gib,
        "availability_zone": availability_zone,
        "created_at": created_at.iso(),
        "updated_at": iso(updated_at),
        "name": name,
        "description": description,
        "volume_type": volume_type,
        "snapshot_id": snapshot_id,
        "source_volid": source_volume_id,
        "metadata": shown,
        "links": links(call, "volumes", id.as_str()),
        "user_id": user_id,
        "bootable": bootable.to_string(),
        "encrypted": false,
        "replication_status": null,
        "consistencygroup_id": null,
        "multiattach": multiattach,
        "attachments": attached(attachments, is_admin),
    });
    let since = [
        (VOLUME_GROUP, false, "group_id", json!(group_id)),
        (VOLUME_PROVIDER, true, "provider_id", json!(null)),
        (VOLUME_SHARED_TARGETS, false, "service_uuid", json!(null)),
        // As Cinder's default: who attaches takes a lock, which never hurts.
        (VOLUME_SHARED_TARGETS, false, "shared_targets", json!(true)),
        (VOLUME_CLUSTER, true, "cluster_name", json!(null)),
        (
            VOLUME_TYPE_ID,
            false,
            "volume_type_id",
            json!(volume_type_id),
        ),
        (CONSUMES_QUOTA, false, "consumes_quota", json!(true)),
    ];
    if is_admin {
        view["migration_status"] = json!(null);
    }
    for (version, for_admins, key, value) in since {
        if call.version >= version && (is_admin || !for_admins) {
            view[key] = value;
        }
    }
    view
}

/// The view of a volume that show and the detail list show.
pub(crate) fn volume_detail(call: &Call<'_>, detail: &VolumeDetail) -> Value {
    let mut view = volume(call, detail);
    if !detail.volume.image_metadata.is_empty() {
        view["volume_image_metadata"] = json!(*detail.volume.image_metadata);
    }
    view["os-vol-tenant-attr:tenant_id"] = json!(detail.volume.project_id);
    if call.ctx.as_ref().is_some_and(|ctx| ctx.is_admin()) {
        view["os-vol-mig-status-attr:migstat"] = json!(null);
        view["os-vol-mig-status-attr:name_id"] = json!(null);
        view["os-vol-host-attr:host"] =
            json!(format!("{}@standalone#files", call.api.services.host));
    }
    view
}

fn attached(attachments: &[Attachment], is_admin: bool) -> Value {
    attachments
        .iter()
        .filter(|row| row.status == AttachStatus::Attached)
        .map(|row| {
            json!({
                "id": row.volume_id,
                "attachment_id": row.id,
                "volume_id": row.volume_id,
                "server_id": row.instance_id,
                "host_name": row.host.as_ref().filter(|_| is_admin),
                "device": row.mountpoint,
                "attached_at": iso(&row.attached_at),
            })
        })
        .collect()
}

/// The view of a snapshot in the plain list: nothing that came with versions, as in Cinder.
pub(crate) fn snapshot_summary(snapshot: &Snapshot) -> Value {
    let Snapshot {
        id,
        volume_id,
        project_id: _,
        user_id: _,
        name,
        description,
        size_gib,
        status,
        metadata,
        reserved_by: _,
        released_by: _,
        group_snapshot_id: _,
        progress: _,
        created_at,
        updated_at,
        taken_at: _,
    } = snapshot;
    json!({
        "id": id,
        "created_at": created_at.iso(),
        "updated_at": iso(updated_at),
        "name": name,
        "description": description,
        "volume_id": volume_id,
        "status": status.as_str(),
        "size": size_gib,
        "metadata": **metadata,
    })
}

/// The view of a snapshot that create and update show.
pub(crate) fn snapshot(call: &Call<'_>, snapshot: &Snapshot) -> Value {
    let mut view = snapshot_summary(snapshot);
    let since = [
        (
            SNAPSHOT_GROUP,
            "group_snapshot_id",
            json!(snapshot.group_snapshot_id),
        ),
        (SNAPSHOT_USER, "user_id", json!(snapshot.user_id)),
        (CONSUMES_QUOTA, "consumes_quota", json!(true)),
    ];
    for (version, key, value) in since {
        if call.version >= version {
            view[key] = value;
        }
    }
    view
}

/// The view of a snapshot that show and the detail list show.
pub(crate) fn snapshot_detail(call: &Call<'_>, row: &Snapshot) -> Value {
    let mut view = snapshot(call, row);
    let progress = match (&row.progress, row.status) {
        (Some(progress), _) => progress.as_str(),
        (None, SnapshotStatus::Creating) => "0%",
        (None, _) => "100%",
    };
    view["os-extended-snapshot-attributes:project_id"] = json!(row.project_id);
    view["os-extended-snapshot-attributes:progress"] = json!(progress);
    view
}

/// The view of an attachment in the plain list.
pub(crate) fn attachment_summary(detail: &AttachmentDetail) -> Value {
    let row = &detail.attachment;
    json!({
        "id": row.id,
        "status": row.status.as_str(),
        "instance": row.instance_id,
        "volume_id": row.volume_id,
    })
}

/// All of an attachment, with the way to its bytes.
pub(crate) fn attachment(detail: &AttachmentDetail) -> Value {
    let row = &detail.attachment;
    let mut view = attachment_summary(detail);
    view["attached_at"] = json!(row.attached_at.map_or_else(String::new, Timestamp::iso));
    view["detached_at"] = json!("");
    view["attach_mode"] = json!(row.mode.as_str());
    view["connection_info"] = match &detail.device_path {
        None => json!({}),
        Some(path) => json!({
            "driver_volume_type": "local",
            "device_path": path,
            "access_mode": row.mode.as_str(),
            "volume_id": row.volume_id,
            "attachment_id": row.id,
            "encrypted": false,
            "enforce_multipath": false,
        }),
    };
    view
}
