//! Requests and jobs of backups on a catalogue that is not the stand-in, and without any table of the stand-in.
//! Code that reaches round the port fails here: it finds no table, or it changes rows that the catalogue does not read.

use super::*;
use crate::model::backup::BackupStatus;
use crate::model::id::JobId;
use crate::model::job::RestoreTarget;
use crate::model::volume::{SavedVolume, SourceVolume, VolumeStatus};
use crate::volume::catalog::Hold;
use crate::volume::catalog::memory::{Kept, Memory};
use std::ops::Deref;

/// Tables that only the stand-in for Cinder and Keystone has, those that refer to others first.
const TABLES_OF_THE_STAND_IN: &[&str] = &[
    "volumes",
    "snapshots",
    "attachments",
    "volume_types",
    "records",
    "application_credentials",
    "tokens",
    "assignments",
    "users",
    "projects",
];

const VOLUME_BYTES: usize = 1 << 20;

/// A bed on volumes that another service keeps.
struct Elsewhere {
    bed: Bed,
    memory: Memory,
}

impl Deref for Elsewhere {
    type Target = Bed;

    fn deref(&self) -> &Bed {
        &self.bed
    }
}

impl Elsewhere {
    fn new() -> Self {
        let memory = Memory::default();
        let bed = Bed::on(|db, _| {
            for table in TABLES_OF_THE_STAND_IN {
                db.batch_execute(&format!("DROP TABLE {table}"));
            }
            Catalog::Memory(memory.clone())
        });
        Self { bed, memory }
    }

    /// A volume of the other service.
    fn volume(&self, content: Vec<u8>) -> VolumeId {
        let volume = SourceVolume {
            id: VolumeId::random(),
            project_id: self.ctx.project_id.clone(),
            name: Some("data".to_owned()),
            size_gib: 1,
            status: VolumeStatus::Available,
            unsupported: None,
        };
        let saved = SavedVolume {
            name: volume.name.clone(),
            bootable: true,
            ..SavedVolume::default()
        };
        let id = volume.id.clone();
        self.memory.insert(Kept::new(volume, saved, content));
        id
    }

    fn kept(&self, id: &VolumeId) -> Kept {
        self.memory.find(id).unwrap()
    }

    fn status(&self, id: &VolumeId) -> VolumeStatus {
        self.kept(id).volume.status
    }
}

/// Bytes that differ from place to place.
fn content() -> Vec<u8> {
    let numbers = (0..VOLUME_BYTES as u32 / 4).map(|number| number.wrapping_mul(0x9e37_79b1));
    numbers.flat_map(u32::to_le_bytes).collect()
}

#[test]
fn backups_and_restores_reach_volumes_by_the_port_alone() {
    let bed = Elsewhere::new();
    let (old, volume) = (content(), bed.volume(content()));

    let full = bed.accept_backup(&volume, false);
    assert_eq!(bed.status(&volume), VolumeStatus::BackingUp);
    assert!(bed.orphans().is_empty(), "its job is there");
    assert_eq!(bed.run(Queue::Backup), Outcome::Settled);
    assert_eq!(bed.status(&volume), VolumeStatus::Available);

    let change = [7; 5000];
    bed.kept(&volume)
        .content
        .write_at(&change, 300_000)
        .unwrap();
    let new = bed.kept(&volume).content.bytes();
    let next = bed.accept_backup(&volume, true);
    assert_eq!(bed.run(Queue::Backup), Outcome::Settled);
    let made = bed.backup(&next).unwrap();
    assert_eq!(made.status, BackupStatus::Available);
    assert_eq!(made.parent_id, Some(full.clone()));
    assert!(made.stored_bytes < VOLUME_BYTES as i64 / 2);

    let restoring = bed.accept_restore(&next, None);
    assert_eq!(
        bed.status(&restoring.volume_id),
        VolumeStatus::RestoringBackup
    );
    assert_eq!(bed.run(Queue::Backup), Outcome::Settled);
    let restored = bed.kept(&restoring.volume_id);
    assert_eq!(restored.volume.status, VolumeStatus::Available);
    assert_eq!(restored.saved, bed.kept(&volume).saved);
    assert!(restored.content.bytes() == new);

    bed.accept_restore(&full, Some(&volume));
    assert_eq!(bed.run(Queue::Backup), Outcome::Settled);
    assert_eq!(bed.status(&volume), VolumeStatus::Available);
    assert!(bed.kept(&volume).content.bytes() == old);
}

