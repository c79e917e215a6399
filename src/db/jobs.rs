//! Rows of `jobs`. Claiming is "look, then compare-and-set": exactly one claimer wins, on both
//! databases. A lock only makes the counts of places true until the claim is written. In the database the column of the
//! queue is called `lane`, and that of the heartbeats `beats`.

use crate::db::{self, DbConnection, DbResult, workers};
use crate::model::id::JobId;
use crate::model::job::{Checkpoint, Job, JobState, Lease, Queue, Upkeep};
use crate::model::schema::jobs;
use crate::model::time::Timestamp;
use diesel::dsl::sql;
use diesel::expression::SqlLiteral;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Text};
use std::time::Duration;

const LIVE: [JobState; 2] = [JobState::Available, JobState::Running];

// These conditions are word for word those of the partial indexes. SQLite does not use such an index for a bound value.
// Jobs that ended are many and stand in none of these indexes.
const IS_LIVE: &str = "jobs.state IN ('available', 'running')";
const IS_AVAILABLE: &str = "jobs.state = 'available'";
const IS_RUNNING: &str = "jobs.state = 'running'";
const IS_CANCELLED: &str = "jobs.state = 'available' AND jobs.cancel_requested";

/// A running job takes a place, unless its worker has none. A worker has none while it is stopping, and none for
/// backups while an administrator has disabled it; it finishes the jobs that it runs. [`NEXT`] has the same condition.
const HAS_PLACE: &str = "NOT EXISTS ( \
     SELECT 1 FROM workers WHERE workers.name = jobs.worker \
     AND 0 = CASE jobs.lane WHEN 'backup' THEN workers.backups WHEN 'copy' THEN workers.copies ELSE workers.quick END \
     )";

/// The job whose turn it is: of the projects that have one waiting, found by stepping through the index, the one
/// that has the fewest running, and fewer than it may have; of its jobs, the one that is due the longest.
/// `$1` queue, `$2` now, `$3` the horizon, `$4` most places of one project.
const NEXT: &str = "WITH RECURSIVE waiting (project) AS ( \
     SELECT ( \
     SELECT project_id FROM jobs \
     WHERE lane = $1 AND state = 'available' AND project_id IS NOT NULL ORDER BY project_id LIMIT 1 \
     ) UNION ALL SELECT ( \
     SELECT project_id FROM jobs \
     WHERE lane = $1 AND state = 'available' AND project_id > waiting.project ORDER BY project_id LIMIT 1 \
     ) FROM waiting WHERE waiting.project IS NOT NULL \
     ), running (project, places) AS ( \
     SELECT project_id, COUNT(*) FROM jobs WHERE lane = $1 AND state = 'running' AND NOT EXISTS ( \
     SELECT 1 FROM workers WHERE workers.name = jobs.worker \
     AND 0 = CASE jobs.lane WHEN 'backup' THEN workers.backups WHEN 'copy' THEN workers.copies ELSE workers.quick END \
     ) GROUP BY project_id \
     ) \
     SELECT jobs.id AS id FROM waiting \
     JOIN jobs ON jobs.id = ( \
     SELECT due.id FROM jobs AS due \
     WHERE due.lane = $1 AND due.state = 'available' AND due.project_id = waiting.project \
     AND (due.run_at <= $2 OR due.run_at > $3) ORDER BY due.run_at, due.id LIMIT 1 \
     ) \
     LEFT JOIN running ON running.project = waiting.project \
     WHERE COALESCE(running.places, 0) < $4 \
     ORDER BY COALESCE(running.places, 0), jobs.run_at, jobs.id LIMIT 1";

/// The row that [`NEXT`] finds.
#[derive(QueryableByName)]
struct Next {
    #[diesel(sql_type = Text)]
    id: String,
}

/// Longest time for which a job is postponed.
pub const PUT_OFF_MAX: Duration = Duration::from_secs(600);

/// Adds a job. Fails on the unique index if its subject has a live job already.
pub fn insert(connection: &mut DbConnection, job: &Job) -> DbResult<()> {
    diesel::insert_into(jobs::table)
        .values(job)
        .execute(connection)?;
    Ok(())
}

/// The job, if it exists.
pub fn find(connection: &mut DbConnection, id: &JobId) -> DbResult<Option<Job>> {
    Ok(jobs::table
        .find(id)
        .select(Job::as_select())
        .first(connection)
        .optional()?)
}

