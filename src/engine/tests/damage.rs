//! Damage is reported, and repaired as far as possible.

use super::*;
use crate::db::health;
use crate::engine::care::census::Census;
use crate::engine::care::verify::{Depth, Report};
use crate::model::number::Ordinal;
use crate::model::pack::{Pack, PackKind};

fn verify_all(bed: &Bed) -> Report {
    let since = Timestamp(1);
    let progress = Progress::default();
    care::verify::run(&bed.vault(), Depth::Full { since }, since, &progress).unwrap()
}

fn health_packs(bed: &Bed) -> Vec<Pack> {
    let packs = bed.db.read(|c| health::packs(c, bed.row.number));
    packs.unwrap().into_iter().map(|(pack, _)| pack).collect()
}

/// The row of the first data pack.
fn data_pack(bed: &Bed) -> Pack {
    let mut packs = health_packs(bed).into_iter();
    packs.find(|pack| pack.kind == PackKind::Data).unwrap()
}

/// Cuts the end off an object, and with it the trailer of a pack.
fn truncate(path: &PathBuf) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

/// Repairs without a volume to look into; gives how many frames came back and how many are lost.
fn repair(bed: &Bed) -> (usize, usize) {
    let repaired = crate::engine::care::repair::run(&bed.vault(), &|_| None).unwrap();
    let restored = repaired.iter().map(|pack| pack.restored).sum();
    (restored, repaired.iter().map(|pack| pack.lost).sum())
}

#[test]
fn a_frame_of_which_nobody_knows_what_it_held_is_lost_however_often_one_repairs() {
    let bed = Bed::new();
    bed.write(&noise(1, 40_000), 0);
    let (root, _) = bed.backup(None);
    let content = bed.content();
    let pack = bed.objects("/p/").pop().unwrap();
    // The chunks of a frame lead to another pack, as if two backups had stored them at once.
    let row = data_pack(&bed);
    bed.db
        .write(|c| db::gc::forget_frames(c, &row, &[Ordinal::default()]))
        .unwrap();
    truncate(&pack);
    assert_eq!(
        verify_all(&bed).backups,
        std::slice::from_ref(&root.backup.id)
    );
    let volume = bed.volume();
    let open = |_: &VolumeId| VolumeReader::open(&volume).ok();
    let repaired = crate::engine::care::repair::run(&bed.vault(), &open).unwrap();
    let (restored, lost) = (repaired[0].restored, repaired[0].lost);
    assert!(restored > 0 && lost > 0, "{repaired:?}");
    for _ in 0..2 {
        assert_eq!(
            verify_all(&bed).backups,
            std::slice::from_ref(&root.backup.id)
        );
        assert_eq!(repair(&bed), (0, lost));
    }
    assert!(bed.restore(&root.backup.id).is_err());
    // The next backup stores again what the volume holds, and owes nothing to what is lost.
    let (next, _) = bed.backup(Some(&root));
    assert_eq!(bed.restore(&next.backup.id).unwrap(), content);
    assert_eq!(
        verify_all(&bed).backups,
        std::slice::from_ref(&root.backup.id)
    );
    bed.forget(&root.backup.id);
    assert_eq!(verify_all(&bed).backups, [] as [BackupId; 0]);
}

#[test]
fn what_a_repair_cannot_read_may_come_back_later() {
    let bed = Bed::new();
    bed.write(&noise(6, 40_000), 0);
    let (root, _) = bed.backup(None);
    let content = bed.content();
    let row = data_pack(&bed);
    let vault = bed.vault();
    let (name, length) = (vault::pack_name(&vault, &row), row.stored_bytes.get());
    let opened = format::pack::PackReader::open(&vault.store, name, length, &vault.keys).unwrap();
    // The storage serves wrong bytes of two frames. The volume still holds one of them.
    let old = bed.dir.path().join("store").join(name.key().to_string());
    let sound = std::fs::read(&old).unwrap();
    let mut damaged = sound.clone();
    for frame in &opened.rows[..2] {
        damaged[frame.offset as usize + 5] ^= 1;
    }
    std::fs::write(&old, damaged).unwrap();
    bed.write(&noise(7, 4096), 0);
    let lost = std::slice::from_ref(&root.backup.id);
    assert_eq!(verify_all(&bed).backups, lost);
    let volume = bed.volume();
    let open = |_: &VolumeId| VolumeReader::open(&volume).ok();
    let repaired = crate::engine::care::repair::run(&vault, &open).unwrap();
    assert_eq!((repaired[0].restored, repaired[0].lost), (1, 1));
    // Collections keep the old object as well.
    for _ in 0..2 {
        care::collect::run(&vault).unwrap();
    }
    assert!(old.exists(), "the only copy of a frame was deleted");
    // The storage is sound again.
    std::fs::write(&old, sound).unwrap();
    assert_eq!(repair(&bed), (1, 0));
    assert_eq!(verify_all(&bed).backups, [] as [BackupId; 0]);
    assert_eq!(bed.restore(&root.backup.id).unwrap(), content);
    for _ in 0..2 {
        care::collect::run(&vault).unwrap();
    }
    assert_eq!(bed.objects("/p/").len(), 1, "the old objects stay for ever");
}

