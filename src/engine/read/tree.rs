//! Reads the tree over a backup's spans, which `write/tree.rs` wrote. Of the spans only those of a few nodes are ever
//! in memory, however large the volume is.

use crate::engine::format::NODE_CHILDREN;
use crate::engine::format::manifest::{
    FrameRef, Root, SpanEntry, decode_inner_node, decode_span_node,
};
use crate::engine::read::reader::FrameReader;
use crate::engine::{Error, Result};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

/// Nodes kept by a reader: the threads of a job work close together.
const NODES_KEPT: usize = 4;

/// The spans of a stored backup. Shared by threads.
pub(crate) struct TreeReader<'r, 'a> {
    reader: &'r FrameReader<'a>,
    span_count: usize,
    nodes: Vec<Option<FrameRef>>,
    kept: Mutex<VecDeque<(usize, Arc<Vec<SpanEntry>>)>>,
}

impl<'r, 'a> TreeReader<'r, 'a> {
    /// Reads all nodes but the lowest.
    pub(crate) fn open(reader: &'r FrameReader<'a>, root: &Root) -> Result<Self> {
        let too_large = || Error::corrupt(format!("root of {}", root.backup.id), "too large");
        let span_count = usize::try_from(root.volume_bytes.div_ceil(root.span_bytes))
            .ok()
            .filter(|count| *count <= 1 << 32)
            .ok_or_else(too_large)?;
        let node_count = span_count.div_ceil(NODE_CHILDREN);
        let mut level = vec![root.tree];
        for number in (1..root.levels).rev() {
            // What the level below must have; a hole stands for as many as are left.
            let width = (1..number).fold(node_count, |count, _| count.div_ceil(NODE_CHILDREN));
            let mut below = Vec::new();
            for node in level {
                match node {
                    None => below.resize((below.len() + NODE_CHILDREN).min(width), None),
                    Some(node) => below.extend(
                        decode_inner_node(&reader.frame(&node)?, number)
                            .ok_or_else(|| unreadable(&node))?,
                    ),
                }
            }
            level = below;
        }
        if root.tree.is_none() {
            level = vec![None; node_count];
        }
        if level.len() != node_count {
            return Err(Error::corrupt(
                format!("manifest of backup {}", root.backup.id),
                "it does not cover the volume",
            ));
        }
        Ok(Self {
            reader,
            span_count,
            nodes: level,
            kept: Mutex::default(),
        })
    }

    /// How many spans there are.
    pub(crate) fn len(&self) -> usize {
        self.span_count
    }

    /// Spans that may hold data, from the nodes above: a bound, not a count.
    pub(crate) fn leaves_max(&self) -> usize {
        self.nodes.iter().flatten().count() * NODE_CHILDREN
    }

    /// One span; `None` beyond the end.
    pub(crate) fn span(&self, number: usize) -> Result<Option<SpanEntry>> {
        if number >= self.span_count {
            return Ok(None);
        }
        let index = number / NODE_CHILDREN;
        let Some(node) = self.nodes[index] else {
            return Ok(Some(SpanEntry::Hole));
        };
        let entries = match self.find_kept(index) {
            Some(entries) => entries,
            None => self.load(index, &node)?,
        };
        Ok(Some(entries[number % NODE_CHILDREN].clone()))
    }

    fn find_kept(&self, index: usize) -> Option<Arc<Vec<SpanEntry>>> {
        let kept = self.kept();
        let (_, entries) = kept.iter().find(|(kept, _)| *kept == index)?;
        Some(entries.clone())
    }

    fn load(&self, index: usize, node: &FrameRef) -> Result<Arc<Vec<SpanEntry>>> {
        let width = NODE_CHILDREN.min(self.span_count - index * NODE_CHILDREN);
        let entries = decode_span_node(&self.reader.frame(node)?)
            .filter(|entries| entries.len() == width)
            .ok_or_else(|| unreadable(node))?;
        let entries = Arc::new(entries);
        let mut kept = self.kept();
        if kept.len() >= NODES_KEPT {
            kept.pop_front();
        }
        kept.push_back((index, entries.clone()));
        Ok(entries)
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(usize, Arc<Vec<SpanEntry>>)>> {
        self.kept
            .lock()
            .expect("no panic while the nodes are locked")
    }
}

pub(crate) fn unreadable(node: &FrameRef) -> Error {
    Error::corrupt(format!("a node in pack {:08x}", node.pack), "unreadable")
}
