//! Backups whose root was stored, and whose job fails or is lost afterwards.

use super::*;
use crate::engine::{self, care::collect, care::frames};
use crate::model::backup::BackupStatus;
use crate::model::volume::VolumeStatus;
use crate::store::key::Key;
use crate::store::{Hook, StoreErrorKind, Verb};

impl Bed {
    /// Refuses, from now on, what the hook says.
    fn hook(&mut self, hook: Hook) {
        for storage in self.tasks.storages.values_mut() {
            storage.store = storage.store.clone().with_hook(hook.clone());
        }
    }

    /// The names of the roots in the storage.
    fn roots(&self, backup: &BackupId) -> Vec<String> {
        let vault = self.backup_row(backup).vault_id.unwrap();
        let storage = self.tasks.storages.values().next().unwrap();
        let listed = storage.store.list(&format!("v/{vault}/b/")).unwrap();
        listed.into_iter().map(|(name, _)| name).collect()
    }

    fn backup_row(&self, id: &BackupId) -> Backup {
        let found = self.tasks.db.read(|c| db::backups::find(c, id));
        found.unwrap().unwrap()
    }
}

/// The storage acknowledges the root, and then fails for a while: the run fails after it has stored it.
fn fails_after_the_root() -> Hook {
    Arc::new(|verb, path| {
        if verb == Verb::Head && path.contains("/b/") {
            Err(StoreErrorKind::Other)
        } else {
            Ok(())
        }
    })
}

#[test]
fn a_backup_that_fails_after_its_root_takes_the_root_along() {
    for refuses in [false, true] {
        let mut bed = Bed::standalone();
        let volume = bed.make_volume();
        let backup = bed.accept_backup(&volume, false);
        bed.hook(fails_after_the_root());
        let outcome = bed.run(Queue::Backup);
        assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}");
        assert_eq!(bed.roots(&backup).len(), 1);
        // Its worker dies again and again, until it is given up.
        let given_up = "UPDATE jobs SET orphaned = 1000, state = 'available', run_at = 0";
        bed.tasks.db.batch_execute(given_up);
        bed.hook(Arc::new(move |verb, path| {
            if refuses && verb == Verb::Delete && path.contains("/b/") {
                Err(StoreErrorKind::Denied)
            } else {
                Ok(())
            }
        }));
        let outcome = bed.run(Queue::Backup);
        assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
        let row = bed.backup_row(&backup);
        assert_eq!(row.status, BackupStatus::Error);
        assert!(row.fail_reason.unwrap().contains("gave up"));
        let volume = bed.tasks.catalog.volume(&volume).unwrap().unwrap();
        assert_eq!(volume.status, VolumeStatus::Available);
        assert_eq!(bed.roots(&backup).len(), usize::from(refuses));
    }
}

#[test]
fn a_lost_job_lets_go_of_its_packs_after_its_backup_is_known_as_failed() {
    let mut bed = Bed::standalone();
    let volume = bed.make_volume();
    let backup = bed.accept_backup(&volume, false);
    bed.hook(fails_after_the_root());
    assert!(matches!(bed.run(Queue::Backup), Outcome::Retry { .. }));
    bed.tasks.db.batch_execute("DELETE FROM jobs");
    let is_session = |orphan: &Orphan| matches!(orphan, Orphan::WriteSession(_));
    let first = bed.orphans();
    assert!(!first.iter().any(is_session), "{first:?}");
    for orphan in &first {
        bed.tasks.settle_orphan(orphan).unwrap();
    }
    assert_eq!(bed.backup_row(&backup).status, BackupStatus::Error);
    assert!(bed.orphans().iter().any(is_session));
}

impl Bed {
    /// A backup of a volume that holds some data.
    fn make_backup(&self) -> BackupId {
        self.make_backup_of(b"some data", 0)
    }

    fn make_backup_of(&self, data: &[u8], offset: u64) -> BackupId {
        let volume = self.make_volume();
        let path = self
            .dir
            .path()
            .join("volumes")
            .join(format!("volume-{volume}.raw"));
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, data, offset).unwrap();
        let backup = self.accept_backup(&volume, false);
        assert_eq!(self.run(Queue::Backup), Outcome::Settled);
        backup
    }
}

