//! What lost jobs leave in the catalogue of the stand-in is settled.

use super::*;
use crate::model::backup::BackupStatus;

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
        assert_eq!(bed.run(Lane::Copy), Outcome::Settled);
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
        assert_eq!(bed.run(Lane::Quick), Outcome::Settled);
    }
}
