//! Requests on records of any kind.

use crate::db::standalone::records;
use crate::db::{self, DbConnection};
use crate::identity::RequestContext;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::id::RecordId;
use crate::model::job::{Job, JobArgs};
use crate::model::page::{Filter, Listed, Page};
use crate::model::standalone::stored::{Resource, Stored};
use crate::service::Services;

const BUSY: &str = "Another operation on the resource is under way.";

impl Services {
    /// One page of the records of a kind that match.
    pub(super) fn list_stored<T: Resource>(
        &self,
        ctx: &RequestContext,
        rule: Rule,
        filter: &Filter,
        page: &Page,
    ) -> Result<Listed<Stored<T>>, Error> {
        ctx.authorize(rule, &ctx.project_id)?;
        self.db.read(|c| -> Result<_, Error> {
            if let Some(marker) = &page.marker {
                let id = RecordId::new(marker);
                let found = records::find::<T>(c, &id)?;
                let project = filter.project.as_ref();
                let is_in_list = |row: &Stored<T>| project.is_none_or(|id| *id == row.project_id);
                if !found.as_ref().is_some_and(is_in_list) {
                    return Err(T::missing(&id));
                }
            }
            Ok(records::list(c, filter, page)?)
        })
    }

    /// A record that all projects share.
    pub(super) fn shared_record<T: Resource>(
        &self,
        ctx: &RequestContext,
        rule: Rule,
        id: &RecordId,
    ) -> Result<Stored<T>, Error> {
        ctx.authorize(rule, &ctx.project_id)?;
        self.db
            .read(|c| records::find::<T>(c, id))?
            .ok_or_else(|| T::missing(id))
    }

    /// A record of a project, if the caller may see it and do what the rule says.
    pub(super) fn owned_record<T: Resource>(
        &self,
        ctx: &RequestContext,
        rule: Rule,
        id: &RecordId,
    ) -> Result<Stored<T>, Error> {
        let found: Option<Stored<T>> = self.db.read(|c| records::find(c, id))?;
        let row = found
            .filter(|row| ctx.sees(&row.project_id))
            .ok_or_else(|| T::missing(id))?;
        ctx.authorize(rule, &row.project_id)?;
        Ok(row)
    }

    /// Changes a record by a function of what is there, in one step. Who may do so was asked before.
    pub(super) fn change_record<T: Resource>(
        &self,
        id: &RecordId,
        mut change: impl FnMut(&mut DbConnection, &mut Stored<T>) -> Result<(), Error>,
    ) -> Result<Stored<T>, Error> {
        let now = self.clock.now();
        self.db.write(|c| -> Result<_, Error> {
            let mut row = locked_record(c, id)?;
            change(c, &mut row)?;
            row.updated_at = Some(now);
            records::update(c, &row, now)?;
            Ok(row)
        })
    }

    /// Changes rows and adds jobs for what follows, in one transaction; then wakes the runner.
    pub(super) fn write_with_jobs<T>(
        &self,
        ctx: &RequestContext,
        mut change: impl FnMut(&mut DbConnection) -> Result<(T, Vec<JobArgs>), Error>,
    ) -> Result<T, Error> {
        let now = self.clock.now();
        let (value, jobs) = self.db.write(|c| -> Result<_, Error> {
            let (value, wanted) = change(c)?;
            let mut jobs = Vec::new();
            for args in wanted {
                let job = Job::new(args, now).asked_by(&ctx.request_id, &ctx.project_id);
                db::jobs::insert(c, &job).map_err(|error| {
                    if db::is_duplicate(&error) {
                        Error::Conflict(BUSY.to_owned())
                    } else {
                        Error::from(error)
                    }
                })?;
                jobs.push(job);
            }
            Ok((value, jobs))
        })?;
        for job in &jobs {
            self.wake.wake(job.queue);
        }
        Ok(value)
    }
}

/// The record, which others that ask so wait for until the transaction ends.
pub(super) fn locked_record<T: Resource>(
    c: &mut DbConnection,
    id: &RecordId,
) -> Result<Stored<T>, Error> {
    db::lock(c, id.as_str())?;
    records::find(c, id)?.ok_or_else(|| T::missing(id))
}
