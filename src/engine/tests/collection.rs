//! Garbage collection beside backups, cut off, and beside an old database.

use super::*;

#[test]
fn a_collector_spares_what_a_running_backup_has_come_to_rely_upon() {
    let bed = Bed::new();
    fill(&bed);
    let (old, _) = bed.backup(None);
    let content = bed.content();
    let vault = bed.vault();
    vault.remove_root(&old.backup.id).unwrap();
    bed.forget(&old.backup.id);
    let plan = collect::plan(&vault).unwrap();
    assert!(!plan.condemned.is_empty() && plan.deleted.is_empty());
    let first = collect::run(&vault).unwrap();
    assert_eq!(first.condemned, plan.condemned);
    // Everything is condemned; the same content is backed up again and finds it.
    let (session, id) = (JobId::random(), BackupId::random());
    let packs = bed.objects("/p/").len();
    bed.announce(&id);
    let (root, _) = bed.backup_on(&vault, &session, &id, None).unwrap();
    assert_eq!(bed.objects("/p/").len(), packs);
    // The session alone holds the packs now, and its backup after it.
    assert!(collect::run(&vault).unwrap().deleted.is_empty());
    bed.record(&root);
    bed.end(&session);
    for _ in 0..3 {
        assert!(collect::run(&vault).unwrap().deleted.is_empty());
    }
    assert!(bed.restore(&id).unwrap() == content);
    // Nobody needs them any more: condemned once, gone at the next run, and stored anew after.
    vault.remove_root(&id).unwrap();
    bed.forget(&id);
    assert!(collect::run(&vault).unwrap().deleted.is_empty());
    assert!(!collect::run(&vault).unwrap().deleted.is_empty());
    assert!(bed.objects("/p/").is_empty() && bed.objects("/m/").is_empty());
    let (again, _) = bed.backup(None);
    assert!(bed.restore(&again.backup.id).unwrap() == content);
}

#[test]
fn a_collection_cut_off_anywhere_is_finished_by_the_next() {
    for limit in 0..8 {
        let bed = Bed::new();
        fill(&bed);
        let (old, _) = bed.backup(None);
        bed.zero(0, VOLUME_BYTES);
        bed.write(&noise(4, 9000), 0);
        let (kept, _) = bed.backup(None);
        bed.vault().remove_root(&old.backup.id).unwrap();
        bed.forget(&old.backup.id);
        collect::run(&bed.vault()).unwrap();
        let calls = AtomicUsize::new(0);
        let hook: Hook = Arc::new(move |verb, _| {
            let fails = verb == Verb::Delete && calls.fetch_add(1, Ordering::SeqCst) >= limit;
            if fails {
                Err(crate::store::StoreErrorKind::Other)
            } else {
                Ok(())
            }
        });
        let vault = bed.vault_on(bed.store().with_hook(hook)).unwrap();
        let cut = collect::run(&vault);
        collect::run(&bed.vault()).unwrap();
        let needed = backup::decode_pack_set(&kept.pack_set).unwrap();
        let packs = bed.objects("/p/").len() + bed.objects("/m/").len();
        assert_eq!(packs as u64, needed.len(), "cut at {limit}");
        assert!(bed.restore(&kept.backup.id).unwrap() == bed.content());
        if cut.is_ok() {
            assert!(limit > 1);
            return;
        }
    }
    panic!("the collection never came to its end");
}

#[test]
fn nothing_is_reclaimed_while_the_store_holds_backups_the_database_does_not_know() {
    let bed = Bed::new();
    fill(&bed);
    let (root, _) = bed.backup(None);
    bed.forget(&root.backup.id);
    for _ in 0..3 {
        let refused = collect::run(&bed.vault()).unwrap_err().to_string();
        assert!(refused.contains("holds 1 backups"), "{refused}");
    }
    assert!(bed.restore(&root.backup.id).unwrap() == bed.content());
}