/// The live job of a subject.
pub fn live_for(connection: &mut DbConnection, subject: &str) -> DbResult<Option<Job>> {
    Ok(jobs::table
        .filter(jobs::subject.eq(subject))
        .filter(sql::<Bool>(IS_LIVE))
        .select(Job::as_select())
        .first(connection)
        .optional()?)
}

/// A job that runs in another process: its signs of life, and in whose place it runs.
pub type Elsewhere = (JobId, i64, Option<String>);

/// Jobs of a queue that run in other processes.
pub fn running_elsewhere(
    connection: &mut DbConnection,
    queue: Queue,
    running_here: Vec<JobId>,
) -> DbResult<Vec<Elsewhere>> {
    Ok(jobs::table
        .filter(jobs::queue.eq(queue))
        .filter(sql::<Bool>(IS_RUNNING))
        .filter(jobs::id.ne_all(running_here))
        .select((jobs::id, jobs::heartbeats, jobs::holder))
        .load(connection)?)
}

/// Who asks for a job.
#[derive(Debug, Clone)]
pub struct Claimer {
    /// Name of the worker.
    pub worker: String,
    /// The place of its process (`holder`), which one process has at a time.
    pub place: String,
    /// Jobs of the queue that it runs at once.
    pub places: i64,
    /// Whether no project may have the last place of all workers.
    pub reserves: bool,
    /// The other workers that are alive. Only their places count.
    pub others: Vec<String>,
}

/// Takes the next due job of a queue, from the project with the fewest running jobs; or a job that its worker has
/// abandoned, if its `heartbeats` are still the same. New jobs, retries and abandoned jobs all come through here. No
/// project gets the last place of all workers, and upkeep does not get all places.
pub fn claim(
    connection: &mut DbConnection,
    queue: Queue,
    us: &Claimer,
    now: Timestamp,
    leased_until: Timestamp,
    abandoned: &[(JobId, i64)],
) -> DbResult<Option<Job>> {
    // Claims in one queue take turns, so that each counts the places that the claims before it have taken.
    db::lock(connection, &format!("{queue} places"))?;
    let left = find_abandoned(connection, abandoned)?;
    let places = Places::count(connection, queue, us, &left)?;
    let Some(mut job) = find_next(connection, now, left, &places)? else {
        return Ok(None);
    };
    job.orphaned += i32::from(job.state == JobState::Running);
    let claimed = diesel::update(jobs::table.find(&job.id))
        .filter(jobs::attempt.eq(job.attempt).and(jobs::state.eq(job.state)))
        // If the lease was renewed a moment ago, the job is not abandoned.
        .filter(jobs::heartbeats.eq(job.heartbeats))
        .set((
            jobs::state.eq(JobState::Running),
            jobs::attempt.eq(job.attempt + 1),
            jobs::heartbeats.eq(job.heartbeats + 1),
            jobs::orphaned.eq(job.orphaned),
            jobs::leased_until.eq(leased_until),
            jobs::worker.eq(&us.worker),
            jobs::holder.eq(&us.place),
            jobs::updated_at.eq(now),
        ))
        .execute(connection)?;
    job.attempt += 1;
    job.heartbeats += 1;
    job.state = JobState::Running;
    Ok((claimed == 1).then_some(job))
}

/// The places of a queue on all workers that are alive, and who may have how many.
struct Places<'u> {
    queue: Queue,
    us: &'u Claimer,
    all: i64,
    /// Most places of one project: one less than upkeep leaves. `None`: any number.
    most: Option<i64>,
    /// Jobs whose worker is gone: they hold no place.
    idle: Vec<JobId>,
}

impl<'u> Places<'u> {
    fn count(
        connection: &mut DbConnection,
        queue: Queue,
        us: &'u Claimer,
        left: &[Job],
    ) -> DbResult<Self> {
        // A worker that has abandoned a job has no places, even if that was only noticed now.
        let is_gone = |name: &str| left.iter().any(|job| job.worker.as_deref() == Some(name));
        let others = us.others.iter().map(String::as_str);
        let others: Vec<&str> = others.filter(|name| !is_gone(name)).collect();
        let others = workers::places(connection, queue, &others)?;
        let mut places = Self {
            queue,
            us,
            all: us.places.saturating_add(others),
            most: None,
            idle: left.iter().map(|job| job.id.clone()).collect(),
        };
        if us.reserves {
            let upkeep: i64 = running_in(queue, &places.idle)
                .filter(jobs::project_id.is_null())
                .count()
                .get_result(connection)?;
            places.most = Some((places.all - 1 - upkeep).max(1));
        }
        Ok(places)
    }

