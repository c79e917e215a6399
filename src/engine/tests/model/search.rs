//! Going through all orders, and looking at each end for leaks.

use super::*;
use std::collections::HashSet;

/// How much a search went through.
#[derive(Debug)]
struct Search {
    states: usize,
    steps: usize,
    ends: usize,
}

/// Goes through all orders; an order that breaks something ends the search.
fn explore(
    (sessions, threads, collectors): (usize, usize, usize),
    flaw: Flaw,
) -> Result<Search, String> {
    let start = State::new(sessions, threads, collectors);
    let mut seen = HashSet::from([fingerprint(&start)]);
    let mut open = vec![start];
    let mut search = Search {
        states: 1,
        steps: 0,
        ends: 0,
    };
    while let Some(state) = open.pop() {
        let next = state.next(flaw);
        if next.is_empty() {
            search.ends += 1;
            leaks(&state)?;
        }
        for state in next {
            search.steps += 1;
            if seen.insert(fingerprint(&state)) {
                search.states += 1;
                state.violation().map_or(Ok(()), Err)?;
                open.push(state);
            }
        }
    }
    Ok(search)
}

/// 128 bits tell states apart; whole ones would fill the memory.
fn fingerprint(state: &State) -> [u8; 16] {
    struct Bytes(blake3::Hasher);
    impl std::hash::Hasher for Bytes {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut hasher = Bytes(blake3::Hasher::new());
    std::hash::Hash::hash(state, &mut hasher);
    hasher.0.finalize().as_bytes()[..16].try_into().unwrap()
}

/// Two undisturbed collections later nothing is stored but what backups need.
fn leaks(end: &State) -> Result<(), String> {
    let mut state = end.clone();
    for _ in 0..2 {
        state.actors = vec![Actor::Collector(Collector::Waiting)];
        // The last of what can happen next: of a census, nothing is compacted.
        while let Some(next) = state.next(Flaw::None).pop() {
            state = next;
        }
    }
    let needed: BTreeSet<(u8, u8)> = state
        .sets()
        .into_iter()
        .map(|pack| (pack, state.packs[pack as usize].rewrite))
        .collect();
    let stored: BTreeSet<(u8, u8)> = state
        .objects
        .iter()
        .map(|(pack, rewrite, _)| (*pack, *rewrite))
        .collect();
    if stored == needed && state.roots == state.backups {
        Ok(())
    } else {
        Err(format!(
            "stored {stored:?}, needed {needed:?} after {end:?}"
        ))
    }
}

#[test]
fn no_order_of_transactions_loses_or_leaks_anything() {
    let mut sizes = vec![(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2)];
    if std::env::var_os("EMBERVAULT_SOAK").is_some() {
        sizes.extend([(2, 1, 2), (1, 2, 2)]);
    }
    for size in sizes {
        let search = explore(size, Flaw::None).unwrap();
        println!("(sessions, threads of each, collectors) {size:?}: {search:?}");
        assert!(search.states > 500 && search.ends > 1);
    }
}

#[test]
fn every_rule_of_the_protocol_is_needed() {
    for (flaw, size) in [
        (Flaw::HeldAfterLook, (1, 2, 1)),
        (Flaw::MarkWhenOvertaken, (1, 1, 2)),
        (Flaw::NoReferenceAtHit, (1, 1, 1)),
        (Flaw::NoSecondLook, (1, 1, 1)),
        (Flaw::RootsRemovedBeforeLook, (1, 1, 2)),
        (Flaw::RootsOfFailedStay, (1, 1, 1)),
        (Flaw::SwitchDespiteFailure, (1, 1, 1)),
        (Flaw::SwitchDespiteReference, (1, 1, 1)),
        (Flaw::SwitchDespiteNewBackup, (1, 1, 1)),
        (Flaw::SwitchWhenOvertaken, (1, 1, 2)),
        (Flaw::LeftoversWhenOvertaken, (1, 1, 2)),
    ] {
        let found = explore(size, flaw);
        assert!(
            found.is_err(),
            "nothing goes wrong with {flaw:?}: {found:?}"
        );
    }
}
