//! Rows that wait for a job that does not exist: its row was deleted by hand, or lost.

use crate::db::{DbConnection, DbResult};
use crate::model::backup::BackupStatus;
use crate::model::id::{BackupId, JobId};
use crate::model::job::JobState;
use crate::model::schema::{backups, jobs, packs, sessions};
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};
use std::collections::BTreeSet;

const LIVE: [JobState; 2] = [JobState::Available, JobState::Running];

/// States that only a job can end, in the words of the index `backups_busy`.
const BACKUP_IS_BUSY: &str = "status IN ('creating', 'restoring', 'deleting')";

/// The sessions that have references, each found by one step in the index: of the references there are
/// thousands for each session.
const REFERRING: &str = "WITH RECURSIVE holder (session) AS ( \
     SELECT (SELECT MIN(session) FROM session_packs) \
     UNION ALL \
     SELECT (SELECT MIN(later.session) FROM session_packs AS later WHERE later.session > holder.session) \
     FROM holder WHERE holder.session IS NOT NULL \
     ) SELECT session FROM holder WHERE session IS NOT NULL";

#[derive(QueryableByName)]
struct Holder {
    #[diesel(sql_type = Text)]
    session: JobId,
}

fn live_jobs(connection: &mut DbConnection) -> DbResult<BTreeSet<JobId>> {
    let ids: Vec<JobId> = jobs::table
        .filter(jobs::state.eq_any(LIVE))
        .select(jobs::id)
        .load(connection)?;
    Ok(ids.into_iter().collect())
}

fn live_subjects(connection: &mut DbConnection) -> DbResult<BTreeSet<String>> {
    let subjects: Vec<String> = jobs::table
        .filter(jobs::state.eq_any(LIVE))
        .select(jobs::subject)
        .load(connection)?;
    Ok(subjects.into_iter().collect())
}

/// Sessions that hold packs for a job that is not live.
pub fn sessions(connection: &mut DbConnection) -> DbResult<Vec<JobId>> {
    // The holders first: a job that ends meanwhile releases its packs in the same transaction.
    let mut holders: BTreeSet<JobId> = packs::table
        .filter(packs::session.is_not_null())
        .select(packs::session.assume_not_null())
        .distinct()
        .load::<JobId>(connection)?
        .into_iter()
        .collect();
    let referring = diesel::sql_query(REFERRING);
    let referring: Vec<Holder> = match connection {
        DbConnection::Postgres(connection) => referring.load(connection)?,
        DbConnection::Sqlite(connection) => referring.load(connection)?,
    };
    holders.extend(referring.into_iter().map(|holder| holder.session));
    holders.extend(
        sessions::table
            .filter(sessions::attempt.lt(i32::MAX))
            .select(sessions::job)
            .load::<JobId>(connection)?,
    );
    let live = live_jobs(connection)?;
    Ok(holders.difference(&live).cloned().collect())
}

/// Backups in a state that only a job can end, without one.
pub fn backups(connection: &mut DbConnection) -> DbResult<Vec<(BackupId, BackupStatus)>> {
    let mut found: Vec<(BackupId, BackupStatus)> = backups::table
        .filter(sql::<Bool>(BACKUP_IS_BUSY))
        .select((backups::id, backups::status))
        .load(connection)?;
    let live = live_subjects(connection)?;
    found.retain(|(id, _)| !live.contains(id.as_str()));
    Ok(found)
}

/// The jobs that wait or run now, and what they work on.
pub struct Live {
    jobs: BTreeSet<JobId>,
    subjects: BTreeSet<String>,
}

impl Live {
    /// Whether one of these jobs will end the state of a volume or snapshot, as it holds it or works on it.
    pub fn ends(&self, id: &str, holder: Option<&JobId>) -> bool {
        holder.is_some_and(|job| self.jobs.contains(job)) || self.subjects.contains(id)
    }

    /// Whether one of these jobs has this id, or works on the object with this id.
    pub fn has(&self, id: &str) -> bool {
        self.jobs.contains(&JobId::new(id)) || self.subjects.contains(id)
    }
}

/// The live jobs. Rows that wait for one must have been read before.
pub fn live(connection: &mut DbConnection) -> DbResult<Live> {
    Ok(Live {
        subjects: live_subjects(connection)?,
        jobs: live_jobs(connection)?,
    })
}