    /// Whether one more job may run. A job that is to be cancelled always has room, as it ends in moments.
    fn has_room(&self, connection: &mut DbConnection, job: &Job) -> DbResult<bool> {
        if job.cancel_requested {
            return Ok(true);
        }
        let Some(project) = &job.project_id else {
            return self.has_room_for_upkeep(connection);
        };
        let Some(most) = self.most else {
            return Ok(true);
        };
        let running: i64 = running_in(self.queue, &self.idle)
            .filter(jobs::project_id.eq(project))
            .count()
            .get_result(connection)?;
        Ok(running < most)
    }

    /// Upkeep has one place on each worker at most, as its memory is counted once. It leaves one place of all to projects,
    /// where there is more than one: it may take hours. The places that projects have do not matter, as projects with a
    /// long queue have all of them all the time.
    fn has_room_for_upkeep(&self, connection: &mut DbConnection) -> DbResult<bool> {
        let running: Vec<Option<String>> = running_in(self.queue, &self.idle)
            .filter(jobs::project_id.is_null())
            .select(jobs::worker)
            .load(connection)?;
        let is_ours = |worker: &Option<String>| worker.as_ref() == Some(&self.us.worker);
        let count = i64::try_from(running.len()).unwrap_or(i64::MAX);
        Ok(!running.iter().any(is_ours) && count < (self.all - 1).max(1))
    }
}

/// Jobs of a queue that run and take a place, besides some.
#[diesel::dsl::auto_type(no_type_alias)]
fn running_in<'a>(queue: Queue, idle: &'a [JobId]) -> _ {
    let is_running: SqlLiteral<Bool> = sql(IS_RUNNING);
    let has_place: SqlLiteral<Bool> = sql(HAS_PLACE);
    jobs::table
        .filter(jobs::queue.eq(queue))
        .filter(is_running)
        .filter(has_place)
        .filter(jobs::id.ne_all(idle))
}

/// An abandoned job, else one that is to be cancelled, else the one whose turn it is.
fn find_next(
    connection: &mut DbConnection,
    now: Timestamp,
    left: Vec<Job>,
    places: &Places<'_>,
) -> DbResult<Option<Job>> {
    for job in left {
        if places.has_room(connection, &job)? {
            return Ok(Some(job));
        }
    }
    // No job is postponed for longer. If one seems to be, the clock was set back.
    let horizon = now.after(PUT_OFF_MAX);
    let cancelled = find_cancelled(connection, places.queue, now, horizon)?;
    if cancelled.is_some() {
        return Ok(cancelled);
    }
    if let Some(job) = find_upkeep(connection, places.queue, now, horizon)?
        && places.has_room(connection, &job)?
    {
        return Ok(Some(job));
    }
    match find_due(connection, places, now, horizon)? {
        Some(job) if places.has_room(connection, &job)? => Ok(Some(job)),
        _ => Ok(None),
    }
}

/// A job that is to be cancelled. It does not wait for other jobs of its project.
fn find_cancelled(
    connection: &mut DbConnection,
    queue: Queue,
    now: Timestamp,
    horizon: Timestamp,
) -> DbResult<Option<Job>> {
    Ok(jobs::table
        .filter(jobs::queue.eq(queue))
        .filter(sql::<Bool>(IS_CANCELLED))
        .filter(jobs::run_at.le(now).or(jobs::run_at.gt(horizon)))
        .order((jobs::run_at, jobs::id))
        .select(Job::as_select())
        .first(connection)
        .optional()?)
}

/// Upkeep, which is of no project.
fn find_upkeep(
    connection: &mut DbConnection,
    queue: Queue,
    now: Timestamp,
    horizon: Timestamp,
) -> DbResult<Option<Job>> {
    Ok(jobs::table
        .filter(jobs::queue.eq(queue).and(jobs::project_id.is_null()))
        .filter(sql::<Bool>(IS_AVAILABLE))
        .filter(jobs::run_at.le(now).or(jobs::run_at.gt(horizon)))
        .order((jobs::run_at, jobs::id))
        .select(Job::as_select())
        .first(connection)
        .optional()?)
}

