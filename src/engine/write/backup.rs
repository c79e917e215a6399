//! One backup: spans in parallel, the blocks of a span in order. Packs first, the root last.

use crate::db;
use crate::engine::format::ChunkKind;
use crate::engine::format::keys::random_bytes;
use crate::engine::format::manifest::{Root, encode_pack_set};
use crate::engine::read::reader::FrameReader;
use crate::engine::vault::Vault;
use crate::engine::write::chunker::Cutter;
use crate::engine::write::packer::{Packer, Uploads};
use crate::engine::write::parent::{unless_damaged, usable_parent};
use crate::engine::write::session::WriteSession;
use crate::engine::write::shared::BackupRun;
use crate::engine::write::span::SpanWriter;
use crate::engine::write::tree::{Manifest, TreeWriter};
use crate::engine::{Result, check};
use crate::model::description::Description;
use crate::model::job::Lease;
use crate::model::pack::PackKind;
use crate::model::progress::Progress;
use crate::volume::Source;
use roaring::RoaringBitmap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Makes a backup and stores its root. A root that is there already, from a run that was interrupted right after it,
/// is the result. The parent only saves work; it is used if none of its packs is being removed.
pub fn run(
    vault: &Vault,
    lease: &Lease,
    description: Description,
    parent: Option<&Root>,
    source: &Source,
    progress: &Progress,
) -> Result<Root> {
    let session = WriteSession::begin(vault, lease, progress)?;
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
        let job = BackupRun {
            session: &session,
            source,
            parent,
            data: Packer::new(&session, PackKind::Data, sender.clone()),
            meta: Packer::new(&session, PackKind::Meta, sender),
            meta_encoder: Mutex::new(session.encoder()),
            cutter: Cutter::new(&vault.parameters, vault.keys.cut_seed),
            seed: u64::from_le_bytes(random_bytes()),
            tracking_failed: AtomicBool::new(false),
            source_disproved: AtomicBool::new(false),
        };
        job.run()
        // Here the senders are dropped, and the uploading threads end.
    });
    if let Some(failure) = session.failure() {
        return Err(failure);
    }
    let (manifest, is_disproved) = backup?;
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
        // Nothing may rely on what a source says that was wrong before.
        source_change_id: source.change_id.clone().filter(|_| !is_disproved),
        logical_bytes: manifest.logical_bytes,
        read_bytes: Progress::value(&progress.read),
        stored_bytes: Progress::value(&progress.stored),
        deduplicated_bytes: Progress::value(&progress.deduplicated),
        object_count: Progress::value(&progress.objects),
    };
    check(progress)?;
    // First: a root whose backup does not have this note was stored by a database that this one is an old copy of.
    session.write(|c| db::backups::note_root(c, &root.backup.id))?;
    vault.put_root(root, progress)
}

impl BackupRun<'_, '_> {
    /// The manifest, and whether the source has reported changed blocks as unchanged.
    fn run(&self) -> Result<(Manifest, bool)> {
        let mut tree = self.pass()?;
        let mut is_disproved = false;
        if !self.are_reports_kept()? {
            tracing::warn!(
                session = %self.session.lease.job_id,
                "what the source reported changes from was removed meanwhile; the whole volume is read"
            );
            self.source_disproved.store(true, Ordering::SeqCst);
            tree = self.pass_again()?;
        } else if self.source_disproved.load(Ordering::SeqCst) {
            tracing::error!(
                session = %self.session.lease.job_id,
                change.id = self.source.change_id,
                "the source reported changed blocks as unchanged; the whole volume is read"
            );
            is_disproved = true;
            tree = self.pass_again()?;
        }
        self.data.finish()?;
        let manifest = tree.finish(|node| self.put_meta(ChunkKind::Node, node))?;
        self.meta.finish()?;
        Ok((manifest, is_disproved))
    }

    fn pass_again(&self) -> Result<TreeWriter> {
        let progress = self.session.progress;
        progress.done.store(0, Ordering::Relaxed);
        progress.deduplicated.store(0, Ordering::Relaxed);
        self.pass()
    }

    /// Goes through all spans once; ends early if the source proves to have reported changes wrongly.
    fn pass(&self) -> Result<TreeWriter> {
        let span_bytes = self.session.vault.parameters.span_bytes;
        let count = usize::try_from(self.source.reader.length().div_ceil(span_bytes))
            .expect("a machine that holds the volume can count its spans");
        let tree = TreeWriter::new(count);
        let distrusted = self.source_disproved.load(Ordering::SeqCst);
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            let mut writer = SpanWriter::new(self);
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let is_disproved = self.source_disproved.load(Ordering::SeqCst) != distrusted;
                if number >= count || is_disproved {
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
}
