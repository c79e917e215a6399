//! Cinder's services, as administrators see and disable them. Each worker is a `cinder-backup`; the process that answers
//! plays the others. Levels of logs are those of the process that answers.

use crate::db::services::ServiceRow;
use crate::db::{self, DbConnection, DbError};
use crate::identity::RequestContext;
use crate::identity::policy::Rule;
use crate::logs::{self, LogLevel};
use crate::model::error::Error;
use crate::model::service::{API_SERVICE, BACKUP_SERVICE, SERVICES};
use crate::model::time::Timestamp;
use crate::service::Services;

/// Name of the backend of standalone volumes.
pub const BACKEND: &str = "standalone";

/// One service, and what an administrator has set for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CinderService {
    pub row: ServiceRow,
    pub host: String,
    pub is_up: bool,
    /// When it was last known to be up.
    pub seen_at: Timestamp,
}

/// The changes that an administrator makes to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceChange {
    Enable,
    Disable { reason: Option<String> },
    Freeze,
    Thaw,
}

impl CinderService {
    /// Whether it is on this host: its own, or that of its backend.
    pub fn is_on(&self, host: &str) -> bool {
        self.host == host || self.host.split('@').next() == Some(host)
    }
}

/// The services whose logs an administrator means, and the parts of them whose names begin with a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogsOf {
    pub binary: Option<String>,
    pub host: Option<String>,
    pub prefix: String,
}