#[test]
fn a_cancelled_job_lets_go_by_the_port() {
    let bed = Elsewhere::new();
    let volume = bed.volume(content());
    let full = bed.accept_backup(&volume, false);
    assert_eq!(bed.run(Queue::Backup), Outcome::Settled);

    let second = bed.accept_backup(&volume, false);
    bed.services.force_delete_backup(&bed.ctx, &second).unwrap();
    assert_eq!(bed.status(&volume), VolumeStatus::BackingUp);
    assert_eq!(bed.run(Queue::Quick), Outcome::Cancelled);
    assert_eq!(bed.status(&volume), VolumeStatus::Available);
    assert!(bed.backup(&second).is_none());

    let restoring = bed.accept_restore(&full, None);
    let (ctx, to) = (&bed.ctx, BackupStatus::Available);
    bed.services.reset_backup(ctx, &full, to).unwrap();
    assert_eq!(bed.run(Queue::Quick), Outcome::Cancelled);
    let target = bed.status(&restoring.volume_id);
    assert_eq!(target, VolumeStatus::ErrorRestoring);
    assert_eq!(bed.backup(&full).unwrap().status, BackupStatus::Available);
}

#[test]
fn what_a_lost_job_holds_is_given_back_by_the_port() {
    let bed = Elsewhere::new();
    let [source, target] = [content(), content()].map(|content| bed.volume(content));
    let backup = bed.accept_backup(&source, false);
    bed.tasks.db.batch_execute("DELETE FROM jobs");
    // And one whose request was refused after the hold.
    let lease = Lease::unclaimed(&JobId::random());
    let into = RestoreTarget {
        volume_id: target.clone(),
        create: None,
    };
    let catalog = &bed.tasks.catalog;
    let hold = bed
        .tasks
        .db
        .write(|c| catalog.hold_target(c, &lease, &into));
    assert_eq!(hold.unwrap(), Hold::Held { could_change: true });
    let found = bed.settle_orphans();
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(bed.status(&source), VolumeStatus::Available);
    assert_eq!(bed.status(&target), VolumeStatus::ErrorRestoring);
    assert_eq!(bed.backup(&backup).unwrap().status, BackupStatus::Error);
    assert!(bed.orphans().is_empty());
    bed.accept_backup(&source, false);
    assert_eq!(bed.run(Queue::Backup), Outcome::Settled);
}

#[test]
fn a_run_after_the_job_has_let_go_by_the_port_does_not_work() {
    let bed = Elsewhere::new();
    let volume = bed.volume(content());
    let full = bed.accept_backup(&volume, false);
    assert_eq!(bed.run(Queue::Backup), Outcome::Settled);

    bed.accept_restore(&full, Some(&volume));
    let outcome = bed.run_after(|catalog, lease| catalog.end_restore(lease, &volume, Err(())));
    assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
    assert_eq!(bed.status(&volume), VolumeStatus::ErrorRestoring);

    let volume = bed.volume(content());
    let second = bed.accept_backup(&volume, false);
    let outcome = bed.run_after(|catalog, lease| catalog.end_backup(lease, &volume, None, false));
    assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
    assert_eq!(bed.backup(&second).unwrap().status, BackupStatus::Error);
    assert_eq!(bed.status(&volume), VolumeStatus::Available);
}
