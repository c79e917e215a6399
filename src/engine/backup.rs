//! One backup: spans in parallel, ordered inside; the line of `engine`'s format, steps in order.

use crate::db::{self, DbError};
use crate::engine::chunker::Cutter;
use crate::engine::codec::Encoder;
use crate::engine::format::ChunkKind;
use crate::engine::keys::random_bytes;
use crate::engine::manifest::{ChunkId, Description, FrameRef, Root, SpanEntry};
use crate::engine::pack::{ChunkRow, NewFrame};
use crate::engine::packer::{Packer, Session, Uploads};
use crate::engine::reader::FrameReader;
use crate::engine::span::{SpanWriter, whole_blocks};
use crate::engine::tree::{Manifest, TreeReader, TreeWriter};
use crate::engine::vault::Vault;
use crate::engine::{Error, Result, check};
use crate::model::error::chain;
use crate::model::job::Lease;
use crate::model::pack::PackKind;
use crate::model::progress::Progress;
use crate::volume::Source;
use roaring::RoaringBitmap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Spans of a backup of which a few blocks are compared although they are said to be unchanged.
const SAMPLED_SPANS: u64 = 32;

/// Makes a backup and stores its root. A root that is there already, from a run that was cut off
/// after it, is the result. The parent, if its packs are all alive, saves work, nothing else.
pub fn run(
    vault: &Vault,
    lease: &Lease,
    description: Description,
    parent: Option<&Root>,
    source: &Source,
    progress: &Progress,
) -> Result<Root> {
    let session = Session::begin(vault, lease, progress)?;
    let reader = FrameReader::new(vault);
    let parent = match parent {
        Some(root) => unless_damaged(&session, usable_parent(&session, &reader, root))?.flatten(),
        None => None,
    };
    let inherited = parent
        .as_ref()
        .map_or_else(RoaringBitmap::new, |parent| parent.packs.clone());
    Progress::add(&progress.total, source.reader.length());
    let (sender, uploads) = Uploads::new();
    let backup = std::thread::scope(|scope| {
        for _ in 0..vault.options.uploads {
            scope.spawn(|| uploads.run(&session));
        }
        let job = Job {
            session: &session,
            source,
            parent,
            data: Packer::new(&session, PackKind::Data, sender.clone()),
            meta: Packer::new(&session, PackKind::Meta, sender),
            meta_encoder: Mutex::new(session.encoder()),
            cutter: Cutter::new(&vault.parameters, vault.keys.cut_seed),
            seed: u64::from_le_bytes(random_bytes()),
            is_untold: AtomicBool::new(false),
            distrusts_changes: AtomicBool::new(false),
        };
        job.run()
        // Here the job's senders are dropped, and the uploading threads end.
    });
    if let Some(failure) = session.failure() {
        return Err(failure);
    }
    let manifest = backup?;
    source.reader.check_length()?;
    session.confirm(&manifest.packs, &inherited)?;
    let root = Root {
        backup: description,
        volume_bytes: source.reader.length(),
        span_bytes: vault.parameters.span_bytes,
        tree: manifest.tree,
        levels: manifest.levels,
        pack_set: encode_pack_set(&manifest.packs),
        leaves_digest: manifest.leaves_digest,
        source_change_id: source.change_id.clone(),
        logical_bytes: manifest.logical_bytes,
        read_bytes: Progress::value(&progress.read),
        stored_bytes: Progress::value(&progress.stored),
        deduplicated_bytes: Progress::value(&progress.deduplicated),
        object_count: Progress::value(&progress.objects),
    };
    check(progress)?;
    vault.put_root(root, progress)
}

/// The stored form of a set of pack numbers.
pub fn encode_pack_set(packs: &RoaringBitmap) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(packs.serialized_size());
    packs
        .serialize_into(&mut bytes)
        .expect("memory takes all bytes");
    bytes
}

/// A set of pack numbers from its stored form.
pub fn decode_pack_set(bytes: &[u8]) -> Result<RoaringBitmap> {
    RoaringBitmap::deserialize_from(bytes).map_err(|error| Error::corrupt("a pack set", error))
}

