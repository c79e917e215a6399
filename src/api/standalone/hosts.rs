//! `/os-hosts/{host}`: what the stand-in keeps on a host.

use crate::api::http::call::Call;
use crate::api::http::reply::Reply;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::ProjectId;
use crate::service::standalone::hosts::HostUsage;
use serde_json::{Value, json};

type Result = std::result::Result<Reply, Error>;

pub(crate) fn host(call: &Call<'_>) -> Result {
    let services = &call.api.services;
    let name = call.parameter("host");
    let listed = services.list_cinder_services(call.ctx()?, Rule::HostManage)?;
    if !listed.iter().any(|service| service.host == name) {
        return Err(Error::NotFound(format!("Host {name} could not be found.")));
    }
    let usage = services.usage_of_host(name)?;
    let sum = |part: fn(&HostUsage) -> i64| usage.iter().map(part).sum();
    let total: HostUsage = (
        ProjectId::new("(total)"),
        sum(|row| row.1),
        sum(|row| row.2),
        sum(|row| row.3),
        sum(|row| row.4),
    );
    let rows: Vec<Value> = std::iter::once(&total)
        .chain(&usage)
        .map(|(project, volumes, volume_gib, snapshots, snapshot_gib)| {
            json!({ "resource": {
                "host": name,
                "project": project,
                "volume_count": volumes.to_string(),
                "total_volume_gb": volume_gib.to_string(),
                "snapshot_count": snapshots.to_string(),
                "total_snapshot_gb": snapshot_gib.to_string(),
            }})
        })
        .collect();
    Ok(Reply::json(200, json!({ "host": rows })))
}
