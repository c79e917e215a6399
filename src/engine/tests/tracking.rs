//! Incrementals read and store little when little changed, and less when the source reports the changes.

use super::*;
use crate::volume::VolumeError;

/// Parts of a range in which two contents differ, in pieces of so many bytes.
pub(super) fn differences(
    old: &[u8],
    new: &[u8],
    range: Range<u64>,
    unit: usize,
) -> Vec<Range<u64>> {
    let (start, end) = (range.start as usize, range.end as usize);
    (start / unit * unit..end)
        .step_by(unit)
        .filter(|at| {
            let piece = |bytes: &[u8]| {
                let end = (at + unit).min(bytes.len());
                bytes.get(*at..end).map(<[u8]>::to_vec)
            };
            piece(old) != piece(new)
        })
        .map(|at| (at.max(start) as u64)..((at + unit).min(end) as u64))
        .collect()
}

#[test]
fn scattered_changes_cost_what_changed_and_not_the_chunks_around_them() {
    let bed = Bed::new();
    bed.write(&noise(1, 600_000), 0);
    let (full, _) = bed.backup(None);
    // One block in each span, as far from chunk borders as from each other.
    for span in 0..9 {
        bed.write(&noise(100 + span, 4096), span * (64 << 10) + 20_480);
    }
    let (child, progress) = bed.backup(Some(&full));
    assert!(bed.restore(&child.backup.id).unwrap() == bed.content());
    let data: u64 = bed.objects("/p/").iter().map(|path| length_of(path)).sum();
    assert!(data < full.stored_bytes + 9 * 4096 + 2000, "{data}");
    assert!(Progress::value(&progress.read) <= VOLUME_BYTES);
}

pub(super) fn length_of(path: &std::path::Path) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

#[test]
fn what_the_source_tells_is_all_that_is_read() {
    let mut bed = Bed::new();
    bed.options.paranoid = false;
    bed.write(&noise(1, 600_000), 0);
    let (full, _) = bed.backup_tracked(None, |_| unreachable!("there is no parent"));
    let old = bed.content();
    bed.write(&noise(2, 8192), 200_000);
    let new = bed.content();
    let reported = new.clone();
    let (child, progress) = bed.backup_tracked(Some(&full), move |range| {
        differences(&old, &reported, range, 4096)
    });
    assert!(bed.restore(&child.backup.id).unwrap() == new);
    // What changed, and eight sampled blocks in each of ten spans.
    assert!(Progress::value(&progress.read) <= 3 * 4096 + 80 * 4096);
    assert!(child.stored_bytes < 20_000, "{}", child.stored_bytes);
    let (unchanged, progress) = bed.backup_tracked(Some(&child), |_| Vec::new());
    assert_eq!(unchanged.stored_bytes, 0);
    assert!(Progress::value(&progress.read) <= 80 * 4096);
    // A change id that is not the parent's binds nothing: everything is read.
    bed.write(&noise(3, 4096), 0);
    let source = Source {
        changes: Some(Changes::new("a third".to_owned(), |_| Ok(Vec::new()))),
        ..bed.source()
    };
    let (session, id) = (JobId::random(), BackupId::random());
    let vault = bed.vault();
    let progress = Progress::default();
    write::backup::run(
        &vault,
        &Lease::unclaimed(&session),
        describe(&id),
        Some(&full),
        &source,
        &progress,
    )
    .unwrap();
    assert!(Progress::value(&progress.read) > 600_000);
    assert!(bed.restore(&id).unwrap() == bed.content());
}

#[test]
fn a_source_that_does_not_tell_the_truth_is_found_out_and_read_whole() {
    let bed = Bed::new();
    bed.write(&noise(1, 600_000), 0);
    let (full, _) = bed.backup_tracked(None, |_| Vec::new());
    bed.write(&noise(2, 5000), 300_000);
    let (child, progress) = bed.backup_tracked(Some(&full), |_| Vec::new());
    assert!(bed.restore(&child.backup.id).unwrap() == bed.content());
    assert!(Progress::value(&progress.read) > 600_000);
    assert_eq!(Progress::value(&progress.done), VOLUME_BYTES);
}

