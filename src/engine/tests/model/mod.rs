//! The protocol between backups and collections, without bytes. The search goes through every order of transactions
//! of sessions, collectors and a deleter. After each step it checks that nothing is missing that a session, a backup
//! or a root in the storage relies on. A step is one transaction, one statement of a longer transaction, or one call
//! of the storage, as on PostgreSQL with READ COMMITTED.
//!
//! A session has several threads. They share what the session holds, as the real ones do: a thread
//! reads that set before it looks a chunk up, and another thread may add to it at any moment.
//!
//! Each rule of the protocol is also left out once: then the search must find what goes wrong.

mod collector;
mod search;
mod session;

use collector::Collector;
use session::Thread;
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

/// A rule that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// A reference that another thread took after the look-up counts.
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
    LeftoversWhenOvertaken,
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

    fn remove_roots_of_failed(&mut self, flaw: Flaw) {
        if flaw != Flaw::RootsOfFailedStay {
            let failed = &self.failed;
            self.roots.retain(|(backup, _)| !failed.contains(backup));
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

    fn sets(&self) -> BTreeSet<u8> {
        self.backups.iter().map(|(_, frame)| frame.0).collect()
    }
}