fn find_due(
    connection: &mut DbConnection,
    places: &Places<'_>,
    now: Timestamp,
    horizon: Timestamp,
) -> DbResult<Option<Job>> {
    let query = diesel::sql_query(NEXT)
        .bind::<Text, _>(places.queue.as_str())
        .bind::<BigInt, _>(now.0)
        .bind::<BigInt, _>(horizon.0)
        .bind::<BigInt, _>(places.most.unwrap_or(i64::MAX));
    let next: Option<Next> = match connection {
        DbConnection::Postgres(connection) => query.get_result(connection),
        DbConnection::Sqlite(connection) => query.get_result(connection),
    }
    .optional()?;
    let Some(next) = next else {
        return Ok(None);
    };
    // Another worker may have claimed it since. Then it runs, and must not be claimed again.
    let due = find(connection, &JobId::new(next.id))?;
    Ok(due.filter(|job| job.state == JobState::Available))
}

/// Those of the abandoned jobs that have sent no heartbeat since.
fn find_abandoned(connection: &mut DbConnection, abandoned: &[(JobId, i64)]) -> DbResult<Vec<Job>> {
    let mut left = Vec::new();
    for (id, heartbeats) in abandoned {
        let found = jobs::table
            .find(id)
            .filter(
                jobs::state
                    .eq(JobState::Running)
                    .and(jobs::heartbeats.eq(heartbeats)),
            )
            .select(Job::as_select())
            .first(connection)
            .optional()?;
        left.extend(found);
    }
    Ok(left)
}

/// The job, for as long as the lease holds: every write of a worker goes through here.
#[diesel::dsl::auto_type(no_type_alias)]
fn held<'a>(lease: &'a Lease) -> _ {
    let id: &'a JobId = &lease.job_id;
    let attempt: i32 = lease.attempt;
    let running: JobState = JobState::Running;
    jobs::table
        .filter(jobs::id.eq(id))
        .filter(jobs::attempt.eq(attempt))
        .filter(jobs::state.eq(running))
}

/// Whether the job is still this worker's. Locks the row until the transaction ends, so that no other worker can
/// claim it meanwhile.
pub fn hold(connection: &mut DbConnection, lease: &Lease) -> DbResult<bool> {
    let count = diesel::update(held(lease))
        .set(jobs::attempt.eq(lease.attempt))
        .execute(connection)?;
    Ok(count == 1)
}

/// The answer to a worker that prolongs its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    Held,
    /// The job was asked to end.
    CancelRequested,
    /// The job is no longer this worker's.
    Lost,
}

/// Prolongs a lease and notes the progress.
pub fn renew(
    connection: &mut DbConnection,
    lease: &Lease,
    leased_until: Timestamp,
    progress: (i64, i64),
    now: Timestamp,
) -> DbResult<Renewal> {
    let renewed = diesel::update(held(lease))
        .set((
            jobs::leased_until.eq(leased_until),
            jobs::heartbeats.eq(jobs::heartbeats + 1),
            jobs::progress_done.eq(progress.0),
            jobs::progress_total.eq(progress.1),
            jobs::updated_at.eq(now),
        ))
        .execute(connection)?;
    if renewed == 0 {
        return Ok(Renewal::Lost);
    }
    let cancel = is_cancel_requested(connection, &lease.job_id)?;
    Ok(if cancel {
        Renewal::CancelRequested
    } else {
        Renewal::Held
    })
}

/// Whether the job was asked to end.
pub fn is_cancel_requested(connection: &mut DbConnection, id: &JobId) -> DbResult<bool> {
    let is_requested = jobs::table
        .find(id)
        .select(jobs::cancel_requested)
        .first(connection)
        .optional()?;
    Ok(is_requested.unwrap_or(false))
}

/// Asks the live job of a subject to end; one that waits is made due, in the queue where it need not
/// wait for backups to end. `None`: there is no live job.
pub fn request_cancel(
    connection: &mut DbConnection,
    subject: &str,
    now: Timestamp,
) -> DbResult<Option<Job>> {
    let Some(mut job) = live_for(connection, subject)? else {
        return Ok(None);
    };
    diesel::update(jobs::table.find(&job.id))
        .set(jobs::cancel_requested.eq(true))
        .execute(connection)?;
    let waiting = diesel::update(jobs::table.find(&job.id))
        .filter(jobs::state.eq(JobState::Available))
        .set(jobs::queue.eq(Queue::Quick))
        .execute(connection)?;
    if waiting == 1 {
        job.queue = Queue::Quick;
    }
    nudge(connection, &job.id, now)?;
    Ok(Some(job))
}

