//! The tree over a backup's spans: written as spans are done, read as they are needed. Of the
//! spans only those of a few nodes are ever in memory, however large the volume is.

use crate::engine::format::NODE_CHILDREN;
use crate::engine::manifest::{
    FrameRef, Root, SpanEntry, decode_inner_node, decode_span_node, encode_inner_node,
    encode_span_node,
};
use crate::engine::reader::FrameReader;
use crate::engine::{Error, Result};
use roaring::RoaringBitmap;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

/// Nodes kept by a reader: the threads of a job work close together.
const NODES_KEPT: usize = 4;

/// What all spans of a new backup come to.
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
                .map(|nodes| match nodes.iter().all(Option::is_none) {
                    true => Ok(None),
                    false => store(&encode_inner_node(levels, nodes)).map(Some),
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