/// A service whose log levels can be read: host and binary.
pub type LogSource = (String, &'static str);

/// The levels of the parts of such a service.
pub type LogLevels = (LogSource, Vec<(&'static str, LogLevel)>);

/// The services that shall be cleaned up after.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cleanup {
    pub service_id: Option<i64>,
    pub host: Option<String>,
    pub cluster: Option<String>,
    pub binary: Option<String>,
    pub is_up: bool,
    pub disabled: Option<bool>,
    pub resource_id: Option<String>,
}

impl Services {
    /// The host of a service: volumes have a backend on it.
    pub(super) fn host_of(&self, name: &str) -> String {
        match name {
            "cinder-volume" => format!("{}@{BACKEND}", self.host),
            _ => self.host.clone(),
        }
    }

    /// The row with an administrator's settings for a service, which is kept under a name of its own.
    fn wish_row(
        &self,
        c: &mut DbConnection,
        kept: &str,
        name: &str,
    ) -> Result<ServiceRow, DbError> {
        let untouched = ServiceRow {
            name: name.to_owned(),
            disabled: false,
            disabled_reason: None,
            frozen: false,
            updated_at: self.clock.now(),
        };
        let found = db::services::find(c, kept)?;
        Ok(found.map_or(untouched, |row| ServiceRow {
            name: name.to_owned(),
            ..row
        }))
    }

    fn cinder_services(&self, c: &mut DbConnection) -> Result<Vec<CinderService>, DbError> {
        let now = self.clock.now();
        let mut listed = Vec::new();
        for name in SERVICES.into_iter().filter(|name| *name != BACKUP_SERVICE) {
            listed.push(CinderService {
                row: self.wish_row(c, name, name)?,
                host: self.host_of(name),
                is_up: true,
                seen_at: now,
            });
        }
        for worker in db::workers::all(c)? {
            let kept = db::workers::service_name(&worker.name);
            listed.push(CinderService {
                row: self.wish_row(c, &kept, BACKUP_SERVICE)?,
                is_up: db::workers::is_up(&worker, now),
                host: worker.name,
                seen_at: worker.seen_at,
            });
        }
        Ok(listed)
    }

    /// All services, if the rule allows to see them.
    pub fn list_cinder_services(
        &self,
        ctx: &RequestContext,
        rule: Rule,
    ) -> Result<Vec<CinderService>, Error> {
        ctx.authorize(rule, &ctx.project_id)?;
        self.db.read(|c| Ok(self.cinder_services(c)?))
    }

    /// Enables, disables, freezes or thaws a service. Without a binary it is the one on that host.
    pub fn change_cinder_service(
        &self,
        ctx: &RequestContext,
        binary: Option<&str>,
        host: &str,
        change: ServiceChange,
    ) -> Result<CinderService, Error> {
        ctx.authorize(Rule::ServiceUpdate, &ctx.project_id)?;
        let binary = binary.unwrap_or("cinder-volume");
        self.db.write(|c| {
            db::lock(c, "services")?;
            let found = self
                .cinder_services(c)?
                .into_iter()
                .find(|service| service.row.name == binary && service.host == host);
            let Some(mut service) = found else {
                let message = format!("Service {binary} could not be found on host {host}.");
                // Cinder answers so, the one and the other.
                return Err(match change {
                    ServiceChange::Freeze | ServiceChange::Thaw => Error::Invalid(message),
                    ServiceChange::Enable | ServiceChange::Disable { .. } => {
                        Error::NotFound(message)
                    }
                });
            };
            match &change {
                ServiceChange::Enable => {
                    service.row.disabled = false;
                    service.row.disabled_reason = None;
                }
                ServiceChange::Disable { reason } => {
                    service.row.disabled = true;
                    service.row.disabled_reason = reason.clone();
                }
                ServiceChange::Freeze => service.row.frozen = true,
                ServiceChange::Thaw => service.row.frozen = false,
            }
            service.row.updated_at = self.clock.now();
            let kept = if service.row.name == BACKUP_SERVICE {
                db::workers::service_name(&service.host)
            } else {
                service.row.name.clone()
            };
            let row = ServiceRow {
                name: kept,
                ..service.row.clone()
            };
            db::services::put(c, &row)?;
            Ok(service)
        })
    }

    /// How much each part of this process says, for each of the services it plays that are meant.
    pub fn log_levels(&self, ctx: &RequestContext, of: &LogsOf) -> Result<Vec<LogLevels>, Error> {
        let sources = self.log_sources(ctx, of)?;
        let levels = logs::levels(&of.prefix);
        Ok(sources
            .into_iter()
            .map(|source| (source, levels.clone()))
            .collect())
    }

    /// Has the parts of this process say so much, if it plays one of the services that are meant.
    pub fn set_log_level(
        &self,
        ctx: &RequestContext,
        of: &LogsOf,
        level: LogLevel,
    ) -> Result<(), Error> {
        if !self.log_sources(ctx, of)?.is_empty() {
            logs::set_levels(&of.prefix, level);
        }
        Ok(())
    }

    fn log_sources(&self, ctx: &RequestContext, of: &LogsOf) -> Result<Vec<LogSource>, Error> {
        ctx.authorize(Rule::ServiceUpdate, &ctx.project_id)?;
        let played = [API_SERVICE].into_iter().chain(SERVICES);
        let sources = played.filter_map(|name| {
            if name == BACKUP_SERVICE {
                self.worker.clone().map(|host| (host, name))
            } else {
                Some((self.host_of(name), name))
            }
        });
        let is_meant = |(host, name): &LogSource| {
            let of_host =
                |wanted: &String| host == wanted || host.split('@').next() == Some(wanted);
            of.binary.as_ref().is_none_or(|binary| binary == name)
                && of.host.as_ref().is_none_or(of_host)
        };
        Ok(sources.filter(is_meant).collect())
    }

    /// The services that would clean up after the named ones, with their numbers. They have nothing to do: jobs are
    /// resumed without them.
    pub fn clean_up(
        &self,
        ctx: &RequestContext,
        wanted: &Cleanup,
    ) -> Result<Vec<(usize, CinderService)>, Error> {
        ctx.authorize(Rule::WorkersCleanup, &ctx.project_id)?;
        let has_place =
            wanted.service_id.is_some() || wanted.host.is_some() || wanted.cluster.is_some();
        if let (Some(id), false) = (&wanted.resource_id, has_place) {
            let message = format!("There is no resource with UUID {id} pending cleanup.");
            return Err(Error::invalid("input received", message));
        }
        let is_meant = |(number, service): &(usize, CinderService)| {
            let number = i64::try_from(*number).ok();
            service.row.name != BACKUP_SERVICE
                // None of them is in a cluster.
                && wanted.cluster.is_none()
                && service.is_up == wanted.is_up
                && wanted.service_id.is_none_or(|id| Some(id) == number)
                && wanted.host.as_ref().is_none_or(|host| service.is_on(host))
                && wanted.binary.as_ref().is_none_or(|name| *name == service.row.name)
                && wanted.disabled.is_none_or(|disabled| disabled == service.row.disabled)
        };
        let listed = self.db.read(|c| self.cinder_services(c))?;
        Ok((1..).zip(listed).filter(is_meant).collect())
    }

    /// An error while an administrator has disabled the backup service.
    pub(crate) fn check_backup_service(&self) -> Result<(), Error> {
        if self.is_backup_disabled()? {
            Err(Error::NotFound(format!(
                "Service {BACKUP_SERVICE} could not be found."
            )))
        } else {
            Ok(())
        }
    }

    pub(crate) fn is_backup_disabled(&self) -> Result<bool, Error> {
        Ok(self.db.read(db::workers::are_disabled)?)
    }
}
