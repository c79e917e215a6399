//! The jobs of all workers, for administrators.

use crate::db;
use crate::identity::RequestContext;
use crate::identity::policy::Rule;
use crate::model::error::Error;
use crate::model::job::Job;
use crate::service::Services;

/// Jobs shown at once.
const JOBS_MAX: i64 = 1000;

impl Services {
    /// The jobs that are under way or wait, then those that ended last.
    pub fn list_jobs(&self, ctx: &RequestContext) -> Result<Vec<Job>, Error> {
        ctx.authorize(Rule::ServiceList, &ctx.project_id)?;
        Ok(self.db.read(|c| db::jobs::recent(c, JOBS_MAX))?)
    }
}
