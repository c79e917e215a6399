//! `/os-services`, `/workers/cleanup` and the list of `/os-hosts`: the services, for administrators (Cinder
//! reference, 8.5).

use crate::api::http::call::Call;
use crate::api::http::kinds;
use crate::api::http::microversion::{BACKEND_STATE, CLUSTERS, REPLICATION_CLUSTER};
use crate::api::http::reply::Reply;
use crate::api::http::schema::{Field, Fields, Rule as Must, Schema, field};
use crate::identity::policy::Rule;
use crate::logs::LogLevel;
use crate::model::error::Error;
use crate::service::cinder_services::{CinderService, Cleanup, LogsOf, ServiceChange};
use serde_json::{Map, Value, json};

type Result<T = Reply> = std::result::Result<T, Error>;

const NAMED: Must = Must::AnyOf(&["binary", "service"]);
const CHANGE: Schema = Schema::whole(
    &[
        field("binary", kinds::filled),
        field("host", kinds::host),
        field("cluster", kinds::text_or_null),
        field("service", kinds::filled),
    ],
    &[NAMED, Must::NoOthers],
);
const DISABLE_WITH_REASON: Schema = Schema::whole(
    &[
        field("binary", kinds::filled),
        field("host", kinds::host),
        field("cluster", kinds::text_or_null),
        field("service", kinds::filled),
        field("disabled_reason", disabled_reason),
    ],
    &[NAMED, Must::NoOthers],
);
const FREEZE: Schema = Schema::whole(
    &[
        field("cluster", kinds::text_or_null),
        field("host", kinds::host),
    ],
    &[Must::NoOthers],
);
const GET_LOG: Schema = Schema::whole(
    &[
        field("binary", log_binary),
        field("server", kinds::text_or_null),
        field("prefix", kinds::text_or_null),
    ],
    &[Must::NoOthers],
);
const SET_LOG: Schema = Schema::whole(
    &[
        field("binary", log_binary),
        field("server", kinds::text_or_null),
        field("prefix", kinds::text_or_null),
        field("level", log_level),
    ],
    &[Must::NoOthers],
);
const CLEANUP_FIELDS: &[Field] = &[
    field("cluster_name", kinds::host),
    field("disabled", kinds::flag),
    field("host", kinds::host),
    field("is_up", kinds::flag),
    field("binary", cleaning_binary),
    field("resource_id", kinds::uuid_or_null),
    field("resource_type", resource_type),
    field("service_id", service_id),
];
const CLEANUP: Schema = Schema::whole(CLEANUP_FIELDS, &[Must::NoOthers]);

fn disabled_reason(key: &str, value: &Value) -> Result<()> {
    kinds::filled(key, value)?;
    kinds::trimmed(key, value, 1)
        .map_err(|_| kinds::refused(key, value, "is not a 'disabled_reason'"))
}

fn log_binary(key: &str, value: &Value) -> Result<()> {
    let words = [
        "cinder-scheduler",
        "cinder-volume",
        "cinder-backup",
        "cinder-api",
        "",
        "*",
    ];
    kinds::string(key, value)?;
    kinds::word(key, value, &words)
}

fn log_level(key: &str, value: &Value) -> Result<()> {
    kinds::text_or_null(key, value)?;
    level_of(value.as_str().unwrap_or_default()).map(drop)
}

fn level_of(word: &str) -> Result<LogLevel> {
    LogLevel::parse(word).ok_or_else(|| {
        Error::invalid(
            "input received",
            format!("{word} is not a valid log level."),
        )
    })
}

fn cleaning_binary(key: &str, value: &Value) -> Result<()> {
    kinds::word(key, value, &["cinder-volume", "cinder-scheduler"])
}

fn resource_type(key: &str, value: &Value) -> Result<()> {
    match value {
        Value::String(text) if text.chars().count() > 40 => {
            Err(kinds::refused(key, value, "is too long"))
        }
        _ => kinds::text_or_null(key, value),
    }
}

fn service_id(key: &str, value: &Value) -> Result<()> {
    match value {
        Value::Null => Ok(()),
        Value::Number(number) if number.as_i64().is_some() => Ok(()),
        // Read as none, it would stand for all services.
        Value::Number(number) if number.is_u64() => {
            let why = format!("is greater than the maximum of {}", i64::MAX);
            Err(kinds::refused(key, value, &why))
        }
        Value::String(text) if !text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(kinds::refused(key, value, "does not match '^[0-9]*$'"))
        }
        Value::String(text) if text.len() > 11 => Err(kinds::refused(key, value, "is too long")),
        Value::String(_) => Ok(()),
        _ => Err(kinds::wrong_type(key, value, "'integer', 'string', 'null'")),
    }
}

