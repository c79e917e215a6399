//! The engine against a real database, a directory or memory as the store, and a naive copy.

mod faults;

use super::*;
use crate::config::Compression;
use crate::db::{self, Db, DbError};
use crate::engine::keys::MasterKey;
use crate::engine::manifest::{Description, Root};
use crate::engine::vault::{Options, Parameters, Vault};
use crate::model::id::{BackupId, JobId, ProjectId, StorageId, UserId, VolumeId};
use crate::model::progress::Progress;
use crate::model::time::Timestamp;
use crate::model::vault::StorageRow;
use crate::store::{Hook, Store, Verb};
use crate::volume::file::{self, VolumeReader, VolumeWriter};
use proptest::prelude::*;
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
            threads: 3,
            paranoid: true,
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

    fn backup_on(
        &self,
        vault: &Vault,
        session: &JobId,
        id: &BackupId,
        parent: Option<&Root>,
    ) -> Result<(Root, Progress)> {
        let progress = Progress::default();
        let reader = VolumeReader::open(&self.volume())?;
        if let Some(root) = vault.find_root(id)? {
            return Ok((root, progress));
        }
        let root = backup::run(vault, session, describe(id), parent, &reader, &progress)?;
        Ok((root, progress))
    }

    fn backup(&self, parent: Option<&Root>) -> (Root, Progress) {
        let session = JobId::random();
        let (root, progress) = self
            .backup_on(&self.vault(), &session, &BackupId::random(), parent)
            .unwrap();
        self.end(&session);
        (root, progress)
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
    let bed = Bed::new();
    fill(&bed);
    let (root, progress) = bed.backup(None);
    assert_eq!(bed.restore(&root.backup.id).unwrap(), bed.content());
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
    assert_eq!(bed.restore(&root.backup.id).unwrap(), bed.content());
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
    assert_eq!(bed.restore(&incremental.backup.id).unwrap(), bed.content());
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
    assert_eq!(bed.restore(&incremental.backup.id).unwrap(), bed.content());
    bed.vault().remove_root(&full.backup.id).unwrap();
    assert_eq!(bed.restore(&incremental.backup.id).unwrap(), bed.content());
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
        assert_eq!(bed.restore(&incremental.backup.id).unwrap(), bed.content());
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
    assert_eq!(bed.restore(&root.backup.id).unwrap(), bed.content());
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

#[test]
fn slices_of_chunks_restore_as_the_bytes_they_name() {
    use crate::engine::format::ChunkKind;
    use crate::engine::manifest::{self, ChunkId, ChunkRef, Extent, SpanEntry};
    use crate::engine::packer::{NewChunk, Packer, Session, Uploads};
    let bed = Bed::new();
    bed.write(&noise(1, 60_000), 0);
    let (full, _) = bed.backup(None);
    let vault = bed.vault();
    let reader = reader::ChunkReader::new(&vault);
    let spans = reader.spans(&full).unwrap();
    let SpanEntry::Leaf {
        leaf,
        data_bytes,
        packs,
        ..
    } = &spans[0]
    else {
        panic!("the first span has data");
    };
    let extents = manifest::decode_leaf(&reader.chunk(leaf).unwrap(), full.span_bytes).unwrap();
    // Every chunk in two slices, all of them in reverse order.
    let mut sliced = Vec::new();
    let (mut at, mut expected) = (0, Vec::new());
    let content = bed.content();
    for extent in &extents {
        let length = extent.length();
        let half = length / 3;
        if let Extent::Slice { chunk, .. } = *extent {
            sliced.push((
                Extent::Slice {
                    length: half,
                    chunk,
                    offset: 0,
                },
                at..at + half,
            ));
            let rest = length - half;
            sliced.push((
                Extent::Slice {
                    length: rest,
                    chunk,
                    offset: half,
                },
                at + half..at + length,
            ));
        } else {
            sliced.push((*extent, at..at + length));
        }
        at += length;
    }
    sliced.reverse();
    for (_, range) in &sliced {
        expected.extend_from_slice(&content[range.start as usize..range.end as usize]);
    }
    let (session_id, progress) = (JobId::random(), Progress::default());
    let session = Session::new(&vault, &session_id, &progress);
    let (sender, uploads) = Uploads::new();
    let put = |packer: &Packer<'_, '_>, kind, plain: Vec<u8>| -> ChunkRef {
        let chunk = NewChunk {
            id: ChunkId::of(&vault.keys.id, &plain),
            kind,
            plain_length: plain.len() as u32,
            encoded: vault.encoder().encode(&plain),
        };
        packer.append(vec![chunk]).unwrap()[0]
    };
    let tree = std::thread::scope(|scope| {
        scope.spawn(|| uploads.run(&session));
        let packer = Packer::new(&session, crate::model::pack::PackKind::Meta, sender);
        let extents: Vec<Extent> = sliced.iter().map(|(extent, _)| *extent).collect();
        let leaf = put(&packer, ChunkKind::Leaf, manifest::encode_leaf(&extents));
        let (data_bytes, packs) = (*data_bytes, packs.clone());
        let mut entries = vec![SpanEntry::Hole; spans.len()];
        entries[0] = SpanEntry::Leaf {
            leaf,
            data_bytes,
            sums: None,
            packs,
        };
        let tree = put(
            &packer,
            ChunkKind::Node,
            manifest::encode_span_node(&entries),
        );
        packer.finish().unwrap();
        tree
    });
    assert!(session.failure().is_none());
    let id = BackupId::random();
    let root = Root {
        backup: describe(&id),
        tree: Some(tree),
        levels: 1,
        ..full
    };
    vault.put_root(root).unwrap();
    let restored = bed.restore(&id).unwrap();
    assert!(
        restored[..expected.len()] == expected[..],
        "slices came back wrong"
    );
    assert!(restored[expected.len()..].iter().all(|byte| *byte == 0));
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
    },
    Delete {
        which: usize,
    },
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
        3 => any::<bool>().prop_map(|incremental| Operation::Backup { incremental }),
        1 => any::<usize>().prop_map(|which| Operation::Delete { which }),
        2 => any::<usize>().prop_map(|which| Operation::Restore { which }),
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
        for operation in operations.into_iter().chain([Operation::Backup { incremental: true }]) {
            match operation {
                Operation::Write { seed, offset, length } => bed.write(&noise(seed, length), offset),
                Operation::Zero { offset, length } => bed.zero(offset, offset + length),
                Operation::Backup { incremental } => {
                    let parent = kept.last().filter(|_| incremental).map(|(root, _)| root.clone());
                    let (root, _) = bed.backup(parent.as_ref());
                    kept.push((root, bed.content()));
                }
                Operation::Delete { which } if !kept.is_empty() => {
                    let (root, _) = kept.remove(which % kept.len());
                    bed.vault().remove_root(&root.backup.id).unwrap();
                }
                Operation::Restore { which } if !kept.is_empty() => {
                    let (root, content) = &kept[which % kept.len()];
                    prop_assert!(&bed.restore(&root.backup.id).unwrap() == content);
                }
                Operation::Delete { .. } | Operation::Restore { .. } => {}
            }
        }
        for (root, content) in &kept {
            prop_assert!(&bed.restore(&root.backup.id).unwrap() == content);
        }
    }
}
