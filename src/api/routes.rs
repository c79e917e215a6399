//! The whole API in one table: method, path, handler, first microversion.
//!
//! Block storage routes exist under `/v3/{project_id}` and under `/v3`. More specific paths stand
//! before those with parameters.

use crate::api::http::call::Call;
use crate::api::http::microversion::{
    ATTACHMENT_COMPLETE, ATTACHMENTS, BACKUP_UPDATE, BASE, CLUSTERS, DEFAULT_TYPES, GROUP_TYPES,
    LOG_LEVELS, MESSAGES, Microversion, RESOURCE_FILTERS, SNAPSHOT_GROUP, TRANSFER_SNAPSHOTS,
    VOLUME_GROUP, VOLUME_SUMMARY, WORKERS_CLEANUP,
};
use crate::api::http::reply::Reply;
use crate::api::standalone::{
    attachments, group_snapshots, group_types, groups, hosts, identity, identity_admin,
    identity_catalog, identity_credentials, identity_roles, overview, pools, qos, snapshots,
    transfers, type_encryption, types, volume_actions, volumes,
};
use crate::api::{backups, cinder_services, jobs, messages, quotas, versions};
use crate::model::error::Error;

/// Parses, calls a service, shows the result. Blocks.
pub(super) type Handler = fn(&Call<'_>) -> Result<Reply, Error>;

/// Which API a route belongs to. That decides what a request needs and which form faults have.
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

    /// Whether it belongs to the backup service, and not to what keeps the volumes or users.
    pub(super) fn is_of_backups(&self) -> bool {
        let is_ours = ["/backups", "/messages", "/embervault"]
            .iter()
            .any(|prefix| self.path.starts_with(prefix));
        matches!(self.area, Area::Open | Area::Version)
            || (self.area == Area::BlockStorage && is_ours)
    }

    /// Whether it reads a collection, which may have any number of items, and not a single item.
    pub(super) fn is_list(&self) -> bool {
        let last = self.path.rsplit('/').next().unwrap_or_default();
        let is_whole = self.area == Area::BlockStorage && !self.path.contains('{');
        self.method == "GET" && (is_whole || COLLECTIONS.contains(&last))
    }
}

/// Collections that stand under another object, or belong to identity.
const COLLECTIONS: &[&str] = &[
    "application_credentials",
    "associations",
    "os-volume-type-access",
    "projects",
    "role_assignments",
    "users",
];

pub(super) const fn at(
    area: Area,
    method: &'static str,
    path: &'static str,
    handler: Handler,
) -> Route {
    Route {
        method,
        path,
        area,
        handler,
        since: BASE,
    }
}

pub(super) const fn v3(method: &'static str, path: &'static str, handler: Handler) -> Route {
    at(Area::BlockStorage, method, path, handler)
}

pub(super) const fn since(since: Microversion, mut route: Route) -> Route {
    route.since = since;
    route
}

use Area::{Identity, IdentityOpen, Open, Version};