fn status(service: &CinderService) -> &'static str {
    if service.row.disabled {
        "disabled"
    } else {
        "enabled"
    }
}

fn view(call: &Call<'_>, service: &CinderService) -> Value {
    let services = &call.api.services;
    let mut view = json!({
        "binary": service.row.name,
        "host": service.host,
        "zone": services.catalog.availability_zone(),
        "status": status(service),
        "state": if service.is_up { "up" } else { "down" },
        "updated_at": service.seen_at.iso(),
        "disabled_reason": service.row.disabled_reason,
    });
    if call.version >= CLUSTERS {
        view["cluster"] = json!(null);
    }
    if service.row.name == "cinder-volume" {
        view["replication_status"] = json!("not-capable");
        view["active_backend_id"] = json!(null);
        view["frozen"] = json!(service.row.frozen);
        if call.version >= BACKEND_STATE {
            view["backend_state"] = json!("up");
        }
    }
    view
}

pub(super) fn list(call: &Call<'_>) -> Result {
    let listed = call
        .api
        .services
        .list_cinder_services(call.ctx()?, Rule::ServiceList)?;
    let rows: Vec<Value> = listed
        .iter()
        .filter(|service| {
            let binary = call.query("binary");
            let host = call.query("host");
            binary.is_none_or(|wanted| wanted == service.row.name)
                && host.is_none_or(|host| service.is_on(host))
        })
        .map(|service| view(call, service))
        .collect();
    Ok(Reply::json(200, json!({ "services": rows })))
}

pub(super) fn change(call: &Call<'_>) -> Result {
    match call.parameter("action") {
        "enable" => enable(call),
        "disable" => disable(call),
        "disable-log-reason" => disable_with_reason(call),
        "freeze" => freeze(call, ServiceChange::Freeze),
        "thaw" => freeze(call, ServiceChange::Thaw),
        _ => Err(Error::NotFound("Unknown action".to_owned())),
    }
}

fn enable(call: &Call<'_>) -> Result {
    let view = changed(call, &call.fields(&CHANGE)?, ServiceChange::Enable)?;
    Ok(Reply::json(200, view))
}

fn disable(call: &Call<'_>) -> Result {
    let change = ServiceChange::Disable { reason: None };
    let view = changed(call, &call.fields(&CHANGE)?, change)?;
    Ok(Reply::json(200, view))
}

fn disable_with_reason(call: &Call<'_>) -> Result {
    let fields = call.fields(&DISABLE_WITH_REASON)?;
    let reason = fields.text("disabled_reason");
    let change = ServiceChange::Disable {
        reason: reason.clone(),
    };
    let mut view = changed(call, &fields, change)?;
    view["disabled_reason"] = json!(reason);
    Ok(Reply::json(200, view))
}

fn no_host(why: &str) -> Error {
    Error::invalid("input received", why)
}

/// Changes a service, and shows it under the names that the client gave it.
fn changed(call: &Call<'_>, fields: &Fields<'_>, change: ServiceChange) -> Result<Value> {
    let host = fields.text("host").filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| no_host("Host field is missing."))?;
    let (binary, service) = (fields.required("binary"), fields.required("service"));
    let name = if binary.is_empty() { &service } else { &binary };
    let services = &call.api.services;
    let changed = services.change_cinder_service(call.ctx()?, Some(name), &host, change)?;
    Ok(json!({
        "host": changed.host,
        "service": service,
        "binary": binary,
        "disabled": changed.row.disabled,
        "status": status(&changed),
    }))
}

fn freeze(call: &Call<'_>, change: ServiceChange) -> Result {
    let fields = call.fields(&FREEZE)?;
    let (host, cluster) = (fields.text("host"), fields.text("cluster"));
    let knows_clusters = call.version >= REPLICATION_CLUSTER;
    let cluster = cluster.filter(|name| knows_clusters && !name.is_empty());
    let (Some(host), None) = (&host, &cluster) else {
        return Err(match (knows_clusters, &host, cluster) {
            (true, None, Some(name)) => no_host(&format!("Cluster {name} could not be found.")),
            (true, ..) => no_host("One and only one of cluster and host must be set."),
            (false, ..) => no_host("Host field is missing."),
        });
    };
    let services = &call.api.services;
    services.change_cinder_service(call.ctx()?, None, host, change)?;
    Ok(Reply::empty(202))
}

