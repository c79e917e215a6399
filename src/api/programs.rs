//! `/os-services`, `/os-hosts`, `/scheduler-stats`, `/capabilities`: the programs and the one backend
//! of standalone volumes, for administrators (Cinder reference, 8.5).

use crate::api::call::{Call, Reply};
use crate::api::microversion::{BACKEND_STATE, CLUSTERS};
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::ProjectId;
use crate::service::programs::{BACKEND, HostUsage, Program, Wish};
use serde_json::{Value, json};

type Result = std::result::Result<Reply, Error>;

fn status(program: &Program) -> &'static str {
    match program.row.disabled {
        true => "disabled",
        false => "enabled",
    }
}

fn view(call: &Call<'_>, program: &Program) -> Value {
    let services = &call.api.services;
    let mut view = json!({
        "binary": program.row.name,
        "host": program.host,
        "zone": services.catalog.availability_zone,
        "status": status(program),
        "state": if program.is_up { "up" } else { "down" },
        "updated_at": program.seen_at.iso(),
        "disabled_reason": program.row.disabled_reason,
    });
    if call.version >= CLUSTERS {
        view["cluster"] = json!(null);
    }
    if program.row.name == "cinder-volume" {
        view["replication_status"] = json!("not-capable");
        view["active_backend_id"] = json!(null);
        view["frozen"] = json!(program.row.frozen);
        if call.version >= BACKEND_STATE {
            view["backend_state"] = json!("up");
        }
    }
    view
}

pub(super) fn list(call: &Call<'_>) -> Result {
    let programs = call
        .api
        .services
        .list_programs(call.ctx()?, Rule::ServiceList)?;
    let rows: Vec<Value> = programs
        .iter()
        .filter(|program| {
            let binary = call.query("binary");
            let host = call.query("host");
            let of_host =
                |host: &str| program.host == host || program.host.split('@').next() == Some(host);
            binary.is_none_or(|wanted| wanted == program.row.name) && host.is_none_or(of_host)
        })
        .map(|program| view(call, program))
        .collect();
    Ok(Reply::json(200, json!({ "services": rows })))
}

pub(super) fn change(call: &Call<'_>) -> Result {
    let ctx = call.ctx()?;
    ctx.authorize(Rule::ServiceUpdate, &ctx.project_id)?;
    let fields = call.body()?.whole()?;
    let action = call.parameter("action");
    let reason = fields.text("disabled_reason")?.flatten();
    let wish = match action {
        "enable" => Wish::Enable,
        "disable" => Wish::Disable { reason: None },
        "disable-log-reason" => {
            fields.require("disabled_reason")?;
            if reason.as_deref().unwrap_or_default().is_empty() {
                let message = "Disabled reason contains invalid characters or is too long.";
                return Err(Error::Invalid(message.to_owned()));
            }
            Wish::Disable { reason }
        }
        "freeze" => Wish::Freeze,
        "thaw" => Wish::Thaw,
        _ => return Err(Error::NotFound("Unknown action".to_owned())),
    };
    fields.require("host")?;
    let host = fields.text("host")?.flatten().unwrap_or_default();
    let binary = match fields.text("binary")?.flatten() {
        Some(binary) => Some(binary),
        None => fields.text("service")?.flatten(),
    };
    let is_backend_wish = matches!(wish, Wish::Freeze | Wish::Thaw);
    if !is_backend_wish && binary.is_none() {
        return Err(Error::Invalid(
            "Missing required element binary or service.".to_owned(),
        ));
    }
    let services = &call.api.services;
    let program = services.change_program(ctx, binary.as_deref(), &host, wish)?;
    if is_backend_wish {
        return Ok(Reply::empty(202));
    }
    let mut view = json!({
        "host": program.host,
        "service": program.row.name,
        "binary": program.row.name,
        "disabled": program.row.disabled,
        "status": status(&program),
    });
    if action == "disable-log-reason" {
        view["disabled_reason"] = json!(program.row.disabled_reason);
    }
    Ok(Reply::json(200, view))
}

pub(super) fn hosts(call: &Call<'_>) -> Result {
    let services = &call.api.services;
    let programs = services.list_programs(call.ctx()?, Rule::HostManage)?;
    let rows: Vec<Value> = programs
        .iter()
        .map(|program| {
            json!({
                "host_name": program.host,
                "service": program.row.name,
                "zone": services.catalog.availability_zone,
                "service-status": if program.is_up { "available" } else { "unavailable" },
                "service-state": status(program),
                "last-update": program.seen_at.iso(),
            })
        })
        .collect();
    Ok(Reply::json(200, json!({ "hosts": rows })))
}

pub(super) fn host(call: &Call<'_>) -> Result {
    let services = &call.api.services;
    let name = call.parameter("host");
    let programs = services.list_programs(call.ctx()?, Rule::HostManage)?;
    if !programs.iter().any(|program| program.host == name) {
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

pub(super) fn pools(call: &Call<'_>) -> Result {
    let ctx = call.ctx()?;
    ctx.authorize(Rule::PoolsShow, &ctx.project_id)?;
    let services = &call.api.services;
    let name = format!("{}@{BACKEND}#files", services.host);
    let mut pool = json!({ "name": name });
    let is_detail = call
        .query("detail")
        .and_then(crate::api::body::flag_word)
        .unwrap_or(false);
    if is_detail {
        let (total, free) = services.catalog.space_gib();
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

pub(super) fn capabilities(call: &Call<'_>) -> Result {
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
