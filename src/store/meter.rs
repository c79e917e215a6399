//! A limit of bytes per second, in fair shares.
//!
//! Those who wait take turns, a piece at a time: a job that has much to move waits longer for all of it, and one that has
//! little does not wait for the others' all. The calls of one job go one after the other.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Bytes of a turn: what moves in this time, within bounds.
const TURN: Duration = Duration::from_millis(250);
const PIECE_BYTES: (u64, u64) = (64 << 10, 4 << 20);

/// Spreads bytes over time: a call waits until the limit allows the bytes that were moved before.
#[derive(Debug)]
pub(super) struct Meter {
    bytes_per_second: u64,
    piece: u64,
    line: Mutex<Line>,
    /// Someone else may be the first now.
    turned: Notify,
}

/// Who waits.
#[derive(Debug, Default)]
struct Line {
    paid_until: Option<Instant>,
    /// Those who take turns, each with the calls that wait; none is empty.
    parties: VecDeque<(u64, VecDeque<u64>)>,
    next: u64,
}

impl Line {
    fn is_first(&self, call: u64) -> bool {
        let first = self.parties.front().and_then(|(_, calls)| calls.front());
        first == Some(&call)
    }

    fn join(&mut self, party: u64) -> u64 {
        let call = self.next;
        self.next += 1;
        match self.parties.iter_mut().find(|(known, _)| *known == party) {
            Some((_, calls)) => calls.push_back(call),
            None => self.parties.push_back((party, VecDeque::from([call]))),
        }
        call
    }

    fn leave(&mut self, call: u64) {
        for (_, calls) in &mut self.parties {
            calls.retain(|waiting| *waiting != call);
        }
        self.parties.retain(|(_, calls)| !calls.is_empty());
    }
}

impl Meter {
    /// `None` without a limit.
    pub(super) fn new(bytes_per_second: u64) -> Option<Arc<Self>> {
        let in_a_turn = bytes_per_second as f64 * TURN.as_secs_f64();
        (bytes_per_second > 0).then(|| {
            Arc::new(Self {
                bytes_per_second,
                piece: (in_a_turn as u64).clamp(PIECE_BYTES.0, PIECE_BYTES.1),
                line: Mutex::default(),
                turned: Notify::new(),
            })
        })
    }

    /// Waits until so many bytes may go.
    async fn take(&self, party: u64, bytes: u64) {
        let call = self.line().join(party);
        let _place = Turn { meter: self, call };
        let mut left = bytes;
        loop {
            let turned = self.turned.notified();
            tokio::pin!(turned);
            // From here on no turn is missed.
            turned.as_mut().enable();
            let (is_first, paid_until) = {
                let line = self.line();
                (line.is_first(call), line.paid_until)
            };
            if !is_first {
                turned.await;
                continue;
            }
            if let Some(until) = paid_until.filter(|until| *until > Instant::now()) {
                tokio::time::sleep_until(until).await;
                continue;
            }
            let piece = left.min(self.piece);
            left -= piece;
            self.charge(piece);
            if left == 0 {
                self.line().turn();
                return;
            }
            self.line().turn();
            self.turned.notify_waiters();
        }
    }

    /// Notes that bytes move now, or did.
    fn charge(&self, bytes: u64) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let now = Instant::now();
        let mut line = self.line();
        let from = line.paid_until.map_or(now, |until| until.max(now));
        line.paid_until = Some(from + cost);
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().expect("nothing panics under it")
    }
}

impl Line {
    /// The next party is the first now.
    fn turn(&mut self) {
        if !self.parties.is_empty() {
            self.parties.rotate_left(1);
        }
    }
}

/// A place in the line, until it is dropped.
struct Turn<'m> {
    meter: &'m Meter,
    call: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.meter.line().leave(self.call);
        self.meter.turned.notify_waiters();
    }
}

/// One of those who share a limit: a job.
#[derive(Debug)]
pub(super) struct Party {
    number: u64,
    meter: Option<Arc<Meter>>,
    /// Bytes that were moved before anyone knew how many: the next call pays for them.
    debt: AtomicU64,
}

static PARTIES: AtomicU64 = AtomicU64::new(0);

impl Party {
    pub(super) fn new(meter: Option<Arc<Meter>>) -> Self {
        Self {
            number: PARTIES.fetch_add(1, Ordering::Relaxed),
            meter,
            debt: AtomicU64::new(0),
        }
    }

    /// Another one with the same limit.
    pub(super) fn another(&self) -> Self {
        Self::new(self.meter.clone())
    }

    /// Waits until so many bytes may go.
    pub(super) async fn take(&self, bytes: u64) {
        let Some(meter) = &self.meter else { return };
        let debt = self.debt.swap(0, Ordering::Relaxed);
        if debt > 0 {
            meter.take(self.number, debt).await;
        }
        meter.take(self.number, bytes).await;
    }

    /// Counts bytes that were moved: later calls wait for them.
    pub(super) fn owe(&self, bytes: u64) {
        self.debt.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Party {
    /// All pay for what it still owes.
    fn drop(&mut self) {
        if let Some(meter) = &self.meter {
            meter.charge(*self.debt.get_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn parties() -> (Arc<Party>, Arc<Party>) {
        let one = Party::new(Meter::new(MIB));
        let other = one.another();
        (Arc::new(one), Arc::new(other))
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_with_much_to_move_does_not_keep_others_waiting() {
        let (much, little) = parties();
        let started = Instant::now();
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let much = much.clone();
            calls.spawn(async move {
                much.take(9 * MIB).await;
                Instant::now()
            });
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        for _ in 0..5 {
            let asked = Instant::now();
            little.take(100 << 10).await;
            let waited = asked.elapsed();
            assert!(waited <= TURN * 2, "{waited:?}");
        }
        // And it loses nothing but what the others took. The last piece of each has been let go, not moved.
        let mut ends = Vec::new();
        while let Some(end) = calls.join_next().await {
            ends.push((end.unwrap() - started).as_secs_f64());
        }
        let all = 36.0 + 5.0 * 100.0 / 1024.0;
        assert!((all - 0.6..all).contains(&ends[3]), "{ends:?}");
        assert!(ends.is_sorted(), "{ends:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn two_jobs_with_much_to_move_have_half_of_it_each() {
        let (one, other) = parties();
        let started = Instant::now();
        let end = |party: Arc<Party>, bytes: u64| async move {
            party.take(bytes).await;
            started.elapsed().as_secs_f64()
        };
        let (first, second) = tokio::join!(end(one, 20 * MIB), end(other, 10 * MIB));
        assert!((19.0..=20.0).contains(&second), "{second}");
        assert!((29.0..=30.0).contains(&first), "{first}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_lets_the_others_pass() {
        let (one, other) = parties();
        one.take(MIB / 4).await;
        let gone = tokio::time::timeout(Duration::from_millis(10), one.take(MIB)).await;
        assert!(gone.is_err());
        let started = Instant::now();
        other.take(1).await;
        assert!(started.elapsed() <= TURN);
        // What one owes in the end, all pay.
        one.owe(5 * MIB);
        drop(one);
        let started = Instant::now();
        other.take(1).await;
        assert_eq!(started.elapsed().as_secs(), 5);
    }
}
