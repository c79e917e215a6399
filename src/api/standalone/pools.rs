//! Pools and capabilities of the standalone volumes.

use crate::api::http::call::Call;
use crate::api::http::reply::Reply;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::service::cinder_services::BACKEND;
use serde_json::json;

type Result = std::result::Result<Reply, Error>;

pub(crate) fn pools(call: &Call<'_>) -> Result {
    let ctx = call.ctx()?;
    ctx.authorize(Rule::PoolsShow, &ctx.project_id)?;
    let services = &call.api.services;
    let name = format!("{}@{BACKEND}#files", services.host);
    let mut pool = json!({ "name": name });
    let is_detail = call
        .query("detail")
        .and_then(crate::api::http::kinds::flag_word)
        .unwrap_or(false);
    if is_detail {
        let (total, free) = services.catalog.standalone()?.space_gib();
        pool["capabilities"] = json!({
            "backend_state": "up",
            "driver_version": env!("CARGO_PKG_VERSION"),
            "vendor_name": "Embervault",
            "volume_backend_name": BACKEND,
            "storage_protocol": "local",
            "total_capacity_gb": total,
            "free_capacity_gb": free,
            "reserved_percentage": 0,
            "pool_name": "files",
            "QoS_support": false,
            "timestamp": services.clock.now().iso(),
        });
    }
    let is_wanted = call.query("name").is_none_or(|wanted| wanted == name);
    let pools = if is_wanted { vec![pool] } else { Vec::new() };
    Ok(Reply::json(200, json!({ "pools": pools })))
}

pub(crate) fn capabilities(call: &Call<'_>) -> Result {
    let ctx = call.ctx()?;
    ctx.authorize(Rule::CapabilitiesShow, &ctx.project_id)?;
    let services = &call.api.services;
    let host = call.parameter("host");
    let backend = format!("{}@{BACKEND}", services.host);
    if host != backend && host != format!("{backend}#files") {
        let message = format!("Volume backend {host} could not be found.");
        return Err(Error::NotFound(message));
    }
    let view = json!({
        "namespace": format!("OS::Storage::Capabilities::{backend}"),
        "vendor_name": "Embervault",
        "volume_backend_name": BACKEND,
        "pool_name": "files",
        "driver_version": env!("CARGO_PKG_VERSION"),
        "storage_protocol": "local",
        "display_name": "Capabilities of the standalone volumes",
        "description": "Volumes are sparse raw files in a directory.",
        "visibility": "public",
        "replication_targets": [],
        "properties": {},
    });
    Ok(Reply::json(200, view))
}
