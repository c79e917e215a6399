//! Garbage collection beside backups, cut off, and beside an old database.

use super::*;
use crate::model::number::{PackNumber, Rewrite};

#[test]
fn a_collector_spares_what_a_running_backup_has_come_to_rely_upon() {
    let bed = Bed::new();
    fill(&bed);
    let (old, _) = bed.backup(None);
    let content = bed.content();
    let vault = bed.vault();
    vault
        .remove_root(&old.backup.id, &Progress::default())
        .unwrap();
    bed.forget(&old.backup.id);
    let plan = care::collect::plan(&vault).unwrap();
    assert!(!plan.condemned.is_empty() && plan.deleted.is_empty());
    let first = care::collect::run(&vault).unwrap();
    assert_eq!(first.condemned, plan.condemned);
    // Everything is condemned; the same content is backed up again and finds it.
    let (session, id) = (JobId::random(), BackupId::random());
    let packs = bed.objects("/p/").len();
    bed.announce(&id);
    let (root, _) = bed.backup_on(&vault, &session, &id, None).unwrap();
    assert_eq!(bed.objects("/p/").len(), packs);
    // The session alone holds the packs now, and its backup after it.
    assert!(care::collect::run(&vault).unwrap().deleted.is_empty());
    bed.record(&root);
    bed.end(&session);
    for _ in 0..3 {
        assert!(care::collect::run(&vault).unwrap().deleted.is_empty());
    }
    assert!(bed.restore(&id).unwrap() == content);
    // They are not needed any more: one run condemns them, the next removes them, and a later backup stores them anew.
    vault.remove_root(&id, &Progress::default()).unwrap();
    bed.forget(&id);
    assert!(care::collect::run(&vault).unwrap().deleted.is_empty());
    assert!(!care::collect::run(&vault).unwrap().deleted.is_empty());
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
        bed.vault()
            .remove_root(&old.backup.id, &Progress::default())
            .unwrap();
        bed.forget(&old.backup.id);
        care::collect::run(&bed.vault()).unwrap();
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
        let cut = care::collect::run(&vault);
        care::collect::run(&bed.vault()).unwrap();
        let needed = format::manifest::decode_pack_set(&kept.pack_set).unwrap();
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
fn a_collection_that_was_overtaken_removes_nothing_that_was_put_back_since() {
    let bed = Bed::new();
    fill(&bed);
    let (root, _) = bed.backup(None);
    bed.forget(&root.backup.id);
    let vault = bed.vault();
    vault
        .remove_root(&root.backup.id, &Progress::default())
        .unwrap();
    care::collect::run(&vault).unwrap();
    let packs = || [bed.objects("/p/"), bed.objects("/m/")].concat();
    let saved: Vec<(PathBuf, Vec<u8>)> = packs()
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    assert!(saved.len() > 2);
    let (once, later, copies) = (std::sync::Once::new(), bed.vault(), saved.clone());
    let hook: Hook = Arc::new(move |verb, path| {
        if verb == Verb::Delete && path.contains("/p/") {
            once.call_once(|| {
                // The first is halted here. A second one removes all, and an operator puts it back.
                care::collect::run(&later).unwrap();
                for (path, bytes) in &copies {
                    std::fs::write(path, bytes).unwrap();
                }
                let found = care::rebuild::vault(&later.store, &later.id).unwrap();
                care::rebuild::packs(&later, &found.unwrap(), None).unwrap();
            });
        }
        Ok(())
    });
    care::collect::run(&bed.vault_on(bed.store().with_hook(hook)).unwrap()).unwrap();
    // Only what the first was just about to delete is gone, and the database knows.
    let marked = bed
        .db
        .read(|c| db::health::damaged(c, vault.number))
        .unwrap();
    assert_eq!((packs().len(), marked.len()), (saved.len() - 1, 1));
    let live = bed.db.read(|c| db::health::packs(c, vault.number));
    for (pack, _) in live.unwrap() {
        let chunks = bed
            .db
            .read(|c| db::chunks::of_pack(c, vault.number, pack.number));
        assert_eq!(chunks.unwrap().is_empty(), pack == marked[0]);
    }
}

#[test]
fn a_collection_that_was_overtaken_does_not_count() {
    let bed = Bed::new();
    fill(&bed);
    bed.backup(None);
    let is_done = || {
        let maintained = bed.db.read(db::vaults::maintained).unwrap();
        maintained[0].1.done_at.is_some()
    };
    let (once, db, number) = (std::sync::Once::new(), bed.db.clone(), bed.row.number);
    let hook: Hook = Arc::new(move |verb, path| {
        // A repair begins while the collection lists what nothing leads to.
        if verb == Verb::List && path.ends_with("/p/") {
            once.call_once(|| {
                db.write(|c| db::gc::next_generation(c, number)).unwrap();
            });
        }
        Ok(())
    });
    care::collect::run(&bed.vault_on(bed.store().with_hook(hook)).unwrap()).unwrap();
    assert!(!is_done());
    care::collect::run(&bed.vault()).unwrap();
    assert!(is_done());
}

#[test]
fn nothing_is_reclaimed_while_the_store_holds_backups_the_database_does_not_know() {
    let bed = Bed::new();
    fill(&bed);
    let (root, _) = bed.backup(None);
    bed.forget(&root.backup.id);
    for _ in 0..3 {
        let refused = care::collect::run(&bed.vault()).unwrap_err().to_string();
        assert!(refused.contains("holds 1 backups"), "{refused}");
    }
    assert!(bed.restore(&root.backup.id).unwrap() == bed.content());
}

/// Backs up noise, then other noise over most of it, and deletes the first: much of its packs is dead.
pub(super) fn half_dead(bed: &Bed) -> Root {
    bed.write(&noise(1, 400_000), 0);
    let (full, _) = bed.backup(None);
    bed.write(&noise(2, 280_000), 0);
    let (child, _) = bed.backup(Some(&full));
    bed.forget(&full.backup.id);
    bed.vault()
        .remove_root(&full.backup.id, &Progress::default())
        .unwrap();
    child
}

fn stored(bed: &Bed) -> u64 {
    let packs = [bed.objects("/p/"), bed.objects("/m/")].concat();
    packs
        .iter()
        .map(|path| std::fs::metadata(path).unwrap().len())
        .sum()
}

#[test]
fn a_pack_of_which_much_is_dead_is_written_again_without_it() {
    let bed = Bed::new();
    let child = half_dead(&bed);
    let before = stored(&bed);
    let planned = care::collect::plan(&bed.vault()).unwrap();
    let ran = care::collect::run(&bed.vault()).unwrap();
    let numbers = |plan: &care::collect::Plan| -> Vec<(PackNumber, u64)> {
        let sparse = plan.compacted.iter();
        sparse
            .map(|sparse| (sparse.pack.number, sparse.dead_bytes))
            .collect()
    };
    assert!(!ran.compacted.is_empty() && numbers(&planned) == numbers(&ran));
    let dead: u64 = ran.compacted.iter().map(|sparse| sparse.dead_bytes).sum();
    assert!(stored(&bed) < before - dead + 4096 * ran.compacted.len() as u64);
    assert!(bed.restore(&child.backup.id).unwrap() == bed.content());
    // Nothing is left to do, and what was dropped is stored again when it comes again.
    let again = care::collect::run(&bed.vault()).unwrap();
    assert!(again.compacted.is_empty() && again.leftovers.is_empty() && again.unknown.is_empty());
    bed.write(&noise(1, 400_000), 0);
    let (last, _) = bed.backup(Some(&child));
    assert!(bed.restore(&last.backup.id).unwrap() == bed.content());
}

#[test]
fn a_compaction_cut_off_anywhere_harms_nothing_and_leaves_nothing() {
    for limit in 0.. {
        let bed = Bed::new();
        let child = half_dead(&bed);
        let (hook, calls) = super::faults::crash_at(limit);
        let cut = care::collect::run(
            &bed.vault_on(bed.store().with_hook(hook))
                .unwrap_or_else(|_| bed.vault()),
        );
        assert!(
            bed.restore(&child.backup.id).unwrap() == bed.content(),
            "crash {limit}"
        );
        care::collect::run(&bed.vault()).unwrap();
        let last = care::collect::run(&bed.vault()).unwrap();
        assert!(
            last.leftovers.is_empty() && last.unknown.is_empty(),
            "crash {limit}: {last:?}"
        );
        assert!(last.compacted.is_empty(), "crash {limit}: {last:?}");
        assert!(
            bed.restore(&child.backup.id).unwrap() == bed.content(),
            "crash {limit}"
        );
        if cut.is_ok() && calls.load(Ordering::SeqCst) < limit {
            assert!(limit > 8);
            return;
        }
    }
}

#[test]
fn nothing_that_somebody_may_rely_upon_is_compacted_away() {
    // A session that came to rely on a pack before the switch; a collection that was overtaken.
    let bed = Bed::new();
    half_dead(&bed);
    let vault = bed.vault();
    let session = JobId::random();
    let all: Vec<PackNumber> = (1..40).map(PackNumber::from).collect();
    bed.db
        .write(|c| db::packs::reference(c, vault.number, &session, &all))
        .unwrap();
    assert!(care::collect::run(&vault).unwrap().compacted.is_empty());
    bed.end(&session);
    let overtaken = care::census::Census::take(&vault).unwrap();
    let settled = bed.db.read(|c| db::gc::settled(c, vault.number));
    let sparse = overtaken.sparse(&vault, &settled.unwrap(), 0.25).unwrap();
    assert!(!sparse.is_empty());
    let before = stored(&bed);
    assert!(
        overtaken
            .compact(&vault, &sparse[0].pack, 0, &Default::default())
            .unwrap()
            .is_none()
    );
    assert_eq!(stored(&bed), before);
}

#[test]
fn a_pack_that_was_marked_since_is_left_to_a_repair() {
    let bed = Bed::new();
    half_dead(&bed);
    let vault = bed.vault();
    let generation = bed.db.write(|c| db::gc::next_generation(c, vault.number));
    let census = care::census::Census::take(&vault).unwrap();
    let settled = bed.db.read(|c| db::gc::settled(c, vault.number));
    let sparse = census.sparse(&vault, &settled.unwrap(), 0.25).unwrap();
    let (pack, generation) = (&sparse[0].pack, generation.unwrap());
    bed.db
        .write(|c| db::health::mark_damaged(c, pack, "a fault"))
        .unwrap();
    let none = std::collections::BTreeSet::new();
    let compacted = census.compact(&vault, pack, generation, &none).unwrap();
    let is_marked = bed.db.read(|c| db::health::is_damaged(c, pack)).unwrap();
    assert!(compacted.is_none() && is_marked);
}

#[test]
fn a_backup_reads_on_while_its_packs_are_compacted_under_it() {
    let bed = Bed::new();
    let child = half_dead(&bed);
    let vault = bed.vault();
    let root = vault.root(&child.backup.id).unwrap();
    let reader = crate::engine::read::reader::FrameReader::new(&vault);
    let mut live = crate::engine::care::live::Live::default();
    // Fills the reader with the trailers of all meta packs as they are now.
    live.add(&reader, &root).unwrap();
    assert!(!care::collect::run(&vault).unwrap().compacted.is_empty());
    let mut again = crate::engine::care::live::Live::default();
    again.add(&reader, &root).unwrap();
    let numbers = 1..40;
    assert!(
        numbers
            .into_iter()
            .all(|pack| live.of(pack) == again.of(pack))
    );
}

#[test]
fn an_old_database_does_not_take_a_compacted_pack_for_a_leftover() {
    let bed = Bed::new();
    let child = half_dead(&bed);
    let before: Vec<_> = bed.db.read(|c| db::gc::settled(c, bed.row.number)).unwrap();
    assert!(
        !care::collect::run(&bed.vault())
            .unwrap()
            .compacted
            .is_empty()
    );
    // The rows as they were.
    for pack in &before {
        bed.db
            .write(|c| db::packs::adopt(c, pack, pack.rewrite))
            .unwrap();
    }
    for _ in 0..3 {
        let plan = care::collect::run(&bed.vault()).unwrap();
        assert!(
            plan.leftovers.is_empty() && !plan.unknown.is_empty(),
            "{plan:?}"
        );
    }
    let found = care::rebuild::vault(&bed.store(), &bed.vault().id)
        .unwrap()
        .unwrap();
    care::rebuild::packs(&bed.vault(), &found, None).unwrap();
    assert!(bed.restore(&child.backup.id).unwrap() == bed.content());
}

/// A backup that has stored its root and then failed, on a storage that refused to remove the root.
fn failed(bed: &Bed) -> Root {
    let (session, id) = (JobId::random(), BackupId::random());
    bed.announce(&id);
    let (root, _) = bed.backup_on(&bed.vault(), &session, &id, None).unwrap();
    bed.db
        .write(|c| db::backups::transition(c, &id, BackupEvent::Failed, Timestamp(0)))
        .unwrap();
    bed.end(&session);
    root
}

#[test]
fn the_root_of_a_failed_backup_goes_before_its_packs() {
    let bed = Bed::new();
    fill(&bed);
    failed(&bed);
    let packs = || bed.objects("/p/").len() + bed.objects("/m/").len();
    let before = packs();
    // As long as the root cannot be removed, nothing of it is.
    let refuse: Hook = Arc::new(|verb, path| {
        if verb == Verb::Delete && path.contains("/b/") {
            Err(crate::store::StoreErrorKind::Denied)
        } else {
            Ok(())
        }
    });
    let vault = bed.vault_on(bed.store().with_hook(refuse)).unwrap();
    for _ in 0..3 {
        assert!(care::collect::run(&vault).is_err());
    }
    assert_eq!((bed.objects("/b/").len(), packs()), (1, before));
    for _ in 0..2 {
        care::collect::run(&bed.vault()).unwrap();
    }
    assert_eq!((bed.objects("/b/").len(), packs()), (0, 0));
}

#[test]
fn a_backup_that_fails_during_a_compaction_keeps_it_from_the_packs_of_its_root() {
    let bed = Bed::new();
    half_dead(&bed);
    let vault = bed.vault();
    let generation = bed
        .db
        .write(|c| db::gc::next_generation(c, vault.number))
        .unwrap();
    let census = care::census::Census::take(&vault).unwrap();
    let settled = bed.db.read(|c| db::gc::settled(c, vault.number));
    let sparse = census.sparse(&vault, &settled.unwrap(), 0.25).unwrap();
    // The first content again: it finds what the compaction is about to drop.
    bed.write(&noise(1, 400_000), 0);
    let root = failed(&bed);
    let none = std::collections::BTreeSet::new();
    for sparse in &sparse {
        let compacted = census.compact(&vault, &sparse.pack, generation, &none);
        assert!(compacted.unwrap().is_none());
    }
    assert_eq!(bed.restore(&root.backup.id).unwrap(), bed.content());
}

#[test]
fn a_parent_that_is_gone_is_not_relied_upon() {
    let bed = Bed::new();
    bed.write(&noise(1, 400_000), 0);
    let (full, _) = bed.backup(None);
    bed.forget(&full.backup.id);
    bed.vault()
        .remove_root(&full.backup.id, &Progress::default())
        .unwrap();
    let (orphan, _) = bed.backup(Some(&full));
    // Nothing was inherited: what is dead in the packs may go, and the backup still comes back.
    care::collect::run(&bed.vault()).unwrap();
    care::collect::run(&bed.vault()).unwrap();
    assert!(bed.restore(&orphan.backup.id).unwrap() == bed.content());
}

#[test]
fn a_chunk_that_went_between_look_up_and_hold_is_not_found() {
    // Two threads of one session: the second takes a reference after the first has looked up, and a
    // compaction came in between.
    let bed = Bed::new();
    half_dead(&bed);
    let vault = bed.vault();
    let session = JobId::random();
    let packs: Vec<PackNumber> = (1..40).map(PackNumber::from).collect();
    let known: Vec<format::manifest::ChunkId> = bed
        .db
        .read(|c| {
            let mut ids = Vec::new();
            for pack in &packs {
                ids.extend(db::chunks::of_pack(c, vault.number, *pack)?);
            }
            Ok::<_, DbError>(ids)
        })
        .unwrap()
        .into_iter()
        .map(|id| format::manifest::ChunkId(id.as_slice().try_into().unwrap()))
        .collect();
    let compacted = AtomicUsize::new(0);
    let lease = Lease::unclaimed(&session);
    bed.db.write(|c| db::sessions::begin(c, &lease)).unwrap();
    let index = crate::engine::write::index::Index::new(&bed.db, vault.number, &lease);
    let meanwhile = |index: &crate::engine::write::index::Index<'_>| {
        let plan = care::collect::run(&bed.vault()).unwrap();
        compacted.store(plan.compacted.len(), Ordering::SeqCst);
        index.hold(&(1..40).collect()).unwrap();
    };
    assert!(index.meanwhile.set(Box::new(meanwhile)).is_ok());
    let found = index.known(&known).unwrap();
    assert!(compacted.load(Ordering::SeqCst) > 0 && !found.is_empty());
    assert!(found.len() < known.len(), "what was dropped is found");
    let reader = crate::engine::read::reader::FrameReader::new(&vault);
    for place in found.values() {
        assert!(reader.frame(&place.frame).is_ok(), "{place:?} is not there");
    }
}

