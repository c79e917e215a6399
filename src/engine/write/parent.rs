//! The backup that a new one is made against. It only saves work.

use crate::db;
use crate::engine::format::manifest::{Root, SpanEntry, decode_pack_set};
use crate::engine::read::reader::FrameReader;
use crate::engine::read::tree::TreeReader;
use crate::engine::write::session::WriteSession;
use crate::engine::{Error, Result};
use roaring::RoaringBitmap;
use std::sync::atomic::Ordering;

/// A damaged parent does not damage its child: a part of it that cannot be read is treated as missing, and that data is
/// read and stored again.
pub(super) fn unless_damaged<T>(session: &WriteSession<'_>, read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(Error::Corrupt { .. } | Error::Missing { .. }) => {
            session.meta_damaged.store(true, Ordering::SeqCst);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The backup this one is made against.
pub(super) struct Parent<'r, 'a> {
    pub(super) reader: &'r FrameReader<'a>,
    pub(super) tree: TreeReader<'r, 'a>,
    pub(super) span_bytes: u64,
    pub(super) volume_bytes: u64,
    pub(super) change_id: Option<String>,
    /// All packs it needs.
    pub(super) packs: RoaringBitmap,
    /// Packs that are marked damaged: entries that need them are not inherited.
    pub(super) damaged: RoaringBitmap,
}

impl Parent<'_, '_> {
    pub(super) fn is_sound(&self, entry: &SpanEntry) -> bool {
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

pub(super) fn usable_parent<'r, 'a>(
    session: &WriteSession<'a>,
    reader: &'r FrameReader<'a>,
    root: &Root,
) -> Result<Option<Parent<'r, 'a>>> {
    let packs = decode_pack_set(&root.pack_set)?;
    if root.span_bytes != session.vault.parameters.span_bytes || !session.index.hold(&packs)? {
        return Ok(None);
    }
    let vault = session.vault;
    // Only now, as the references are committed. If the parent was deleted before that, a compaction may have dropped
    // frames that its leaves name. The row alone does not prove that it was not: a deletion that failed halfway has
    // removed the root but not the row.
    let id = &root.backup.id;
    let is_needed = vault.db.read(|c| db::gc::is_needed(c, &vault.id, id))?;
    if !is_needed || !vault.has_root(id)? {
        return Ok(None);
    }
    let damaged = vault.db.read(|c| db::health::damaged(c, vault.number))?;
    Ok(Some(Parent {
        reader,
        packs,
        damaged: damaged.iter().map(|pack| pack.number.get()).collect(),
        tree: TreeReader::open(reader, root)?,
        span_bytes: root.span_bytes,
        volume_bytes: root.volume_bytes,
        change_id: root.source_change_id.clone(),
    }))
}