#[test]
fn rot_in_a_frame_that_no_backup_needs_is_repaired_by_leaving_it_out() {
    let bed = Bed::new();
    bed.write(&noise(8, 40_000), 0);
    let (first, _) = bed.backup(None);
    // The second backup needs only the end of what the first one stored.
    bed.zero(0, 24_576);
    let (second, _) = bed.backup(Some(&first));
    let content = bed.content();
    bed.forget(&first.backup.id);
    bed.vault()
        .remove_root(&first.backup.id, &Progress::default())
        .unwrap();
    let row = data_pack(&bed);
    let vault = bed.vault();
    let (name, length) = (vault::pack_name(&vault, &row), row.stored_bytes.get());
    let opened = format::pack::PackReader::open(&vault.store, name, length, &vault.keys).unwrap();
    let needed = Census::take(&vault).unwrap().used(name.number);
    let unneeded = (0..)
        .zip(&opened.rows)
        .find(|(ordinal, _)| !needed.contains(*ordinal));
    let (_, frame) = unneeded.unwrap();
    let path = bed.dir.path().join("store").join(name.key().to_string());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[frame.offset as usize + 5] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let report = verify_all(&bed);
    assert!(
        report.backups.is_empty() && !report.damaged.is_empty(),
        "{report:?}"
    );
    let (_, lost) = repair(&bed);
    assert_eq!(lost, 0);
    assert!(verify_all(&bed).damaged.is_empty());
    assert_eq!(bed.restore(&second.backup.id).unwrap(), content);
    assert!(!path.exists(), "the damaged object stays");
}

#[test]
fn a_read_that_fails_once_costs_no_frame() {
    let bed = Bed::new();
    bed.write(&noise(2, 200_000), 0);
    let (root, _) = bed.backup(None);
    let pack = data_pack(&bed);
    // The pack is sound, but marked damaged; and now a read fails on its way.
    bed.db
        .write(|c| health::mark_damaged(c, &pack, "a fault"))
        .unwrap();
    let reads = Arc::new(AtomicUsize::new(0));
    let seen = reads.clone();
    let hook: Hook = Arc::new(move |verb, path| {
        let is_frame = verb == Verb::GetRange && path.contains("/p/");
        if is_frame && seen.fetch_add(1, Ordering::SeqCst) == 3 {
            Err(crate::store::StoreErrorKind::Truncated)
        } else {
            Ok(())
        }
    });
    let vault = bed.vault_on(bed.store().with_hook(hook)).unwrap();
    let repaired = crate::engine::care::repair::run(&vault, &|_| None).unwrap();
    assert!(reads.load(Ordering::SeqCst) > 4, "no read failed");
    assert!(
        repaired[0].sound > 2 && repaired[0].lost == 0,
        "{repaired:?}"
    );
    assert_eq!(bed.restore(&root.backup.id).unwrap(), bed.content());
}

/// The storage as it answers while the folder of the packs is not mounted: whatever is read of a pack is not there.
fn without_packs(bed: &Bed) -> Vault {
    let hook: Hook = Arc::new(|verb, path| {
        let is_pack = path.contains("/p/") || path.contains("/m/");
        match verb {
            Verb::Get | Verb::GetRange | Verb::Head if is_pack => {
                Err(crate::store::StoreErrorKind::Missing)
            }
            _ => Ok(()),
        }
    });
    bed.vault_on(bed.store().with_hook(hook)).unwrap()
}

