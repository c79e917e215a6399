//! Quotas and limits: those of backups are ours, all others Cinder's.

use crate::api::gateway::merge::{
    as_it_is, ask, ask_for, has_succeeded, merged, object, own, put, read,
};
use crate::api::http::call::Call;
use crate::api::http::reply::Reply;
use crate::api::quotas;
use crate::api::routes::Handler;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::volume::cinder::WholeAnswer;
use bytes::Bytes;
use http::Method;
use serde_json::Value;
use std::collections::BTreeMap;

type Result<T = Reply> = std::result::Result<T, Error>;

/// The quotas that are ours.
const OURS: [&str; 2] = ["backups", "backup_gigabytes"];
/// The same among the limits.
const OUR_LIMITS: [&str; 4] = [
    "maxTotalBackups",
    "maxTotalBackupGigabytes",
    "totalBackupsUsed",
    "totalBackupGigabytesUsed",
];

pub(super) fn limits(call: &Call<'_>) -> Result {
    merged(ask(call)?, |value| {
        let own = own(call, quotas::limits)?;
        let from = &own["limits"]["absolute"];
        put(object(value, "/limits/absolute")?, from, &OUR_LIMITS);
        Ok(())
    })
}

/// Puts our rows into a set of Cinder's.
fn with_ours(call: &Call<'_>, answer: WholeAnswer, set: &str, ours: Handler) -> Result {
    merged(answer, |value| {
        let own = own(call, ours)?;
        put(object(value, &format!("/{set}"))?, &own[set], &OURS);
        Ok(())
    })
}

pub(super) fn show(call: &Call<'_>) -> Result {
    with_ours(call, ask(call)?, "quota_set", quotas::show)
}

pub(super) fn show_defaults(call: &Call<'_>) -> Result {
    with_ours(call, ask(call)?, "quota_set", quotas::show_defaults)
}

pub(super) fn show_class(call: &Call<'_>) -> Result {
    with_ours(call, ask(call)?, "quota_class_set", quotas::show_class)
}

/// The limits of a request that are ours, after a check of them, and the answer of Cinder to the others. If there are no others, Cinder is only
/// asked for those that it has.
fn share_out(
    call: &Call<'_>,
    set: &str,
    wanted: BTreeMap<String, i64>,
    check: impl FnOnce(&BTreeMap<String, i64>) -> Result<()>,
) -> Result<(BTreeMap<String, i64>, WholeAnswer)> {
    let is_ours = |(name, _): &(String, i64)| OURS.contains(&name.as_str());
    let (ours, others): (BTreeMap<_, _>, BTreeMap<_, _>) = wanted.into_iter().partition(is_ours);
    check(&ours)?;
    let answer = if others.is_empty() && !ours.is_empty() {
        let mut answer = ask_for(call, |head| head.method = Method::GET, Bytes::new())?;
        if let (true, Ok(mut value)) = (has_succeeded(&answer), read(&answer.body)) {
            // An answer to a change does not name whose limits they are.
            if let Some(set) = value.get_mut(set).and_then(Value::as_object_mut) {
                set.shift_remove("id");
            }
            answer.body = value.to_string().into();
        }
        answer
    } else {
        let mut body = call.body.clone().unwrap_or_default();
        if let Some(limits) = body.get_mut(set).and_then(Value::as_object_mut) {
            limits.retain(|name, _| !OURS.contains(&name.as_str()));
        }
        ask_for(call, |_| (), body.to_string().into())?
    };
    Ok((ours, answer))
}

/// `PUT /os-quota-sets/{project}`. What would be refused of ours is refused before Cinder changes anything, and nothing of
/// it afterwards: a backup that is made meanwhile does not undo what Cinder has done.
pub(super) fn update(call: &Call<'_>) -> Result {
    let (services, ctx) = (&call.api.services, call.ctx()?);
    let project = quotas::project(call);
    let wanted = quotas::wanted_limits(call)?;
    let (ours, answer) = share_out(call, "quota_set", wanted, |ours| {
        if ours.is_empty() {
            return ctx.authorize(Rule::QuotaShow, &project);
        }
        services.check_limits(ctx, &project, ours)
    })?;
    merged(answer, |value| {
        let set = object(value, "/quota_set")?;
        let limits = if ours.is_empty() {
            services.limits(ctx, Rule::QuotaShow, &project)?.0
        } else {
            services.set_checked_limits(ctx, &project, &ours)?
        };
        let limits = Value::Object(quotas::plain(&limits));
        put(set, &limits, &OURS);
        Ok(())
    })
}

pub(super) fn delete(call: &Call<'_>) -> Result {
    let answer = ask(call)?;
    if has_succeeded(&answer) {
        quotas::delete(call)?;
    }
    Ok(as_it_is(answer))
}

pub(super) fn update_class(call: &Call<'_>) -> Result {
    let (services, ctx) = (&call.api.services, call.ctx()?);
    let class = call.parameter("class");
    let wanted = quotas::wanted_class_limits(call)?;
    let (ours, answer) = share_out(call, "quota_class_set", wanted, |ours| {
        if ours.is_empty() {
            return services.class_limits(ctx, class).map(drop);
        }
        ctx.authorize(Rule::QuotaClassUpdate, &ctx.project_id)
    })?;
    merged(answer, |value| {
        let set = object(value, "/quota_class_set")?;
        let limits = if ours.is_empty() {
            services.class_limits(ctx, class)?
        } else {
            services.set_class_limits(ctx, class, &ours)?
        };
        let limits = Value::Object(quotas::plain(&limits));
        put(set, &limits, &OURS);
        Ok(())
    })
}
