//! Rows of `jobs`. Claiming is "look, then compare-and-set": exactly one claimer wins, on both
//! databases, without locks.

use crate::db::DbConnection;
use crate::model::id::JobId;
use crate::model::job::{Checkpoint, Job, JobState, Lane, Lease};
use crate::model::schema::jobs;
use crate::model::time::Timestamp;
use diesel::prelude::*;
use std::time::Duration;

const LIVE: [JobState; 2] = [JobState::Available, JobState::Running];

/// Longest time for which a job is put off.
pub const PUT_OFF_MAX: Duration = Duration::from_secs(600);

/// Adds a job. Fails on the unique index if its subject has a live job already.
pub fn insert(connection: &mut DbConnection, job: &Job) -> QueryResult<()> {
    diesel::insert_into(jobs::table)
        .values(job)
        .execute(connection)
        .map(|_| ())
}

/// The job, if it exists.
pub fn find(connection: &mut DbConnection, id: &JobId) -> QueryResult<Option<Job>> {
    jobs::table
        .find(id)
        .select(Job::as_select())
        .first(connection)
        .optional()
}

/// The live job of a subject.
pub fn live_for(connection: &mut DbConnection, subject: &str) -> QueryResult<Option<Job>> {
    jobs::table
        .filter(jobs::subject.eq(subject).and(jobs::state.eq_any(LIVE)))
        .select(Job::as_select())
        .first(connection)
        .optional()
}

/// A job that runs in another process: its signs of life, and in whose place it runs.
pub type Elsewhere = (JobId, i64, Option<String>);

/// Jobs of a lane that run in other processes.
pub fn running_elsewhere(
    connection: &mut DbConnection,
    lane: Lane,
    running_here: Vec<JobId>,
) -> QueryResult<Vec<Elsewhere>> {
    jobs::table
        .filter(jobs::lane.eq(lane).and(jobs::state.eq(JobState::Running)))
        .filter(jobs::id.ne_all(running_here))
        .select((jobs::id, jobs::beats, jobs::holder))
        .load(connection)
}

/// Takes the next job of a lane that is due, of the project of which the fewest jobs are running; or
/// one that its worker has abandoned: still at the same beat. New jobs, retries and orphans of a
/// crash all come through here.
pub fn claim(
    connection: &mut DbConnection,
    lane: Lane,
    (worker, place): (&str, &str),
    now: Timestamp,
    leased_until: Timestamp,
    abandoned: &[(JobId, i64)],
) -> QueryResult<Option<Job>> {
    let found = match find_abandoned(connection, abandoned)? {
        None => find_due(connection, lane, now)?,
        found => found,
    };
    let Some(mut job) = found else {
        return Ok(None);
    };
    job.orphaned += i32::from(job.state == JobState::Running);
    let claimed = diesel::update(jobs::table.find(&job.id))
        .filter(jobs::attempt.eq(job.attempt).and(jobs::state.eq(job.state)))
        // A lease that was renewed a moment ago is not ours to take.
        .filter(jobs::beats.eq(job.beats))
        .set((
            jobs::state.eq(JobState::Running),
            jobs::attempt.eq(job.attempt + 1),
            jobs::beats.eq(job.beats + 1),
            jobs::orphaned.eq(job.orphaned),
            jobs::leased_until.eq(leased_until),
            jobs::worker.eq(worker),
            jobs::holder.eq(place),
            jobs::updated_at.eq(now),
        ))
        .execute(connection)?;
    job.attempt += 1;
    job.beats += 1;
    job.state = JobState::Running;
    Ok((claimed == 1).then_some(job))
}

fn find_due(connection: &mut DbConnection, lane: Lane, now: Timestamp) -> QueryResult<Option<Job>> {
    // No job is put off for longer; if one seems to be, the clock was set back.
    let horizon = now.after(PUT_OFF_MAX);
    let is_due = jobs::run_at.le(now).or(jobs::run_at.gt(horizon));
    let turn = diesel::dsl::sql::<diesel::sql_types::BigInt>(
        "(SELECT COUNT(*) FROM jobs AS running WHERE running.state = 'running' \
         AND running.lane = jobs.lane AND running.project_id = jobs.project_id)",
    );
    jobs::table
        .filter(jobs::lane.eq(lane).and(jobs::state.eq(JobState::Available)))
        .filter(is_due)
        .order((turn, jobs::run_at, jobs::id))
        .select(Job::as_select())
        .first(connection)
        .optional()
}