fn look(vault: &Vault) -> Report {
    care::verify::run(vault, Depth::Quick, Timestamp(1), &Progress::default()).unwrap()
}

fn damaged(bed: &Bed) -> Vec<Pack> {
    bed.db.read(|c| health::damaged(c, bed.row.number)).unwrap()
}

#[test]
fn an_hour_without_the_storage_costs_no_deduplication() {
    let bed = Bed::new();
    bed.write(&noise(8, 150_000), 0);
    bed.backup(None);
    let packs = bed.objects("/p/");
    look(&without_packs(&bed));
    assert_eq!(damaged(&bed).len(), health_packs(&bed).len());
    assert_eq!(look(&bed.vault()).backups, [] as [BackupId; 0]);
    assert!(damaged(&bed).is_empty());
    let (again, _) = bed.backup(None);
    assert_eq!(bed.objects("/p/"), packs, "what is there is stored again");
    assert_eq!(bed.restore(&again.backup.id).unwrap(), bed.content());
}

#[test]
fn a_verification_that_is_asked_to_stop_reads_no_further_damaged_pack() {
    let bed = Bed::new();
    bed.write(&noise(5, 400_000), 0);
    bed.backup(None);
    let packs = health_packs(&bed);
    for pack in &packs {
        bed.db
            .write(|c| health::mark_damaged(c, pack, "a fault"))
            .unwrap();
    }
    let progress = Arc::new(Progress::default());
    let (stop, read) = (progress.clone(), Arc::new(AtomicUsize::new(0)));
    let seen = read.clone();
    let hook: Hook = Arc::new(move |verb, path| {
        // By then the packs themselves are verified: only the marked ones are read again.
        if verb == Verb::Head && path.contains("/p/") {
            seen.fetch_add(1, Ordering::SeqCst);
            stop.stop();
        }
        Ok(())
    });
    let vault = bed.vault_on(bed.store().with_hook(hook)).unwrap();
    let stopped = care::verify::run(&vault, Depth::Quick, Timestamp(1), &progress);
    assert!(matches!(stopped, Err(Error::Cancelled)), "{stopped:?}");
    assert!(read.load(Ordering::SeqCst) < packs.len());
}

#[test]
fn what_only_reading_has_shown_takes_reading_to_go() {
    let bed = Bed::new();
    bed.write(&noise(9, 40_000), 0);
    bed.backup(None);
    let row = data_pack(&bed);
    let indexed = || {
        let chunks = bed
            .db
            .read(|c| db::chunks::of_pack(c, row.vault, row.number));
        let mut chunks = chunks.unwrap();
        chunks.sort();
        chunks
    };
    let before = indexed();
    let path = bed.objects("/p/").pop().unwrap();
    let sound = std::fs::read(&path).unwrap();
    let mut bytes = sound.clone();
    bytes[format::PACK_HEADER_BYTES + 5] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    verify_all(&bed);
    std::fs::write(&path, sound).unwrap();
    look(&bed.vault());
    look(&without_packs(&bed));
    look(&bed.vault());
    assert_eq!(damaged(&bed), std::slice::from_ref(&row));
    assert!(indexed().is_empty() && !before.is_empty());
    verify_all(&bed);
    assert!(damaged(&bed).is_empty());
    assert_eq!(indexed(), before);
}

#[test]
fn a_root_that_is_not_the_committed_one_is_reported() {
    let bed = Bed::new();
    bed.write(&noise(3, 50_000), 0);
    let (root, _) = bed.backup(None);
    // A run that was overtaken stored its own root over it, on a storage that lets it.
    let late = Root {
        pack_set: format::manifest::encode_pack_set(&roaring::RoaringBitmap::from([77])),
        ..root.clone()
    };
    std::fs::remove_file(bed.objects("/b/").pop().unwrap()).unwrap();
    bed.vault().put_root(late, &Progress::default()).unwrap();
    let report = verify_all(&bed);
    assert_eq!(report.backups, [root.backup.id]);
    assert!(report.damaged[0].1.contains("not the one"), "{report:?}");
}

