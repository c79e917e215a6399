//! The frames that backups can reach, exactly. A node or leaf that several backups share is read once.

use crate::engine::Result;
use crate::engine::format::NODE_CHILDREN;
use crate::engine::format::manifest::{
    Extent, FrameRef, Root, SpanEntry, decode_inner_node, decode_leaf, decode_span_node,
};
use crate::engine::read::reader::{FrameReader, Scratch};
use crate::engine::read::tree::unreadable;
use roaring::{RoaringBitmap, RoaringTreemap};
use std::collections::BTreeMap;

/// The frames in use; a few bytes of memory for each.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// Ordinals by pack.
    frames: BTreeMap<u32, RoaringBitmap>,
    /// Packs of volumes' data; all others are packs of manifests.
    data: RoaringBitmap,
    /// Nodes and leaves that were read.
    followed: RoaringTreemap,
    /// Those that were read first for the backup that is being added.
    fresh: Vec<u64>,
}

impl Live {
    /// Adds what one backup reaches. After an error, the frames found so far still count as used. Another backup that
    /// shares nodes or leaves with it reads them again, and gets the same error.
    pub(crate) fn add(&mut self, reader: &FrameReader<'_>, root: &Root) -> Result<()> {
        self.fresh.clear();
        let added = self.follow_all(reader, root);
        if added.is_err() {
            for place in std::mem::take(&mut self.fresh) {
                self.followed.remove(place);
            }
        }
        added
    }

    fn follow_all(&mut self, reader: &FrameReader<'_>, root: &Root) -> Result<()> {
        let Some(top) = root.tree else { return Ok(()) };
        let mut level = vec![(top, 0)];
        for number in (1..root.levels).rev() {
            let width = (NODE_CHILDREN as u64).pow(number.into());
            level = self.follow(reader, level, |bytes, first, below| {
                let children = decode_inner_node(bytes, number)?;
                for (child, index) in children.into_iter().zip(0..) {
                    below.extend(child.map(|child| (child, first + index * width)));
                }
                Some(())
            })?;
        }
        let mut entries = Vec::new();
        let leaves = self.follow(reader, level, |bytes, first, below| {
            for (entry, number) in decode_span_node(bytes)?.into_iter().zip(first..) {
                if let SpanEntry::Leaf { leaf, sums, .. } = entry {
                    below.push((leaf, number));
                    entries.extend(sums);
                }
            }
            Some(())
        })?;
        for sums in entries {
            self.mark(&sums.base);
            sums.patch.iter().for_each(|patch| self.mark(patch));
        }
        let mut slices = Vec::new();
        // In batches, so that not all extents of a large volume are in memory.
        for batch in leaves.chunks(NODE_CHILDREN) {
            self.follow(reader, batch.to_vec(), |bytes, number, _| {
                let start = number * root.span_bytes;
                let length = root.span_bytes.min(root.volume_bytes.checked_sub(start)?);
                slices.extend(
                    decode_leaf(bytes, length)?
                        .into_iter()
                        .filter_map(|extent| match extent {
                            Extent::Hole { .. } => None,
                            Extent::Slice { frame, .. } => Some(frame),
                        }),
                );
                Some(())
            })?;
            for frame in slices.drain(..) {
                self.data.insert(frame.pack);
                self.mark(&frame);
            }
        }
        Ok(())
    }

    /// Reads those of these nodes or leaves that were not read before, each with the number of its
    /// first span, and gives what `decode` finds below them.
    fn follow(
        &mut self,
        reader: &FrameReader<'_>,
        level: Vec<(FrameRef, u64)>,
        mut decode: impl FnMut(&[u8], u64, &mut Vec<(FrameRef, u64)>) -> Option<()>,
    ) -> Result<Vec<(FrameRef, u64)>> {
        let mut first_spans = BTreeMap::new();
        for (frame, first) in level {
            self.mark(&frame);
            if self.followed.insert(place(&frame)) {
                self.fresh.push(place(&frame));
                first_spans.insert(place(&frame), (frame, first));
            }
        }
        let mut below = Vec::new();
        let wanted: Vec<FrameRef> = first_spans.values().map(|(frame, _)| *frame).collect();
        let mut scratch = Scratch::default();
        reader.frames(&mut scratch, wanted.into_iter(), |frame, bytes| {
            let (_, first) = first_spans[&place(frame)];
            decode(bytes, first, &mut below).ok_or_else(|| unreadable(frame))
        })?;
        Ok(below)
    }

    fn mark(&mut self, frame: &FrameRef) {
        self.frames
            .entry(frame.pack)
            .or_default()
            .insert(frame.ordinal);
    }

    /// Whether it is a pack of volumes' data of which frames are in use.
    pub(crate) fn is_data(&self, pack: u32) -> bool {
        self.data.contains(pack)
    }

    /// The packs of which frames are in use, with the frames.
    pub(crate) fn packs(&self) -> impl Iterator<Item = (u32, &RoaringBitmap)> {
        self.frames.iter().map(|(pack, frames)| (*pack, frames))
    }

    /// The frames of a pack that are in use.
    pub(crate) fn of(&self, pack: u32) -> Option<&RoaringBitmap> {
        self.frames.get(&pack)
    }
}

fn place(frame: &FrameRef) -> u64 {
    u64::from(frame.pack) << 32 | u64::from(frame.ordinal)
}
