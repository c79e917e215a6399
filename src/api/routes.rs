//! The whole API on one screen: method, path, handler, first microversion.
//!
//! Block storage routes exist under `/v3/{project_id}` and under `/v3`. More specific paths stand
//! before those with parameters.

use crate::api::call::{Call, Reply};
use crate::api::microversion::{
    ATTACHMENT_COMPLETE, ATTACHMENTS, BACKUP_UPDATE, BASE, CLUSTERS, DEFAULT_TYPES, MESSAGES,
    Microversion, RESOURCE_FILTERS, VOLUME_SUMMARY,
};
use crate::api::{
    attachments, backups, identity, messages, overview, programs, quotas, snapshots, versions,
    volume_actions, volumes,
};
use crate::model::error::Error;

/// Parses, calls a service, shows the result. Blocks.
pub(super) type Handler = fn(&Call<'_>) -> Result<Reply, Error>;

/// Which API a route belongs to, and so what it asks of a request and how its faults look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// No token is needed.
    Open,
    /// Keystone's API, without a token.
    IdentityOpen,
    /// Keystone's API.
    Identity,
    /// Cinder's version document: any token will do.
    Version,
    /// Cinder's API: a token scoped to a project.
    BlockStorage,
}

/// One route.
pub struct Route {
    pub method: &'static str,
    /// As in the reference, `{…}` for a part that varies.
    pub path: &'static str,
    pub area: Area,
    pub(super) handler: Handler,
    pub(super) since: Microversion,
}

impl Route {
    /// First microversion, as `3.n`.
    pub fn since(&self) -> String {
        self.since.to_string()
    }
}

const fn at(area: Area, method: &'static str, path: &'static str, handler: Handler) -> Route {
    Route {
        method,
        path,
        area,
        handler,
        since: BASE,
    }
}

const fn v3(method: &'static str, path: &'static str, handler: Handler) -> Route {
    at(Area::BlockStorage, method, path, handler)
}

const fn since(since: Microversion, mut route: Route) -> Route {
    route.since = since;
    route
}

use Area::{Identity, IdentityOpen, Open, Version};

