//! The protocol between backups and collections, without bytes. The search goes through every order of transactions
//! of sessions, collectors and a deleter. After each step it checks that nothing is missing that a session, a backup
//! or a root in the storage relies on. A step is one transaction, one statement of a longer transaction, or one call
//! of the storage, as on PostgreSQL with READ COMMITTED.
//!
//! A session has several threads. They share what the session holds, as the real ones do: a thread
//! reads that set before it looks a chunk up, and another thread may add to it at any moment.
//!
//! Each rule of the protocol is also left out once: then the search must find what goes wrong.

mod search;

use std::collections::BTreeSet;

/// Packs that are there at first, each with two frames, of which the first backup needs one.
const OLD_PACKS: usize = 2;
/// A place for a pack of each thread.
const PACKS: usize = OLD_PACKS + 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum PackState {
    Absent,
    Writing,
    Live,
    Condemned,
    Deleting,
    Gone,
}

/// A frame of a pack.
type Frame = (u8, u8);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Pack {
    state: PackState,
    condemned_in: u8,
    rewrite: u8,
    rewrites: u8,
    writer: Option<u8>,
}

/// An object: pack, rewrite, and a bit for each frame in it.
type Object = (u8, u8, u8);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    packs: Vec<Pack>,
    objects: BTreeSet<Object>,
    /// Frames that the index leads to.
    index: BTreeSet<Frame>,
    /// Packs that each session references.
    references: Vec<BTreeSet<u8>>,
    /// Frames that the available backups need: one backup each.
    backups: BTreeSet<(u8, Frame)>,
    /// The roots in the storage, each with the frame that it leads to.
    roots: BTreeSet<(u8, Frame)>,
    /// Backups that failed.
    failed: BTreeSet<u8>,
    generation: u8,
    actors: Vec<Actor>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Actor {
    /// A thread of a session, with the session's number.
    Thread(u8, Thread),
    Collector(Collector),
    /// Deletes the first backup, once.
    Deleter {
        done: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Thread {
    Waiting,
    /// Knows what the session held before it looks.
    Looking(BTreeSet<u8>),
    /// The index led to this frame; and what the session held before.
    Saw(Frame, BTreeSet<u8>),
    /// Relies on this frame.
    Holds(Frame),
    Missed,
    Writing,
    Stored,
    Ended,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Collector {
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
    Strays(u8, BTreeSet<Object>),
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

/// What the last thread of a session does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    StoreRoot,
    Commit,
    GiveUp,
    LeaveRoot,
}

/// A rule that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// What another thread came to hold after the look-up counts.
    HeldAfterLook,
    MarkWhenOvertaken,
    NoReferenceAtHit,
    NoSecondLook,
    /// A collection begins without the roots of failed backups, but does not look again.
    RootsRemovedBeforeLook,
    RootsOfFailedStay,
    SwitchDespiteFailure,
    SwitchDespiteReference,
    SwitchDespiteNewBackup,
    SwitchWhenOvertaken,
    StraysWhenOvertaken,
}

impl State {
    /// So many sessions, of so many threads each.
    fn new(sessions: usize, threads: usize, collectors: usize) -> Self {
        let old = Pack {
            state: PackState::Live,
            condemned_in: 0,
            rewrite: 0,
            rewrites: 0,
            writer: None,
        };
        let mut packs = vec![old.clone(); OLD_PACKS];
        // The second is garbage that an earlier collection has condemned.
        packs[1].state = PackState::Condemned;
        packs.resize(
            PACKS,
            Pack {
                state: PackState::Absent,
                ..old
            },
        );
        let mut actors = vec![Actor::Deleter { done: false }];
        for session in 0..sessions {
            actors.extend((0..threads).map(|_| Actor::Thread(session as u8, Thread::Waiting)));
        }
        actors.extend((0..collectors).map(|_| Actor::Collector(Collector::Waiting)));
        Self {
            packs,
            objects: [(0, 0, 0b11), (1, 0, 0b11)].into(),
            index: [(0, 0), (0, 1), (1, 1)].into(),
            references: vec![BTreeSet::new(); sessions],
            backups: [(0, (0, 0))].into(),
            roots: [(0, (0, 0))].into(),
            failed: BTreeSet::new(),
            generation: 1,
            actors,
        }
    }

    fn is_alive(&self, pack: u8) -> bool {
        matches!(
            self.packs[pack as usize].state,
            PackState::Live | PackState::Condemned
        )
    }

    fn reference(&mut self, session: usize, pack: u8) -> bool {
        let alive = self.is_alive(pack);
        if alive {
            self.packs[pack as usize].state = PackState::Live;
            self.references[session].insert(pack);
        }
        alive
    }

    /// Every frame that a session, a backup or a root relies on must be in the current object of its pack.
    fn violation(&self) -> Option<String> {
        let held = self.actors.iter().filter_map(|actor| match actor {
            Actor::Thread(_, Thread::Holds(frame)) => Some(*frame),
            _ => None,
        });
        let rooted = self.backups.iter().chain(&self.roots);
        for (pack, ordinal) in rooted.map(|(_, frame)| *frame).chain(held) {
            let row = &self.packs[pack as usize];
            let is_there = self.objects.iter().any(|(p, rewrite, frames)| {
                *p == pack && *rewrite == row.rewrite && frames >> ordinal & 1 == 1
            });
            if !is_there || !self.is_alive(pack) {
                return Some(format!(
                    "frame {ordinal} of pack {pack} is needed and not there: {self:?}"
                ));
            }
        }
        None
    }

    /// Everything that can happen next.
    fn next(&self, flaw: Flaw) -> Vec<State> {
        let mut next = Vec::new();
        for (at, actor) in self.actors.iter().enumerate() {
            match actor {
                Actor::Deleter { done: false } => {
                    let mut state = self.clone();
                    state.roots.retain(|(backup, _)| *backup != 0);
                    state.backups.retain(|(backup, _)| *backup != 0);
                    state.actors[at] = Actor::Deleter { done: true };
                    next.push(state);
                }
                Actor::Deleter { .. } => {}
                Actor::Thread(session, thread) => {
                    self.thread(at, *session as usize, thread, flaw, &mut next);
                }
                Actor::Collector(collector) => self.collector(at, collector, flaw, &mut next),
            }
        }
        next
    }

    fn thread(
        &self,
        at: usize,
        session: usize,
        thread: &Thread,
        flaw: Flaw,
        next: &mut Vec<State>,
    ) {
        let own = (OLD_PACKS + at - 1) as u8;
        let mut go = |change: &dyn Fn(&mut State) -> Thread| {
            let mut state = self.clone();
            let thread = change(&mut state);
            state.actors[at] = Actor::Thread(session as u8, thread);
            next.push(state);
        };
        match thread {
            Thread::Waiting => go(&|state| Thread::Looking(state.references[session].clone())),
            Thread::Looking(held) => {
                for frame in &self.index {
                    go(&|_| Thread::Saw(*frame, held.clone()));
                }
                go(&|_| Thread::Missed);
            }
            Thread::Saw(frame, held) => go(&|state| {
                if flaw == Flaw::NoReferenceAtHit {
                    return Thread::Holds(*frame);
                }
                let counts = match flaw {
                    Flaw::HeldAfterLook => &state.references[session],
                    _ => held,
                };
                if counts.contains(&frame.0) {
                    return Thread::Holds(*frame);
                }
                let alive = state.reference(session, frame.0);
                let is_known = flaw == Flaw::NoSecondLook || state.index.contains(frame);
                if alive && is_known {
                    Thread::Holds(*frame)
                } else {
                    Thread::Missed
                }
            }),
            Thread::Missed => go(&|state| {
                state.packs[own as usize].state = PackState::Writing;
                state.packs[own as usize].writer = Some(session as u8);
                Thread::Writing
            }),
            Thread::Writing => go(&|state| {
                state.objects.insert((own, 0, 0b01));
                Thread::Stored
            }),
            Thread::Stored => go(&|state| {
                let row = &mut state.packs[own as usize];
                // A collector that took the session for dead may have condemned it.
                if row.state != PackState::Writing {
                    return Thread::Ended;
                }
                row.state = PackState::Live;
                state.index.insert((own, 0));
                Thread::Holds((own, 0))
            }),
            // The last thread that is done goes on for all: it stores the root, and then commits. It may give up at
            // any moment, and then the storage may refuse to remove the root.
            Thread::Holds(frame) if self.is_done(session) => {
                let is_stored = self.roots.contains(&(at as u8, *frame));
                let ends: &[End] = if is_stored {
                    &[End::Commit, End::GiveUp, End::LeaveRoot]
                } else {
                    &[End::StoreRoot, End::GiveUp]
                };
                for end in ends {
                    let mut state = self.clone();
                    state.finish(session, *end);
                    next.push(state);
                }
            }
            Thread::Holds(_) | Thread::Ended => {}
        }
    }

    /// Whether all threads of a session are done.
    fn is_done(&self, session: usize) -> bool {
        self.actors.iter().all(|actor| match actor {
            Actor::Thread(of, thread) if *of as usize == session => {
                matches!(thread, Thread::Holds(_) | Thread::Ended)
            }
            _ => true,
        })
    }

    fn finish(&mut self, session: usize, end: End) {
        let mut frames = Vec::new();
        for (at, actor) in (0_u8..).zip(&mut self.actors) {
            if let Actor::Thread(of, thread) = actor
                && *of as usize == session
            {
                if let Thread::Holds(frame) = thread {
                    frames.push((at, *frame));
                }
                if end != End::StoreRoot {
                    *thread = Thread::Ended;
                }
            }
        }
        match end {
            End::StoreRoot => return self.roots.extend(frames),
            End::Commit => {
                let mut held = frames.iter();
                if held.all(|(_, frame)| self.reference(session, frame.0)) {
                    self.backups.extend(frames);
                } else {
                    self.failed.extend(frames.iter().map(|(at, _)| at));
                }
            }
            End::GiveUp | End::LeaveRoot => {
                if end == End::GiveUp {
                    self.roots.retain(|root| !frames.contains(root));
                }
                self.failed.extend(frames.iter().map(|(at, _)| at));
            }
        }
        self.end_session(session);
    }

    fn remove_roots_of_failed(&mut self, flaw: Flaw) {
        if flaw != Flaw::RootsOfFailedStay {
            let failed = &self.failed;
            self.roots.retain(|(backup, _)| !failed.contains(backup));
        }
    }

    fn end_session(&mut self, session: usize) {
        self.references[session].clear();
        for pack in &mut self.packs {
            if pack.writer == Some(session as u8) {
                pack.writer = None;
            }
        }
    }

    fn held_by_sessions(&self) -> BTreeSet<u8> {
        let written = (0..)
            .zip(&self.packs)
            .filter(|(_, pack)| pack.writer.is_some());
        let referenced = self.references.iter().flatten().copied();
        written
            .map(|(number, _)| number)
            .chain(referenced)
            .collect()
    }

    fn collector(&self, at: usize, collector: &Collector, flaw: Flaw, next: &mut Vec<State>) {
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
                let strays = state.objects.iter().filter(|(pack, rewrite, _)| {
                    let row = &state.packs[*pack as usize];
                    row.state == PackState::Gone || row.rewrite != *rewrite
                });
                Collector::Strays(*generation, strays.copied().collect())
            }),
            Collector::Strays(generation, strays) => go(&|state| {
                if state.generation == *generation || flaw == Flaw::StraysWhenOvertaken {
                    Collector::Removing(*generation, strays.clone())
                } else {
                    Collector::Census(*generation)
                }
            }),
            // However late this comes after the look whether the collection is still the latest.
            Collector::Removing(generation, strays) => go(&|state| {
                state.objects.retain(|object| !strays.contains(object));
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

    fn sets(&self) -> BTreeSet<u8> {
        self.backups.iter().map(|(_, frame)| frame.0).collect()
    }
}
