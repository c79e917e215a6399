//! Types, zones, limits, quotas, services, extensions, filters: what clients look at around backups.

use crate::api::body::flag_word;
use crate::api::call::{Call, Reply};
use crate::api::microversion::LIMITS_OF_PROJECT;
use crate::api::views::volume_type;
use crate::config::Quota;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::ProjectId;
use serde_json::{Map, Value, json};

type Result = std::result::Result<Reply, Error>;

pub(super) fn list_types(call: &Call<'_>) -> Result {
    let is_admin = call.ctx()?.is_admin();
    let rows = call.api.services.list_types(call.ctx()?)?;
    let types: Vec<Value> = rows
        .iter()
        .map(|row| volume_type(row, is_admin, false))
        .collect();
    Ok(Reply::json(200, json!({ "volume_types": types })))
}

pub(super) fn show_type(call: &Call<'_>) -> Result {
    let id = call.parameter("id");
    let row = call.api.services.show_type(call.ctx()?, id)?;
    let view = volume_type(&row, call.ctx()?.is_admin(), id == "default");
    Ok(Reply::json(200, json!({ "volume_type": view })))
}

pub(super) fn type_extra_specs(call: &Call<'_>) -> Result {
    let row = call
        .api
        .services
        .show_type(call.ctx()?, call.parameter("id"))?;
    Ok(Reply::json(200, json!({ "extra_specs": *row.extra_specs })))
}

pub(super) fn availability_zones(call: &Call<'_>) -> Result {
    let zone = &call.api.services.catalog.availability_zone;
    let zones = json!([{ "zoneName": zone, "zoneState": { "available": true } }]);
    Ok(Reply::json(200, json!({ "availabilityZoneInfo": zones })))
}

pub(super) fn limits(call: &Call<'_>) -> Result {
    let ctx = call.ctx()?;
    let asked = call.query("project_id").or(call.query("tenant_id"));
    let project = match asked {
        Some(id) if ctx.is_admin() && call.version >= LIMITS_OF_PROJECT => ProjectId::new(id),
        _ => ctx.project_id.clone(),
    };
    let (quota, usage) = call.api.services.limits(ctx, &project)?;
    let absolute = json!({
        "maxTotalVolumes": quota.volumes,
        "maxTotalSnapshots": quota.snapshots,
        "maxTotalVolumeGigabytes": quota.gigabytes,
        "maxTotalBackups": quota.backups,
        "maxTotalBackupGigabytes": quota.backup_gigabytes,
        "totalVolumesUsed": usage.volumes,
        "totalGigabytesUsed": usage.gigabytes,
        "totalSnapshotsUsed": usage.snapshots,
        "totalBackupsUsed": usage.backups,
        "totalBackupGigabytesUsed": usage.backup_gigabytes,
    });
    Ok(Reply::json(
        200,
        json!({ "limits": { "rate": [], "absolute": absolute } }),
    ))
}

fn quota_values(quota: &Quota) -> [(&'static str, i64); 5] {
    [
        ("volumes", quota.volumes),
        ("snapshots", quota.snapshots),
        ("gigabytes", quota.gigabytes),
        ("backups", quota.backups),
        ("backup_gigabytes", quota.backup_gigabytes),
    ]
}

pub(super) fn show_quotas(call: &Call<'_>) -> Result {
    let project = ProjectId::new(call.parameter("project"));
    let with_usage = match call.query("usage") {
        None => false,
        Some(word) => flag_word(word)
            .ok_or_else(|| Error::Invalid(format!("Unrecognized value '{word}' for usage.")))?,
    };
    let (quota, usage) = call.api.services.limits(call.ctx()?, &project)?;
    let used = [
        usage.volumes,
        usage.snapshots,
        usage.gigabytes,
        usage.backups,
        usage.backup_gigabytes,
    ];
    let mut set = Map::new();
    for ((key, limit), in_use) in quota_values(&quota).into_iter().zip(used) {
        let value = match with_usage {
            true => json!({ "limit": limit, "in_use": in_use, "reserved": 0 }),
            false => json!(limit),
        };
        set.insert(key.to_owned(), value);
    }
    set.insert("id".to_owned(), json!(project));
    Ok(Reply::json(200, json!({ "quota_set": set })))
}

pub(super) fn default_quotas(call: &Call<'_>) -> Result {
    let mut set: Map<String, Value> = quota_values(&call.api.services.quota)
        .into_iter()
        .map(|(key, limit)| (key.to_owned(), json!(limit)))
        .collect();
    set.insert("id".to_owned(), json!(call.parameter("project")));
    Ok(Reply::json(200, json!({ "quota_set": set })))
}

/// One process holds API, volumes and workers: while it answers, all of them are up.
pub(super) fn services(call: &Call<'_>) -> Result {
    let ctx = call.ctx()?;
    ctx.authorize(Rule::ServiceList, &ctx.project_id)?;
    let services = &call.api.services;
    let now = services.clock.now().iso();
    let rows: Vec<Value> = ["cinder-backup", "cinder-scheduler", "cinder-volume"]
        .into_iter()
        .filter(|binary| call.query("binary").is_none_or(|wanted| wanted == *binary))
        .map(|binary| {
            json!({
                "binary": binary,
                "host": services.host,
                "zone": services.catalog.availability_zone,
                "status": "enabled",
                "state": "up",
                "updated_at": now,
                "disabled_reason": null,
            })
        })
        .collect();
    Ok(Reply::json(200, json!({ "services": rows })))
}

pub(super) fn extensions(_: &Call<'_>) -> Result {
    let extension = |name: &str, alias: &str, description: &str| {
        json!({
            "name": name,
            "alias": alias,
            "description": description,
            "updated": "2012-12-12T00:00:00+00:00",
            "links": [],
        })
    };
    let extensions = [
        extension(
            "AvailabilityZones",
            "os-availability-zone",
            "Describe Availability Zones.",
        ),
        extension("Backups", "backups", "Backups support."),
        extension("Quotas", "os-quota-sets", "Quota management support."),
        extension("Services", "os-services", "Services support."),
        extension(
            "UsedLimits",
            "os-used-limits",
            "Provide data on limited resources that are being used.",
        ),
        extension(
            "VolumeActions",
            "os-volume-actions",
            "Enable volume actions.",
        ),
    ];
    Ok(Reply::json(200, json!({ "extensions": extensions })))
}

pub(super) fn resource_filters(call: &Call<'_>) -> Result {
    let filters = [
        ("volume", json!(["name", "status"])),
        ("backup", json!(["name", "status", "volume_id"])),
        ("snapshot", json!(["name", "status", "volume_id"])),
    ];
    let wanted = call.query("resource");
    let rows: Vec<Value> = filters
        .into_iter()
        .filter(|(resource, _)| wanted.is_none_or(|wanted| wanted == *resource))
        .map(|(resource, filters)| json!({ "resource": resource, "filters": filters }))
        .collect();
    Ok(Reply::json(200, json!({ "resource_filters": rows })))
}