/// Every route.
#[rustfmt::skip]
pub static ROUTES: &[Route] = &[
    at(Open, "GET", "/", versions::root),
    at(Open, "GET", "/healthcheck", versions::healthcheck),
    at(Open, "HEAD", "/healthcheck", versions::is_healthy),
    at(Open, "GET", "/openapi.json", versions::openapi),
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
    since(VOLUME_SUMMARY, v3("GET", "/volumes/summary", volumes::summary)),
    v3("GET", "/volumes/{id}", volumes::show),
    v3("GET", "/volumes/{id}/encryption", volumes::encryption),
    v3("PUT", "/volumes/{id}", volumes::update),
    v3("DELETE", "/volumes/{id}", volumes::delete),
    v3("POST", "/volumes/{id}/action", volume_actions::on_volume),
    v3("GET", "/volumes/{id}/metadata", volumes::show_metadata),
    v3("POST", "/volumes/{id}/metadata", volumes::merge_metadata),
    v3("PUT", "/volumes/{id}/metadata", volumes::replace_metadata),
    v3("GET", "/volumes/{id}/metadata/{key}", volumes::show_metadata_key),
    v3("PUT", "/volumes/{id}/metadata/{key}", volumes::set_metadata_key),
    v3("DELETE", "/volumes/{id}/metadata/{key}", volumes::delete_metadata_key),
    v3("GET", "/snapshots", snapshots::list),
    v3("POST", "/snapshots", snapshots::create),
    v3("GET", "/snapshots/detail", snapshots::list_detail),
    v3("GET", "/snapshots/{id}", snapshots::show),
    v3("PUT", "/snapshots/{id}", snapshots::update),
    v3("DELETE", "/snapshots/{id}", snapshots::delete),
    v3("POST", "/snapshots/{id}/action", volume_actions::on_snapshot),
    v3("GET", "/snapshots/{id}/metadata", snapshots::show_metadata),
    v3("POST", "/snapshots/{id}/metadata", snapshots::merge_metadata),
    v3("PUT", "/snapshots/{id}/metadata", snapshots::replace_metadata),
    v3("GET", "/snapshots/{id}/metadata/{key}", snapshots::show_metadata_key),
    v3("PUT", "/snapshots/{id}/metadata/{key}", snapshots::set_metadata_key),
    v3("DELETE", "/snapshots/{id}/metadata/{key}", snapshots::delete_metadata_key),
    since(ATTACHMENTS, v3("GET", "/attachments", attachments::list)),
    since(ATTACHMENTS, v3("POST", "/attachments", attachments::create)),
    since(ATTACHMENTS, v3("GET", "/attachments/detail", attachments::list_detail)),
    since(ATTACHMENTS, v3("GET", "/attachments/{id}", attachments::show)),
    since(ATTACHMENTS, v3("PUT", "/attachments/{id}", attachments::update)),
    since(ATTACHMENTS, v3("DELETE", "/attachments/{id}", attachments::delete)),
    since(ATTACHMENT_COMPLETE, v3("POST", "/attachments/{id}/action", attachments::action)),
    v3("GET", "/types", types::list),
    v3("POST", "/types", types::create),
    v3("GET", "/types/default", types::show_default),
    v3("GET", "/types/{id}", types::show),
    v3("PUT", "/types/{id}", types::update),
    v3("DELETE", "/types/{id}", types::delete),
    v3("POST", "/types/{id}/action", types::action),
    v3("GET", "/types/{id}/os-volume-type-access", types::list_access),
    v3("GET", "/types/{id}/extra_specs", types::list_extra_specs),
    v3("POST", "/types/{id}/extra_specs", types::create_extra_specs),
    v3("GET", "/types/{id}/extra_specs/{key}", types::show_extra_spec),
    v3("PUT", "/types/{id}/extra_specs/{key}", types::update_extra_spec),
    v3("DELETE", "/types/{id}/extra_specs/{key}", types::delete_extra_spec),
    v3("GET", "/types/{id}/encryption", type_encryption::show),
    v3("POST", "/types/{id}/encryption", type_encryption::create),
    v3("GET", "/types/{id}/encryption/{key}", type_encryption::show_key),
    v3("PUT", "/types/{id}/encryption/{key}", type_encryption::update),
    v3("DELETE", "/types/{id}/encryption/{key}", type_encryption::delete),
    v3("GET", "/qos-specs", qos::list),
    v3("POST", "/qos-specs", qos::create),
    v3("GET", "/qos-specs/{id}", qos::show),
    v3("PUT", "/qos-specs/{id}", qos::update),
    v3("DELETE", "/qos-specs/{id}", qos::delete),
    v3("PUT", "/qos-specs/{id}/delete_keys", qos::delete_keys),
    v3("GET", "/qos-specs/{id}/associations", qos::associations),
    v3("GET", "/qos-specs/{id}/associate", qos::associate),
    v3("GET", "/qos-specs/{id}/disassociate", qos::disassociate),
    v3("GET", "/qos-specs/{id}/disassociate_all", qos::disassociate_all),
    v3("GET", "/os-volume-transfer", transfers::list),
    v3("POST", "/os-volume-transfer", transfers::create),
    v3("GET", "/os-volume-transfer/detail", transfers::list_detail),
    v3("GET", "/os-volume-transfer/{id}", transfers::show),
    v3("DELETE", "/os-volume-transfer/{id}", transfers::delete),
    v3("POST", "/os-volume-transfer/{id}/accept", transfers::accept),
    since(TRANSFER_SNAPSHOTS, v3("GET", "/volume-transfers", transfers::list)),
    since(TRANSFER_SNAPSHOTS, v3("POST", "/volume-transfers", transfers::create)),
    since(TRANSFER_SNAPSHOTS, v3("GET", "/volume-transfers/detail", transfers::list_detail)),
    since(TRANSFER_SNAPSHOTS, v3("GET", "/volume-transfers/{id}", transfers::show)),
    since(TRANSFER_SNAPSHOTS, v3("DELETE", "/volume-transfers/{id}", transfers::delete)),
    since(TRANSFER_SNAPSHOTS, v3("POST", "/volume-transfers/{id}/accept", transfers::accept)),
    since(GROUP_TYPES, v3("GET", "/group_types", group_types::list)),
    since(GROUP_TYPES, v3("POST", "/group_types", group_types::create)),
    since(GROUP_TYPES, v3("GET", "/group_types/default", group_types::show_default)),
    since(GROUP_TYPES, v3("GET", "/group_types/{id}", group_types::show)),
    since(GROUP_TYPES, v3("PUT", "/group_types/{id}", group_types::update)),
    since(GROUP_TYPES, v3("DELETE", "/group_types/{id}", group_types::delete)),
    since(GROUP_TYPES, v3("GET", "/group_types/{id}/group_specs", group_types::list_specs)),
    since(GROUP_TYPES, v3("POST", "/group_types/{id}/group_specs", group_types::create_specs)),
    since(GROUP_TYPES, v3("GET", "/group_types/{id}/group_specs/{key}", group_types::show_spec)),
    since(GROUP_TYPES, v3("PUT", "/group_types/{id}/group_specs/{key}", group_types::update_spec)),
    since(GROUP_TYPES, v3("DELETE", "/group_types/{id}/group_specs/{key}", group_types::delete_spec)),
    since(VOLUME_GROUP, v3("GET", "/groups", groups::list)),
    since(VOLUME_GROUP, v3("POST", "/groups", groups::create)),
    since(VOLUME_GROUP, v3("GET", "/groups/detail", groups::list_detail)),
    since(SNAPSHOT_GROUP, v3("POST", "/groups/action", groups::create_from)),
    since(VOLUME_GROUP, v3("GET", "/groups/{id}", groups::show)),
    since(VOLUME_GROUP, v3("PUT", "/groups/{id}", groups::update)),
    since(VOLUME_GROUP, v3("POST", "/groups/{id}/action", groups::action)),
    since(SNAPSHOT_GROUP, v3("GET", "/group_snapshots", group_snapshots::list)),
    since(SNAPSHOT_GROUP, v3("POST", "/group_snapshots", group_snapshots::create)),
    since(SNAPSHOT_GROUP, v3("GET", "/group_snapshots/detail", group_snapshots::list_detail)),
    since(SNAPSHOT_GROUP, v3("GET", "/group_snapshots/{id}", group_snapshots::show)),
    since(SNAPSHOT_GROUP, v3("DELETE", "/group_snapshots/{id}", group_snapshots::delete)),
    since(SNAPSHOT_GROUP, v3("POST", "/group_snapshots/{id}/action", group_snapshots::action)),
    v3("GET", "/os-availability-zone", overview::availability_zones),
    v3("GET", "/limits", quotas::limits),
    v3("GET", "/os-quota-sets/{project}", quotas::show),
    v3("PUT", "/os-quota-sets/{project}", quotas::update),
    v3("DELETE", "/os-quota-sets/{project}", quotas::delete),
    v3("GET", "/os-quota-sets/{project}/defaults", quotas::show_defaults),
    v3("GET", "/os-quota-class-sets/{class}", quotas::show_class),
    v3("PUT", "/os-quota-class-sets/{class}", quotas::update_class),
    v3("GET", "/os-services", cinder_services::list),
    since(LOG_LEVELS, v3("PUT", "/os-services/get-log", cinder_services::get_log)),
    since(LOG_LEVELS, v3("PUT", "/os-services/set-log", cinder_services::set_log)),
    v3("PUT", "/os-services/{action}", cinder_services::change),
    since(WORKERS_CLEANUP, v3("POST", "/workers/cleanup", cinder_services::clean_up)),
    v3("GET", "/embervault/jobs", jobs::list),
    v3("GET", "/os-hosts", cinder_services::hosts),
    v3("GET", "/os-hosts/{host}", hosts::host),
    v3("GET", "/scheduler-stats/get_pools", pools::pools),
    v3("GET", "/capabilities/{host}", pools::capabilities),
    since(DEFAULT_TYPES, v3("GET", "/default-types", overview::no_default_types)),
    since(CLUSTERS, v3("GET", "/clusters", overview::no_clusters)),
    since(CLUSTERS, v3("GET", "/clusters/detail", overview::no_clusters)),
    v3("GET", "/consistencygroups", overview::no_consistency_groups),
    v3("GET", "/consistencygroups/detail", overview::no_consistency_groups),
    v3("GET", "/cgsnapshots", overview::no_cgsnapshots),
    v3("GET", "/cgsnapshots/detail", overview::no_cgsnapshots),
    v3("GET", "/extensions", overview::extensions),
    v3("GET", "/extensions/{alias}", overview::show_extension),
    since(RESOURCE_FILTERS, v3("GET", "/resource_filters", overview::resource_filters)),
    at(IdentityOpen, "GET", "/identity", versions::identity),
    at(IdentityOpen, "GET", "/identity/v3", versions::identity_version),
    at(IdentityOpen, "POST", "/identity/v3/auth/tokens", identity::log_in),
    at(Identity, "GET", "/identity/v3/auth/tokens", identity::show_token),
    at(Identity, "HEAD", "/identity/v3/auth/tokens", identity::check_token),
    at(Identity, "DELETE", "/identity/v3/auth/tokens", identity::revoke_token),
    at(Identity, "GET", "/identity/v3/auth/catalog", identity::show_catalog),
    at(Identity, "GET", "/identity/v3/auth/projects", identity::own_projects),
    at(Identity, "GET", "/identity/v3/projects", identity::list_projects),
    at(Identity, "GET", "/identity/v3/projects/{id}", identity::show_project),
    at(Identity, "POST", "/identity/v3/projects", identity_admin::create_project),
    at(Identity, "PATCH", "/identity/v3/projects/{id}", identity_admin::update_project),
    at(Identity, "DELETE", "/identity/v3/projects/{id}", identity_admin::delete_project),
    at(Identity, "PUT", "/identity/v3/projects/{id}/users/{user}/roles/{role}", identity_roles::assign_role),
    at(Identity, "GET", "/identity/v3/projects/{id}/users/{user}/roles/{role}", identity_roles::check_role),
    at(Identity, "HEAD", "/identity/v3/projects/{id}/users/{user}/roles/{role}", identity_roles::check_role),
    at(Identity, "DELETE", "/identity/v3/projects/{id}/users/{user}/roles/{role}", identity_roles::take_role),
    at(Identity, "GET", "/identity/v3/projects/{id}/users/{user}/roles", identity_roles::list_grants),
    at(Identity, "GET", "/identity/v3/roles", identity_roles::list_roles),
    at(Identity, "GET", "/identity/v3/roles/{id}", identity_roles::show_role),
    at(Identity, "GET", "/identity/v3/role_assignments", identity_roles::list_assignments),
    at(Identity, "GET", "/identity/v3/services", identity_catalog::list_services),
    at(Identity, "GET", "/identity/v3/services/{id}", identity_catalog::show_service),
    at(Identity, "GET", "/identity/v3/endpoints", identity_catalog::list_endpoints),
    at(Identity, "GET", "/identity/v3/endpoints/{id}", identity_catalog::show_endpoint),
    at(Identity, "GET", "/identity/v3/users", identity_admin::list_users),
    at(Identity, "POST", "/identity/v3/users", identity_admin::create_user),
    at(Identity, "PATCH", "/identity/v3/users/{id}", identity_admin::update_user),
    at(Identity, "DELETE", "/identity/v3/users/{id}", identity_admin::delete_user),
    at(Identity, "GET", "/identity/v3/domains", identity::list_domains),
    at(Identity, "GET", "/identity/v3/domains/{id}", identity::show_domain),
    at(Identity, "GET", "/identity/v3/users/{id}", identity::show_user),
    at(Identity, "GET", "/identity/v3/users/{id}/projects", identity::projects_of_user),
    at(Identity, "GET", "/identity/v3/users/{id}/application_credentials", identity_credentials::list),
    at(Identity, "POST", "/identity/v3/users/{id}/application_credentials", identity_credentials::create),
    at(Identity, "GET", "/identity/v3/users/{id}/application_credentials/{credential}", identity_credentials::show),
    at(Identity, "DELETE", "/identity/v3/users/{id}/application_credentials/{credential}", identity_credentials::delete),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_told_from_single_objects() {
        let lists = ROUTES.iter().filter(|route| route.is_list());
        let lists: Vec<&str> = lists.map(|route| route.path).collect();
        for path in [
            "/volumes/summary",
            "/types/{id}/os-volume-type-access",
            "/identity/v3/users",
            "/identity/v3/users/{id}/projects",
            "/identity/v3/users/{id}/application_credentials",
            "/identity/v3/role_assignments",
        ] {
            assert!(lists.contains(&path), "{path}");
        }
        for path in ["/volumes/{id}", "/identity/v3/users/{id}", "/healthcheck"] {
            assert!(!lists.contains(&path), "{path}");
        }
    }
}