/// What a copy of the database knew of the packs of a backup that was being made.
#[derive(Debug, Clone, Copy)]
enum Knew {
    Nothing,
    ThatTheyAreWritten,
}

/// Makes the database what a copy of it was that was taken while the backup was being made.
fn put_back_a_copy(bed: &Bed, knew: Knew) {
    bed.tasks.db.batch_execute(
        "UPDATE backups SET status = 'creating', pack_set = NULL;
         DELETE FROM chunks; DELETE FROM noted_roots; DELETE FROM session_packs; DELETE FROM sessions;
         UPDATE jobs SET state = 'available', run_at = 0 WHERE lane = 'backup';",
    );
    bed.tasks.db.batch_execute(match knew {
        Knew::Nothing => "DELETE FROM packs",
        Knew::ThatTheyAreWritten => {
            // And references that it had taken before a compaction.
            "UPDATE packs SET state = 'writing',
                session = (SELECT id FROM jobs WHERE lane = 'backup' AND state = 'available');
             INSERT INTO session_packs (session, vault, pack, rewrite) SELECT session, vault, number, 9 FROM packs;"
        }
    });
}

#[test]
fn a_backup_that_became_available_after_the_database_was_copied_is_finished_again() {
    for knew in [Knew::Nothing, Knew::ThatTheyAreWritten] {
        finishes_again(knew);
    }
}

fn finishes_again(knew: Knew) {
    let bed = Bed::standalone();
    let backup = bed.make_backup();
    let before = bed.backup_row(&backup).pack_set;
    assert!(before.is_some());
    put_back_a_copy(&bed, knew);
    assert_eq!(bed.run(Queue::Backup), Outcome::Settled);
    let row = bed.backup_row(&backup);
    assert_eq!(row.status, BackupStatus::Available, "{:?}", row.fail_reason);
    assert_eq!(row.pack_set, before);
    let (_, vault) = bed.tasks.vaults().unwrap().remove(0);
    assert!(frames::incomplete(&vault.unwrap()).unwrap().is_empty());
}

#[test]
fn a_root_that_is_newer_than_the_database_stays_until_a_rebuild_adds_its_backup() {
    for knew in [Knew::Nothing, Knew::ThatTheyAreWritten] {
        stays_until_a_rebuild(knew);
    }
}

fn stays_until_a_rebuild(knew: Knew) {
    let bed = Bed::standalone();
    let backup = bed.make_backup();
    put_back_a_copy(&bed, knew);
    // For the copy, its worker had died too often.
    bed.tasks
        .db
        .batch_execute("UPDATE jobs SET orphaned = 1000");
    assert!(matches!(bed.run(Queue::Backup), Outcome::Failed { .. }));
    assert_eq!(bed.backup_row(&backup).status, BackupStatus::Error);
    assert_eq!(bed.roots(&backup).len(), 1);
    let vault = || bed.tasks.vaults().unwrap().remove(0).1.unwrap();
    let refused = collect::run(&vault()).unwrap_err();
    assert!(
        matches!(refused, engine::Error::UnknownRoots { .. }),
        "{refused}"
    );
    assert_eq!(bed.roots(&backup).len(), 1);

    let storage = bed.backup_row(&backup).storage_id;
    bed.tasks.rebuild(&storage).unwrap();
    let row = bed.backup_row(&backup);
    assert_eq!(row.status, BackupStatus::Available, "{:?}", row.fail_reason);
    collect::run(&vault()).unwrap();
    assert!(frames::incomplete(&vault()).unwrap().is_empty());
}

