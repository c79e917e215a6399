//! The service catalogue of a token: which URL serves block storage.

use anyhow::{Result, bail};
use serde::Deserialize;

/// Official type first, then its older names, in the order of the SDK.
const BLOCK_STORAGE_TYPES: [&str; 4] = ["block-storage", "volumev3", "volume", "block-store"];

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Service {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, Deserialize)]
struct Endpoint {
    interface: String,
    region: Option<String>,
    region_id: Option<String>,
    url: String,
}

impl Endpoint {
    fn serves(&self, interface: &str, region: Option<&str>) -> bool {
        let region_matches = match region {
            None => true,
            Some(region) => {
                self.region.as_deref() == Some(region) || self.region_id.as_deref() == Some(region)
            }
        };
        self.interface == interface && region_matches
    }
}

pub(crate) fn block_storage<'a>(
    catalog: &'a [Service],
    interface: &str,
    region: Option<&str>,
) -> Result<&'a str> {
    for kind in BLOCK_STORAGE_TYPES {
        let services = catalog.iter().filter(|service| service.kind == kind);
        let mut endpoints = services.flat_map(|service| &service.endpoints);
        if let Some(endpoint) = endpoints.find(|endpoint| endpoint.serves(interface, region)) {
            return Ok(&endpoint.url);
        }
    }
    let kinds: Vec<_> = catalog
        .iter()
        .map(|service| service.kind.as_str())
        .collect();
    bail!(
        "the catalogue offers no block storage ({}) at interface {interface}{}; it has: {}",
        BLOCK_STORAGE_TYPES.join(", "),
        region
            .map(|region| format!(" in region {region}"))
            .unwrap_or_default(),
        if kinds.is_empty() {
            "nothing".into()
        } else {
            kinds.join(", ")
        },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn catalog(types: &[&str]) -> Vec<Service> {
        let endpoint = |kind: &str, interface: &str, region: &str| {
            json!({"interface": interface, "region": region, "region_id": region,
                   "url": format!("http://{kind}/{interface}/{region}")})
        };
        let services = types.iter().map(|kind| {
            json!({"type": kind, "name": "cinder", "endpoints": [endpoint(kind, "internal", "one"),
                endpoint(kind, "public", "one"), endpoint(kind, "public", "two")]})
        });
        serde_json::from_value(services.collect()).unwrap()
    }

    #[test]
    fn the_official_type_goes_before_older_names() {
        let catalog = catalog(&["identity", "volume", "volumev3", "block-storage"]);
        let url = block_storage(&catalog, "public", None).unwrap();
        assert_eq!(url, "http://block-storage/public/one");
    }

    #[test]
    fn interface_and_region_choose_the_endpoint() {
        let catalog = catalog(&["volumev3"]);
        let url = |interface, region| block_storage(&catalog, interface, region).ok();
        assert_eq!(
            url("public", Some("two")),
            Some("http://volumev3/public/two")
        );
        assert_eq!(
            url("internal", Some("one")),
            Some("http://volumev3/internal/one")
        );
        assert_eq!(url("internal", Some("two")), None);
        assert_eq!(url("admin", None), None);
    }

    #[test]
    fn version_2_alone_is_no_block_storage() {
        let error = block_storage(&catalog(&["volumev2"]), "public", None).unwrap_err();
        assert!(error.to_string().ends_with("it has: volumev2"), "{error}");
    }
}