fn find_abandoned(
    connection: &mut DbConnection,
    abandoned: &[(JobId, i64)],
) -> QueryResult<Option<Job>> {
    for (id, beats) in abandoned {
        let found = jobs::table
            .find(id)
            .filter(jobs::state.eq(JobState::Running).and(jobs::beats.eq(beats)))
            .select(Job::as_select())
            .first(connection)
            .optional()?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
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

/// What a worker learns when it prolongs its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    Held,
    /// Somebody wants the job to end.
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
) -> QueryResult<Renewal> {
    let renewed = diesel::update(held(lease))
        .set((
            jobs::leased_until.eq(leased_until),
            jobs::beats.eq(jobs::beats + 1),
            jobs::progress_done.eq(progress.0),
            jobs::progress_total.eq(progress.1),
            jobs::updated_at.eq(now),
        ))
        .execute(connection)?;
    if renewed == 0 {
        return Ok(Renewal::Lost);
    }
    let cancel = is_cancel_requested(connection, &lease.job_id)?;
    Ok(match cancel {
        true => Renewal::CancelRequested,
        false => Renewal::Held,
    })
}

/// Whether somebody wants the job to end.
pub fn is_cancel_requested(connection: &mut DbConnection, id: &JobId) -> QueryResult<bool> {
    let wish = jobs::table
        .find(id)
        .select(jobs::cancel_requested)
        .first(connection)
        .optional()?;
    Ok(wish.unwrap_or(false))
}

/// Asks the live job of a subject to end; one that waits is made due, in the lane where it need not
/// wait for backups to end. `None`: there is no live job.
pub fn request_cancel(
    connection: &mut DbConnection,
    subject: &str,
    now: Timestamp,
) -> QueryResult<Option<Job>> {
    let Some(mut job) = live_for(connection, subject)? else {
        return Ok(None);
    };
    diesel::update(jobs::table.find(&job.id))
        .set(jobs::cancel_requested.eq(true))
        .execute(connection)?;
    let waiting = diesel::update(jobs::table.find(&job.id))
        .filter(jobs::state.eq(JobState::Available))
        .set(jobs::lane.eq(Lane::Quick))
        .execute(connection)?;
    if waiting == 1 {
        job.lane = Lane::Quick;
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
) -> QueryResult<bool> {
    // Whoever wants a job to end without its result sees to it that it does: its last step then
    // changes nothing, and the job takes back what it had begun.
    let ends_as_wished = state == JobState::Cancelled;
    diesel::update(held(lease))
        .filter(jobs::cancel_requested.eq_any([false, ends_as_wished]))
        .set((
            jobs::state.eq(state),
            jobs::reason.eq(reason),
            jobs::leased_until.eq(None::<Timestamp>),
            jobs::updated_at.eq(now),
        ))
        .execute(connection)
        .map(|count| count == 1)
}

/// Gives a job back, to be run again at a later time.
pub fn put_back(
    connection: &mut DbConnection,
    lease: &Lease,
    run_at: Timestamp,
    failure: Option<&str>,
    now: Timestamp,
) -> QueryResult<bool> {
    diesel::update(held(lease))
        .set((
            jobs::state.eq(JobState::Available),
            jobs::run_at.eq(run_at.min(now.after(PUT_OFF_MAX))),
            jobs::failures.eq(jobs::failures + i32::from(failure.is_some())),
            jobs::reason.eq(failure),
            jobs::leased_until.eq(None::<Timestamp>),
            jobs::updated_at.eq(now),
        ))
        .execute(connection)
        .map(|count| count == 1)
}

/// Notes a step that must not be taken again. `false`: the job is no longer this worker's.
pub fn set_checkpoint(
    connection: &mut DbConnection,
    lease: &Lease,
    checkpoint: Checkpoint,
) -> QueryResult<bool> {
    diesel::update(held(lease))
        .set(jobs::checkpoint.eq(checkpoint))
        .execute(connection)
        .map(|count| count == 1)
}

/// Whether some vault is being collected or verified, or is to be.
pub fn is_maintained(connection: &mut DbConnection) -> QueryResult<bool> {
    let live = jobs::table
        .filter(jobs::state.eq_any(LIVE))
        .filter(jobs::kind.eq_any(["collect_vault", "verify_vault"]));
    diesel::select(diesel::dsl::exists(live)).get_result(connection)
}

/// Live jobs by kind and state: how many, and when the oldest was made.
pub fn tally(
    connection: &mut DbConnection,
) -> QueryResult<Vec<(String, JobState, i64, Timestamp)>> {
    let rows: Vec<(String, JobState, i64, Option<Timestamp>)> = jobs::table
        .filter(jobs::state.eq_any(LIVE))
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
pub fn recent(connection: &mut DbConnection, limit: i64) -> QueryResult<Vec<Job>> {
    jobs::table
        .order((
            jobs::state.eq_any(LIVE).desc(),
            jobs::updated_at.desc(),
            jobs::id,
        ))
        .limit(limit)
        .select(Job::as_select())
        .load(connection)
}

/// Makes a waiting job due now.
pub fn nudge(connection: &mut DbConnection, id: &JobId, now: Timestamp) -> QueryResult<()> {
    diesel::update(jobs::table.find(id))
        .filter(jobs::state.eq(JobState::Available))
        .set(jobs::run_at.eq(now))
        .execute(connection)
        .map(|_| ())
}

/// Removes jobs that ended before a moment.
pub fn prune(connection: &mut DbConnection, before: Timestamp) -> QueryResult<usize> {
    diesel::delete(jobs::table)
        .filter(jobs::state.ne_all(LIVE).and(jobs::updated_at.lt(before)))
        .execute(connection)
}
