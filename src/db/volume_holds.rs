//! Rows of `volume_holds`: the volumes and snapshots of another service that jobs hold.

use crate::db::{self, DbConnection, DbResult};
use crate::model::id::{JobId, SnapshotId, VolumeId};
use crate::model::job::Lease;
use crate::model::schema::{volume_holds, volumes_in_making};
use crate::model::time::Timestamp;
use crate::model::volume::VolumeStatus;
use diesel::prelude::*;
use std::time::Duration;

/// How long the row of a released hold stays. No run of its job lasts longer.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Longest time of a request that makes a volume.
const MAKING: Duration = Duration::from_secs(10 * 60);

/// A hold of a job, current or released.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = volume_holds)]
pub struct VolumeHold {
    pub job: JobId,
    /// The run of the job.
    pub attempt: i32,
    /// The volume, or the snapshot that a backup is made of.
    pub subject: String,
    pub volume: VolumeId,
    /// Of a restore: whether the volume was made for it. `None`: a backup.
    pub is_new: Option<bool>,
    /// The volume's state before the job changed it.
    pub status_before: Option<VolumeStatus>,
    /// When the job released it.
    pub released_at: Option<Timestamp>,
}

impl VolumeHold {
    fn new(
        lease: &Lease,
        volume: &VolumeId,
        snapshot: Option<&SnapshotId>,
        is_new: Option<bool>,
    ) -> Self {
        let subject = snapshot.map_or(volume.as_str(), SnapshotId::as_str);
        Self {
            job: lease.job_id.clone(),
            attempt: lease.attempt,
            subject: subject.to_owned(),
            volume: volume.clone(),
            is_new,
            // The request that made a volume for a restore has put it into the state of a target.
            status_before: is_new
                .filter(|is_new| *is_new)
                .map(|_| VolumeStatus::Available),
            released_at: None,
        }
    }

    /// The snapshot, if it is one that a backup is made of.
    pub fn snapshot(&self) -> Option<SnapshotId> {
        (self.subject != self.volume.as_str()).then(|| SnapshotId::new(&self.subject))
    }

    /// Whether it is held, by this run or an earlier one of the job.
    pub fn is_held_by(&self, lease: &Lease) -> bool {
        self.released_at.is_none() && self.job == lease.job_id && self.attempt <= lease.attempt
    }

    /// The run that holds it.
    pub fn lease(&self) -> Lease {
        Lease {
            job_id: self.job.clone(),
            attempt: self.attempt,
        }
    }
}

/// The result of an attempt to hold a volume or snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    /// No job held it.
    New,
    /// An earlier run of the job held it, and now this one does.
    TakenOver,
    /// The job has released it before, or a later run of the job holds it. Nothing changed.
    Over,
    /// Another job holds it.
    Refused,
}

/// Holds a volume, or a snapshot of it, for a run of a job.
pub fn hold(
    c: &mut DbConnection,
    lease: &Lease,
    volume: &VolumeId,
    snapshot: Option<&SnapshotId>,
    is_new: Option<bool>,
) -> DbResult<Holding> {
    let wanted = VolumeHold::new(lease, volume, snapshot, is_new);
    db::lock(c, &wanted.subject)?;
    if let Some(ours) = find(c, &lease.job_id)? {
        if ours.released_at.is_some() || ours.attempt > lease.attempt {
            return Ok(Holding::Over);
        }
        diesel::update(volume_holds::table.find(&lease.job_id))
            .set(volume_holds::attempt.eq(lease.attempt))
            .execute(c)?;
        return Ok(Holding::TakenOver);
    }
    let is_held = volume_holds::table
        .filter(volume_holds::subject.eq(&wanted.subject))
        .filter(volume_holds::released_at.is_null());
    if diesel::select(diesel::dsl::exists(is_held)).get_result::<bool>(c)? {
        return Ok(Holding::Refused);
    }
    diesel::insert_into(volume_holds::table)
        .values(&wanted)
        .execute(c)?;
    Ok(Holding::New)
}

/// Takes over what the request or an earlier run of the job holds. `false`: it holds nothing any more, or a later run does.
pub fn take_over(c: &mut DbConnection, lease: &Lease) -> DbResult<bool> {
    let ours = volume_holds::table
        .filter(volume_holds::job.eq(&lease.job_id))
        .filter(volume_holds::attempt.le(lease.attempt))
        .filter(volume_holds::released_at.is_null());
    let taken = diesel::update(ours)
        .set(volume_holds::attempt.eq(lease.attempt))
        .execute(c)?;
    Ok(taken > 0)
}

/// The hold of a job, current or released, if it has one.
pub fn find(c: &mut DbConnection, job: &JobId) -> DbResult<Option<VolumeHold>> {
    Ok(volume_holds::table.find(job).first(c).optional()?)
}