#[test]
fn a_reference_on_a_pack_that_was_written_again_is_reported() {
    let bed = Bed::new();
    let child = half_dead(&bed);
    let packs: Vec<PackNumber> = format::manifest::decode_pack_set(&child.pack_set)
        .unwrap()
        .iter()
        .map(PackNumber::from)
        .collect();
    let session = JobId::random();
    let rewritten = |c: &mut db::DbConnection| db::packs::is_rewritten(c, &session);
    let is_rewritten = || bed.db.read(rewritten).unwrap();
    bed.db
        .write(|c| db::packs::reference(c, bed.row.number, &session, &packs))
        .unwrap();
    assert!(!is_rewritten());
    // Against the rules, as a defect would do it.
    let row = bed
        .db
        .read(|c| db::packs::find(c, bed.row.number, packs[0]))
        .unwrap()
        .unwrap();
    let rewrite = Rewrite::try_from(9_u32).unwrap();
    let other = crate::model::pack::Pack { rewrite, ..row };
    bed.db
        .write(|c| db::packs::adopt(c, &other, rewrite))
        .unwrap();
    assert!(is_rewritten());
    bed.db
        .write(|c| db::packs::drop_references(c, &session))
        .unwrap();
    assert!(!is_rewritten());
}

#[test]
fn a_parent_whose_deletion_failed_halfway_is_not_relied_upon() {
    let bed = Bed::new();
    bed.write(&noise(1, 400_000), 0);
    let (full, _) = bed.backup(None);
    let id = &full.backup.id;
    bed.db
        .write(|c| {
            for event in [BackupEvent::DeleteRequested, BackupEvent::Failed] {
                assert!(db::backups::transition(c, id, event, Timestamp(0))?);
            }
            Ok::<_, DbError>(())
        })
        .unwrap();
    bed.vault().remove_root(id, &Progress::default()).unwrap();
    bed.write(&noise(2, 4096), 0);
    let (child, progress) = bed.backup(Some(&full));
    assert!(Progress::value(&progress.read) >= 400_000, "it inherited");
    bed.forget(id);
    care::collect::run(&bed.vault()).unwrap();
    care::collect::run(&bed.vault()).unwrap();
    assert!(bed.restore(&child.backup.id).unwrap() == bed.content());
}