/// Every route.
pub static ROUTES: &[Route] = &[
    at(Open, "GET", "/", versions::root),
    at(Open, "GET", "/healthcheck", versions::healthcheck),
    at(Open, "HEAD", "/healthcheck", versions::is_healthy),
    at(Version, "GET", "/v3", versions::to_v3),
    at(Version, "GET", "/v3/", versions::v3),
    v3("GET", "/backups", backups::list),
    v3("POST", "/backups", backups::create),
    v3("GET", "/backups/detail", backups::list_detail),
    v3("GET", "/backups/{id}", backups::show),
    since(BACKUP_UPDATE, v3("PUT", "/backups/{id}", backups::update)),
    v3("DELETE", "/backups/{id}", backups::delete),
    v3("POST", "/backups/{id}/restore", backups::restore),
    v3("GET", "/backups/{id}/export_record", backups::export_record),
    v3("POST", "/backups/import_record", backups::import_record),
    v3("POST", "/backups/{id}/action", backups::action),
    since(MESSAGES, v3("GET", "/messages", messages::list)),
    since(MESSAGES, v3("GET", "/messages/{id}", messages::show)),
    since(MESSAGES, v3("DELETE", "/messages/{id}", messages::delete)),
    v3("GET", "/volumes", volumes::list),
    v3("POST", "/volumes", volumes::create),
    v3("GET", "/volumes/detail", volumes::list_detail),
    since(
        VOLUME_SUMMARY,
        v3("GET", "/volumes/summary", volumes::summary),
    ),
    v3("GET", "/volumes/{id}", volumes::show),
    v3("GET", "/volumes/{id}/encryption", volumes::encryption),
    v3("PUT", "/volumes/{id}", volumes::update),
    v3("DELETE", "/volumes/{id}", volumes::delete),
    v3("POST", "/volumes/{id}/action", volume_actions::on_volume),
    v3("GET", "/volumes/{id}/metadata", volumes::show_metadata),
    v3("POST", "/volumes/{id}/metadata", volumes::merge_metadata),
    v3("PUT", "/volumes/{id}/metadata", volumes::replace_metadata),
    v3(
        "GET",
        "/volumes/{id}/metadata/{key}",
        volumes::show_metadata_key,
    ),
    v3(
        "PUT",
        "/volumes/{id}/metadata/{key}",
        volumes::set_metadata_key,
    ),
    v3(
        "DELETE",
        "/volumes/{id}/metadata/{key}",
        volumes::delete_metadata_key,
    ),
    v3("GET", "/snapshots", snapshots::list),
    v3("POST", "/snapshots", snapshots::create),
    v3("GET", "/snapshots/detail", snapshots::list_detail),
    v3("GET", "/snapshots/{id}", snapshots::show),
    v3("PUT", "/snapshots/{id}", snapshots::update),
    v3("DELETE", "/snapshots/{id}", snapshots::delete),
    v3(
        "POST",
        "/snapshots/{id}/action",
        volume_actions::on_snapshot,
    ),
    v3("GET", "/snapshots/{id}/metadata", snapshots::show_metadata),
    v3(
        "POST",
        "/snapshots/{id}/metadata",
        snapshots::merge_metadata,
    ),
    v3(
        "PUT",
        "/snapshots/{id}/metadata",
        snapshots::replace_metadata,
    ),
    v3(
        "GET",
        "/snapshots/{id}/metadata/{key}",
        snapshots::show_metadata_key,
    ),
    v3(
        "PUT",
        "/snapshots/{id}/metadata/{key}",
        snapshots::set_metadata_key,
    ),
    v3(
        "DELETE",
        "/snapshots/{id}/metadata/{key}",
        snapshots::delete_metadata_key,
    ),
    since(ATTACHMENTS, v3("GET", "/attachments", attachments::list)),
    since(ATTACHMENTS, v3("POST", "/attachments", attachments::create)),
    since(
        ATTACHMENTS,
        v3("GET", "/attachments/detail", attachments::list_detail),
    ),
    since(
        ATTACHMENTS,
        v3("GET", "/attachments/{id}", attachments::show),
    ),
    since(
        ATTACHMENTS,
        v3("PUT", "/attachments/{id}", attachments::update),
    ),
    since(
        ATTACHMENTS,
        v3("DELETE", "/attachments/{id}", attachments::delete),
    ),
    since(
        ATTACHMENT_COMPLETE,
        v3("POST", "/attachments/{id}/action", attachments::action),
    ),
    v3("GET", "/types", overview::list_types),
    v3("GET", "/types/{id}", overview::show_type),
    v3("GET", "/types/{id}/extra_specs", overview::type_extra_specs),
    v3("GET", "/os-availability-zone", overview::availability_zones),
    v3("GET", "/limits", quotas::limits),
    v3("GET", "/os-quota-sets/{project}", quotas::show),
    v3("PUT", "/os-quota-sets/{project}", quotas::update),
    v3("DELETE", "/os-quota-sets/{project}", quotas::delete),
    v3(
        "GET",
        "/os-quota-sets/{project}/defaults",
        quotas::show_defaults,
    ),
    v3("GET", "/os-quota-class-sets/{class}", quotas::show_class),
    v3("PUT", "/os-quota-class-sets/{class}", quotas::update_class),
    v3("GET", "/os-services", programs::list),
    v3("PUT", "/os-services/{action}", programs::change),
    v3("GET", "/os-hosts", programs::hosts),
    v3("GET", "/os-hosts/{host}", programs::host),
    v3("GET", "/scheduler-stats/get_pools", programs::pools),
    v3("GET", "/capabilities/{host}", programs::capabilities),
    since(
        DEFAULT_TYPES,
        v3("GET", "/default-types", overview::no_default_types),
    ),
    since(CLUSTERS, v3("GET", "/clusters", overview::no_clusters)),
    v3("GET", "/consistencygroups", overview::no_consistency_groups),
    v3(
        "GET",
        "/consistencygroups/detail",
        overview::no_consistency_groups,
    ),
    v3("GET", "/cgsnapshots", overview::no_cgsnapshots),
    v3("GET", "/cgsnapshots/detail", overview::no_cgsnapshots),
    v3("GET", "/extensions", overview::extensions),
    v3("GET", "/extensions/{alias}", overview::show_extension),
    since(
        RESOURCE_FILTERS,
        v3("GET", "/resource_filters", overview::resource_filters),
    ),
    at(IdentityOpen, "GET", "/identity", versions::identity),
    at(
        IdentityOpen,
        "GET",
        "/identity/v3",
        versions::identity_version,
    ),
    at(
        IdentityOpen,
        "POST",
        "/identity/v3/auth/tokens",
        identity::log_in,
    ),
    at(
        Identity,
        "GET",
        "/identity/v3/auth/tokens",
        identity::show_token,
    ),
    at(
        Identity,
        "HEAD",
        "/identity/v3/auth/tokens",
        identity::check_token,
    ),
    at(
        Identity,
        "DELETE",
        "/identity/v3/auth/tokens",
        identity::revoke_token,
    ),
    at(
        Identity,
        "GET",
        "/identity/v3/auth/catalog",
        identity::show_catalog,
    ),
    at(
        Identity,
        "GET",
        "/identity/v3/auth/projects",
        identity::own_projects,
    ),
    at(
        Identity,
        "GET",
        "/identity/v3/projects",
        identity::list_projects,
    ),
    at(
        Identity,
        "GET",
        "/identity/v3/projects/{id}",
        identity::show_project,
    ),
    at(
        Identity,
        "GET",
        "/identity/v3/domains",
        identity::list_domains,
    ),
    at(
        Identity,
        "GET",
        "/identity/v3/domains/{id}",
        identity::show_domain,
    ),
    at(
        Identity,
        "GET",
        "/identity/v3/users/{id}",
        identity::show_user,
    ),
    at(
        Identity,
        "GET",
        "/identity/v3/users/{id}/projects",
        identity::projects_of_user,
    ),
    at(
        Identity,
        "GET",
        "/identity/v3/users/{id}/application_credentials",
        identity::list_credentials,
    ),
    at(
        Identity,
        "POST",
        "/identity/v3/users/{id}/application_credentials",
        identity::create_credential,
    ),
    at(
        Identity,
        "GET",
        "/identity/v3/users/{id}/application_credentials/{credential}",
        identity::show_credential,
    ),
    at(
        Identity,
        "DELETE",
        "/identity/v3/users/{id}/application_credentials/{credential}",
        identity::delete_credential,
    ),
];
