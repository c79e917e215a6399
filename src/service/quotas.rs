//! Quotas: what a project may have, what it has, and who may change it (Cinder reference, 6.2).

use crate::db::quotas::Scope;
use crate::db::{self, DbConnection};
use crate::identity::RequestContext;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::ProjectId;
use crate::model::quota::{Amounts, RESOURCES, UNLIMITED};
use crate::service::Services;
use std::collections::BTreeMap;

/// The class whose limits are the defaults of all projects.
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
            let limits = self.limits_in_force(c, Some(project))?;
            Ok((limits, self.usage(c, project)?))
        })
    }

    /// The limits of projects that have none of their own.
    pub fn default_limits(
        &self,
        ctx: &RequestContext,
        rule: Rule,
        project: &ProjectId,
    ) -> Result<Amounts, Error> {
        ctx.authorize(rule, project)?;
        self.db.read(|c| self.limits_in_force(c, None))
    }

    /// Refuses limits of a project that could not be set now.
    pub fn check_limits(
        &self,
        ctx: &RequestContext,
        project: &ProjectId,
        wanted: &BTreeMap<String, i64>,
    ) -> Result<(), Error> {
        ctx.authorize(Rule::QuotaUpdate, project)?;
        self.db
            .read(|c| self.check_project_limits(c, project, wanted))
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
            self.check_project_limits(c, project, wanted)?;
            for (resource, limit) in wanted {
                db::quotas::put(c, Scope::Project, project.as_str(), resource, *limit)?;
            }
            self.limits_in_force(c, Some(project))
        })
    }

    /// Sets limits that [`check_limits`](Self::check_limits) allowed, whatever is in use by now: others were set beside
    /// them that cannot be taken back. New objects are refused until enough of them are gone.
    pub fn set_checked_limits(
        &self,
        ctx: &RequestContext,
        project: &ProjectId,
        wanted: &BTreeMap<String, i64>,
    ) -> Result<Amounts, Error> {
        ctx.authorize(Rule::QuotaUpdate, project)?;
        self.db.write(|c| {
            db::lock_project(c, project)?;
            self.check_resources(c, wanted, "quota set")?;
            for (resource, limit) in wanted {
                db::quotas::put(c, Scope::Project, project.as_str(), resource, *limit)?;
            }
            self.limits_in_force(c, Some(project))
        })
    }

    fn check_project_limits(
        &self,
        c: &mut DbConnection,
        project: &ProjectId,
        wanted: &BTreeMap<String, i64>,
    ) -> Result<(), Error> {
        self.check_resources(c, wanted, "quota set")?;
        let used = self.usage(c, project)?;
        for (resource, limit) in wanted {
            let usage = used.used(resource);
            if *limit >= 0 && usage > *limit {
                return Err(Error::Invalid(format!(
                    "Quota {resource} limit must be equal or greater than existing resources. \
                     Current usage is {usage} and the requested limit is {limit}."
                )));
            }
        }
        Ok(())
    }

    /// Lets a project have the default limits again.
    pub fn reset_limits(&self, ctx: &RequestContext, project: &ProjectId) -> Result<(), Error> {
        ctx.authorize(Rule::QuotaDelete, project)?;
        Ok(self
            .db
            .write(|c| db::quotas::remove(c, Scope::Project, project.as_str()))?)
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
            self.check_resources(c, wanted, "quota class set")?;
            for (resource, limit) in wanted {
                db::quotas::put(c, Scope::Class, class, resource, *limit)?;
            }
            self.limits_of_class(c, class)
        })
    }

    fn limits_of_class(&self, c: &mut DbConnection, class: &str) -> Result<Amounts, Error> {
        let mut limits = self.limits_in_force(c, None)?;
        if class != DEFAULT_CLASS {
            limits.0.extend(db::quotas::of(c, Scope::Class, class)?);
        }
        Ok(limits)
    }

    /// The limits of a project, or of projects that have none of their own, of all resources there are.
    fn limits_in_force(
        &self,
        c: &mut DbConnection,
        project: Option<&ProjectId>,
    ) -> Result<Amounts, Error> {
        let names = self.catalog.resources(c)?;
        let unlimited = names.into_iter().map(|name| (name, UNLIMITED));
        let mut limits: BTreeMap<String, i64> = unlimited.collect();
        limits.extend(db::quotas::limits(c, project, &self.quota)?.0);
        Ok(Amounts(limits))
    }

    /// A project's usage.
    fn usage(&self, c: &mut DbConnection, project: &ProjectId) -> Result<Amounts, Error> {
        let mut used = self.catalog.usage(c, project)?;
        let (backups, backup_gigabytes) = db::backups::usage(c, project)?;
        used.insert("backups".to_owned(), backups);
        used.insert("backup_gigabytes".to_owned(), backup_gigabytes);
        Ok(Amounts(used))
    }

    /// Refuses limits of resources that do not exist.
    fn check_resources(
        &self,
        c: &mut DbConnection,
        wanted: &BTreeMap<String, i64>,
        set: &str,
    ) -> Result<(), Error> {
        let others = self.catalog.resources(c)?;
        let unknown: Vec<&str> = wanted
            .keys()
            .map(String::as_str)
            .filter(|name| !RESOURCES.contains(name) && !others.iter().any(|other| other == name))
            .collect();
        if unknown.is_empty() {
            Ok(())
        } else {
            Err(Error::Invalid(format!(
                "Invalid input received: Bad key(s) in {set}: {}",
                unknown.join(", ")
            )))
        }
    }
}