/// Records the volume's state before it is changed. A state that was recorded before stays. `false`: the run does not
/// hold the volume.
pub fn note_status(c: &mut DbConnection, lease: &Lease, before: VolumeStatus) -> DbResult<bool> {
    let ours = volume_holds::table
        .find(&lease.job_id)
        .filter(volume_holds::attempt.eq(lease.attempt))
        .filter(volume_holds::released_at.is_null());
    diesel::update(ours.filter(volume_holds::status_before.is_null()))
        .set(volume_holds::status_before.eq(before))
        .execute(c)?;
    Ok(diesel::select(diesel::dsl::exists(ours)).get_result(c)?)
}

/// Records that the volume has its own state again.
pub fn forget_status(c: &mut DbConnection, lease: &Lease) -> DbResult<()> {
    let ours = volume_holds::table
        .find(&lease.job_id)
        .filter(volume_holds::attempt.eq(lease.attempt));
    diesel::update(ours)
        .set(volume_holds::status_before.eq(None::<VolumeStatus>))
        .execute(c)?;
    Ok(())
}

/// Ends the hold of a run, or of an earlier run of its job. `false`: it holds nothing.
pub fn release(c: &mut DbConnection, lease: &Lease, now: Timestamp) -> DbResult<bool> {
    let ours = volume_holds::table
        .filter(volume_holds::job.eq(&lease.job_id))
        .filter(volume_holds::attempt.le(lease.attempt))
        .filter(volume_holds::released_at.is_null());
    let released = diesel::update(ours)
        .set(volume_holds::released_at.eq(now))
        .execute(c)?;
    let oldest = Timestamp(now.0 - i64::try_from(KEPT.as_micros()).unwrap_or(i64::MAX));
    diesel::delete(volume_holds::table.filter(volume_holds::released_at.lt(oldest))).execute(c)?;
    Ok(released > 0)
}

/// All holds that are not released.
pub fn held(c: &mut DbConnection) -> DbResult<Vec<VolumeHold>> {
    Ok(volume_holds::table
        .filter(volume_holds::released_at.is_null())
        .load(c)?)
}

/// Notes that a volume with this marker is about to be made.
pub fn begin_making(c: &mut DbConnection, marker: &str, now: Timestamp) -> DbResult<()> {
    diesel::insert_into(volumes_in_making::table)
        .values((
            volumes_in_making::marker.eq(marker),
            volumes_in_making::begun_at.eq(now),
        ))
        .execute(c)?;
    Ok(())
}

/// Notes the volume that was made under a marker. `false`: it is to be removed.
pub fn note_made(c: &mut DbConnection, marker: &str, volume: &VolumeId) -> DbResult<bool> {
    let wanted = volumes_in_making::table
        .find(marker)
        .filter(volumes_in_making::unwanted.eq(false));
    let noted = diesel::update(wanted)
        .set(volumes_in_making::volume.eq(volume))
        .execute(c)?;
    Ok(noted == 1)
}

/// Notes that the volume of a marker is to be removed. From then on no restore can take it. `false`: a restore has it.
pub fn begin_removal(c: &mut DbConnection, marker: &str) -> DbResult<bool> {
    let noted = diesel::update(volumes_in_making::table.find(marker))
        .set(volumes_in_making::unwanted.eq(true))
        .execute(c)?;
    Ok(noted == 1)
}

/// The marker of a volume in making. `None`: a restore has it, or it was never in making.
pub fn marker_of(c: &mut DbConnection, volume: &VolumeId) -> DbResult<Option<String>> {
    Ok(volumes_in_making::table
        .filter(volumes_in_making::volume.eq(volume))
        .select(volumes_in_making::marker)
        .first(c)
        .optional()?)
}

/// Forgets a marker whose volume is not there.
pub fn end_making(c: &mut DbConnection, marker: &str) -> DbResult<()> {
    diesel::delete(volumes_in_making::table.find(marker)).execute(c)?;
    Ok(())
}

/// Forgets a volume in making, as a restore takes it. `false`: it is to be removed, so the restore must not have it.
pub fn take_made(c: &mut DbConnection, volume: &VolumeId) -> DbResult<bool> {
    let made = volumes_in_making::table
        .filter(volumes_in_making::volume.eq(volume))
        .filter(volumes_in_making::unwanted.eq(false));
    Ok(diesel::delete(made).execute(c)? == 1)
}

/// The markers that are left of requests which must have ended by now.
pub fn making(c: &mut DbConnection, now: Timestamp) -> DbResult<Vec<String>> {
    let oldest = Timestamp(now.0 - i64::try_from(MAKING.as_micros()).unwrap_or(i64::MAX));
    Ok(volumes_in_making::table
        .filter(volumes_in_making::begun_at.lt(oldest))
        .select(volumes_in_making::marker)
        .load(c)?)
}
