//! Rows of `temporaries`: what jobs make at another service, and connect to a machine, only for themselves.

use crate::db::{DbConnection, DbResult};
use crate::model::id::{JobId, VolumeId};
use crate::model::job::Lease;
use crate::model::schema::{temporaries, volume_holds};
use crate::model::time::Timestamp;
use diesel::prelude::*;
use std::time::Duration;

/// Longest time of a request that makes something.
const MAKING: Duration = Duration::from_secs(10 * 60);

/// What a job has made, or is about to make.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = temporaries)]
pub struct Temporary {
    pub job: JobId,
    /// When something was last asked for, until all answers are there.
    pub asked_at: Option<Timestamp>,
    /// The volume that is connected, or about to be.
    pub volume: Option<VolumeId>,
    /// What the machine that it is connected to says of itself.
    pub connector: Option<String>,
}

impl Temporary {
    /// Whether something may still come into being that was asked for.
    pub fn may_grow(&self, now: Timestamp) -> bool {
        self.asked_at.is_some_and(|at| at.after(MAKING) > now)
    }
}

/// Whether a run may have something made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    /// Yes, and nothing else that was asked for is without an answer.
    Alone,
    /// Yes, and what was asked for before may come too.
    Again,
    /// The run does not hold its volume any more.
    Over,
}

/// Notes that something is about to be made.
pub fn ask(c: &mut DbConnection, lease: &Lease, now: Timestamp) -> DbResult<Asking> {
    if !begin(c, lease)? {
        return Ok(Asking::Over);
    }
    let before = find(c, &lease.job_id)?.and_then(|of| of.asked_at);
    diesel::update(temporaries::table.find(&lease.job_id))
        .set(temporaries::asked_at.eq(now))
        .execute(c)?;
    Ok(before.map_or(Asking::Alone, |_| Asking::Again))
}

/// Makes the row of a job, unless there is one. `false`: the run does not hold its volume any more.
fn begin(c: &mut DbConnection, lease: &Lease) -> DbResult<bool> {
    let ours = volume_holds::table
        .find(&lease.job_id)
        .filter(volume_holds::attempt.eq(lease.attempt))
        .filter(volume_holds::released_at.is_null());
    if !diesel::select(diesel::dsl::exists(ours)).get_result::<bool>(c)? {
        return Ok(false);
    }
    if find(c, &lease.job_id)?.is_none() {
        diesel::insert_into(temporaries::table)
            .values(temporaries::job.eq(&lease.job_id))
            .execute(c)?;
    }
    Ok(true)
}

/// Notes that the answer is there to all that was asked for.
pub fn answered(c: &mut DbConnection, job: &JobId) -> DbResult<()> {
    diesel::update(temporaries::table.find(job))
        .set(temporaries::asked_at.eq(None::<Timestamp>))
        .execute(c)?;
    Ok(())
}

/// Notes that a volume is about to be connected to a machine. `false`: the run does not hold its volume any more.
pub fn connect(
    c: &mut DbConnection,
    lease: &Lease,
    volume: &VolumeId,
    connector: &str,
) -> DbResult<bool> {
    if !begin(c, lease)? {
        return Ok(false);
    }
    diesel::update(temporaries::table.find(&lease.job_id))
        .set((
            temporaries::volume.eq(volume),
            temporaries::connector.eq(connector),
        ))
        .execute(c)?;
    Ok(true)
}

/// What a job has made, if anything.
pub fn find(c: &mut DbConnection, job: &JobId) -> DbResult<Option<Temporary>> {
    Ok(temporaries::table.find(job).first(c).optional()?)
}

/// Notes that nothing is connected any more.
pub fn disconnected(c: &mut DbConnection, job: &JobId) -> DbResult<()> {
    diesel::update(temporaries::table.find(job))
        .set((
            temporaries::volume.eq(None::<VolumeId>),
            temporaries::connector.eq(None::<String>),
        ))
        .execute(c)?;
    Ok(())
}

/// Notes that nothing is left.
pub fn end(c: &mut DbConnection, job: &JobId) -> DbResult<()> {
    diesel::delete(temporaries::table.find(job)).execute(c)?;
    Ok(())
}

/// The jobs that have made something, of which anything may be left.
pub fn all(c: &mut DbConnection) -> DbResult<Vec<JobId>> {
    Ok(temporaries::table.select(temporaries::job).load(c)?)
}
