//! A span's extents after some of it changed: the parent's, split around what is new. And the
//! limit to how scattered a span may become in this way.

use crate::engine::format::manifest::{Extent, FrameRef};
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// Most plain bytes that may have to be fetched for each live byte of a span, in quarters. Tuned over
/// 100 generations of 1 % scattered writes: less makes the rewriting cost more than half of what
/// changed, more makes a restore take half as long again as a fresh full's.
const FETCHED_QUARTERS_MAX: u64 = 7;

/// Something new at an offset of the span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub start: u32,
    pub extent: Extent,
}

/// The parent's extents with the changes in their places. Changes are sorted, do not overlap and
/// lie within the span.
pub fn splice(parent: &[Extent], changes: &[Change]) -> Vec<Extent> {
    let mut old = Cursor {
        extents: parent,
        used: 0,
    };
    let mut extents = Vec::with_capacity(parent.len() + 2 * changes.len());
    let mut at = 0;
    for change in changes {
        old.take(change.start - at, |extent| append(&mut extents, extent));
        old.take(change.extent.length(), |_| {});
        append(&mut extents, change.extent);
        at = change.start + change.extent.length();
    }
    old.take(u32::MAX, |extent| append(&mut extents, extent));
    extents
}

/// Walks over extents, cutting them where it must.
struct Cursor<'e> {
    extents: &'e [Extent],
    /// Bytes of the first extent that were taken.
    used: u32,
}

impl Cursor<'_> {
    fn take(&mut self, mut length: u32, mut give: impl FnMut(Extent)) {
        while length > 0
            && let Some((first, rest)) = self.extents.split_first()
        {
            let taken = length.min(first.length() - self.used);
            give(part(first, self.used, taken));
            length -= taken;
            self.used += taken;
            if self.used == first.length() {
                (self.extents, self.used) = (rest, 0);
            }
        }
    }
}

fn part(extent: &Extent, from: u32, length: u32) -> Extent {
    match *extent {
        Extent::Hole { .. } => Extent::Hole { length },
        Extent::Slice { frame, offset, .. } => Extent::Slice {
            length,
            frame,
            offset: offset + from,
        },
    }
}

/// Adds an extent; what continues the one before becomes one with it.
fn append(extents: &mut Vec<Extent>, next: Extent) {
    match (extents.last_mut(), next) {
        (_, Extent::Hole { length: 0 } | Extent::Slice { length: 0, .. }) => {}
        (Some(Extent::Hole { length }), Extent::Hole { length: more }) => *length += more,
        (
            Some(Extent::Slice {
                length,
                frame,
                offset,
            }),
            Extent::Slice {
                length: more,
                frame: same,
                offset: after,
            },
        ) if *frame == same && *offset + *length == after => *length += more,
        _ => extents.push(next),
    }
}

/// Ranges of the span to store anew because they lie in frames of which little else is used: none
/// while a restore fetches at most seven quarters of what it needs, and never more than the
/// budget, in bytes.
pub fn scattered(extents: &[Extent], budget: u64) -> Vec<Range<u32>> {
    let mut live: HashMap<FrameRef, u64> = HashMap::new();
    for extent in extents {
        if let Extent::Slice { length, frame, .. } = extent {
            *live.entry(*frame).or_default() += u64::from(*length);
        }
    }
    let needed: u64 = live.values().sum();
    let mut fetched: u64 = live.keys().map(|frame| u64::from(frame.length)).sum();
    let mut frames: Vec<(FrameRef, u64)> = live.into_iter().collect();
    // The least used first; the rest of the key makes the order one and the same every time.
    frames.sort_by(|(one, live), (other, more)| {
        let (left, right) = (live * u64::from(other.length), more * u64::from(one.length));
        left.cmp(&right).then(one.cmp(other))
    });
    let mut left = budget;
    let mut victims = HashSet::new();
    for (frame, live) in frames {
        // A slice may appear several times, so more may be live than the frame has.
        let saved = u64::from(frame.length).saturating_sub(live);
        if 4 * fetched <= FETCHED_QUARTERS_MAX * needed || live > left || saved == 0 {
            break;
        }
        left -= live;
        fetched -= saved;
        victims.insert(frame);
    }
    ranges(extents, |frame| victims.contains(frame))
}

fn ranges(extents: &[Extent], is_wanted: impl Fn(&FrameRef) -> bool) -> Vec<Range<u32>> {
    let mut ranges: Vec<Range<u32>> = Vec::new();
    let mut at = 0;
    for extent in extents {
        let end = at + extent.length();
        if let Extent::Slice { frame, .. } = extent
            && is_wanted(frame)
        {
            match ranges.last_mut() {
                Some(last) if last.end == at => last.end = end,
                _ => ranges.push(at..end),
            }
        }
        at = end;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(number: u32, length: u32) -> FrameRef {
        FrameRef {
            pack: number / 7,
            ordinal: number,
            length,
            check: [0; 8],
        }
    }

    /// For each byte of the span: zero, or a byte of a frame.
    fn bytes(extents: &[Extent]) -> Vec<Option<(FrameRef, u32)>> {
        extents
            .iter()
            .flat_map(|extent| {
                (0..extent.length()).map(move |byte| match extent {
                    Extent::Hole { .. } => None,
                    Extent::Slice { frame, offset, .. } => Some((*frame, offset + byte)),
                })
            })
            .collect()
    }

    fn extent() -> impl Strategy<Value = Extent> {
        prop_oneof![
            (1..50_u32).prop_map(|length| Extent::Hole { length }),
            (1..50_u32, 0..9_u32, 0..50_u32).prop_map(|(length, number, offset)| Extent::Slice {
                length,
                frame: frame(number, 100),
                offset,
            }),
        ]
    }

    proptest! {
        #[test]
        fn splicing_is_writing_over_an_array(
            parent in proptest::collection::vec(extent(), 1..20),
            gaps in proptest::collection::vec((0..40_u32, extent()), 0..12),
        ) {
            let mut expected = bytes(&parent);
            let mut changes = Vec::new();
            let mut at = 0;
            for (gap, extent) in gaps {
                let start = at + gap;
                at = start + extent.length();
                if at as usize > expected.len() {
                    break;
                }
                expected[start as usize..at as usize].copy_from_slice(&bytes(&[extent]));
                changes.push(Change { start, extent });
            }
            let spliced = splice(&parent, &changes);
            prop_assert_eq!(bytes(&spliced), expected);
        }
    }

    #[test]
    fn little_used_frames_are_gathered_within_the_budget_and_only_when_it_pays() {
        let slice = |number, length| Extent::Slice {
            length,
            frame: frame(number, 100),
            offset: 0,
        };
        let dense = [slice(0, 100), slice(1, 90)];
        assert!(scattered(&dense, 1000).is_empty());
        let sparse = [slice(0, 100), slice(1, 10), slice(2, 20), slice(3, 15)];
        assert_eq!(scattered(&sparse, 1000), [100..110, 130..145]);
        assert_eq!(scattered(&sparse, 24), std::slice::from_ref(&(100..110)));
        assert!(scattered(&sparse, 9).is_empty());
    }
}
