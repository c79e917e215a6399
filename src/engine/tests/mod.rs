//! The engine against a real database, a directory or memory as the store, and a naive copy.

mod faults;

use super::*;
use crate::config::Compression;
use crate::db::backups::Finished;
use crate::db::{self, Db, DbError};
use crate::engine::keys::MasterKey;
use crate::engine::manifest::{Description, Extent, Root, SpanEntry};
use crate::engine::vault::{Options, Parameters, Vault};
use crate::model::backup::{Backup, BackupStatus};
use crate::model::id::{BackupId, JobId, ProjectId, StorageId, UserId, VolumeId};
use crate::model::progress::Progress;
use crate::model::time::Timestamp;
use crate::model::vault::StorageRow;
use crate::store::{Hook, Store, Verb};
use crate::volume::file::{self, VolumeWriter};
use crate::volume::{Changes, Source, VolumeReader};
use proptest::prelude::*;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// One vault and one volume in a temporary directory.
struct Bed {
    dir: TempDir,
    runtime: Runtime,
    db: Db,
    row: crate::model::vault::VaultRow,
    options: Options,
}

const VOLUME_BYTES: u64 = 640 << 10;

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let db = Db::open(&format!("sqlite:{}", dir.path().join("db").display())).unwrap();
        let storage = StorageId::random();
        let row = db
            .write(|c| {
                db::vaults::insert_storage(
                    c,
                    &StorageRow {
                        id: storage.clone(),
                        name: "s".to_owned(),
                        master_key_check: String::new(),
                        created_at: Timestamp(0),
                    },
                )?;
                db::vaults::find_or_insert(c, &ProjectId::new("p"), &storage, Timestamp(0))
                    .map_err(DbError::from)
            })
            .unwrap();
        file::create(&dir.path().join("volume"), VOLUME_BYTES).unwrap();
        let options = Options {
            compression: Compression::Zstd(1),
            pack_bytes: 64 << 10,
            uploads: 2,
            downloads: 3,
            threads: 3,
            paranoid: true,
            restore_compares: false,
            assemblies: 1,
        };
        Self {
            dir,
            runtime,
            db,
            row,
            options,
        }
    }

    fn store(&self) -> Store {
        let url = format!("fs:{}", self.dir.path().join("store").display());
        Store::open(&url, self.runtime.handle().clone()).unwrap()
    }

    fn vault_on(&self, store: Store) -> Result<Vault> {
        Vault::open(
            self.db.clone(),
            store,
            &MasterKey::for_tests(1),
            &self.row,
            &Parameters::for_tests(),
            self.options.clone(),
        )
    }

    fn vault(&self) -> Vault {
        self.vault_on(self.store()).unwrap()
    }

    fn volume(&self) -> PathBuf {
        self.dir.path().join("volume")
    }

    fn write(&self, bytes: &[u8], offset: u64) {
        let writer = VolumeWriter::open(&self.volume()).unwrap();
        writer.write_at(bytes, offset).unwrap();
    }

    fn zero(&self, from: u64, to: u64) {
        VolumeWriter::open(&self.volume())
            .unwrap()
            .zero(from..to)
            .unwrap();
    }

    fn content(&self) -> Vec<u8> {
        std::fs::read(self.volume()).unwrap()
    }

    fn source(&self) -> Source {
        Source::untracked(VolumeReader::open(&self.volume()).unwrap())
    }

    fn backup_on(
        &self,
        vault: &Vault,
        session: &JobId,
        id: &BackupId,
        parent: Option<&Root>,
    ) -> Result<(Root, Progress)> {
        let progress = Progress::default();
        let source = self.source();
        if let Some(root) = vault.find_root(id)? {
            return Ok((root, progress));
        }
        let root = backup::run(vault, session, describe(id), parent, &source, &progress)?;
        Ok((root, progress))
    }

    fn backup(&self, parent: Option<&Root>) -> (Root, Progress) {
        let session = JobId::random();
        let (root, progress) = self
            .backup_on(&self.vault(), &session, &BackupId::random(), parent)
            .unwrap();
        self.announce(&root.backup.id);
        self.record(&root);
        self.end(&session);
        (root, progress)
    }

    /// A backup of a source that tells what changed since the parent, and its state a name.
    fn backup_tracked(
        &self,
        parent: Option<&Root>,
        changed: impl Fn(Range<u64>) -> Vec<Range<u64>> + Send + Sync + 'static,
    ) -> (Root, Progress) {
        let since = parent.and_then(|root| root.source_change_id.clone());
        let source = Source {
            change_id: Some(BackupId::random().to_string()),
            changes: since.map(|since| Changes::new(since, move |range| Ok(changed(range)))),
            ..self.source()
        };
        let (session, progress) = (JobId::random(), Progress::default());
        let description = describe(&BackupId::random());
        let vault = self.vault();
        let root = backup::run(&vault, &session, description, parent, &source, &progress).unwrap();
        self.announce(&root.backup.id);
        self.record(&root);
        self.end(&session);
        (root, progress)
    }

    /// The row that a backup has from the moment it is asked for.
    fn announce(&self, id: &BackupId) {
        let described = describe(id);
        let backup = Backup {
            id: id.clone(),
            project_id: described.project_id,
            user_id: described.user_id,
            storage_id: self.row.storage_id.clone(),
            vault_id: Some(self.row.id.clone()),
            volume_id: described.volume_id,
            snapshot_id: None,
            parent_id: None,
            name: None,
            description: None,
            status: BackupStatus::Creating,
            size_gib: 1,
            object_count: 0,
            fail_reason: None,
            availability_zone: None,
            container: None,
            metadata: Default::default(),
            data_timestamp: None,
            restore_volume_id: None,
            root_id: None,
            pack_set: None,
            logical_bytes: 0,
            read_bytes: 0,
            stored_bytes: 0,
            deduplicated_bytes: 0,
            created_at: Timestamp(0),
            updated_at: None,
        };
        self.db
            .write(|c| db::backups::insert(c, &backup).map_err(DbError::from))
            .unwrap();
    }

    /// What the last transaction of its job writes, for a collector to see.
    fn record(&self, root: &Root) {
        let finished = Finished {
            pack_set: root.pack_set.clone(),
            object_count: 0,
            logical_bytes: 0,
            read_bytes: 0,
            stored_bytes: 0,
            deduplicated_bytes: 0,
        };
        let id = &root.backup.id;
        self.db
            .write(|c| db::backups::set_finished(c, id, &finished).map_err(DbError::from))
            .unwrap();
    }

    fn forget(&self, id: &BackupId) {
        self.db
            .write(|c| db::backups::remove(c, id).map_err(DbError::from))
            .unwrap();
    }

    fn end(&self, session: &JobId) {
        self.db
            .write(|c| db::packs::end_session(c, session).map_err(DbError::from))
            .unwrap();
    }

    fn restore(&self, id: &BackupId) -> Result<Vec<u8>> {
        let vault = self.vault();
        let root = vault.root(id)?;
        let target = self.dir.path().join("target");
        file::remove(&target)?;
        file::create(&target, root.volume_bytes)?;
        let writer = VolumeWriter::open(&target)?;
        // The target's old content must not shine through.
        writer.write_at(&vec![0xee; root.volume_bytes as usize], 0)?;
        restore::run(&vault, &root, &writer, &Progress::default())?;
        Ok(std::fs::read(&target).unwrap())
    }

    fn objects(&self, part: &str) -> Vec<PathBuf> {
        fn walk(dir: &std::path::Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(dir).unwrap().flatten() {
                match entry.path() {
                    path if path.is_dir() => walk(&path, found),
                    path => found.push(path),
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.dir.path().join("store"), &mut found);
        found.retain(|path| path.to_string_lossy().contains(part));
        found.sort();
        found
    }
}

fn describe(id: &BackupId) -> Description {
    Description {
        id: id.clone(),
        project_id: ProjectId::new("p"),
        user_id: UserId::new("u"),
        volume_id: VolumeId::new("v"),
        snapshot_id: None,
        parent_id: None,
        name: Some("name".to_owned()),
        description: None,
        metadata: Default::default(),
        size_gib: 1,
        availability_zone: None,
        container: None,
        created_at: Timestamp(1),
        data_timestamp: None,
        volume: Default::default(),
    }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// Content with all that matters: noise, text, repetition, short and long runs of zeros.
fn fill(bed: &Bed) {
    bed.write(&noise(1, 150_000), 4096);
    bed.write(&b"the same line again and again\n".repeat(2000), 200_000);
    bed.write(&noise(2, 30_000), 300_000);
    bed.write(&noise(2, 30_000), 400_000);
    bed.write(&noise(3, 9_000), VOLUME_BYTES - 9_000);
}

#[test]
fn a_full_backup_restores_bit_for_bit_and_finds_repetition() {
    let mut bed = Bed::new();
    // What two threads meet at the same moment is stored twice.
    bed.options.threads = 1;
    fill(&bed);
    let (root, progress) = bed.backup(None);
    assert!(bed.restore(&root.backup.id).unwrap() == bed.content());
    assert!(
        root.deduplicated_bytes > 15_000,
        "{}",
        root.deduplicated_bytes
    );
    assert!(
        root.logical_bytes < VOLUME_BYTES - 100_000,
        "holes were stored"
    );
    assert!(Progress::value(&progress.read) <= VOLUME_BYTES);
}

#[test]
fn an_empty_volume_is_one_root() {
    let bed = Bed::new();
    let (root, _) = bed.backup(None);
    assert_eq!((root.tree, root.stored_bytes), (None, 0));
    assert!(bed.restore(&root.backup.id).unwrap() == bed.content());
}

#[test]
fn an_unchanged_incremental_stores_no_pack() {
    let bed = Bed::new();
    fill(&bed);
    let (full, _) = bed.backup(None);
    let packs = bed.objects("/p/").len() + bed.objects("/m/").len();
    let (incremental, _) = bed.backup(Some(&full));
    assert_eq!(bed.objects("/p/").len() + bed.objects("/m/").len(), packs);
    assert_eq!(incremental.stored_bytes, 0);
    assert_eq!(incremental.leaves_digest, full.leaves_digest);
    assert!(bed.restore(&incremental.backup.id).unwrap() == bed.content());
}

#[test]
fn a_zeroed_range_is_zero_after_the_incremental_is_restored_even_without_its_parent() {
    let bed = Bed::new();
    fill(&bed);
    let (full, _) = bed.backup(None);
    bed.zero(50_000, 120_000);
    bed.write(&noise(9, 5000), 500_000);
    let (incremental, _) = bed.backup(Some(&full));
    assert!(incremental.stored_bytes < full.stored_bytes / 2);
    assert!(bed.restore(&incremental.backup.id).unwrap() == bed.content());
    bed.vault().remove_root(&full.backup.id).unwrap();
    assert!(bed.restore(&incremental.backup.id).unwrap() == bed.content());
    assert!(matches!(
        bed.restore(&full.backup.id),
        Err(Error::Missing { .. })
    ));
}

#[test]
fn a_volume_that_grew_or_shrank_is_backed_up_against_its_parent() {
    let bed = Bed::new();
    fill(&bed);
    let (full, _) = bed.backup(None);
    for length in [VOLUME_BYTES + 100_000, VOLUME_BYTES - 70_000] {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(bed.volume())
            .unwrap();
        file.set_len(length).unwrap();
        let (incremental, _) = bed.backup(Some(&full));
        assert!(bed.restore(&incremental.backup.id).unwrap() == bed.content());
        assert!(incremental.stored_bytes < full.stored_bytes / 2);
    }
}

#[test]
fn many_spans_make_a_tree_of_several_levels_and_empty_subtrees_cost_nothing() {
    let bed = Bed::new();
    let length = 700 * (64 << 10);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(bed.volume())
        .unwrap();
    file.set_len(length).unwrap();
    bed.write(&noise(1, 5000), length - 5000);
    let (root, _) = bed.backup(None);
    assert_eq!(root.levels, 2);
    assert!(root.stored_bytes < 20_000, "{}", root.stored_bytes);
    assert!(bed.restore(&root.backup.id).unwrap() == bed.content());
}

#[test]
fn a_wrong_master_key_is_refused() {
    let bed = Bed::new();
    drop(bed.vault());
    let opened = Vault::open(
        bed.db.clone(),
        bed.store(),
        &MasterKey::for_tests(2),
        &bed.row,
        &Parameters::for_tests(),
        bed.options.clone(),
    );
    assert!(matches!(opened, Err(Error::Key { .. })));
}

/// Parts of a range in which two contents differ, in pieces of so many bytes.
fn differences(old: &[u8], new: &[u8], range: Range<u64>, unit: usize) -> Vec<Range<u64>> {
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

fn length_of(path: &std::path::Path) -> u64 {
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
    let told = new.clone();
    let (child, progress) = bed.backup_tracked(Some(&full), move |range| {
        differences(&old, &told, range, 4096)
    });
    assert!(bed.restore(&child.backup.id).unwrap() == new);
    // What changed, and eight sampled blocks in each of ten spans.
    assert!(Progress::value(&progress.read) <= 3 * 4096 + 80 * 4096);
    assert!(child.stored_bytes < 20_000, "{}", child.stored_bytes);
    let (unchanged, progress) = bed.backup_tracked(Some(&child), |_| Vec::new());
    assert_eq!(unchanged.stored_bytes, 0);
    assert!(Progress::value(&progress.read) <= 80 * 4096);
    // A change id that is not the parent's binds nothing: everything is read.
    let stranger = Root {
        source_change_id: Some("another".to_owned()),
        ..full.clone()
    };
    bed.write(&noise(3, 4096), 0);
    let (child, _) = bed.backup_tracked(Some(&stranger), |_| Vec::new());
    assert!(bed.restore(&child.backup.id).unwrap() != bed.content());
    let source = Source {
        changes: Some(Changes::new("a third".to_owned(), |_| Ok(Vec::new()))),
        ..bed.source()
    };
    let (session, id) = (JobId::random(), BackupId::random());
    let vault = bed.vault();
    let progress = Progress::default();
    backup::run(
        &vault,
        &session,
        describe(&id),
        Some(&full),
        &source,
        &progress,
    )
    .unwrap();
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
    let (reader, fetched) = (reader::FrameReader::new(&vault), std::cell::Cell::new(0));
    let tree = tree::TreeReader::open(&reader, &last).unwrap();
    for number in 0..tree.len() {
        let Some(SpanEntry::Leaf { leaf, .. }) = tree.span(number).unwrap() else {
            panic!("every span has data");
        };
        let leaf = reader.frame(&leaf).unwrap();
        let frames: std::collections::BTreeSet<_> = manifest::decode_leaf(&leaf, last.span_bytes)
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

#[test]
fn a_restore_that_compares_writes_only_what_differs() {
    let mut bed = Bed::new();
    bed.options.restore_compares = true;
    fill(&bed);
    let (root, _) = bed.backup(None);
    let wanted = bed.content();
    bed.write(&noise(8, 5000), 100_000);
    bed.zero(200_000, 230_000);
    bed.write(&noise(9, 5000), 350_000);
    let vault = bed.vault();
    let writer = VolumeWriter::open(&bed.volume()).unwrap();
    restore::run(&vault, &root, &writer, &Progress::default()).unwrap();
    assert_eq!(bed.content(), wanted);
    assert!(bed.restore(&root.backup.id).unwrap() == wanted);
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
                    let told = new.clone();
                    let changed = move |range| match tracking {
                        Tracking::None | Tracking::True => differences(&old, &told, range, 4096),
                        Tracking::Coarse => differences(&old, &told, range, 65536),
                        Tracking::Lying => {
                            differences(&old, &told, range, 4096).into_iter().step_by(2).collect()
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
                    bed.vault().remove_root(&root.backup.id).unwrap();
                    bed.forget(&root.backup.id);
                }
                Operation::Collect => drop(collect::run(&bed.vault()).unwrap()),
                Operation::Restore { which } if !kept.is_empty() => {
                    let (root, content) = &kept[which % kept.len()];
                    prop_assert!(&bed.restore(&root.backup.id).unwrap() == content);
                }
                Operation::Delete { .. } | Operation::Restore { .. } => {}
            }
        }
        for _ in 0..2 {
            collect::run(&bed.vault()).unwrap();
        }
        for (root, content) in &kept {
            prop_assert!(&bed.restore(&root.backup.id).unwrap() == content);
        }
        // Nothing is left but what the backups need.
        let mut needed = roaring::RoaringBitmap::new();
        for (root, _) in &kept {
            needed |= backup::decode_pack_set(&root.pack_set).unwrap();
        }
        let packs = bed.objects("/p/").len() + bed.objects("/m/").len();
        prop_assert_eq!(packs as u64, needed.len());
    }
}

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
