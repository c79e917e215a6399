//! One backup: spans in parallel, ordered inside; the line of `engine`'s format, steps in order.

use crate::engine::chunker::Cutter;
use crate::engine::format::{ChunkKind, NODE_CHILDREN};
use crate::engine::manifest::{
    ChunkId, ChunkRef, Description, Root, SpanEntry, encode_inner_node, encode_span_node,
};
use crate::engine::packer::{NewChunk, Packer, Session, Uploads};
use crate::engine::reader::ChunkReader;
use crate::engine::span::SpanWriter;
use crate::engine::vault::Vault;
use crate::engine::{Error, Result, check};
use crate::model::id::JobId;
use crate::model::pack::PackKind;
use crate::model::progress::Progress;
use crate::volume::file::VolumeReader;
use roaring::RoaringBitmap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Makes a backup and stores its root. A root that is there already, from a run that was cut off
/// after it, is the result. The parent, if its packs are all alive, saves work, nothing else.
pub fn run(
    vault: &Vault,
    session_id: &JobId,
    description: Description,
    parent: Option<&Root>,
    reader: &VolumeReader,
    progress: &Progress,
) -> Result<Root> {
    let session = Session::new(vault, session_id, progress);
    session.adopt()?;
    let parent = match parent {
        Some(root) => unless_damaged(&session, usable_parent(&session, root))?.flatten(),
        None => None,
    };
    Progress::add(&progress.total, reader.length());
    let (sender, uploads) = Uploads::new();
    let backup = std::thread::scope(|scope| {
        for _ in 0..vault.options.uploads {
            scope.spawn(|| uploads.run(&session));
        }
        let job = Job {
            session: &session,
            reader,
            parent,
            data: Packer::new(&session, PackKind::Data, sender.clone()),
            meta: Packer::new(&session, PackKind::Meta, sender),
            cutter: Cutter::new(&vault.parameters, vault.keys.cut_seed),
        };
        job.run()
        // Here the job's senders are dropped, and the uploading threads end.
    });
    if let Some(failure) = session.failure() {
        return Err(failure);
    }
    let manifest = backup?;
    let root = Root {
        backup: description,
        volume_bytes: reader.length(),
        span_bytes: vault.parameters.span_bytes,
        tree: manifest.tree,
        levels: manifest.levels,
        pack_set: encode_pack_set(&manifest.packs),
        leaves_digest: manifest.leaves_digest,
        source_change_id: None,
        logical_bytes: manifest.logical_bytes,
        read_bytes: Progress::value(&progress.read),
        stored_bytes: Progress::value(&progress.stored),
        deduplicated_bytes: Progress::value(&progress.deduplicated),
        object_count: Progress::value(&progress.objects),
    };
    check(progress)?;
    vault.put_root(root)
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
pub(super) struct Parent<'a> {
    pub(super) reader: ChunkReader<'a>,
    pub(super) spans: Vec<SpanEntry>,
    pub(super) span_bytes: u64,
    pub(super) volume_bytes: u64,
}

fn usable_parent<'a>(session: &Session<'a>, root: &Root) -> Result<Option<Parent<'a>>> {
    if root.span_bytes != session.vault.parameters.span_bytes
        || !session.index.hold(&decode_pack_set(&root.pack_set)?)?
    {
        return Ok(None);
    }
    let reader = ChunkReader::new(session.vault);
    Ok(Some(Parent {
        spans: reader.spans(root)?,
        reader,
        span_bytes: root.span_bytes,
        volume_bytes: root.volume_bytes,
    }))
}

struct Manifest {
    tree: Option<ChunkRef>,
    levels: u8,
    packs: RoaringBitmap,
    leaves_digest: String,
    logical_bytes: u64,
}

/// What the threads of one backup share.
pub(super) struct Job<'a, 's> {
    pub(super) session: &'s Session<'a>,
    pub(super) reader: &'s VolumeReader,
    pub(super) parent: Option<Parent<'a>>,
    pub(super) data: Packer<'a, 's>,
    meta: Packer<'a, 's>,
    pub(super) cutter: Cutter,
}

