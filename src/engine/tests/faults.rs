//! Crashes, stops and damage: at every store operation, in every kind of object.

use super::*;

/// Fails every call from the n-th on: what a process that is killed there would have done.
pub(super) fn crash_at(limit: usize) -> (Hook, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = calls.clone();
    let hook: Hook = Arc::new(move |_, _| {
        if seen.fetch_add(1, Ordering::SeqCst) < limit {
            Ok(())
        } else {
            Err(crate::store::StoreErrorKind::Other)
        }
    });
    (hook, calls)
}

fn count_puts() -> (Hook, Arc<AtomicUsize>) {
    let puts = Arc::new(AtomicUsize::new(0));
    let seen = puts.clone();
    let hook: Hook = Arc::new(move |verb, path| {
        if verb == Verb::Put && (path.contains("/p/") || path.contains("/m/")) {
            seen.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    });
    (hook, puts)
}

#[test]
fn a_crash_at_any_store_operation_loses_nothing_and_uploads_nothing_twice() {
    let mut crashes = 0;
    for limit in 0.. {
        let bed = Bed::new();
        fill(&bed);
        let (older, _) = bed.backup(None);
        let old_content = bed.content();
        bed.write(&noise(7, 90_000), 60_000);
        let packs_before = bed.objects("/p/").len();

        let (session, id) = (JobId::random(), BackupId::random());
        let (hook, _) = crash_at(limit);
        let cut_short = bed
            .vault_on(bed.store().with_hook(hook))
            .and_then(|vault| bed.backup_on(&vault, &session, &id, Some(&older)));

        assert_eq!(
            bed.restore(&older.backup.id).unwrap(),
            old_content,
            "crash {limit}"
        );
        match bed.restore(&id) {
            Ok(content) => assert_eq!(content, bed.content(), "crash {limit}"),
            Err(error) => assert!(
                matches!(error, Error::Missing { .. }),
                "crash {limit}: {error}"
            ),
        }
        let uploaded = bed.objects("/p/").len() - packs_before;

        let (hook, puts) = count_puts();
        let vault = bed.vault_on(bed.store().with_hook(hook)).unwrap();
        let (root, _) = bed.backup_on(&vault, &session, &id, Some(&older)).unwrap();
        bed.end(&session);
        assert_eq!(
            bed.restore(&id).unwrap(),
            bed.content(),
            "retry after crash {limit}"
        );
        assert_eq!(root.backup.id, id);
        let data_packs = bed.objects("/p/").len() - packs_before;
        assert!(
            puts.load(Ordering::SeqCst) <= data_packs - uploaded + bed.objects("/m/").len(),
            "crash {limit}: packs were uploaded twice"
        );
        let stored: u64 = bed.objects("/p/")[..]
            .iter()
            .map(|path| std::fs::metadata(path).unwrap().len())
            .sum();
        assert!(stored < 400_000, "crash {limit}: {stored} bytes are stored");
        if cut_short.is_ok() {
            break;
        }
        crashes += 1;
    }
    assert!(crashes > 8, "only {crashes} crash points were reached");
}

#[test]
fn first_backups_at_once_share_one_key() {
    for _ in 0..20 {
        let bed = Bed::new();
        let keys: Vec<_> = std::thread::scope(|scope| {
            let opening: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| bed.vault().keys.id))
                .collect();
            opening
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(
            keys.iter().all(|key| *key == keys[0]),
            "a vault has two keys"
        );
    }
}

#[test]
fn a_stop_at_any_store_operation_leaves_no_root_without_its_packs() {
    let mut stopped = 0;
    for limit in 0.. {
        let bed = Bed::new();
        fill(&bed);
        let (session, id) = (JobId::random(), BackupId::random());
        let progress = Arc::new(Progress::default());
        let (seen, stop) = (AtomicUsize::new(0), progress.clone());
        let hook: Hook = Arc::new(move |_, _| {
            if seen.fetch_add(1, Ordering::SeqCst) == limit {
                stop.stop();
            }
            Ok(())
        });
        let vault = bed.vault_on(bed.store().with_hook(hook)).unwrap();
        let source = bed.source();
        let result = write::backup::run(
            &vault,
            &Lease::unclaimed(&session),
            describe(&id),
            None,
            &source,
            &progress,
        );
        match bed.restore(&id) {
            Ok(content) => assert_eq!(content, bed.content(), "stop {limit}"),
            Err(error) => assert!(
                matches!(error, Error::Missing { .. }),
                "stop {limit}: {error}"
            ),
        }
        let (root, _) = bed.backup_on(&bed.vault(), &session, &id, None).unwrap();
        bed.end(&session);
        assert_eq!(
            bed.restore(&root.backup.id).unwrap(),
            bed.content(),
            "resumed after {limit}"
        );
        match result {
            Ok(_) => break,
            Err(error) => assert!(matches!(error, Error::Cancelled), "stop {limit}: {error}"),
        }
        stopped += 1;
    }
    assert!(stopped > 4, "only {stopped} stops were tried");
}

#[test]
fn a_damaged_parent_costs_its_child_time_and_nothing_else() {
    let bed = Bed::new();
    fill(&bed);
    let (full, _) = bed.backup(None);
    for path in bed.objects("/m/") {
        std::fs::write(path, b"rubbish").unwrap();
    }
    bed.write(&noise(9, 9000), 1000);
    let (child, _) = bed.backup(Some(&full));
    // Chunks of the data packs are still known; leaves are stored again under new names or found.
    let restored = bed.restore(&child.backup.id);
    assert!(restored.is_ok_and(|bytes| bytes == bed.content()));
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Truncate,
    Delete,
    Flip,
    Garbage,
}

#[test]
fn damage_of_any_kind_in_any_object_is_detected_and_named() {
    for part in ["/p/", "/m/", "/b/", "vault.json"] {
        for damage in [
            Damage::Truncate,
            Damage::Delete,
            Damage::Flip,
            Damage::Garbage,
        ] {
            let bed = Bed::new();
            fill(&bed);
            let (root, _) = bed.backup(None);
            for path in bed.objects(part) {
                let bytes = std::fs::read(&path).unwrap();
                match damage {
                    Damage::Truncate => std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap(),
                    Damage::Delete => std::fs::remove_file(&path).unwrap(),
                    Damage::Flip => {
                        let mut bytes = bytes;
                        // Everywhere: a restore passes over the sums that lie between the leaves.
                        for at in (0..bytes.len()).step_by(31) {
                            bytes[at] ^= 0x10;
                        }
                        std::fs::write(&path, bytes).unwrap();
                    }
                    Damage::Garbage => std::fs::write(&path, noise(5, bytes.len())).unwrap(),
                }
            }
            let opened = bed.vault_on(bed.store());
            if part == "vault.json" {
                // The database has a copy, and puts it back.
                assert!(bed.restore(&root.backup.id).unwrap() == bed.content());
                continue;
            }
            let failed = match opened {
                Ok(_) => bed.restore(&root.backup.id).map(|_| ()),
                Err(error) => Err(error),
            };
            let Err(error) = failed else {
                panic!("{part} {damage:?} went unnoticed");
            };
            let text = error.to_string();
            let is_right_kind = matches!(error, Error::Corrupt { .. } | Error::Missing { .. });
            assert!(is_right_kind, "{part} {damage:?}: {text}");
            assert!(
                text.contains(part.trim_matches('/')),
                "{part} {damage:?}: {text}"
            );
        }
    }
}

#[test]
fn a_flip_of_any_byte_of_a_data_pack_that_is_read_is_noticed() {
    let bed = Bed::new();
    bed.write(&noise(1, 20_000), 0);
    let (root, _) = bed.backup(None);
    let content = bed.content();
    let path = bed.objects("/p/").remove(0);
    let bytes = std::fs::read(&path).unwrap();
    for at in (0..bytes.len())
        .step_by(997)
        .chain([0, 9, 30, bytes.len() - 1, bytes.len() - 50])
    {
        let mut broken = bytes.clone();
        broken[at] ^= 1;
        std::fs::write(&path, &broken).unwrap();
        match bed.restore(&root.backup.id) {
            Err(Error::Corrupt { .. }) => {}
            // The footer's digest serves a scan of whole packs; a restore does not read it.
            Ok(restored) => assert!(at > bytes.len() - 41 && restored == content, "byte {at}"),
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
}

#[test]
fn a_full_storage_is_told_apart_and_a_lost_acknowledgement_is_survived() {
    let bed = Bed::new();
    fill(&bed);
    let hook: Hook = Arc::new(|verb, path| {
        if verb == Verb::Put && path.contains("/p/") {
            Err(crate::store::StoreErrorKind::Full)
        } else {
            Ok(())
        }
    });
    let vault = bed.vault_on(bed.store().with_hook(hook)).unwrap();
    let failed = bed.backup_on(&vault, &JobId::random(), &BackupId::random(), None);
    let error = failed.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("no space left"), "{error}");
    assert!(!error.is_temporary());
}

#[test]
fn a_cluster_that_is_away_for_a_while_is_asked_again_and_a_disk_is_not() {
    let of_kind = |kind: std::io::ErrorKind| {
        Error::Volume(crate::volume::VolumeError {
            object: "rbd image volumes/volume-1".to_owned(),
            action: "read",
            source: kind.into(),
        })
    };
    use std::io::ErrorKind::{NotConnected, NotFound, Other, StorageFull, TimedOut};
    for passing in [TimedOut, NotConnected] {
        assert!(of_kind(passing).is_temporary(), "{passing}");
    }
    for lasting in [Other, StorageFull, NotFound] {
        assert!(!of_kind(lasting).is_temporary(), "{lasting}");
    }
}

#[test]
fn a_thread_that_panics_is_a_defect_of_ours_and_no_damage() {
    let bed = Bed::new();
    fill(&bed);
    let hook: Hook = Arc::new(|verb, path| {
        assert!(verb != Verb::Put || !path.contains("/p/"), "a defect");
        Ok(())
    });
    let vault = bed.vault_on(bed.store().with_hook(hook)).unwrap();
    let failed = bed.backup_on(&vault, &JobId::random(), &BackupId::random(), None);
    let error = failed.map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Panicked(_)) && error.is_temporary());
}

