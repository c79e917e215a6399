//! Rows of `sessions`: which run of a job may write packs. A run that was overtaken, or whose job has ended, is fenced:
//! it can neither begin a session nor write in it.

use crate::db::{self, DbConnection, DbResult};
use crate::model::id::{JobId, VaultId};
use crate::model::job::Lease;
use crate::model::schema::{backups, jobs, sessions};
use diesel::dsl::{exists, not};
use diesel::prelude::*;

/// Above every attempt: the job has ended.
const ENDED: i32 = i32::MAX;

/// Begins or takes over the session of a job. `false`: a later run has it, or it has ended.
pub fn begin(connection: &mut DbConnection, lease: &Lease) -> DbResult<bool> {
    let row = sessions::table.find(&lease.job_id);
    let begun = diesel::update(row)
        .filter(sessions::attempt.le(lease.attempt))
        .set(sessions::attempt.eq(lease.attempt))
        .execute(connection)?;
    if begun == 1 {
        return Ok(true);
    }
    let is_known = diesel::select(diesel::dsl::exists(row)).get_result(connection)?;
    if is_known {
        return Ok(false);
    }
    insert(connection, &lease.job_id, lease.attempt)?;
    Ok(true)
}

/// Whether the session still belongs to this run. Locks the row until the transaction ends, so that no other run can take
/// over meanwhile.
pub fn hold(connection: &mut DbConnection, lease: &Lease) -> DbResult<bool> {
    let count = diesel::update(sessions::table.find(&lease.job_id))
        .filter(sessions::attempt.eq(lease.attempt))
        .set(sessions::attempt.eq(lease.attempt))
        .execute(connection)?;
    Ok(count == 1)
}

/// Ends the session of a job for good, even if it has not begun yet.
pub fn end(connection: &mut DbConnection, job: &JobId) -> DbResult<()> {
    let ended = diesel::update(sessions::table.find(job))
        .set(sessions::attempt.eq(ENDED))
        .execute(connection)?;
    match ended {
        0 => insert(connection, job, ENDED),
        _ => Ok(()),
    }
}

/// Ends the sessions of all jobs that are about backups of a vault.
pub fn end_all(connection: &mut DbConnection, vault: &VaultId) -> DbResult<()> {
    let subjects = backups::table
        .filter(backups::vault_id.eq(vault))
        .select(backups::id);
    let about: Vec<JobId> = jobs::table
        .filter(jobs::subject.eq_any(subjects))
        .select(jobs::id)
        .load(connection)?;
    about.iter().try_for_each(|job| end(connection, job))
}

/// Forgets ended sessions of jobs that are forgotten, at most [`db::BATCH`] of them.
pub fn prune(connection: &mut DbConnection) -> DbResult<usize> {
    // Not `NOT IN`, which PostgreSQL evaluates for each row anew.
    let known = jobs::table.filter(jobs::id.eq(sessions::job));
    let old: Vec<JobId> = sessions::table
        .filter(sessions::attempt.eq(ENDED).and(not(exists(known))))
        .limit(db::BATCH)
        .select(sessions::job)
        .load(connection)?;
    Ok(diesel::delete(sessions::table.filter(sessions::job.eq_any(old))).execute(connection)?)
}

fn insert(connection: &mut DbConnection, job: &JobId, attempt: i32) -> DbResult<()> {
    diesel::insert_into(sessions::table)
        .values((sessions::job.eq(job), sessions::attempt.eq(attempt)))
        .execute(connection)?;
    Ok(())
}