#[test]
fn a_number_that_an_old_database_gave_to_a_pack_of_another_kind_does_not_hide_the_needed_one() {
    let bed = Bed::standalone();
    let first = bed.make_backup();
    let vault = || bed.tasks.vaults().unwrap().remove(0).1.unwrap();
    let second = bed.make_backup_of(b"other data", 0);
    vault()
        .remove_root(&second, &crate::model::progress::Progress::default())
        .unwrap();
    // A copy of the database from before the second backup is put back. That one was deleted, and its packs not yet.
    bed.tasks.db.batch_execute(&format!(
        "DELETE FROM backups WHERE id = '{second}';
         DELETE FROM chunks WHERE pack > 2; DELETE FROM packs WHERE number > 2; UPDATE vaults SET next_pack = 3;"
    ));
    // All of its data is known, so it stores a pack of manifests alone, with the number of a pack of data.
    let third = bed.make_backup_of(b"some data", 1 << 20);
    let stored = vault().store().list("v/").unwrap();
    let of_three = stored
        .iter()
        .filter(|(name, _)| name.contains("/00000003."));
    assert_eq!(of_three.count(), 2, "{stored:?}");

    bed.tasks.db.batch_execute(
        "DELETE FROM backups; DELETE FROM chunks; DELETE FROM session_packs; DELETE FROM packs; DELETE FROM vaults;",
    );
    let storage = bed.tasks.storages.keys().next().unwrap().clone();
    bed.tasks.rebuild(&storage).unwrap();
    for backup in [&first, &third] {
        let row = bed.backup_row(backup);
        assert_eq!(row.status, BackupStatus::Available, "{:?}", row.fail_reason);
    }
    assert!(frames::incomplete(&vault()).unwrap().is_empty());
}

#[test]
fn a_failed_import_that_is_deleted_leaves_the_data_there() {
    let bed = Bed::standalone();
    let backup = bed.make_backup();
    let record = bed.services.export_backup(&bed.ctx, &backup).unwrap();
    let storage = bed.tasks.storages.values().next().unwrap();
    let stored = storage.store.list("v/").unwrap();
    let (pack, _) = stored
        .iter()
        .find(|(name, _)| name.contains("/p/"))
        .unwrap();
    let pack = Key::Leftover(pack.clone());
    let bytes = storage.store.get(&pack).unwrap();
    // The database is lost, and not all of the storage has been put back.
    storage.store.delete(&pack).unwrap();
    bed.tasks.db.batch_execute(
        "DELETE FROM backups; DELETE FROM chunks; DELETE FROM session_packs; DELETE FROM packs; DELETE FROM vaults;",
    );
    let import = || {
        bed.services
            .import_backup(&bed.ctx, "embervault", &record.encode())
            .unwrap();
        bed.run(Queue::Quick)
    };
    assert!(matches!(import(), Outcome::Failed { .. }));
    let row = bed.backup_row(&backup);
    assert_eq!(row.status, BackupStatus::Error);
    bed.services.delete_backup(&bed.ctx, &backup).unwrap();
    assert_eq!(bed.run(Queue::Quick), Outcome::Settled);
    storage.store.put_new(&pack, bytes).unwrap();
    assert_eq!(import(), Outcome::Settled);
    let row = bed.backup_row(&backup);
    assert_eq!(row.status, BackupStatus::Available, "{:?}", row.fail_reason);
}

#[test]
fn a_verification_finds_backups_again_whose_roots_were_missing_for_a_while() {
    let bed = Bed::standalone();
    let lost = bed.make_backup();
    let vault = bed.tasks.vaults().unwrap().remove(0).1.unwrap();
    let name = Key::Leftover(bed.roots(&lost)[0].clone());
    let bytes = vault.store().get(&name).unwrap();
    vault.store().delete(&name).unwrap();
    // It begins by comparing the database with the storage.
    bed.make_backup_of(b"other data", 0);
    assert_eq!(bed.backup_row(&lost).status, BackupStatus::Error);
    bed.tasks.find_lost(&vault).unwrap();
    assert_eq!(bed.backup_row(&lost).status, BackupStatus::Error);
    vault.store().put_new(&name, bytes).unwrap();
    bed.tasks.find_lost(&vault).unwrap();
    assert_eq!(bed.backup_row(&lost).status, BackupStatus::Available);
}
