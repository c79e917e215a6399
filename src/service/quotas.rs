//! Quotas: what a project may have, what it has, and who may change it (Cinder reference, 6.2).

use crate::db::quotas::Scope;
use crate::db::{self, DbConnection, DbError};
use crate::identity::RequestContext;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::group::Group;
use crate::model::id::ProjectId;
use crate::model::quota::{Amounts, BY_TYPE, RESOURCES};
use crate::service::Services;
use std::collections::BTreeMap;

/// The class whose limits are everybody's defaults.
const DEFAULT_CLASS: &str = "default";

impl Services {
    /// Limits and usage of a project, for its own eyes or an administrator's.
    pub fn limits(
        &self,
        ctx: &RequestContext,
        rule: Rule,
        project: &ProjectId,
    ) -> Result<(Amounts, Amounts), Error> {
        ctx.authorize(rule, project)?;
        self.db.read(|c| -> Result<_, Error> {
            let limits = db::quotas::limits(c, Some(project), &self.quota)?;
            Ok((limits, usage(c, project)?))
        })
    }

    /// The limits of projects for which nothing else was said.
    pub fn default_limits(
        &self,
        ctx: &RequestContext,
        rule: Rule,
        project: &ProjectId,
    ) -> Result<Amounts, Error> {
        ctx.authorize(rule, project)?;
        self.db
            .read(|c| db::quotas::limits(c, None, &self.quota).map_err(Error::from))
    }

    /// Sets limits of a project. None may be below what is in use.
    pub fn set_limits(
        &self,
        ctx: &RequestContext,
        project: &ProjectId,
        wanted: &BTreeMap<String, i64>,
    ) -> Result<Amounts, Error> {
        ctx.authorize(Rule::QuotaUpdate, project)?;
        self.db.write(|c| {
            db::lock_project(c, project)?;
            check_resources(c, wanted)?;
            let used = usage(c, project)?;
            for (resource, limit) in wanted {
                if *limit >= 0 && used.used(resource) > *limit {
                    return Err(Error::Invalid(format!(
                        "Invalid input received: Quota {resource} limit must be equal or greater than existing resources."
                    )));
                }
                db::quotas::put(c, Scope::Project, project.as_str(), resource, *limit)?;
            }
            Ok(db::quotas::limits(c, Some(project), &self.quota)?)
        })
    }

    /// Lets a project have the default limits again.
    pub fn reset_limits(&self, ctx: &RequestContext, project: &ProjectId) -> Result<(), Error> {
        ctx.authorize(Rule::QuotaDelete, project)?;
        self.db
            .write(|c| db::quotas::remove(c, Scope::Project, project.as_str()).map_err(Error::from))
    }

    /// The limits of a class.
    pub fn class_limits(&self, ctx: &RequestContext, class: &str) -> Result<Amounts, Error> {
        ctx.authorize(Rule::QuotaClassShow, &ctx.project_id)?;
        self.db.read(|c| self.limits_of_class(c, class))
    }

    /// Sets limits of a class; those of `default` hold for every project without its own.
    pub fn set_class_limits(
        &self,
        ctx: &RequestContext,
        class: &str,
        wanted: &BTreeMap<String, i64>,
    ) -> Result<Amounts, Error> {
        ctx.authorize(Rule::QuotaClassUpdate, &ctx.project_id)?;
        self.db.write(|c| {
            db::lock(c, "quota classes")?;
            check_resources(c, wanted)?;
            for (resource, limit) in wanted {
                db::quotas::put(c, Scope::Class, class, resource, *limit)?;
            }
            self.limits_of_class(c, class)
        })
    }

    fn limits_of_class(&self, c: &mut DbConnection, class: &str) -> Result<Amounts, Error> {
        let mut limits = db::quotas::limits(c, None, &self.quota)?;
        if class != DEFAULT_CLASS {
            limits.0.extend(db::quotas::of(c, Scope::Class, class)?);
        }
        Ok(limits)
    }
}

/// What a project has.
fn usage(c: &mut DbConnection, project: &ProjectId) -> Result<Amounts, DbError> {
    let mut used = Amounts(db::volumes::usage_by_type(c, project)?);
    let mut add = |resource: &str, amount: i64| {
        *used.0.entry(resource.to_owned()).or_default() += amount;
    };
    let (volumes, volume_gigabytes) = db::volumes::usage(c, project)?;
    let (snapshots, snapshot_gigabytes) = db::snapshots::usage(c, project)?;
    let (backups, backup_gigabytes) = db::backups::usage(c, project)?;
    add("volumes", volumes);
    add("snapshots", snapshots);
    add("gigabytes", volume_gigabytes + snapshot_gigabytes);
    let groups = db::records::count::<Group>(c, project)?;
    add("groups", groups);
    add("backups", backups);
    add("backup_gigabytes", backup_gigabytes);
    Ok(used)
}

/// Refuses limits of resources that do not exist.
fn check_resources(c: &mut DbConnection, wanted: &BTreeMap<String, i64>) -> Result<(), Error> {
    let types = db::volumes::list_types(c)?;
    let is_known = |resource: &str| {
        RESOURCES.contains(&resource)
            || types.iter().any(|row| {
                BY_TYPE
                    .iter()
                    .any(|kind| resource == format!("{kind}_{}", row.name))
            })
    };
    let unknown: Vec<&str> = wanted
        .keys()
        .map(String::as_str)
        .filter(|resource| !is_known(resource))
        .collect();
    match unknown.is_empty() {
        true => Ok(()),
        false => Err(Error::Invalid(format!(
            "Invalid input received: Bad key(s) in quota set: {}",
            unknown.join(",")
        ))),
    }
}
