//! The steps of a session: those of its threads, and its end.

use super::*;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Thread {
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

/// How the last thread of a session ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    StoreRoot,
    Commit,
    GiveUp,
    LeaveRoot,
}

impl State {
    pub(super) fn thread(
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

    fn end_session(&mut self, session: usize) {
        self.references[session].clear();
        for pack in &mut self.packs {
            if pack.writer == Some(session as u8) {
                pack.writer = None;
            }
        }
    }
}