#[test]
fn what_changes_are_counted_from_is_removed_meanwhile_and_all_is_read() {
    let mut bed = Bed::new();
    bed.options.paranoid = false;
    bed.write(&noise(1, 600_000), 0);
    let (full, _) = bed.backup_tracked(None, |_| Vec::new());
    bed.write(&noise(2, 4096), 300_000);
    let since = full.source_change_id.clone().unwrap();
    // Where the earlier state is gone, nothing seems to have changed.
    let changes = Changes::new(since, |_| Ok(Vec::new())).while_kept(|| Ok(false));
    let source = Source {
        changes: Some(changes),
        ..bed.source()
    };
    let (vault, progress) = (bed.vault(), Progress::default());
    let lease = Lease::unclaimed(&JobId::random());
    let id = BackupId::random();
    let made = write::backup::run(
        &vault,
        &lease,
        describe(&id),
        Some(&full),
        &source,
        &progress,
    );
    made.unwrap();
    assert!(bed.restore(&id).unwrap() == bed.content());
    assert_eq!(Progress::value(&progress.done), VOLUME_BYTES);
}

/// The volume itself, with what it says has changed since a backup.
fn target(bed: &Bed, changes: Changes) -> Target {
    Target {
        writer: VolumeWriter::open(&bed.volume()).unwrap(),
        changes: Some(changes),
    }
}

#[test]
fn what_changed_is_all_that_is_restored() {
    let bed = Bed::new();
    fill(&bed);
    let (root, _) = bed.backup_tracked(None, |_| Vec::new());
    let since = root.source_change_id.clone().unwrap();
    let wanted = bed.content();
    // Over data and over holes, over the borders of blocks, chunks and spans.
    bed.write(&noise(8, 5000), 100_001);
    bed.zero(200_000, 230_000);
    bed.write(&noise(9, 40_000), 350_000);
    bed.write(&noise(10, 3), VOLUME_BYTES - 3);
    let there = bed.content();
    for unit in [1, 512, 4096] {
        std::fs::write(bed.volume(), &there).unwrap();
        let (before, after) = (wanted.clone(), there.clone());
        let all: u64 = differences(&wanted, &there, 0..VOLUME_BYTES, unit)
            .iter()
            .map(|part| part.end - part.start)
            .sum();
        let within = move |range| Ok(differences(&before, &after, range, unit));
        let target = target(&bed, Changes::new(since.clone(), within));
        let (vault, progress) = (bed.vault(), Progress::default());
        let restored = read::restore::run(&vault, &root, &target, &progress).unwrap();
        assert!(restored.is_by_difference);
        assert!(bed.content() == wanted, "in pieces of {unit}");
        let (read, written) = (&progress.read, &progress.written);
        assert!(Progress::value(written) > 30_000);
        assert!(Progress::value(written) <= all);
        assert_eq!(Progress::value(read), Progress::value(written));
        assert_eq!(Progress::value(&progress.done), VOLUME_BYTES);
    }
}

#[test]
fn a_restore_writes_all_where_it_is_not_known_what_changed() {
    let bed = Bed::new();
    fill(&bed);
    let (root, _) = bed.backup_tracked(None, |_| Vec::new());
    let since = || root.source_change_id.clone().unwrap();
    let wanted = bed.content();
    let gone = |_| {
        Err(VolumeError {
            object: "a snapshot".to_owned(),
            action: "compare",
            source: std::io::ErrorKind::NotFound.into(),
        })
    };
    for changes in [
        Changes::new(since(), gone),
        Changes::new(since(), |_| Ok(Vec::new())).while_kept(|| Ok(false)),
        Changes::new("another".to_owned(), |_| Ok(Vec::new())),
    ] {
        bed.write(&noise(8, 5000), 100_000);
        let (vault, progress) = (bed.vault(), Progress::default());
        let target = target(&bed, changes);
        let restored = read::restore::run(&vault, &root, &target, &progress).unwrap();
        assert!(!restored.is_by_difference);
        assert!(bed.content() == wanted);
        assert_eq!(Progress::value(&progress.done), VOLUME_BYTES);
    }
    // What may be told later is waited for.
    bed.write(&noise(8, 5000), 100_000);
    let late = |_| {
        Err(VolumeError {
            object: "a snapshot".to_owned(),
            action: "compare",
            source: std::io::ErrorKind::TimedOut.into(),
        })
    };
    let target = target(&bed, Changes::new(since(), late));
    let (vault, progress) = (bed.vault(), Progress::default());
    let refused = read::restore::run(&vault, &root, &target, &progress).unwrap_err();
    assert!(refused.is_temporary(), "{refused:?}");
    assert_eq!(Progress::value(&progress.written), 0);
}