impl Job<'_, '_> {
    fn run(&self) -> Result<Manifest> {
        let span_bytes = self.session.vault.parameters.span_bytes;
        let count = self.reader.length().div_ceil(span_bytes) as usize;
        let entries: Vec<OnceLock<SpanEntry>> = (0..count).map(|_| OnceLock::new()).collect();
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..self.session.vault.options.threads.min(count) {
                scope.spawn(|| {
                    if let Err(error) = self.work(&next, &entries) {
                        self.session.fail(error);
                    }
                });
            }
        });
        check(self.session.progress)?;
        let entries: Vec<SpanEntry> = entries
            .into_iter()
            .map(|entry| entry.into_inner().expect("every span was done"))
            .collect();
        self.data.finish()?;
        let manifest = self.tree(&entries)?;
        self.meta.finish()?;
        Ok(manifest)
    }

    /// One thread: takes spans until none is left.
    fn work(&self, next: &AtomicUsize, entries: &[OnceLock<SpanEntry>]) -> Result<()> {
        let mut writer = SpanWriter::new(self);
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(slot) = entries.get(number) else {
                return Ok(());
            };
            check(self.session.progress)?;
            let start = number as u64 * self.session.vault.parameters.span_bytes;
            let end = (start + self.session.vault.parameters.span_bytes).min(self.reader.length());
            slot.set(writer.write(number, start..end)?)
                .expect("a span is taken by one thread");
            Progress::add(&self.session.progress.done, end - start);
        }
    }

    /// Nodes over all spans, bottom up.
    fn tree(&self, entries: &[SpanEntry]) -> Result<Manifest> {
        let mut packs = RoaringBitmap::new();
        let mut digest = blake3::Hasher::new();
        let mut logical_bytes = 0;
        for entry in entries {
            match entry {
                SpanEntry::Hole => {
                    digest.update(&[0; 16]);
                }
                SpanEntry::Leaf {
                    leaf,
                    data_bytes,
                    sums,
                    packs: data_packs,
                } => {
                    digest.update(&leaf.id);
                    logical_bytes += u64::from(*data_bytes);
                    packs.insert(leaf.pack);
                    packs.extend(data_packs);
                    for sums in sums.iter().flat_map(|sums| [Some(sums.base), sums.patch]) {
                        packs.extend(sums.map(|sums| sums.pack));
                    }
                }
            }
        }
        let mut level = entries
            .chunks(NODE_CHILDREN)
            .map(
                |spans| match spans.iter().all(|span| *span == SpanEntry::Hole) {
                    true => Ok(None),
                    false => self
                        .put_meta(ChunkKind::Node, &encode_span_node(spans))
                        .map(Some),
                },
            )
            .collect::<Result<Vec<_>>>()?;
        let mut levels = 1;
        packs.extend(level.iter().flatten().map(|node| node.pack));
        while level.len() > 1 {
            level = level
                .chunks(NODE_CHILDREN)
                .map(|nodes| match nodes.iter().all(Option::is_none) {
                    true => Ok(None),
                    false => self
                        .put_meta(ChunkKind::Node, &encode_inner_node(levels, nodes))
                        .map(Some),
                })
                .collect::<Result<Vec<_>>>()?;
            levels += 1;
            packs.extend(level.iter().flatten().map(|node| node.pack));
        }
        Ok(Manifest {
            tree: level.pop().flatten(),
            levels,
            packs,
            leaves_digest: digest.finalize().to_hex().to_string(),
            logical_bytes,
        })
    }

    /// Stores a leaf, node or sums, unless it is known.
    pub(super) fn put_meta(&self, kind: ChunkKind, plain: &[u8]) -> Result<ChunkRef> {
        let id = ChunkId::of(&self.session.vault.keys.id, plain);
        if !self.session.distrusts_meta.load(Ordering::SeqCst)
            && let Some(known) = self.session.index.known(&[id])?.get(&id)
        {
            return Ok(*known);
        }
        let chunk = NewChunk {
            id,
            kind,
            plain_length: u32::try_from(plain.len()).expect("a manifest part is small"),
            encoded: self.session.vault.encoder().encode(plain),
        };
        let places = self.meta.append(vec![chunk])?;
        Ok(places[0])
    }
}
