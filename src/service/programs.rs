//! The programs a Cinder consists of, as administrators see and disable them: each worker is a
//! `cinder-backup`; who answers plays the others.

use crate::db::services::ServiceRow;
use crate::db::{self, DbConnection, DbError};
use crate::identity::RequestContext;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::ProjectId;
use crate::model::service::{BACKUP_SERVICE, SERVICES};
use crate::model::time::Timestamp;
use crate::service::Services;

/// Name of the backend of standalone volumes.
pub const BACKEND: &str = "standalone";

/// One program, and what an administrator said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub row: ServiceRow,
    pub host: String,
    pub is_up: bool,
    /// When it was last known to be up.
    pub seen_at: Timestamp,
}

/// A project, its volumes, their GiB, its snapshots, their GiB.
pub type HostUsage = (ProjectId, i64, i64, i64, i64);

/// What an administrator wants of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    Enable,
    Disable { reason: Option<String> },
    Freeze,
    Thaw,
}

impl Services {
    /// The host of a program: volumes have a backend on it.
    fn host_of(&self, name: &str) -> String {
        match name {
            "cinder-volume" => format!("{}@{BACKEND}", self.host),
            _ => self.host.clone(),
        }
    }

    /// What an administrator said of a program, which is kept under a name of its own.
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

    fn programs(&self, c: &mut DbConnection) -> Result<Vec<Program>, DbError> {
        let now = self.clock.now();
        let mut programs = Vec::new();
        for name in SERVICES.into_iter().filter(|name| *name != BACKUP_SERVICE) {
            programs.push(Program {
                row: self.wish_row(c, name, name)?,
                host: self.host_of(name),
                is_up: true,
                seen_at: now,
            });
        }
        for worker in db::workers::all(c)? {
            let kept = db::workers::service_name(&worker.name);
            programs.push(Program {
                row: self.wish_row(c, &kept, BACKUP_SERVICE)?,
                is_up: db::workers::is_up(&worker, now),
                host: worker.name,
                seen_at: worker.seen_at,
            });
        }
        Ok(programs)
    }

    /// All programs, if the rule allows to see them.
    pub fn list_programs(&self, ctx: &RequestContext, rule: Rule) -> Result<Vec<Program>, Error> {
        ctx.authorize(rule, &ctx.project_id)?;
        self.db.read(|c| Ok(self.programs(c)?))
    }

    /// Enables, disables, freezes or thaws a program. Without a binary it is the one on that host.
    pub fn change_program(
        &self,
        ctx: &RequestContext,
        binary: Option<&str>,
        host: &str,
        wish: Wish,
    ) -> Result<Program, Error> {
        ctx.authorize(Rule::ServiceUpdate, &ctx.project_id)?;
        let binary = binary.unwrap_or("cinder-volume");
        self.db.write(|c| {
            db::lock(c, "services")?;
            let found = self
                .programs(c)?
                .into_iter()
                .find(|program| program.row.name == binary && program.host == host);
            let Some(mut program) = found else {
                let message = format!("Service {binary} could not be found on host {host}.");
                // Cinder answers so, the one and the other.
                return Err(match wish {
                    Wish::Freeze | Wish::Thaw => Error::Invalid(message),
                    Wish::Enable | Wish::Disable { .. } => Error::NotFound(message),
                });
            };
            match &wish {
                Wish::Enable => {
                    program.row.disabled = false;
                    program.row.disabled_reason = None;
                }
                Wish::Disable { reason } => {
                    program.row.disabled = true;
                    program.row.disabled_reason = reason.clone();
                }
                Wish::Freeze => program.row.frozen = true,
                Wish::Thaw => program.row.frozen = false,
            }
            program.row.updated_at = self.clock.now();
            let kept = match program.row.name == BACKUP_SERVICE {
                true => db::workers::service_name(&program.host),
                false => program.row.name.clone(),
            };
            let row = ServiceRow {
                name: kept,
                ..program.row.clone()
            };
            db::services::put(c, &row)?;
            Ok(program)
        })
    }

    /// What each project has on a host: project, volumes, their GiB, snapshots, their GiB.
    pub fn usage_of_host(&self, host: &str) -> Result<Vec<HostUsage>, Error> {
        if host != self.host_of("cinder-volume") {
            return Ok(Vec::new());
        }
        self.db.read(|c| {
            let projects = db::volumes::projects(c)?;
            let usage = projects.into_iter().map(|project| {
                let (volumes, volume_gib) = db::volumes::usage(c, &project)?;
                let (snapshots, snapshot_gib) = db::snapshots::usage(c, &project)?;
                Ok::<_, DbError>((project, volumes, volume_gib, snapshots, snapshot_gib))
            });
            Ok(usage.collect::<Result<_, _>>()?)
        })
    }

    /// Refuses what needs a backup service while an administrator has disabled it.
    pub(crate) fn check_backup_service(&self) -> Result<(), Error> {
        match self.is_backup_disabled()? {
            false => Ok(()),
            true => Err(Error::NotFound(format!(
                "Service {BACKUP_SERVICE} could not be found."
            ))),
        }
    }

    pub(crate) fn is_backup_disabled(&self) -> Result<bool, Error> {
        self.db
            .read(|c| db::workers::are_disabled(c).map_err(Error::from))
    }
}
