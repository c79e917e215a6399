//! Shredding beside processes that are at work in the vault.

use super::*;
use crate::engine::vault::{record, shred};
use crate::model::job::{Job, JobArgs};
use crate::store::StoreErrorKind;
use std::sync::Once;
use std::sync::mpsc;
use std::time::Duration;

/// Whether the storage has the vault's wrapped key.
fn has_key(bed: &Bed) -> bool {
    !bed.objects("vault.json").is_empty()
}

/// Runs `store` in a process that is killed right after it has stored `vault.json`, beside a shredding that begins
/// right before that.
fn kill_beside_a_shredding(bed: &Bed, store: impl FnOnce(Store)) {
    let (begin, begun) = mpsc::channel();
    let (end, ended) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // Another process, with connections of its own.
            let db = Db::open(&format!("sqlite:{}", bed.dir.path().join("db").display())).unwrap();
            begun.recv().unwrap();
            shred::forget_key(&db, &bed.row).unwrap();
            shred::remove_objects(&bed.store(), &bed.row).unwrap();
            let _ = end.send(());
        });
        let (begin, ended) = (std::sync::Mutex::new(begin), std::sync::Mutex::new(ended));
        let hook: Hook = Arc::new(move |verb, path| {
            match verb {
                Verb::Put if path.ends_with("vault.json") => {
                    let _ = begin.lock().unwrap().send(());
                    let ended = ended.lock().unwrap();
                    let _ = ended.recv_timeout(Duration::from_secs(2));
                }
                // It is dead by then.
                Verb::Delete => return Err(StoreErrorKind::Denied),
                _ => {}
            }
            Ok(())
        });
        store(bed.store().with_hook(hook));
    });
}

#[test]
fn a_process_that_is_killed_as_it_stores_a_key_leaves_none_in_a_shredded_vault() {
    // The first to open the vault.
    let bed = Bed::new();
    kill_beside_a_shredding(&bed, |store| drop(bed.vault_on(store)));
    assert!(!has_key(&bed), "created");

    // One that puts a damaged record back.
    let bed = Bed::new();
    drop(bed.vault());
    let path = bed.objects("vault.json").pop().unwrap();
    std::fs::write(path, b"{}").unwrap();
    kill_beside_a_shredding(&bed, |store| drop(bed.vault_on(store)));
    assert!(!has_key(&bed), "put back");

    // A change of the master key.
    let bed = Bed::new();
    drop(bed.vault());
    let (old, new) = (
        Keyring::of(MasterKey::for_tests(1)),
        MasterKey::for_tests(2),
    );
    kill_beside_a_shredding(&bed, |store| {
        drop(record::rewrap(
            &bed.db,
            &store,
            &bed.row.id,
            Some(&bed.row),
            &old,
            &new,
        ));
    });
    assert!(!has_key(&bed), "wrapped anew");
}

#[test]
fn the_key_of_a_vault_that_the_database_does_not_know_is_never_deleted() {
    let bed = Bed::new();
    drop(bed.vault());
    // As a rebuild does, on a storage that shows nothing for a moment.
    let hidden = Once::new();
    let hook: Hook = Arc::new(move |verb, path| {
        let mut is_hidden = false;
        if verb == Verb::Get && path.ends_with("vault.json") {
            hidden.call_once(|| is_hidden = true);
        }
        if is_hidden {
            Err(StoreErrorKind::Missing)
        } else {
            Ok(())
        }
    });
    let mut unknown = bed.row.clone();
    unknown.number = 0;
    let opened = Vault::open(
        bed.db.clone(),
        bed.store().with_hook(hook),
        &Keyring::of(MasterKey::for_tests(1)),
        &unknown,
        &Parameters::for_tests(),
        bed.options.clone(),
    );
    assert!(opened.is_err());
    assert!(has_key(&bed));
}

/// A storage on which the vault is shredded, but for its rows, when the first object of these kinds is about to be
/// stored.
fn shredded_before(bed: &Bed, kinds: &'static [&'static str]) -> Store {
    let (once, db, row, store) = (Once::new(), bed.db.clone(), bed.row.clone(), bed.store());
    let hook: Hook = Arc::new(move |verb, path| {
        if verb == Verb::Put && kinds.iter().any(|kind| path.contains(kind)) {
            once.call_once(|| {
                shred::forget_key(&db, &row).unwrap();
                shred::remove_objects(&store, &row).unwrap();
            });
        }
        Ok(())
    });
    bed.store().with_hook(hook)
}

fn left(bed: &Bed) -> Vec<PathBuf> {
    bed.objects(bed.row.id.as_str())
}

#[test]
fn a_backup_leaves_nothing_in_a_vault_that_is_shredded_meanwhile() {
    for kinds in [&["/p/"], &["/m/"], &["/b/"]] {
        let bed = Bed::new();
        fill(&bed);
        let vault = bed.vault_on(shredded_before(&bed, kinds)).unwrap();
        let (session, id) = (JobId::random(), BackupId::random());
        bed.announce(&id);
        let args = JobArgs::DeleteBackup {
            backup_id: id.clone(),
        };
        let job = Job {
            id: session.clone(),
            ..Job::new(args, Timestamp(0))
        };
        bed.db.write(|c| db::jobs::insert(c, &job)).unwrap();
        assert!(bed.backup_on(&vault, &session, &id, None).is_err());
        assert_eq!(left(&bed), [] as [PathBuf; 0], "{kinds:?}");
    }
}

#[test]
fn a_compaction_leaves_nothing_in_a_vault_that_is_shredded_meanwhile() {
    let bed = Bed::new();
    super::collection::half_dead(&bed);
    let vault = bed
        .vault_on(shredded_before(&bed, &["/p/", "/m/"]))
        .unwrap();
    // What it reads afterwards is gone.
    let _ = care::collect::run(&vault);
    assert_eq!(left(&bed), [] as [PathBuf; 0]);
}
