//! The lists of services and of filters: what is said of backups is ours.

use crate::api::backups;
use crate::api::cinder_services;
use crate::api::gateway::merge::{as_it_is, ask, merged, own, room, rows};
use crate::api::http::call::Call;
use crate::api::http::reply::Reply;
use crate::model::error::Error;
use crate::model::service::BACKUP_SERVICE;
use serde_json::{Value, json};

type Result = std::result::Result<Reply, Error>;

/// Changes of a service that those for backups know, too.
const CHANGES: [&str; 3] = ["enable", "disable", "disable-log-reason"];

fn is_for_backups(service: &Value) -> bool {
    service["binary"] == BACKUP_SERVICE
}

pub(super) fn list(call: &Call<'_>) -> Result {
    merged(ask(call)?, |value| {
        let _room = room(call)?;
        let mut own = own(call, cinder_services::list)?;
        let ours = own["services"].as_array_mut().map(std::mem::take);
        let rows = rows(value, "services")?;
        rows.retain(|row| !is_for_backups(row));
        rows.extend(ours.into_iter().flatten().filter(is_for_backups));
        Ok(())
    })
}

/// `PUT /os-services/{action}`
pub(super) fn change(call: &Call<'_>) -> Result {
    let named = ["binary", "service"];
    let is_ours = call.body.as_ref().is_some_and(|body| {
        named
            .iter()
            .any(|key| body.get(*key).is_some_and(|name| name == BACKUP_SERVICE))
    });
    if is_ours && CHANGES.contains(&call.parameter("action")) {
        return cinder_services::change(call);
    }
    Ok(as_it_is(ask(call)?))
}

pub(super) fn resource_filters(call: &Call<'_>) -> Result {
    merged(ask(call)?, |value| {
        for row in rows(value, "resource_filters")? {
            if row["resource"] == "backup" {
                row["filters"] = json!(backups::COLLECTION.filters);
            }
        }
        Ok(())
    })
}