#[test]
fn a_root_that_was_removed_and_is_there_again_is_never_removed_at_first_sight() {
    let note = |bed: &Bed, root: &BackupId, was_available: bool| {
        bed.db
            .write(|c| db::gc::note_removed_root(c, bed.row.number, root, was_available))
            .unwrap();
    };
    // A copy that was put back stays, with its packs.
    let bed = Bed::new();
    fill(&bed);
    let (root, _) = bed.backup(None);
    let id = &root.backup.id;
    bed.forget(id);
    note(&bed, id, true);
    for _ in 0..3 {
        let plan = care::collect::run(&bed.vault()).unwrap();
        assert!(
            plan.deleted.is_empty() && plan.leftovers.is_empty(),
            "{plan:?}"
        );
        assert!(
            plan.unknown
                .iter()
                .any(|object| object.contains(id.as_str()))
        );
    }
    assert!(bed.restore(id).unwrap() == bed.content());
    // What a run that was overtaken has stored late goes, at the second sight.
    let bed = Bed::new();
    fill(&bed);
    let (root, _) = bed.backup(None);
    let id = &root.backup.id;
    bed.forget(id);
    note(&bed, id, false);
    let first = care::collect::run(&bed.vault()).unwrap();
    assert!(
        first
            .unknown
            .iter()
            .any(|object| object.contains(id.as_str()))
    );
    assert_eq!(bed.objects("/b/").len(), 1);
    care::collect::run(&bed.vault()).unwrap();
    assert_eq!(bed.objects("/b/").len(), 0);
}

#[test]
fn a_backup_that_is_going_and_cannot_be_read_takes_nothing_from_those_that_stay() {
    let bed = Bed::new();
    let child = half_dead(&bed);
    bed.write(&noise(3, 4096), 0);
    let (going, _) = bed.backup(Some(&child));
    let id = &going.backup.id;
    bed.db
        .write(|c| db::backups::transition(c, id, BackupEvent::DeleteRequested, Timestamp(0)))
        .unwrap();
    // What only the one that goes needs of manifests is lost.
    let kept = format::manifest::decode_pack_set(&child.pack_set).unwrap();
    let lost = format::manifest::decode_pack_set(&going.pack_set).unwrap() - kept;
    let mut removed = 0;
    for path in bed.objects("/m/") {
        let name = path.file_name().unwrap().to_str().unwrap();
        if lost.contains(u32::from_str_radix(&name[..8], 16).unwrap()) {
            std::fs::remove_file(&path).unwrap();
            removed += 1;
        }
    }
    assert!(removed > 0);
    for _ in 0..3 {
        care::collect::run(&bed.vault()).unwrap();
    }
    bed.write(&noise(2, 4096), 0);
    assert!(bed.restore(&child.backup.id).unwrap() == bed.content());
}
