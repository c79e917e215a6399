//! The tree over the spans of a new backup, written as they are done.

use crate::engine::Result;
use crate::engine::format::NODE_CHILDREN;
use crate::engine::format::manifest::{FrameRef, SpanEntry, encode_inner_node, encode_span_node};
use roaring::RoaringBitmap;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

/// The tree of a new backup, and the totals over its spans.
pub(crate) struct Manifest {
    pub(crate) tree: Option<FrameRef>,
    pub(crate) levels: u8,
    pub(crate) packs: RoaringBitmap,
    pub(crate) leaves_digest: String,
    pub(crate) logical_bytes: u64,
}

/// Collects the spans of a new backup, in any order. Shared by threads.
pub(crate) struct TreeWriter {
    span_count: usize,
    state: Mutex<State>,
}

struct State {
    /// Nodes of which some spans are still to come, with how many.
    open: HashMap<usize, (Vec<SpanEntry>, usize)>,
    nodes: Vec<Option<FrameRef>>,
    digests: Vec<blake3::Hash>,
    packs: RoaringBitmap,
    logical_bytes: u64,
}

impl TreeWriter {
    pub(crate) fn new(span_count: usize) -> Self {
        let node_count = span_count.div_ceil(NODE_CHILDREN);
        Self {
            span_count,
            state: Mutex::new(State {
                open: HashMap::new(),
                nodes: vec![None; node_count],
                digests: vec![blake3::Hash::from_bytes([0; 32]); node_count],
                packs: RoaringBitmap::new(),
                logical_bytes: 0,
            }),
        }
    }

    /// Takes a span, and stores its node if it was the last one of it.
    pub(crate) fn put(
        &self,
        number: usize,
        entry: SpanEntry,
        store: impl FnOnce(&[u8]) -> Result<FrameRef>,
    ) -> Result<()> {
        let node = number / NODE_CHILDREN;
        let first = node * NODE_CHILDREN;
        let width = NODE_CHILDREN.min(self.span_count - first);
        let mut state = self.state();
        let (entries, missing) = state
            .open
            .entry(node)
            .or_insert_with(|| (vec![SpanEntry::Hole; width], width));
        entries[number - first] = entry;
        *missing -= 1;
        if *missing > 0 {
            return Ok(());
        }
        let Some((entries, _)) = state.open.remove(&node) else {
            return Ok(());
        };
        state.digests[node] = state.count(&entries);
        if entries.iter().all(|entry| *entry == SpanEntry::Hole) {
            return Ok(());
        }
        drop(state);
        let stored = store(&encode_span_node(&entries))?;
        let mut state = self.state();
        state.packs.insert(stored.pack);
        state.nodes[node] = Some(stored);
        Ok(())
    }

    /// Stores the nodes above, bottom up.
    pub(crate) fn finish(self, store: impl Fn(&[u8]) -> Result<FrameRef>) -> Result<Manifest> {
        let mut state = self
            .state
            .into_inner()
            .expect("no panic while the tree is locked");
        let mut level = state.nodes;
        let mut levels = 1;
        while level.len() > 1 {
            level = level
                .chunks(NODE_CHILDREN)
                .map(|nodes| {
                    if nodes.iter().all(Option::is_none) {
                        Ok(None)
                    } else {
                        store(&encode_inner_node(levels, nodes)).map(Some)
                    }
                })
                .collect::<Result<Vec<_>>>()?;
            levels += 1;
            state
                .packs
                .extend(level.iter().flatten().map(|node| node.pack));
        }
        let mut digest = blake3::Hasher::new();
        for node in &state.digests {
            digest.update(node.as_bytes());
        }
        Ok(Manifest {
            tree: level.pop().flatten(),
            levels,
            packs: state.packs,
            leaves_digest: digest.finalize().to_hex().to_string(),
            logical_bytes: state.logical_bytes,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no panic while the tree is locked")
    }
}

impl State {
    /// Adds the spans of a node to the tallies; gives the digest over its leaves.
    fn count(&mut self, entries: &[SpanEntry]) -> blake3::Hash {
        let mut digest = blake3::Hasher::new();
        for entry in entries {
            match entry {
                SpanEntry::Hole => {
                    digest.update(&[0; 16]);
                }
                SpanEntry::Leaf {
                    leaf,
                    data_bytes,
                    sums,
                    packs,
                } => {
                    digest.update(&leaf.check);
                    self.logical_bytes += u64::from(*data_bytes);
                    self.packs.insert(leaf.pack);
                    self.packs.extend(packs);
                    for sums in sums.iter().flat_map(|sums| [Some(sums.base), sums.patch]) {
                        self.packs.extend(sums.map(|sums| sums.pack));
                    }
                }
            }
        }
        digest.finalize()
    }
}