/// Ends a job for good. `false`: the job is no longer this worker's, and nothing was changed.
pub fn settle(
    connection: &mut DbConnection,
    lease: &Lease,
    state: JobState,
    reason: Option<&str>,
    now: Timestamp,
) -> DbResult<bool> {
    // If the job was asked to end without its result, only the settlement as cancelled succeeds. Any other changes
    // nothing, and the job takes back what it had begun.
    let ends_as_wished = state == JobState::Cancelled;
    let count = diesel::update(held(lease))
        .filter(jobs::cancel_requested.eq_any([false, ends_as_wished]))
        .set((
            jobs::state.eq(state),
            jobs::reason.eq(reason),
            jobs::leased_until.eq(None::<Timestamp>),
            jobs::updated_at.eq(now),
        ))
        .execute(connection)?;
    Ok(count == 1)
}

/// Gives a job back, to be run again at a later time.
pub fn put_back(
    connection: &mut DbConnection,
    lease: &Lease,
    run_at: Timestamp,
    failure: Option<&str>,
    now: Timestamp,
) -> DbResult<bool> {
    let count = diesel::update(held(lease))
        .set((
            jobs::state.eq(JobState::Available),
            jobs::run_at.eq(run_at.min(now.after(PUT_OFF_MAX))),
            jobs::failures.eq(jobs::failures + i32::from(failure.is_some())),
            jobs::reason.eq(failure),
            jobs::leased_until.eq(None::<Timestamp>),
            jobs::updated_at.eq(now),
        ))
        .execute(connection)?;
    Ok(count == 1)
}

/// Notes a step that must not be taken again. `false`: the job is no longer this worker's.
pub fn set_checkpoint(
    connection: &mut DbConnection,
    lease: &Lease,
    checkpoint: Checkpoint,
) -> DbResult<bool> {
    let count = diesel::update(held(lease))
        .set(jobs::checkpoint.eq(checkpoint))
        .execute(connection)?;
    Ok(count == 1)
}

/// The vaults for which a collection or verification runs or waits.
pub fn maintained(connection: &mut DbConnection) -> DbResult<Vec<String>> {
    Ok(jobs::table
        .filter(sql::<Bool>(IS_LIVE))
        .filter(jobs::kind.eq_any(Upkeep::ALL))
        .select(jobs::subject)
        .load(connection)?)
}

/// Live jobs by kind and state: how many, and when the oldest was made.
pub fn tally(connection: &mut DbConnection) -> DbResult<Vec<(String, JobState, i64, Timestamp)>> {
    let rows: Vec<(String, JobState, i64, Option<Timestamp>)> = jobs::table
        .filter(sql::<Bool>(IS_LIVE))
        .group_by((jobs::kind, jobs::state))
        .select((
            jobs::kind,
            jobs::state,
            diesel::dsl::count_star(),
            diesel::dsl::min(jobs::created_at),
        ))
        .load(connection)?;
    Ok(rows
        .into_iter()
        .filter_map(|(kind, state, count, oldest)| Some((kind, state, count, oldest?)))
        .collect())
}

/// The jobs that are under way or wait, and those that were touched last, the latest first.
pub fn recent(connection: &mut DbConnection, limit: i64) -> DbResult<Vec<Job>> {
    let mut found: Vec<Job> = jobs::table
        .filter(jobs::state.eq_any(LIVE))
        .order((jobs::updated_at.desc(), jobs::id))
        .limit(limit)
        .select(Job::as_select())
        .load(connection)?;
    let room = limit.saturating_sub(i64::try_from(found.len()).unwrap_or(i64::MAX));
    let ended: Vec<Job> = jobs::table
        .filter(jobs::state.ne_all(LIVE))
        .order((jobs::updated_at.desc(), jobs::id))
        .limit(room)
        .select(Job::as_select())
        .load(connection)?;
    found.extend(ended);
    Ok(found)
}

/// Makes a waiting job due now.
pub fn nudge(connection: &mut DbConnection, id: &JobId, now: Timestamp) -> DbResult<()> {
    diesel::update(jobs::table.find(id))
        .filter(jobs::state.eq(JobState::Available))
        .set(jobs::run_at.eq(now))
        .execute(connection)?;
    Ok(())
}

/// Removes jobs that ended before a moment, at most [`db::BATCH`] of them.
pub fn prune(connection: &mut DbConnection, before: Timestamp) -> DbResult<usize> {
    let old: Vec<JobId> = jobs::table
        .filter(jobs::state.ne_all(LIVE).and(jobs::updated_at.lt(before)))
        .order(jobs::updated_at)
        .limit(db::BATCH)
        .select(jobs::id)
        .load(connection)?;
    Ok(diesel::delete(jobs::table.filter(jobs::id.eq_any(old))).execute(connection)?)
}
