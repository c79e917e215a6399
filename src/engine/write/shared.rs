//! State that the threads of one backup share.

use crate::engine::Result;
use crate::engine::format::ChunkKind;
use crate::engine::format::codec::Encoder;
use crate::engine::format::manifest::{ChunkId, FrameRef, SpanEntry};
use crate::engine::format::pack::NewFrame;
use crate::engine::format::row::ChunkRow;
use crate::engine::format::sums::whole_blocks;
use crate::engine::write::chunker::Cutter;
use crate::engine::write::packer::Packer;
use crate::engine::write::parent::{Parent, unless_damaged};
use crate::engine::write::session::WriteSession;
use crate::model::error::chain;
use crate::volume::Source;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Spans of a backup of which a few blocks are compared although they were reported as unchanged.
const SAMPLED_SPANS: u64 = 32;

/// State that the threads of one backup share.
pub(super) struct BackupRun<'a, 's> {
    pub(super) session: &'s WriteSession<'a>,
    pub(super) source: &'s Source,
    pub(super) parent: Option<Parent<'s, 'a>>,
    pub(super) data: Packer<'a, 's>,
    pub(super) meta: Packer<'a, 's>,
    pub(super) meta_encoder: Mutex<Encoder<'s>>,
    pub(super) cutter: Cutter,
    /// Seed for the choice of samples.
    pub(super) seed: u64,
    /// Set when the source has failed to report changes; so it is logged once.
    pub(super) tracking_failed: AtomicBool,
    /// Set when a block that the source reported as unchanged has changed: its reports are then ignored.
    pub(super) source_disproved: AtomicBool,
}

impl BackupRun<'_, '_> {
    /// The parent's entry for a span, if it covers the same bytes and needs no damaged pack.
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

    /// The changes in a span since the parent, as the source reports them, in whole blocks. `None`: the source does not
    /// know, or its reports were disproved.
    pub(super) fn reported(&self, span: &Range<u64>) -> Option<Vec<Range<u64>>> {
        let changes = self.source.changes.as_ref()?;
        let since = self.parent.as_ref()?.change_id.as_ref()?;
        if *since != changes.since || self.source_disproved.load(Ordering::SeqCst) {
            return None;
        }
        match changes.within(span.clone()) {
            Ok(changed) => Some(whole_blocks(changed.into_iter(), span)),
            Err(error) => {
                if !self.tracking_failed.swap(true, Ordering::SeqCst) {
                    tracing::warn!(session = %self.session.lease.job_id, error = %chain(&error), "the source did not report what changed; the volume is read");
                }
                None
            }
        }
    }

    /// Whether the source could report changes until now; of a source that reports none, there is nothing to doubt.
    pub(super) fn are_reports_kept(&self) -> Result<bool> {
        match &self.source.changes {
            Some(changes) if self.parent.is_some() => Ok(changes.hold()?),
            _ => Ok(true),
        }
    }

    /// Whether a few blocks of the span are compared although they were reported as unchanged.
    pub(super) fn is_sampled(&self, number: usize) -> bool {
        let leaves = self
            .parent
            .as_ref()
            .map_or(0, |parent| parent.tree.leaves_max() as u64);
        self.session.vault.options.paranoid
            || self.random(number, u64::MAX) % leaves.max(1) < SAMPLED_SPANS
    }

    /// A number that clients cannot predict.
    pub(super) fn random(&self, number: usize, turn: u64) -> u64 {
        let input = [(number as u64).to_le_bytes(), turn.to_le_bytes()].concat();
        xxh3_64_with_seed(&input, self.seed)
    }

    /// Stores a leaf, node or sums, unless it is known.
    pub(super) fn put_meta(&self, kind: ChunkKind, plain: &[u8]) -> Result<FrameRef> {
        let id = ChunkId::of(&self.session.vault.keys.id, plain);
        if !self.session.meta_damaged.load(Ordering::SeqCst)
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