/// The logs that a client means.
fn logs_of(fields: &Fields<'_>) -> LogsOf {
    let named = |key: &str| fields.raw(key).filter(|text| !["", "*"].contains(text));
    LogsOf {
        binary: named("binary").map(str::to_owned),
        host: fields.text("server").filter(|host| !host.is_empty()),
        prefix: fields.required("prefix"),
    }
}

/// `PUT /os-services/get-log`
pub(super) fn get_log(call: &Call<'_>) -> Result {
    let of = logs_of(&call.fields(&GET_LOG)?);
    let found = call.api.services.log_levels(call.ctx()?, &of)?;
    let view = found.iter().map(|((host, binary), levels)| {
        let levels = levels.iter();
        let levels: Map<String, Value> = levels
            .map(|(part, level)| ((*part).to_owned(), json!(level.as_str())))
            .collect();
        json!({ "host": host, "binary": binary, "levels": levels })
    });
    let view: Vec<Value> = view.collect();
    Ok(Reply::json(200, json!({ "log_levels": view })))
}

/// `PUT /os-services/set-log`
pub(super) fn set_log(call: &Call<'_>) -> Result {
    let fields = call.fields(&SET_LOG)?;
    let of = logs_of(&fields);
    let level = level_of(&fields.required("level"))?;
    call.api.services.set_log_level(call.ctx()?, &of, level)?;
    Ok(Reply::empty(202).bare())
}

fn check_resource_type(kind: Option<&str>) -> Result<()> {
    let Some(kind) = kind.map(str::to_lowercase) else {
        return Ok(());
    };
    if ["snapshot", "volume"].contains(&kind.as_str()) {
        return Ok(());
    }
    let mut characters = kind.chars();
    let first = characters.next().map(|c| c.to_uppercase().to_string());
    let title = first.unwrap_or_default() + characters.as_str();
    let message = format!("Resource type {title} not valid, must be Snapshot or Volume");
    Err(Error::invalid("input received", message))
}

/// `POST /workers/cleanup`
pub(super) fn clean_up(call: &Call<'_>) -> Result {
    let fields = call.fields(&CLEANUP)?;
    let given = |key: &str| fields.text(key).filter(|text| !text.is_empty());
    check_resource_type(given("resource_type").as_deref())?;
    let wanted = Cleanup {
        service_id: fields.number("service_id"),
        host: given("host"),
        cluster: given("cluster_name"),
        binary: given("binary"),
        is_up: fields.flag("is_up"),
        disabled: fields.value("disabled").map(|_| fields.flag("disabled")),
        resource_id: given("resource_id"),
    };
    let found = call.api.services.clean_up(call.ctx()?, &wanted)?;
    let view = found.iter().map(|(number, service)| {
        let (host, binary) = (&service.host, &service.row.name);
        json!({ "id": number, "host": host, "binary": binary, "cluster_name": null })
    });
    let cleaning: Vec<Value> = view.collect();
    // Who plays these services is there, or would not answer.
    let view = json!({ "cleaning": cleaning, "unavailable": [] });
    Ok(Reply::json(202, view))
}

pub(super) fn hosts(call: &Call<'_>) -> Result {
    let services = &call.api.services;
    let listed = services.list_cinder_services(call.ctx()?, Rule::HostManage)?;
    let rows: Vec<Value> = listed
        .iter()
        .map(|service| {
            json!({
                "host_name": service.host,
                "service": service.row.name,
                "zone": services.catalog.availability_zone(),
                "service-status": if service.is_up { "available" } else { "unavailable" },
                "service-state": status(service),
                "last-update": service.seen_at.iso(),
            })
        })
        .collect();
    Ok(Reply::json(200, json!({ "hosts": rows })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_id_is_a_number_that_is_read_or_refused() {
        for value in [json!(null), json!(5), json!("5"), json!(i64::MAX)] {
            assert!(service_id("service_id", &value).is_ok(), "{value}");
        }
        for (value, why) in [
            (json!(u64::MAX), "is greater than the maximum"),
            (json!(1e30), "is not of type"),
            (json!("x"), "does not match"),
            (json!("123456789012"), "is too long"),
        ] {
            let refused = service_id("service_id", &value).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
