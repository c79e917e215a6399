//! `/identity/v3`: the services and their places, as a catalogue for everybody and as lists for administrators.

use crate::api::http::call::Call;
use crate::api::http::reply::Reply;
use crate::api::standalone::identity_views::{filtered, list_view, managed, not_found};
use crate::model::error::Error;
use crate::model::standalone::identity::Project;
use serde_json::{Value, json};

type Result = std::result::Result<Reply, Error>;

const INTERFACES: [&str; 3] = ["public", "internal", "admin"];
/// The placeholder for the project in the address of block storage.
const PROJECT: &str = "$(project_id)s";

/// A service that clients may look for.
struct Service {
    kind: &'static str,
    name: &'static str,
    /// As administrators see it.
    url: String,
}

fn services(call: &Call<'_>) -> [Service; 3] {
    let volumes = format!("{}/v3/{PROJECT}", call.base);
    [
        ("block-storage", "embervault", volumes.clone()),
        ("volumev3", "embervault", volumes),
        ("identity", "keystone", format!("{}/identity", call.base)),
    ]
    .map(|(kind, name, url)| Service { kind, name, url })
}

/// The catalogue of a token that is scoped to this project.
pub(crate) fn catalog(call: &Call<'_>, project: &Project) -> Value {
    let entry = |service: Service| {
        let url = service.url.replace(PROJECT, project.id.as_str());
        let endpoint = |interface| {
            json!({
                "id": stable_id(&[service.kind, interface]),
                "interface": interface,
                "region": call.api.region,
                "region_id": call.api.region,
                "url": url,
            })
        };
        json!({
            "id": stable_id(&[service.kind]),
            "type": service.kind,
            "name": service.name,
            "endpoints": INTERFACES.map(endpoint),
        })
    };
    services(call).into_iter().map(entry).collect()
}

fn stable_id(parts: &[&str]) -> String {
    blake3::hash(parts.join(" ").as_bytes()).to_hex()[..32].to_owned()
}

fn service_view(call: &Call<'_>, service: &Service) -> Value {
    let id = stable_id(&[service.kind]);
    let link = format!("{}/identity/v3/services/{id}", call.base);
    json!({
        "id": id,
        "type": service.kind,
        "name": service.name,
        "enabled": true,
        "links": { "self": link },
    })
}

fn endpoint_view(call: &Call<'_>, service: &Service, interface: &str) -> Value {
    let id = stable_id(&[service.kind, interface]);
    let link = format!("{}/identity/v3/endpoints/{id}", call.base);
    json!({
        "id": id,
        "interface": interface,
        "region": call.api.region,
        "region_id": call.api.region,
        "service_id": stable_id(&[service.kind]),
        "url": service.url,
        "enabled": true,
        "links": { "self": link },
    })
}

fn service_views(call: &Call<'_>) -> Vec<Value> {
    let services = services(call);
    let views = services.iter().map(|service| service_view(call, service));
    views.collect()
}

fn endpoint_views(call: &Call<'_>) -> Vec<Value> {
    let of_service = |service: Service| INTERFACES.map(|one| endpoint_view(call, &service, one));
    services(call).into_iter().flat_map(of_service).collect()
}

fn one_of(call: &Call<'_>, kind: &str, views: Vec<Value>) -> Result {
    let id = call.parameter("id");
    let view = views.into_iter().find(|view| view["id"] == id);
    let view = view.ok_or_else(|| not_found(kind, id))?;
    Ok(Reply::json(200, json!({ kind: view })))
}

/// `GET /services`
pub(crate) fn list_services(call: &Call<'_>) -> Result {
    managed(call, "identity:list_services")?;
    let views = filtered(call, service_views(call), &["type", "name"]);
    Ok(list_view(call, "services", views))
}

/// `GET /services/{id}`
pub(crate) fn show_service(call: &Call<'_>) -> Result {
    managed(call, "identity:get_service")?;
    one_of(call, "service", service_views(call))
}

/// `GET /endpoints`
pub(crate) fn list_endpoints(call: &Call<'_>) -> Result {
    managed(call, "identity:list_endpoints")?;
    let filters = ["interface", "service_id", "region_id"];
    let views = filtered(call, endpoint_views(call), &filters);
    Ok(list_view(call, "endpoints", views))
}

/// `GET /endpoints/{id}`
pub(crate) fn show_endpoint(call: &Call<'_>) -> Result {
    managed(call, "identity:get_endpoint")?;
    one_of(call, "endpoint", endpoint_views(call))
}
