//! `/limits`, `/os-quota-sets` and `/os-quota-class-sets` (Cinder reference, 6.2).

use crate::api::body::{Fields, flag_word};
use crate::api::call::{Call, Reply};
use crate::api::microversion::LIMITS_OF_PROJECT;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::ProjectId;
use crate::model::quota::Amounts;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

type Result<T> = std::result::Result<T, Error>;

pub(super) fn limits(call: &Call<'_>) -> Result<Reply> {
    let ctx = call.ctx()?;
    let asked = call.query("project_id").or(call.query("tenant_id"));
    let project = match asked {
        Some(id) if ctx.is_admin() && call.version >= LIMITS_OF_PROJECT => ProjectId::new(id),
        _ => ctx.project_id.clone(),
    };
    let (limits, used) = call.api.services.limits(ctx, Rule::LimitsShow, &project)?;
    let absolute = json!({
        "maxTotalVolumes": limits.limit("volumes"),
        "maxTotalSnapshots": limits.limit("snapshots"),
        "maxTotalVolumeGigabytes": limits.limit("gigabytes"),
        "maxTotalBackups": limits.limit("backups"),
        "maxTotalBackupGigabytes": limits.limit("backup_gigabytes"),
        "totalVolumesUsed": used.used("volumes"),
        "totalGigabytesUsed": used.used("gigabytes"),
        "totalSnapshotsUsed": used.used("snapshots"),
        "totalBackupsUsed": used.used("backups"),
        "totalBackupGigabytesUsed": used.used("backup_gigabytes"),
    });
    let limits = json!({ "rate": [], "absolute": absolute });
    Ok(Reply::json(200, json!({ "limits": limits })))
}

fn project(call: &Call<'_>) -> ProjectId {
    ProjectId::new(call.parameter("project"))
}

fn plain(limits: &Amounts) -> Map<String, Value> {
    let limits = limits.0.iter();
    limits
        .map(|(key, limit)| (key.clone(), json!(limit)))
        .collect()
}

fn with_id(mut set: Map<String, Value>, id: &str) -> Map<String, Value> {
    set.insert("id".to_owned(), json!(id));
    set
}

pub(super) fn show(call: &Call<'_>) -> Result<Reply> {
    let word = call.query("usage").unwrap_or("false");
    let with_usage = flag_word(word)
        .ok_or_else(|| Error::Invalid(format!("Value '{word}' for 'usage' is not a boolean.")))?;
    let project = project(call);
    let services = &call.api.services;
    let (limits, used) = services.limits(call.ctx()?, Rule::QuotaShow, &project)?;
    let set = match with_usage {
        false => plain(&limits),
        true => limits
            .0
            .iter()
            .map(|(key, limit)| {
                let value = json!({ "limit": limit, "in_use": used.used(key), "reserved": 0 });
                (key.clone(), value)
            })
            .collect(),
    };
    let set = with_id(set, project.as_str());
    Ok(Reply::json(200, json!({ "quota_set": set })))
}

pub(super) fn show_defaults(call: &Call<'_>) -> Result<Reply> {
    let project = project(call);
    let services = &call.api.services;
    let limits = services.default_limits(call.ctx()?, Rule::QuotaShow, &project)?;
    let set = with_id(plain(&limits), project.as_str());
    Ok(Reply::json(200, json!({ "quota_set": set })))
}

/// The limits in a body. Ids that clients send back are passed over.
fn wanted(fields: &Fields<'_>, name: &str) -> Result<BTreeMap<String, i64>> {
    if fields.is_empty() {
        return Err(Error::Invalid(format!(
            "Invalid input for field/attribute {name}. Value: {{}}. {{}} should be non-empty"
        )));
    }
    let mut wanted = BTreeMap::new();
    for (key, value) in fields.iter() {
        if key == "tenant_id" || key == "id" {
            continue;
        }
        let number = match value {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        match number {
            None => return Err(Error::Invalid(format!("{key} must be an integer"))),
            Some(..-1) => return Err(Error::Invalid(format!("{key} must be >= -1"))),
            Some(2_147_483_648..) => {
                return Err(Error::Invalid(format!("{key} must be <= 2147483647")));
            }
            Some(limit) => {
                wanted.insert(key.clone(), limit);
            }
        }
    }
    Ok(wanted)
}

pub(super) fn update(call: &Call<'_>) -> Result<Reply> {
    let ctx = call.ctx()?;
    ctx.authorize(Rule::QuotaUpdate, &project(call))?;
    let fields = call.body()?.object("quota_set")?;
    let wanted = wanted(&fields, "quota_set")?;
    let limits = call.api.services.set_limits(ctx, &project(call), &wanted)?;
    Ok(Reply::json(200, json!({ "quota_set": plain(&limits) })))
}

pub(super) fn delete(call: &Call<'_>) -> Result<Reply> {
    let services = &call.api.services;
    services.reset_limits(call.ctx()?, &project(call))?;
    Ok(Reply::empty(200))
}

pub(super) fn show_class(call: &Call<'_>) -> Result<Reply> {
    let class = call.parameter("class");
    let limits = call.api.services.class_limits(call.ctx()?, class)?;
    let set = with_id(plain(&limits), class);
    Ok(Reply::json(200, json!({ "quota_class_set": set })))
}

pub(super) fn update_class(call: &Call<'_>) -> Result<Reply> {
    let ctx = call.ctx()?;
    ctx.authorize(Rule::QuotaClassUpdate, &ctx.project_id)?;
    let fields = call.body()?.object("quota_class_set")?;
    let wanted = wanted(&fields, "quota_class_set")?;
    let class = call.parameter("class");
    let limits = call.api.services.set_class_limits(ctx, class, &wanted)?;
    Ok(Reply::json(
        200,
        json!({ "quota_class_set": plain(&limits) }),
    ))
}