#[test]
fn a_damaged_record_of_a_vault_is_put_back_from_the_database() {
    let bed = Bed::new();
    bed.write(&noise(4, 50_000), 0);
    let (root, _) = bed.backup(None);
    let path = bed.objects("vault.json").pop().unwrap();
    let sound = std::fs::read(&path).unwrap();
    let mut flipped = sound.clone();
    let at = String::from_utf8(sound.clone())
        .unwrap()
        .find("wrapped_key")
        .unwrap()
        + 20;
    flipped[at] = if flipped[at] == b'A' { b'B' } else { b'A' };
    for damaged in [flipped, sound[..40].to_vec(), Vec::new(), vec![7; 300]] {
        std::fs::write(&path, damaged).unwrap();
        assert_eq!(bed.restore(&root.backup.id).unwrap(), bed.content());
        assert_eq!(std::fs::read(&path).unwrap(), sound);
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!(bed.restore(&root.backup.id).unwrap(), bed.content());
}

#[test]
fn only_backups_that_need_a_damaged_frame_are_called_damaged() {
    let bed = Bed::new();
    bed.write(&noise(1, 400_000), 0);
    let (full, _) = bed.backup(None);
    // It ends within a span, so that both need the pack of that span.
    bed.write(&noise(2, 230_000), 0);
    let (child, _) = bed.backup(Some(&full));
    // A frame that only the full backup needs, in a pack that both need.
    let vault = bed.vault();
    let live = |root: &Root| {
        let mut live = crate::engine::care::live::Live::default();
        live.add(&read::reader::FrameReader::new(&vault), root)
            .unwrap();
        live
    };
    let (of_full, of_child) = (live(&full), live(&child));
    let packs = health_packs(&bed);
    let (row, ordinal) = packs
        .iter()
        .filter(|row| row.kind == PackKind::Data)
        .find_map(|row| {
            let number = row.number.get();
            let (full, child) = (of_full.of(number)?, of_child.of(number)?);
            Some((row, (full - child).min()?))
        })
        .unwrap();
    let name = vault::pack_name(&vault, row);
    let length = row.stored_bytes.get();
    let opened = format::pack::PackReader::open(&vault.store, name, length, &vault.keys).unwrap();
    let path = bed.dir.path().join("store").join(name.key().to_string());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[opened.rows[ordinal as usize].offset as usize + 5] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    for _ in 0..2 {
        let report = verify_all(&bed);
        assert_eq!(report.backups, std::slice::from_ref(&full.backup.id));
    }
    assert!(bed.restore(&child.backup.id).unwrap() == bed.content());
    assert!(bed.restore(&full.backup.id).is_err());
}

#[test]
fn every_verification_looks_from_the_manifests_to_the_frames() {
    let bed = Bed::new();
    bed.write(&noise(1, 400_000), 0);
    let (full, _) = bed.backup(None);
    bed.write(&noise(2, 280_000), 0);
    let (_child, _) = bed.backup(Some(&full));
    // A defect: a compaction that did not know of a backup.
    bed.forget(&full.backup.id);
    let removed = bed
        .vault()
        .remove_root(&full.backup.id, &Progress::default());
    removed.unwrap();
    assert!(
        !care::collect::run(&bed.vault())
            .unwrap()
            .compacted
            .is_empty()
    );
    bed.vault()
        .put_root(full.clone(), &Progress::default())
        .unwrap();
    bed.announce(&full.backup.id);
    bed.record(&full);
    let report = care::verify::run(
        &bed.vault(),
        Depth::Quick,
        Timestamp(1),
        &Progress::default(),
    );
    let report = report.unwrap();
    assert_eq!(report.backups, [full.backup.id]);
}

#[test]
fn damage_of_a_leaf_is_reported_for_every_backup_that_shares_it() {
    let bed = Bed::new();
    bed.write(&noise(1, 400_000), 0);
    let (first, _) = bed.backup(None);
    let (second, _) = bed.backup(Some(&first));
    let (third, _) = bed.backup(Some(&second));
    let vault = bed.vault();
    for path in bed.objects("/m/") {
        // All of its frames, and not the trailer.
        let mut bytes = std::fs::read(&path).unwrap();
        let number = u32::from_str_radix(&path.file_name().unwrap().to_str().unwrap()[..8], 16);
        let row = bed
            .db
            .read(|c| db::packs::find(c, vault.number, number.unwrap().into()))
            .unwrap()
            .unwrap();
        let name = vault::pack_name(&vault, &row);
        let opened =
            format::pack::PackReader::open(&vault.store, name, bytes.len() as u64, &vault.keys)
                .unwrap();
        for frame in &opened.rows {
            bytes[frame.offset as usize] ^= 1;
        }
        std::fs::write(&path, bytes).unwrap();
    }
    let report =
        care::verify::run(&vault, Depth::Quick, Timestamp(1), &Progress::default()).unwrap();
    let mut all = [first, second, third].map(|root| root.backup.id);
    let mut found = report.backups;
    all.sort();
    found.sort();
    assert_eq!(found, all);
}

#[test]
fn what_a_collection_removes_is_not_called_missing() {
    let bed = Bed::new();
    bed.write(&noise(3, 40_000), 0);
    bed.backup(None);
    let pack = data_pack(&bed);
    let numbers = [pack.number];
    let (was_noted, is_damaged) = bed
        .db
        .write(|c| -> std::result::Result<_, DbError> {
            db::gc::condemn(c, pack.vault, &numbers, 1)?;
            db::gc::give_up(c, pack.vault, &numbers)?;
            let was_noted = health::mark_damaged(c, &pack, "it is missing")?;
            Ok((was_noted, health::is_damaged(c, &pack)?))
        })
        .unwrap();
    assert!(!was_noted && !is_damaged);
}

#[test]
fn a_backup_that_is_deleted_during_a_census_does_not_stop_it() {
    let bed = Bed::new();
    bed.write(&noise(4, 40_000), 0);
    let (root, _) = bed.backup(None);
    let (db, id) = (bed.db.clone(), root.backup.id.clone());
    let hook: Hook = Arc::new(move |_, path| {
        if path.contains("/b/") {
            db.write(|c| db::backups::remove(c, &id)).unwrap();
            Err(crate::store::StoreErrorKind::Missing)
        } else {
            Ok(())
        }
    });
    let vault = bed.vault_on(bed.store().with_hook(hook)).unwrap();
    assert!(Census::take(&vault).is_ok());
}

#[test]
fn a_repair_beside_a_verification_gives_no_false_alarm() {
    // The old object goes while the verification reads it, and once it has noted that it is damaged.
    for moment in [Verb::GetRange, Verb::Head] {
        let bed = Arc::new(Bed::new());
        bed.write(&noise(5, 40_000), 0);
        let (root, _) = bed.backup(None);
        let path = bed.objects("/p/").pop().unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[1000] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let damaged = std::slice::from_ref(&root.backup.id);
        assert_eq!(verify_all(&bed).backups, damaged);

        let (beside, calls) = (bed.clone(), Arc::new(AtomicUsize::new(0)));
        let seen = calls.clone();
        let hook: Hook = Arc::new(move |verb, path| {
            let is_first = || seen.fetch_add(1, Ordering::SeqCst) == 0;
            if verb == moment && path.contains("/p/") && is_first() {
                let volume = beside.volume();
                let open = |_: &VolumeId| VolumeReader::open(&volume).ok();
                let repaired = care::repair::run(&beside.vault(), &open).unwrap();
                assert!(repaired[0].restored > 0 && repaired[0].lost == 0);
            }
            Ok(())
        });
        let vault = bed.vault_on(bed.store().with_hook(hook)).unwrap();
        let (depth, now) = (
            Depth::Full {
                since: Timestamp(3),
            },
            Timestamp(2),
        );
        let report = care::verify::run(&vault, depth, now, &Progress::default()).unwrap();
        assert!(calls.load(Ordering::SeqCst) > 0, "{moment:?}");
        assert_eq!(report.backups, [] as [BackupId; 0], "{moment:?}");
        assert!(!path.exists(), "the repair has replaced it");
        let row = data_pack(&bed);
        let is_marked = bed.db.read(|c| health::is_damaged(c, &row)).unwrap();
        let backup = bed.db.read(|c| db::backups::find(c, &root.backup.id));
        assert!(!is_marked && backup.unwrap().unwrap().fail_reason.is_none());
        assert_eq!(bed.restore(&root.backup.id).unwrap(), bed.content());
    }
}
