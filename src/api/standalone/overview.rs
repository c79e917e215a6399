//! Types, zones, extensions, filters: what clients look at around backups.

use crate::api::http::call::Call;
use crate::api::http::microversion::REPLICATION_CLUSTER;
use crate::api::http::reply::Reply;
use crate::api::standalone::{snapshots, volumes};
use crate::api::{backups, messages};
use crate::identity::policy::Rule;
use crate::model::error::Error;
use serde_json::{Value, json};

type Result = std::result::Result<Reply, Error>;

pub(crate) fn availability_zones(call: &Call<'_>) -> Result {
    let zone = call.api.services.catalog.availability_zone();
    let zones = json!([{ "zoneName": zone, "zoneState": { "available": true } }]);
    Ok(Reply::json(200, json!({ "availabilityZoneInfo": zones })))
}

/// Name, alias, date and description of every extension Cinder lists. Clients look for aliases.
const EXTENSIONS: [(&str, &str, &str, &str); 32] = [
    (
        "VolumeImageMetadata",
        "os-vol-image-meta",
        "2012-12-07T00:00:00+00:00",
        "Show image metadata associated with the volume.",
    ),
    (
        "VolumeUnmanage",
        "os-volume-unmanage",
        "2012-05-31T00:00:00+00:00",
        "Enable volume unmanage operation.",
    ),
    (
        "UsedLimits",
        "os-used-limits",
        "2013-10-03T00:00:00+00:00",
        "Provide data on limited resources that are being used.",
    ),
    (
        "AdminActions",
        "os-admin-actions",
        "2012-08-25T00:00:00+00:00",
        "Enable admin actions.",
    ),
    (
        "Cgsnapshots",
        "cgsnapshots",
        "2014-08-18T00:00:00+00:00",
        "cgsnapshots support.",
    ),
    (
        "TypesExtraSpecs",
        "os-types-extra-specs",
        "2011-08-24T00:00:00+00:00",
        "Type extra specs support.",
    ),
    (
        "SnapshotUnmanage",
        "os-snapshot-unmanage",
        "2014-12-31T00:00:00+00:00",
        "Enable volume unmanage operation.",
    ),
    (
        "VolumeTypeEncryption",
        "encryption",
        "2013-07-01T00:00:00+00:00",
        "Encryption support for volume types.",
    ),
    (
        "VolumeEncryptionMetadata",
        "os-volume-encryption-metadata",
        "2013-07-10T00:00:00+00:00",
        "Volume encryption metadata retrieval support.",
    ),
    (
        "Consistencygroups",
        "consistencygroups",
        "2014-08-18T00:00:00+00:00",
        "consistency groups support.",
    ),
    (
        "SnapshotActions",
        "os-snapshot-actions",
        "2013-07-16T00:00:00+00:00",
        "Enable snapshot manager actions.",
    ),
    (
        "Backups",
        "backups",
        "2012-12-12T00:00:00+00:00",
        "Backups support.",
    ),
    (
        "Quotas",
        "os-quota-sets",
        "2011-08-08T00:00:00+00:00",
        "Quota management support.",
    ),
    (
        "VolumeActions",
        "os-volume-actions",
        "2012-05-31T00:00:00+00:00",
        "Enable volume actions.",
    ),
    (
        "QuotaClasses",
        "os-quota-class-sets",
        "2012-03-12T00:00:00+00:00",
        "Quota classes management support.",
    ),
    (
        "AvailabilityZones",
        "os-availability-zone",
        "2013-06-27T00:00:00+00:00",
        "Describe Availability Zones.",
    ),
    (
        "VolumeTypeAccess",
        "os-volume-type-access",
        "2014-06-26T00:00:00Z",
        "Volume type access support.",
    ),
    (
        "Services",
        "os-services",
        "2012-10-28T00:00:00-00:00",
        "Services support.",
    ),
    (
        "Hosts",
        "os-hosts",
        "2011-06-29T00:00:00+00:00",
        "Admin-only host administration.",
    ),
    (
        "TypesManage",
        "os-types-manage",
        "2011-08-24T00:00:00+00:00",
        "Types manage support.",
    ),
    (
        "ExtendedSnapshotAttributes",
        "os-extended-snapshot-attributes",
        "2012-06-19T00:00:00+00:00",
        "Extended SnapshotAttributes support.",
    ),
    (
        "SnapshotManage",
        "os-snapshot-manage",
        "2014-12-31T00:00:00+00:00",
        "Allows existing backend storage to be 'managed' by Cinder.",
    ),
    (
        "Qos_specs_manage",
        "qos-specs",
        "2013-08-02T00:00:00+00:00",
        "QoS specs support.",
    ),
    (
        "VolumeHostAttribute",
        "os-vol-host-attr",
        "2011-11-03T00:00:00+00:00",
        "Expose host as an attribute of a volume.",
    ),
    (
        "Scheduler_stats",
        "scheduler-stats",
        "2014-09-07T00:00:00+00:00",
        "Scheduler stats support.",
    ),
    (
        "VolumeManage",
        "os-volume-manage",
        "2014-02-10T00:00:00+00:00",
        "Allows existing backend storage to be 'managed' by Cinder.",
    ),
    (
        "VolumeMigStatusAttribute",
        "os-vol-mig-status-attr",
        "2013-08-08T00:00:00+00:00",
        "Expose migration_status as an attribute of a volume.",
    ),
    (
        "VolumeTransfer",
        "os-volume-transfer",
        "2013-05-29T00:00:00+00:00",
        "Volume transfer management support.",
    ),
    (
        "VolumeTenantAttribute",
        "os-vol-tenant-attr",
        "2011-11-03T00:00:00+00:00",
        "Expose the internal project_id as an attribute of a volume.",
    ),
    (
        "SchedulerHints",
        "OS-SCH-HNT",
        "2013-04-18T00:00:00+00:00",
        "Pass arbitrary key/value pairs to the scheduler.",
    ),
    (
        "ExtendedServices",
        "os-extended-services",
        "2014-01-10T00:00:00-00:00",
        "Extended services support.",
    ),
    (
        "Capabilities",
        "capabilities",
        "2015-08-31T00:00:00+00:00",
        "Capabilities support.",
    ),
];

