//! The steps of a collection and of the compaction after it.

use super::*;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Collector {
    Waiting,
    /// Has begun this generation.
    Begun(u8),
    /// Generation, and the packs that sessions hold.
    SawSessions(u8, BTreeSet<u8>),
    /// Also those that backups need.
    SawSets(u8, BTreeSet<u8>),
    Planned {
        generation: u8,
        /// Whether the roots of failed backups were removed since all that is needed was read.
        is_swept: bool,
        pardon: BTreeSet<u8>,
        condemn: BTreeSet<u8>,
        give_up: BTreeSet<u8>,
        given_up: BTreeSet<u8>,
    },
    Deleting(u8, BTreeSet<u8>),
    Listing(u8),
    Leftovers(u8, BTreeSet<Object>),
    Removing(u8, BTreeSet<Object>),
    Census(u8),
    /// The backups that were known, and what of the pack is in use.
    Compacting {
        generation: u8,
        known: BTreeSet<(u8, Frame)>,
        pack: u8,
    },
    Stored {
        generation: u8,
        known: BTreeSet<(u8, Frame)>,
        /// The failed backups whose roots are gone.
        failed: BTreeSet<u8>,
        object: Object,
        old: u8,
    },
    Switched {
        object: Object,
    },
    Ended,
}

impl State {
    pub(super) fn collector(
        &self,
        at: usize,
        collector: &Collector,
        flaw: Flaw,
        next: &mut Vec<State>,
    ) {
        let mut go = |change: &dyn Fn(&mut State) -> Collector| {
            let mut state = self.clone();
            let collector = change(&mut state);
            state.actors[at] = Actor::Collector(collector);
            next.push(state);
        };
        match collector {
            Collector::Waiting => go(&|state| {
                if flaw == Flaw::RootsRemovedBeforeLook {
                    state.remove_roots_of_failed(flaw);
                }
                state.generation += 1;
                Collector::Begun(state.generation)
            }),
            Collector::Begun(generation) => {
                go(&|state| Collector::SawSessions(*generation, state.held_by_sessions()));
            }
            Collector::SawSessions(generation, seen) => go(&|state| {
                let mut needed = seen.clone();
                needed.extend(state.sets());
                Collector::SawSets(*generation, needed)
            }),
            Collector::SawSets(generation, needed) => go(&|state| {
                let of = |wanted: &dyn Fn(&Pack) -> bool| -> BTreeSet<u8> {
                    let packs = (0..).zip(&state.packs);
                    packs
                        .filter(|(_, pack)| wanted(pack))
                        .map(|(number, _)| number)
                        .collect()
                };
                let condemned = of(&|pack| pack.state == PackState::Condemned);
                let earlier = of(&|pack| pack.condemned_in < *generation);
                let live = of(&|pack| {
                    pack.state == PackState::Live
                        || (pack.state == PackState::Writing && pack.writer.is_none())
                });
                Collector::Planned {
                    generation: *generation,
                    is_swept: flaw == Flaw::RootsRemovedBeforeLook,
                    pardon: &condemned & needed,
                    give_up: &(&condemned - needed) & &earlier,
                    condemn: &live - needed,
                    given_up: of(&|pack| pack.state == PackState::Deleting),
                }
            }),
            Collector::Planned {
                is_swept: false, ..
            } => go(&|state| {
                state.remove_roots_of_failed(flaw);
                let mut swept = collector.clone();
                if let Collector::Planned { is_swept, .. } = &mut swept {
                    *is_swept = true;
                }
                swept
            }),
            // One pack at a time. When a later generation has begun, the rest is left to it.
            Collector::Planned {
                generation,
                is_swept: true,
                pardon,
                condemn,
                give_up,
                given_up,
            } => go(&|state| {
                let is_over = pardon.is_empty() && give_up.is_empty() && condemn.is_empty();
                let is_latest = state.generation == *generation || flaw == Flaw::MarkWhenOvertaken;
                if is_over || !is_latest {
                    return Collector::Deleting(*generation, given_up.clone());
                }
                let (mut pardon, mut condemn) = (pardon.clone(), condemn.clone());
                let (mut give_up, mut given_up) = (give_up.clone(), given_up.clone());
                if let Some(pack) = pardon.pop_first() {
                    let row = &mut state.packs[pack as usize];
                    if row.state == PackState::Condemned {
                        row.state = PackState::Live;
                    }
                } else if let Some(pack) = give_up.pop_first() {
                    let row = &mut state.packs[pack as usize];
                    if row.state == PackState::Condemned {
                        row.state = PackState::Deleting;
                        given_up.insert(pack);
                    }
                } else if let Some(pack) = condemn.pop_first() {
                    let row = &mut state.packs[pack as usize];
                    if row.state == PackState::Live
                        || (row.state == PackState::Writing && row.writer.is_none())
                    {
                        row.state = PackState::Condemned;
                        row.condemned_in = *generation;
                    }
                }
                Collector::Planned {
                    generation: *generation,
                    is_swept: true,
                    pardon,
                    condemn,
                    give_up,
                    given_up,
                }
            }),
            Collector::Deleting(generation, packs) => go(&|state| {
                for pack in packs {
                    state.index.retain(|(of, _)| of != pack);
                    let rewrite = state.packs[*pack as usize].rewrite;
                    state
                        .objects
                        .retain(|(of, number, _)| (of, *number) != (pack, rewrite));
                    state.packs[*pack as usize].state = PackState::Gone;
                }
                Collector::Listing(*generation)
            }),
            Collector::Listing(generation) => go(&|state| {
                let leftovers = state.objects.iter().filter(|(pack, rewrite, _)| {
                    let row = &state.packs[*pack as usize];
                    row.state == PackState::Gone || row.rewrite != *rewrite
                });
                Collector::Leftovers(*generation, leftovers.copied().collect())
            }),
            Collector::Leftovers(generation, leftovers) => go(&|state| {
                if state.generation == *generation || flaw == Flaw::LeftoversWhenOvertaken {
                    Collector::Removing(*generation, leftovers.clone())
                } else {
                    Collector::Census(*generation)
                }
            }),
            // However late this comes after the look whether the collection is still the latest.
            Collector::Removing(generation, leftovers) => go(&|state| {
                state.objects.retain(|object| !leftovers.contains(object));
                Collector::Census(*generation)
            }),
            Collector::Census(generation) => {
                for pack in 0..PACKS as u8 {
                    let row = &self.packs[pack as usize];
                    let is_settled = row.state == PackState::Live && row.writer.is_none();
                    if is_settled && !self.references.iter().any(|held| held.contains(&pack)) {
                        go(&|state| Collector::Compacting {
                            generation: *generation,
                            known: state.backups.clone(),
                            pack,
                        });
                    }
                }
                go(&|_| Collector::Ended);
            }
            Collector::Compacting {
                generation,
                known,
                pack,
            } => go(&|state| {
                if state.generation != *generation && flaw != Flaw::SwitchWhenOvertaken {
                    return Collector::Ended;
                }
                state.remove_roots_of_failed(flaw);
                let row = &mut state.packs[*pack as usize];
                row.rewrites += 1;
                let (old, rewrite) = (row.rewrite, row.rewrites);
                let in_use = known.iter().filter(|(_, frame)| frame.0 == *pack);
                let frames = in_use.fold(0, |bits, (_, frame)| bits | 1 << frame.1);
                let object = (*pack, rewrite, frames);
                state.objects.insert(object);
                Collector::Stored {
                    generation: *generation,
                    known: known.clone(),
                    failed: state.failed.clone(),
                    object,
                    old,
                }
            }),
            Collector::Stored {
                generation,
                known,
                failed,
                object,
                old,
            } => go(&|state| {
                let (pack, rewrite, frames) = *object;
                let row = &state.packs[pack as usize];
                let is_latest =
                    state.generation == *generation || flaw == Flaw::SwitchWhenOvertaken;
                let is_referenced = state.references.iter().any(|held| held.contains(&pack))
                    && flaw != Flaw::SwitchDespiteReference;
                let is_needed = state
                    .backups
                    .iter()
                    .any(|backup| !known.contains(backup) && backup.1.0 == pack)
                    && flaw != Flaw::SwitchDespiteNewBackup;
                let is_same =
                    row.state == PackState::Live && row.rewrite == *old && row.writer.is_none();
                let has_failed = state.failed != *failed && flaw != Flaw::SwitchDespiteFailure;
                if !is_same || !is_latest || is_referenced || is_needed || has_failed {
                    state.objects.remove(object);
                    return Collector::Ended;
                }
                state.packs[pack as usize].rewrite = rewrite;
                state
                    .index
                    .retain(|(of, ordinal)| *of != pack || frames >> ordinal & 1 == 1);
                Collector::Switched {
                    object: (pack, *old, 0),
                }
            }),
            Collector::Switched { object } => go(&|state| {
                state
                    .objects
                    .retain(|(pack, rewrite, _)| (*pack, *rewrite) != (object.0, object.1));
                Collector::Ended
            }),
            Collector::Ended => {}
        }
    }
}
