//! How a client takes an answer: how long it may take for that.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// Bytes that a client must take, or send, in each second on average, once its patience is over.
pub(crate) const RATE_MIN: u64 = 16 * 1024;

/// How a client takes an answer.
pub(super) struct Taking {
    /// The request that is answered.
    number: u64,
    since: Instant,
    bytes: u64,
    /// When the client had taken all that there was.
    idle_since: Option<Instant>,
    /// Set while the client is waited for.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Taking {
    pub(super) fn of(number: u64) -> Self {
        Self {
            number,
            since: Instant::now(),
            bytes: 0,
            idle_since: None,
            timer: None,
        }
    }

    /// There is more for the client to take. Time in which there was nothing is not the client's.
    pub(super) fn begin(&mut self, number: u64) {
        if self.number != number {
            *self = Self::of(number);
        }
        if let Some(idle) = self.idle_since.take() {
            self.since += idle.elapsed();
        }
    }

    pub(super) fn has_taken(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.idle_since = Some(Instant::now());
        self.timer = None;
    }

    /// What a slow line needs for what was taken.
    pub(super) fn slow_line(&self) -> Duration {
        Duration::from_secs(self.bytes / RATE_MIN)
    }

    pub(super) fn is_late(&mut self, cx: &mut Context<'_>, patience: Duration) -> bool {
        let deadline = self.since + patience + self.slow_line();
        let timer = self.timer.insert(Box::pin(sleep_until(deadline)));
        timer.as_mut().poll(cx).is_ready()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::task::Poll;

    #[tokio::test(start_paused = true)]
    async fn a_client_answers_only_for_the_time_in_which_there_was_something_to_take() {
        let patience = Duration::from_secs(30);
        let mut taking = Taking::of(1);
        taking.begin(1);
        taking.has_taken(1);
        // What is sent comes slowly.
        tokio::time::advance(Duration::from_secs(100)).await;
        taking.begin(1);
        let mut is_late = async || poll_fn(|cx| Poll::Ready(taking.is_late(cx, patience))).await;
        assert!(!is_late().await);
        tokio::time::advance(Duration::from_secs(29)).await;
        assert!(!is_late().await);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(is_late().await);
    }
}