/// All packs that are in some of these sets.
pub fn decode_pack_sets(sets: &[Vec<u8>]) -> Result<RoaringBitmap> {
    let mut sets = sets.iter().map(|set| decode_pack_set(set));
    sets.try_fold(RoaringBitmap::new(), |all, set| Ok(all | set?))
}

/// A damaged parent does not spoil its child: what cannot be read of it is as good as not there.
pub(super) fn unless_damaged<T>(session: &Session<'_>, read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(Error::Corrupt { .. } | Error::Missing { .. }) => {
            session.distrusts_meta.store(true, Ordering::SeqCst);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The backup this one is made against.
pub(super) struct Parent<'r, 'a> {
    pub(super) reader: &'r FrameReader<'a>,
    tree: TreeReader<'r, 'a>,
    span_bytes: u64,
    volume_bytes: u64,
    change_id: Option<String>,
    /// All packs it needs.
    packs: RoaringBitmap,
    /// Packs in which something was found wrong: what needs them is not inherited.
    damaged: RoaringBitmap,
}

impl Parent<'_, '_> {
    fn is_sound(&self, entry: &SpanEntry) -> bool {
        match entry {
            SpanEntry::Hole => true,
            SpanEntry::Leaf {
                leaf, sums, packs, ..
            } => {
                let sums = sums.iter().flat_map(|sums| [Some(sums.base), sums.patch]);
                let meta = sums.flatten().map(|frame| frame.pack).chain([leaf.pack]);
                let mut all = packs.iter().copied().chain(meta);
                !all.any(|pack| self.damaged.contains(pack))
            }
        }
    }
}

fn usable_parent<'r, 'a>(
    session: &Session<'a>,
    reader: &'r FrameReader<'a>,
    root: &Root,
) -> Result<Option<Parent<'r, 'a>>> {
    let packs = decode_pack_set(&root.pack_set)?;
    if root.span_bytes != session.vault.parameters.span_bytes || !session.index.hold(&packs)? {
        return Ok(None);
    }
    let vault = session.vault;
    // Only now, when the references are there: of a parent that was deleted before them, a compaction
    // may have dropped what its leaves name. Its row alone does not tell: a deletion that failed halfway
    // has removed the root and not the row.
    let id = &root.backup.id;
    let is_needed = vault
        .db
        .read(|c| db::collection::is_needed(c, &vault.id, id).map_err(DbError::from))?;
    if !is_needed || !vault.has_root(id)? {
        return Ok(None);
    }
    let damaged = vault
        .db
        .read(|c| db::condition::damaged(c, vault.number).map_err(DbError::from))?;
    Ok(Some(Parent {
        reader,
        packs,
        damaged: damaged
            .iter()
            .filter_map(|pack| u32::try_from(pack.number).ok())
            .collect(),
        tree: TreeReader::open(reader, root)?,
        span_bytes: root.span_bytes,
        volume_bytes: root.volume_bytes,
        change_id: root.source_change_id.clone(),
    }))
}

/// What the threads of one backup share.
pub(super) struct Job<'a, 's> {
    pub(super) session: &'s Session<'a>,
    pub(super) source: &'s Source,
    pub(super) parent: Option<Parent<'s, 'a>>,
    pub(super) data: Packer<'a, 's>,
    meta: Packer<'a, 's>,
    meta_encoder: Mutex<Encoder<'s>>,
    pub(super) cutter: Cutter,
    /// Of the choice of samples.
    seed: u64,
    /// Set when the source first fails to tell what changed.
    is_untold: AtomicBool,
    /// Set when a block that the source calls unchanged has changed.
    pub(super) distrusts_changes: AtomicBool,
}

impl Job<'_, '_> {
    fn run(&self) -> Result<Manifest> {
        let mut tree = self.pass()?;
        if self.distrusts_changes.load(Ordering::SeqCst) {
            tracing::error!(
                session = %self.session.lease.job_id,
                change.id = self.source.change_id,
                "the source called blocks unchanged that have changed; reading the whole volume"
            );
            let progress = self.session.progress;
            progress.done.store(0, Ordering::Relaxed);
            progress.deduplicated.store(0, Ordering::Relaxed);
            tree = self.pass()?;
        }
        self.data.finish()?;
        let manifest = tree.finish(|node| self.put_meta(ChunkKind::Node, node))?;
        self.meta.finish()?;
        Ok(manifest)
    }

    /// Goes through all spans, once; ends early where the source turns out not to tell the truth.
    fn pass(&self) -> Result<TreeWriter> {
        let span_bytes = self.session.vault.parameters.span_bytes;
        let count = usize::try_from(self.source.reader.length().div_ceil(span_bytes))
            .expect("a machine that holds the volume can count its spans");
        let tree = TreeWriter::new(count);
        let distrusted = self.distrusts_changes.load(Ordering::SeqCst);
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            let mut writer = SpanWriter::new(self);
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let is_lie = self.distrusts_changes.load(Ordering::SeqCst) != distrusted;
                if number >= count || is_lie {
                    return Ok(());
                }
                self.session.check()?;
                let start = number as u64 * span_bytes;
                let end = (start + span_bytes).min(self.source.reader.length());
                let entry = writer.write(number, start..end)?;
                tree.put(number, entry, |node| self.put_meta(ChunkKind::Node, node))?;
                Progress::add(&self.session.progress.done, end - start);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.session.vault.options.threads.min(count) {
                scope.spawn(|| {
                    if let Err(error) = work() {
                        self.session.fail(error);
                    }
                });
            }
        });
        self.session.check()?;
        Ok(tree)
    }

    /// The parent's entry for a span, if it covers the same bytes. A damaged parent is none.
    pub(super) fn inherited(&self, number: usize, span: &Range<u64>) -> Result<Option<SpanEntry>> {
        let Some(parent) = &self.parent else {
            return Ok(None);
        };
        let end = (span.start + parent.span_bytes).min(parent.volume_bytes);
        if end != span.end {
            return Ok(None);
        }
        let entry = unless_damaged(self.session, parent.tree.span(number))?.flatten();
        Ok(entry.filter(|entry| parent.is_sound(entry)))
    }

    /// What the source says has changed in a span since the parent, in whole blocks. `None`: it
    /// cannot tell, or has not told the truth.
    pub(super) fn reported(&self, span: &Range<u64>) -> Option<Vec<Range<u64>>> {
        let changes = self.source.changes.as_ref()?;
        let since = self.parent.as_ref()?.change_id.as_ref()?;
        if *since != changes.since || self.distrusts_changes.load(Ordering::SeqCst) {
            return None;
        }
        match changes.within(span.clone()) {
            Ok(changed) => Some(whole_blocks(changed.into_iter(), span)),
            Err(error) => {
                if !self.is_untold.swap(true, Ordering::SeqCst) {
                    tracing::warn!(session = %self.session.lease.job_id, error = %chain(&error), "the source cannot tell what changed; reading it");
                }
                None
            }
        }
    }

    /// Whether a few blocks of the span are compared although they are said to be unchanged.
    pub(super) fn is_sampled(&self, number: usize) -> bool {
        let leaves = self
            .parent
            .as_ref()
            .map_or(0, |parent| parent.tree.leaves_max() as u64);
        self.session.vault.options.paranoid
            || self.random(number, u64::MAX) % leaves.max(1) < SAMPLED_SPANS
    }

    /// A number that nobody outside can foresee.
    pub(super) fn random(&self, number: usize, turn: u64) -> u64 {
        let input = [(number as u64).to_le_bytes(), turn.to_le_bytes()].concat();
        xxh3_64_with_seed(&input, self.seed)
    }

    /// Stores a leaf, node or sums, unless it is known.
    pub(super) fn put_meta(&self, kind: ChunkKind, plain: &[u8]) -> Result<FrameRef> {
        let id = ChunkId::of(&self.session.vault.keys.id, plain);
        if !self.session.distrusts_meta.load(Ordering::SeqCst)
            && let Some(known) = self.session.index.known(&[id])?.get(&id)
            && (known.offset, known.frame.length as usize) == (0, plain.len())
        {
            return Ok(known.frame);
        }
        let chunk = ChunkRow {
            id,
            kind,
            length: u32::try_from(plain.len()).expect("a manifest part is small"),
        };
        let frame = NewFrame {
            chunks: vec![chunk],
            encoded: self
                .meta_encoder
                .lock()
                .expect("no panic while it is locked")
                .encode(plain),
        };
        Ok(self.meta.append(vec![frame])?[0].frame)
    }
}