pub(crate) fn extensions(_: &Call<'_>) -> Result {
    let extensions: Vec<Value> = EXTENSIONS.iter().map(extension).collect();
    Ok(Reply::json(200, json!({ "extensions": extensions })))
}

fn extension((name, alias, updated, description): &(&str, &str, &str, &str)) -> Value {
    json!({
        "name": name,
        "alias": alias,
        "description": description,
        "updated": updated,
        "links": [],
    })
}

pub(crate) fn show_extension(call: &Call<'_>) -> Result {
    let wanted = call.parameter("alias");
    match EXTENSIONS.iter().find(|row| row.1 == wanted) {
        Some(row) => Ok(Reply::json(200, json!({ "extension": extension(row) }))),
        None => Err(Error::NotFound(format!(
            "Extension with alias {wanted} does not exist"
        ))),
    }
}

pub(crate) fn resource_filters(call: &Call<'_>) -> Result {
    let filters: [(&str, &[&str]); 9] = [
        ("volume", volumes::COLLECTION.filters),
        ("backup", backups::COLLECTION.filters),
        ("snapshot", snapshots::COLLECTION.filters),
        ("group", &["name"]),
        ("group_snapshot", &["name", "status", "group_id"]),
        (
            "attachment",
            &["volume_id", "status", "instance_id", "attach_status"],
        ),
        ("message", messages::COLLECTION.filters),
        ("pool", &["name", "volume_type"]),
        ("volume_type", &["is_public", "extra_specs"]),
    ];
    let wanted = call.query("resource");
    let rows: Vec<Value> = filters
        .into_iter()
        .filter(|(resource, _)| wanted.is_none_or(|wanted| wanted == *resource))
        .map(|(resource, filters)| json!({ "resource": resource, "filters": filters }))
        .collect();
    Ok(Reply::json(200, json!({ "resource_filters": rows })))
}

/// Collections that are always empty here.
pub(crate) fn no_consistency_groups(_: &Call<'_>) -> Result {
    Ok(Reply::json(200, json!({ "consistencygroups": [] })))
}

pub(crate) fn no_cgsnapshots(_: &Call<'_>) -> Result {
    Ok(Reply::json(200, json!({ "cgsnapshots": [] })))
}

pub(crate) fn no_default_types(call: &Call<'_>) -> Result {
    let ctx = call.ctx()?;
    ctx.authorize(Rule::DefaultTypeList, &ctx.project_id)?;
    Ok(Reply::json(200, json!({ "default_types": [] })))
}

/// The filters of clusters, and those that came with replication.
const CLUSTER_FILTERS: [&str; 6] = [
    "name",
    "binary",
    "is_up",
    "disabled",
    "num_hosts",
    "num_down_hosts",
];
const REPLICATION_FILTERS: [&str; 3] = ["replication_status", "frozen", "active_backend_id"];

pub(crate) fn no_clusters(call: &Call<'_>) -> Result {
    let ctx = call.ctx()?;
    ctx.authorize(Rule::ClusterList, &ctx.project_id)?;
    let knows_replication = call.version >= REPLICATION_CLUSTER;
    let is_filter = |key: &str| {
        CLUSTER_FILTERS.contains(&key) || (knows_replication && REPLICATION_FILTERS.contains(&key))
    };
    let keys = call.query.iter().map(|(key, _)| key.as_str());
    let unknown: Vec<&str> = keys.filter(|key| !is_filter(key)).collect();
    if !unknown.is_empty() {
        let message = format!("Invalid filter keys: {}", unknown.join(", "));
        return Err(Error::invalid("input received", message));
    }
    Ok(Reply::json(200, json!({ "clusters": [] })))
}
