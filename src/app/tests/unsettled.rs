//! Jobs that failed and whose subject cannot be settled. What lasts ends the job alone; what may pass is waited for,
//! however often the job has failed.

use super::*;
use crate::model::job::JobState;

/// More than any job is tried again after a temporary fault.
const MANY: i32 = 100;

impl Bed {
    /// Claims the job whose turn it is, as one that has failed too often to be tried again.
    fn claim_at_last(&self, queue: Queue) -> Claimed {
        let mut claimed = self.claim(queue);
        claimed.job.failures = MANY;
        claimed
    }

    /// Runs it, and leaves it to be run again.
    fn run_claimed(&self, claimed: &Claimed) -> Outcome {
        self.tasks.run(Claimed {
            job: claimed.job.clone(),
            lease: claimed.lease.clone(),
            progress: Arc::default(),
        })
    }

    fn job_state(&self, claimed: &Claimed) -> JobState {
        let found = self.tasks.db.read(|c| db::jobs::find(c, &claimed.job.id));
        found.unwrap().unwrap().state
    }
}

#[test]
fn a_row_that_can_never_be_read_ends_the_job_alone() {
    let bed = Bed::standalone();
    let volume = bed.make_volume();
    bed.accept_backup(&volume, false);
    let claimed = bed.claim_at_last(Queue::Backup);
    bed.tasks
        .db
        .batch_execute("UPDATE backups SET metadata = 'rubbish'");
    let outcome = bed.run_claimed(&claimed);
    let Outcome::Failed { reason } = outcome else {
        panic!("it is tried for ever: {outcome:?}");
    };
    assert!(reason.contains("could not be settled"), "{reason}");
    assert_eq!(bed.job_state(&claimed), JobState::Discarded);
}

#[test]
fn a_job_waits_for_a_database_that_does_not_answer() {
    let bed = Bed::standalone();
    let volume = bed.make_volume();
    let snapshot = bed.accept_snapshot(&volume);
    assert_eq!(bed.run(Queue::Copy), Outcome::Settled);
    bed.services.delete_snapshot(&bed.ctx, &snapshot).unwrap();
    let claimed = bed.claim_at_last(Queue::Quick);
    let rename = |from, to| {
        let renamed = format!("ALTER TABLE {from} RENAME TO {to}");
        bed.tasks.db.batch_execute(&renamed);
    };
    rename("snapshots", "away");
    let outcome = bed.run_claimed(&claimed);
    assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}");
    assert_eq!(bed.job_state(&claimed), JobState::Running);
    rename("away", "snapshots");
    assert_eq!(bed.snapshot_status(&snapshot), SnapshotStatus::Deleting);
    assert_eq!(bed.run_claimed(&claimed), Outcome::Settled);
}
