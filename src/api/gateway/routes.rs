//! The routes whose answers are neither Cinder's nor ours alone. All others that are not ours are passed on.

use crate::api::gateway::{messages, quotas, services, versions, volumes};
use crate::api::http::microversion::{MESSAGES, RESOURCE_FILTERS};
use crate::api::routes::Area::{Open, Version};
use crate::api::routes::{Route, at, since, v3};

/// Every such route.
#[rustfmt::skip]
pub(crate) static MERGED: &[Route] = &[
    at(Open, "GET", "/", versions::root),
    at(Version, "GET", "/v3/", versions::v3),
    v3("GET", "/limits", quotas::limits),
    v3("GET", "/os-quota-sets/{project}", quotas::show),
    v3("PUT", "/os-quota-sets/{project}", quotas::update),
    v3("DELETE", "/os-quota-sets/{project}", quotas::delete),
    v3("GET", "/os-quota-sets/{project}/defaults", quotas::show_defaults),
    v3("GET", "/os-quota-class-sets/{class}", quotas::show_class),
    v3("PUT", "/os-quota-class-sets/{class}", quotas::update_class),
    v3("GET", "/os-services", services::list),
    v3("PUT", "/os-services/{action}", services::change),
    since(MESSAGES, v3("GET", "/messages", messages::list)),
    since(MESSAGES, v3("GET", "/messages/{id}", messages::show)),
    since(MESSAGES, v3("DELETE", "/messages/{id}", messages::delete)),
    since(RESOURCE_FILTERS, v3("GET", "/resource_filters", services::resource_filters)),
    v3("POST", "/volumes", volumes::create),
];
