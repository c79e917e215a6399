//! Long and random histories of one volume.

use super::tracking::{differences, length_of};
use super::*;

#[test]
fn a_hundred_generations_of_scattered_writes_stay_near_a_fresh_full() {
    let mut bed = Bed::new();
    bed.options.paranoid = false;
    bed.write(&noise(1, VOLUME_BYTES as usize), 0);
    let (mut last, _) = bed.backup(None);
    let mut written = 0;
    let mut stored = 0;
    for generation in 0..100_u64 {
        for write in 0..2 {
            let chance = noise(50_000 + generation * 2 + write, 8);
            let chance = u64::from_le_bytes(chance.try_into().unwrap());
            let block = chance % (VOLUME_BYTES / 4096);
            bed.write(&noise(1000 + generation * 2 + write, 4096), block * 4096);
            written += 4096;
        }
        let before: u64 = bed.objects("/p/").iter().map(|path| length_of(path)).sum();
        (last, _) = bed.backup(Some(&last));
        let after: u64 = bed.objects("/p/").iter().map(|path| length_of(path)).sum();
        stored += after - before;
        if generation % 10 == 9 {
            assert!(bed.restore(&last.backup.id).unwrap() == bed.content());
        }
    }
    assert!(bed.restore(&last.backup.id).unwrap() == bed.content());
    // Besides what changed: what was gathered again, and header, trailer and footer of 100 packs.
    assert!(
        stored < written * 3 / 2 + 100 * 600,
        "{stored} of {written}"
    );
    let vault = bed.vault();
    let (reader, fetched) = (
        read::reader::FrameReader::new(&vault),
        std::cell::Cell::new(0),
    );
    let tree = read::tree::TreeReader::open(&reader, &last).unwrap();
    for number in 0..tree.len() {
        let Some(SpanEntry::Leaf { leaf, .. }) = tree.span(number).unwrap() else {
            panic!("every span has data");
        };
        let leaf = reader.frame(&leaf).unwrap();
        let frames: std::collections::BTreeSet<_> =
            format::manifest::decode_leaf(&leaf, last.span_bytes)
                .unwrap()
                .into_iter()
                .filter_map(|extent| match extent {
                    Extent::Slice { frame, .. } => Some(frame),
                    Extent::Hole { .. } => None,
                })
                .collect();
        fetched.set(fetched.get() + frames.iter().map(|frame| frame.length).sum::<u32>());
    }
    let limit = VOLUME_BYTES as u32 * 19 / 10;
    assert!(fetched.get() < limit, "{} bytes to fetch", fetched.get());
}

#[derive(Debug, Clone, Copy)]
enum Tracking {
    None,
    True,
    /// Tells of 64 KiB where 4 KiB changed.
    Coarse,
    /// Forgets every other change.
    Lying,
}

#[derive(Debug, Clone)]
enum Operation {
    Write {
        seed: u64,
        offset: u64,
        length: usize,
    },
    Zero {
        offset: u64,
        length: u64,
    },
    Backup {
        incremental: bool,
        tracking: Tracking,
    },
    Grow {
        length: u64,
    },
    Delete {
        which: usize,
    },
    Collect,
    Restore {
        which: usize,
    },
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (0..6_u64, 0..VOLUME_BYTES - 60_000, 1..60_000_usize)
            .prop_map(|(seed, offset, length)| Operation::Write { seed, offset, length }),
        2 => (0..VOLUME_BYTES - 90_000, 1..90_000_u64)
            .prop_map(|(offset, length)| Operation::Zero { offset, length }),
        4 => (any::<bool>(), prop_oneof![
            Just(Tracking::None),
            Just(Tracking::True),
            Just(Tracking::Coarse),
            Just(Tracking::Lying),
        ])
            .prop_map(|(incremental, tracking)| Operation::Backup { incremental, tracking }),
        1 => (1..100_000_u64).prop_map(|length| Operation::Grow { length }),
        1 => any::<usize>().prop_map(|which| Operation::Delete { which }),
        2 => any::<usize>().prop_map(|which| Operation::Restore { which }),
        2 => Just(Operation::Collect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_restores_as_a_naive_copy_would(
        operations in proptest::collection::vec(operation(), 1..14)
    ) {
        let bed = Bed::new();
        let mut kept: Vec<(Root, Vec<u8>)> = Vec::new();
        let last = Operation::Backup { incremental: true, tracking: Tracking::True };
        for operation in operations.into_iter().chain([last]) {
            match operation {
                Operation::Write { seed, offset, length } => bed.write(&noise(seed, length), offset),
                Operation::Zero { offset, length } => bed.zero(offset, offset + length),
                Operation::Grow { length } => {
                    let file = std::fs::OpenOptions::new().write(true).open(bed.volume()).unwrap();
                    file.set_len(bed.content().len() as u64 + length).unwrap();
                }
                Operation::Backup { incremental, tracking } => {
                    let parent = kept.last().filter(|_| incremental).cloned();
                    let new = bed.content();
                    let (root, old) = match parent {
                        Some((root, old)) => (Some(root), old),
                        None => (None, Vec::new()),
                    };
                    let reported = new.clone();
                    let changed = move |range| match tracking {
                        Tracking::None | Tracking::True => differences(&old, &reported, range, 4096),
                        Tracking::Coarse => differences(&old, &reported, range, 65536),
                        Tracking::Lying => {
                            differences(&old, &reported, range, 4096).into_iter().step_by(2).collect()
                        }
                    };
                    let (root, _) = match tracking {
                        Tracking::None => bed.backup(root.as_ref()),
                        _ => bed.backup_tracked(root.as_ref(), changed),
                    };
                    kept.push((root, new));
                }
                Operation::Delete { which } if !kept.is_empty() => {
                    let (root, _) = kept.remove(which % kept.len());
                    bed.vault().remove_root(&root.backup.id, &Progress::default()).unwrap();
                    bed.forget(&root.backup.id);
                }
                Operation::Collect => drop(care::collect::run(&bed.vault()).unwrap()),
                Operation::Restore { which } if !kept.is_empty() => {
                    let (root, content) = &kept[which % kept.len()];
                    prop_assert!(&bed.restore(&root.backup.id).unwrap() == content);
                }
                Operation::Delete { .. } | Operation::Restore { .. } => {}
            }
        }
        for _ in 0..2 {
            care::collect::run(&bed.vault()).unwrap();
        }
        for (root, content) in &kept {
            prop_assert!(&bed.restore(&root.backup.id).unwrap() == content);
        }
        // Nothing is left but what the backups need.
        let mut needed = roaring::RoaringBitmap::new();
        for (root, _) in &kept {
            needed |= format::manifest::decode_pack_set(&root.pack_set).unwrap();
        }
        let packs = bed.objects("/p/").len() + bed.objects("/m/").len();
        prop_assert_eq!(packs as u64, needed.len());
    }
}
