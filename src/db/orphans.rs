//! Rows that wait for a job that is not there: somebody has removed it by hand, or lost it.

use crate::db::DbConnection;
use crate::model::backup::BackupStatus;
use crate::model::id::{BackupId, JobId, VolumeId};
use crate::model::job::JobState;
use crate::model::schema::{backups, jobs, packs, session_packs, sessions, volumes};
use crate::model::volume::VolumeStatus;
use diesel::prelude::*;
use std::collections::BTreeSet;

const LIVE: [JobState; 2] = [JobState::Available, JobState::Running];

fn live_jobs(connection: &mut DbConnection) -> QueryResult<BTreeSet<JobId>> {
    let ids: Vec<JobId> = jobs::table
        .filter(jobs::state.eq_any(LIVE))
        .select(jobs::id)
        .load(connection)?;
    Ok(ids.into_iter().collect())
}

fn live_subjects(connection: &mut DbConnection) -> QueryResult<BTreeSet<String>> {
    let subjects: Vec<String> = jobs::table
        .filter(jobs::state.eq_any(LIVE))
        .select(jobs::subject)
        .load(connection)?;
    Ok(subjects.into_iter().collect())
}

/// Sessions that hold packs for a job that is not live.
pub fn sessions(connection: &mut DbConnection) -> QueryResult<Vec<JobId>> {
    // What holds packs first: a job that ends meanwhile lets go of them in the same transaction.
    let mut holders: BTreeSet<JobId> = packs::table
        .filter(packs::session.is_not_null())
        .select(packs::session.assume_not_null())
        .distinct()
        .load::<JobId>(connection)?
        .into_iter()
        .collect();
    holders.extend(
        session_packs::table
            .select(session_packs::session)
            .distinct()
            .load::<JobId>(connection)?,
    );
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
pub fn backups(connection: &mut DbConnection) -> QueryResult<Vec<(BackupId, BackupStatus)>> {
    let states = [
        BackupStatus::Creating,
        BackupStatus::Restoring,
        BackupStatus::Deleting,
    ];
    let mut found: Vec<(BackupId, BackupStatus)> = backups::table
        .filter(backups::status.eq_any(states))
        .select((backups::id, backups::status))
        .load(connection)?;
    let live = live_subjects(connection)?;
    found.retain(|(id, _)| !live.contains(id.as_str()));
    Ok(found)
}

/// A volume, its state, and the job that holds it.
pub type Held = (VolumeId, VolumeStatus, Option<JobId>);

/// Volumes in a state that only a job can end, without one.
pub fn volumes(connection: &mut DbConnection) -> QueryResult<Vec<Held>> {
    let states = [
        VolumeStatus::Creating,
        VolumeStatus::Deleting,
        VolumeStatus::Extending,
        VolumeStatus::BackingUp,
        VolumeStatus::RestoringBackup,
    ];
    let found: Vec<(VolumeId, VolumeStatus, Option<String>)> = volumes::table
        .filter(volumes::status.eq_any(states))
        .select((volumes::id, volumes::status, volumes::reserved_by))
        .load(connection)?;
    let (subjects, live) = (live_subjects(connection)?, live_jobs(connection)?);
    Ok(found
        .into_iter()
        .map(|(id, status, holder)| {
            let job = holder.and_then(|holder| Some(JobId::new(holder.split_once('#')?.0)));
            (id, status, job)
        })
        .filter(|(id, _, job)| {
            let is_held = job.as_ref().is_some_and(|job| live.contains(job));
            !is_held && !subjects.contains(id.as_str())
        })
        .collect())
}
