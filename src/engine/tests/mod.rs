//! The engine against a real database, a directory or memory as the store, and a naive copy.

mod collection;
mod damage;
mod faults;
mod history;
mod memory;
mod model;
mod shred;
mod stored;
mod tracking;

use super::*;
use crate::config::Compression;
use crate::db::backups::Finished;
use crate::db::{self, Db, DbError};
use crate::engine::format::keys::{Keyring, MasterKey};
use crate::engine::format::manifest::{Extent, Root, SpanEntry};
use crate::engine::vault::Vault;
use crate::engine::vault::options::{Options, Parameters};
use crate::model::backup::{Backup, BackupEvent};
use crate::model::description::Description;
use crate::model::id::{BackupId, JobId, ProjectId, StorageId, UserId, VolumeId};
use crate::model::job::Lease;
use crate::model::progress::Progress;
use crate::model::time::Timestamp;
use crate::model::vault::StorageRow;
use crate::store::{Hook, Store, Verb};
use crate::volume::file;
use crate::volume::{Changes, Source, Target, VolumeReader, VolumeWriter};
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
            frame_bytes: Parameters::for_tests().frame_bytes(),
            restore_bytes: 3 << 20,
            upkeep_bytes: 1 << 20,
            dead_share: 0.25,
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
        let settings = crate::config::Storage::at(url);
        let store = Store::open(&settings, self.runtime.handle().clone()).unwrap();
        vault::storage::create(&store, &self.row.storage_id, Timestamp(0)).unwrap();
        store
    }

    fn vault_on(&self, store: Store) -> Result<Vault> {
        Vault::open(
            self.db.clone(),
            store,
            &Keyring::of(MasterKey::for_tests(1)),
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
        let root = write::backup::run(
            vault,
            &Lease::unclaimed(session),
            describe(id),
            parent,
            &source,
            &progress,
        )?;
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

    /// A backup of a source that reports the changes since the parent and gives its state a name.
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
        let root = write::backup::run(
            &vault,
            &Lease::unclaimed(&session),
            description,
            parent,
            &source,
            &progress,
        )
        .unwrap();
        self.announce(&root.backup.id);
        self.record(&root);
        self.end(&session);
        (root, progress)
    }

    /// The row that a backup has from the moment it is asked for.
    fn announce(&self, id: &BackupId) {
        let mut backup = Backup::new(describe(id), self.row.storage_id.clone());
        backup.vault_id = Some(self.row.id.clone());
        self.db.write(|c| db::backups::insert(c, &backup)).unwrap();
    }

    /// Writes the rows of the last transaction of its job, for a collector to see.
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
            .write(|c| {
                db::backups::set_finished(c, id, &finished)?;
                db::backups::transition(c, id, BackupEvent::Finished, Timestamp(0))
            })
            .unwrap();
    }

    fn forget(&self, id: &BackupId) {
        self.db.write(|c| db::backups::remove(c, id)).unwrap();
    }

    fn end(&self, session: &JobId) {
        self.db
            .write(|c| db::packs::end_session(c, session))
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
        read::restore::run(
            &vault,
            &root,
            &Target::untracked(writer),
            &Progress::default(),
        )?;
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
    bed.vault()
        .remove_root(&full.backup.id, &Progress::default())
        .unwrap();
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
        &Keyring::of(MasterKey::for_tests(2)),
        &bed.row,
        &Parameters::for_tests(),
        bed.options.clone(),
    );
    assert!(matches!(opened, Err(Error::Key { .. })));
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
    let target = Target::untracked(writer);
    read::restore::run(&vault, &root, &target, &Progress::default()).unwrap();
    assert_eq!(bed.content(), wanted);
    assert!(bed.restore(&root.backup.id).unwrap() == wanted);
}