#[test]
fn a_thread_that_fails_does_not_look_as_if_the_job_was_asked_to_stop() {
    let bed = Bed::new();
    fill(&bed);
    let (root, _) = bed.backup(None);
    for part in ["/p/", "/m/"] {
        // A put of a backup, and a read of a restore.
        let hook: Hook = Arc::new(move |verb, path| {
            let fails = matches!(verb, Verb::Put | Verb::GetRange) && path.contains(part);
            if fails {
                Err(crate::store::StoreErrorKind::Other)
            } else {
                Ok(())
            }
        });
        let vault = bed.vault_on(bed.store().with_hook(hook)).unwrap();
        bed.write(&noise(5, 100_000), 0);
        let progress = Progress::default();
        let lease = Lease::unclaimed(&JobId::random());
        let (id, source) = (BackupId::random(), bed.source());
        let made = write::backup::run(&vault, &lease, describe(&id), None, &source, &progress);
        assert!(matches!(made, Err(Error::Store(_))), "{part}");
        assert!(!progress.is_asked_to_stop());
        let target = bed.dir.path().join("target");
        file::create(&target, root.volume_bytes).unwrap();
        let target = Target::untracked(VolumeWriter::open(&target).unwrap());
        let restored = read::restore::run(&vault, &root, &target, &progress);
        assert!(matches!(restored, Err(Error::Store(_))), "{part}");
        assert!(!progress.is_asked_to_stop());
    }
}

#[test]
fn a_storage_that_is_not_there_is_waited_for() {
    let bed = Bed::new();
    fill(&bed);
    let (root, _) = bed.backup(None);
    let opened = bed.store();
    let (store, away) = (bed.dir.path().join("store"), bed.dir.path().join("away"));
    std::fs::rename(&store, &away).unwrap();
    std::fs::create_dir(&store).unwrap();
    let error = bed.vault_on(opened).err().unwrap();
    assert!(matches!(error, Error::Away { .. }), "{error}");
    assert!(error.is_temporary());
    std::fs::remove_dir_all(&store).unwrap();
    std::fs::rename(&away, &store).unwrap();
    assert!(bed.restore(&root.backup.id).unwrap() == bed.content());
}
