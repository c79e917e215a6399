//! Holds and files that lost jobs leave in the stand-in's catalogue are settled.

use super::*;
use crate::model::backup::BackupStatus;
use crate::model::job::{BackupWork, Subject};
use crate::model::volume::GIB;

impl Bed {
    /// Claims a restore into a new volume, and opens its target as the job does.
    fn begin_restore(&self, backup: &BackupId) -> Claimed {
        self.accept_restore(backup, None);
        let claimed = self.claim(Queue::Backup);
        let Subject::Backup(_, BackupWork::Restore(target)) = claimed.job.args.subject() else {
            panic!("a restore is due");
        };
        let (catalog, lease) = (&self.tasks.catalog, &claimed.lease);
        let hold = catalog.begin_restore(lease, target).unwrap();
        hold.could_change().unwrap();
        catalog
            .open_target(lease, &target.volume_id, GIB, 0, None)
            .unwrap();
        claimed
    }
}

#[test]
fn snapshots_of_lost_jobs_are_settled() {
    let bed = Bed::standalone();
    let volume = bed.make_volume();
    let [made, held, going] = [0; 3].map(|_| {
        let id = bed.accept_snapshot(&volume);
        assert!(bed.orphans().is_empty(), "its job is there");
        id
    });
    for _ in 0..3 {
        assert_eq!(bed.run(Queue::Copy), Outcome::Settled);
    }
    let making = bed.accept_snapshot(&volume);
    let backup = bed.accept_backup_of(&volume, Some(&held), false);
    bed.services.delete_snapshot(&bed.ctx, &going).unwrap();
    assert_eq!(bed.snapshot_status(&held), SnapshotStatus::BackingUp);
    assert!(bed.orphans().is_empty(), "their jobs are there");

    bed.lose_jobs();
    let found = bed.settle_orphans();
    assert_eq!(found.len(), 4, "{found:?}");
    assert_eq!(bed.snapshot_status(&made), SnapshotStatus::Available);
    assert_eq!(bed.snapshot_status(&making), SnapshotStatus::Error);
    assert_eq!(bed.snapshot_status(&held), SnapshotStatus::Available);
    assert_eq!(bed.snapshot_status(&going), SnapshotStatus::ErrorDeleting);
    assert_eq!(bed.backup(&backup).unwrap().status, BackupStatus::Error);
    assert!(bed.orphans().is_empty());
    // And its owner can remove each.
    for id in [&made, &making, &held, &going] {
        bed.services.delete_snapshot(&bed.ctx, id).unwrap();
        assert_eq!(bed.run(Queue::Quick), Outcome::Settled);
    }
}

#[test]
fn files_of_lost_jobs_are_removed_and_no_others() {
    let bed = Bed::standalone();
    let source = bed.make_volume();
    let backup = bed.accept_backup(&source, false);
    assert_eq!(bed.run(Queue::Backup), Outcome::Settled);

    drop(bed.begin_restore(&backup));
    assert_eq!(bed.files("restoring-").len(), 1);
    // Its row is lost, and its owner has removed the volume by force; the worker had opened its target late.
    bed.lose_jobs();
    bed.tasks
        .db
        .batch_execute("DELETE FROM volumes WHERE status = 'restoring-backup'");
    bed.settle_orphans();
    assert!(bed.files("restoring-").is_empty());

    let living = bed.begin_restore(&backup);
    let snapshot = bed.accept_snapshot(&source);
    let copies = [
        format!("snapshot-{snapshot}.partial"),
        format!("temporary-{}.partial", living.lease.job_id),
    ];
    for name in &copies {
        std::fs::write(bed.dir.path().join("volumes").join(name), "a part").unwrap();
    }
    let is_there = |start| bed.files(start).len() == 1;
    bed.settle_orphans();
    assert!(
        ["restoring-", "snapshot-", "temporary-"]
            .into_iter()
            .all(is_there)
    );
    // The job goes on with its file.
    assert_eq!(bed.tasks.run(living), Outcome::Settled);
    bed.settle_orphans();
    assert!(is_there("snapshot-") && !is_there("temporary-"));
    bed.lose_jobs();
    bed.settle_orphans();
    assert!(bed.files("snapshot-").is_empty());
    assert_eq!(bed.files("volume-").len(), 2);
}
