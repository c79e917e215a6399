//! A job may run once more after an earlier run has failed and let go: the hold ends in one transaction, the job in the
//! next. Its volume is its owner's by then.

use super::*;
use crate::model::backup::BackupStatus;
use crate::model::volume::VolumeStatus;
use crate::service::standalone::volume_actions::ResetVolume;
use crate::volume::VolumeWriter;

const WRITTEN: [u8; 4096] = [7; 4096];

impl Bed {
    /// An empty volume, and a backup of it.
    fn backed_up(&self) -> (VolumeId, BackupId) {
        let volume = self.make_volume();
        let backup = self.accept_backup(&volume, false);
        assert_eq!(self.run(Queue::Backup), Outcome::Settled);
        (volume, backup)
    }

    /// Writes, as the owner of a volume does.
    fn write(&self, volume: &VolumeId) {
        let volumes = self.dir.path().join("volumes");
        let path = volumes.join(format!("volume-{volume}.raw"));
        let writer = VolumeWriter::open(&path).unwrap();
        writer.write_at(&WRITTEN, 0).unwrap();
    }

    fn is_written(&self, volume: &VolumeId) -> bool {
        let mut read = [0; WRITTEN.len()];
        let reader = self.tasks.catalog.open_volume(volume).unwrap();
        reader.read_at(&mut read, 0).unwrap();
        read == WRITTEN
    }

    fn make_available(&self, volume: &VolumeId) {
        let wanted = ResetVolume {
            status: Some(VolumeStatus::Available),
            attach_status: None,
        };
        let reset = self.services.reset_volume(&self.ctx, volume, wanted);
        reset.unwrap();
    }
}

fn assert_failed(outcome: Outcome) {
    assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
}

#[test]
fn a_restore_that_has_let_go_writes_nothing() {
    let bed = Bed::standalone();
    let (volume, backup) = bed.backed_up();
    for others_held_it in [false, true] {
        bed.accept_restore(&backup, Some(&volume));
        let outcome = bed.run_after(|catalog, lease| {
            catalog.end_restore(lease, &volume, Err(()))?;
            bed.make_available(&volume);
            bed.write(&volume);
            if others_held_it {
                bed.accept_backup(&volume, false);
                assert_eq!(bed.run(Queue::Backup), Outcome::Settled);
            }
            Ok(())
        });
        assert_failed(outcome);
        assert!(bed.is_written(&volume));
        let status = bed.backup(&backup).unwrap().status;
        assert_eq!(status, BackupStatus::Available);
    }
}

#[test]
fn a_restore_does_not_make_its_volume_a_second_time() {
    let bed = Bed::standalone();
    let (_, backup) = bed.backed_up();
    let made = bed.accept_restore(&backup, None).volume_id;
    let outcome = bed.run_after(|catalog, lease| {
        catalog.end_restore(lease, &made, Err(()))?;
        bed.services.delete_volume(&bed.ctx, &made, false).unwrap();
        assert_eq!(bed.run(Queue::Quick), Outcome::Settled);
        Ok(())
    });
    assert_failed(outcome);
    assert!(bed.tasks.catalog.volume(&made).unwrap().is_none());
}

#[test]
fn a_backup_that_has_let_go_reads_nothing() {
    let bed = Bed::standalone();
    let volume = bed.make_volume();
    let snapshot = bed.accept_snapshot(&volume);
    assert_eq!(bed.run(Queue::Copy), Outcome::Settled);
    for snapshot in [None, Some(&snapshot)] {
        let backup = bed.accept_backup_of(&volume, snapshot, false);
        let outcome =
            bed.run_after(|catalog, lease| catalog.end_backup(lease, &volume, snapshot, false));
        assert_failed(outcome);
        assert_eq!(bed.backup(&backup).unwrap().status, BackupStatus::Error);
    }
}
