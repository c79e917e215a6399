//! `/limits`, `/os-quota-sets` and `/os-quota-class-sets` (Cinder reference, 6.2).

use crate::api::http::call::Call;
use crate::api::http::kinds::{self, flag_word};
use crate::api::http::microversion::LIMITS_OF_PROJECT;
use crate::api::http::reply::Reply;
use crate::api::http::schema::{Fields, Rule as Must, Schema, field};
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::ProjectId;
use crate::model::quota::Amounts;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

type Result<T> = std::result::Result<T, Error>;

const UPDATE: Schema = Schema::whole(
    &[field("quota_set", quota_set)],
    &[Must::Required(&["quota_set"]), Must::NoOthers],
);
const UPDATE_CLASS: Schema = Schema::whole(
    &[field("quota_class_set", quota_class_set)],
    &[Must::Required(&["quota_class_set"]), Must::NoOthers],
);
/// Ids that clients send back with what they were shown.
const NO_LIMITS: [&str; 2] = ["tenant_id", "id"];
const LIMIT_MAX: i64 = 2_147_483_647;

/// Limits of a project. Which of them there are is looked at where the volume types are known.
fn quota_set(key: &str, value: &Value) -> Result<()> {
    kinds::filled_object(key, value)?;
    for (name, limit) in kinds::map(key, value)? {
        let refused = |why: &str| Err(Error::Invalid(format!("{name} must be {why}")));
        match kinds::number_of(limit) {
            _ if NO_LIMITS.contains(&name.as_str()) => {}
            None => return refused("an integer"),
            Some(..-1) => return refused(">= -1"),
            Some(number) if number > LIMIT_MAX => return refused("<= 2147483647"),
            Some(_) => {}
        }
    }
    Ok(())
}

/// Limits of a class.
fn quota_class_set(key: &str, value: &Value) -> Result<()> {
    for (name, limit) in kinds::map(key, value)? {
        kinds::limit(name, limit)?;
    }
    Ok(())
}

/// The limits that a project shall have.
pub(super) fn wanted_limits(call: &Call<'_>) -> Result<BTreeMap<String, i64>> {
    Ok(wanted(&call.fields(&UPDATE)?, "quota_set"))
}

/// The limits that a class shall have.
pub(super) fn wanted_class_limits(call: &Call<'_>) -> Result<BTreeMap<String, i64>> {
    Ok(wanted(&call.fields(&UPDATE_CLASS)?, "quota_class_set"))
}

/// The limits under a key that was looked at.
fn wanted(fields: &Fields<'_>, key: &str) -> BTreeMap<String, i64> {
    let limits = fields.value(key).and_then(Value::as_object);
    let limits = limits.into_iter().flatten();
    let limits = limits.filter(|(name, _)| !NO_LIMITS.contains(&name.as_str()));
    limits
        .filter_map(|(name, limit)| Some((name.clone(), kinds::number_of(limit)?)))
        .collect()
}

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

pub(super) fn project(call: &Call<'_>) -> ProjectId {
    ProjectId::new(call.parameter("project"))
}

pub(super) fn plain(limits: &Amounts) -> Map<String, Value> {
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
    let set = if with_usage {
        limits
            .0
            .iter()
            .map(|(key, limit)| {
                let value = json!({ "limit": limit, "in_use": used.used(key), "reserved": 0 });
                (key.clone(), value)
            })
            .collect()
    } else {
        plain(&limits)
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

pub(super) fn update(call: &Call<'_>) -> Result<Reply> {
    let wanted = wanted_limits(call)?;
    let services = &call.api.services;
    let limits = services.set_limits(call.ctx()?, &project(call), &wanted)?;
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
    let wanted = wanted_class_limits(call)?;
    let class = call.parameter("class");
    let services = &call.api.services;
    let limits = services.set_class_limits(call.ctx()?, class, &wanted)?;
    Ok(Reply::json(
        200,
        json!({ "quota_class_set": plain(&limits) }),
    ))
}
