//! Waiting for a change of status: often at first, then less so, for a limited time.

use std::time::{Duration, Instant};

use anyhow::{Error, Result};

use crate::{interrupt, log};

/// What one look has shown.
pub(crate) enum Seen<T> {
    Done(T),
    /// Not there yet; the error says what was seen instead, in case time runs out.
    NotYet(Error),
}

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// Looks until `probe` is done. An error of the probe ends the wait at once, as does an
/// interrupt; `what` is what is waited for, such as "volume 1f.. to become available".
pub(crate) fn wait_for<T>(
    what: &str,
    timeout: Duration,
    mut probe: impl FnMut() -> Result<Seen<T>>,
) -> Result<T> {
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        interrupt::check()?;
        let reason = match probe()? {
            Seen::Done(value) => {
                let seconds = started.elapsed().as_secs_f64();
                log::debug(format_args!("waited {seconds:.1} s for {what}"));
                return Ok(value);
            }
            Seen::NotYet(reason) => reason,
        };
        let left = timeout.saturating_sub(started.elapsed());
        if left.is_zero() {
            let seconds = timeout.as_secs();
            return Err(reason.context(format!("waited {seconds} s in vain for {what}")));
        }
        sleep(pause.min(left))?;
        pause = longer(pause);
    }
}

fn longer(pause: Duration) -> Duration {
    (pause * 3 / 2).min(LONGEST_PAUSE)
}

/// Sleeps in short turns, so that an interrupt need not wait.
fn sleep(pause: Duration) -> Result<()> {
    let until = Instant::now() + pause;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(FIRST_PAUSE));
        interrupt::check()?;
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{anyhow, bail};

    use super::*;

    #[test]
    fn pauses_grow_to_their_limit() {
        let pauses = std::iter::successors(Some(FIRST_PAUSE), |pause| Some(longer(*pause)));
        let pauses: Vec<_> = pauses.take(20).collect();
        assert!(pauses.is_sorted() && pauses[1] > pauses[0]);
        assert_eq!(pauses.last(), Some(&LONGEST_PAUSE));
    }

    #[test]
    fn when_time_runs_out_the_last_sight_is_reported() {
        let nothing = Duration::ZERO;
        let never = wait_for::<()>("rain", nothing, || Ok(Seen::NotYet(anyhow!("sun"))));
        assert_eq!(
            format!("{:#}", never.unwrap_err()),
            "waited 0 s in vain for rain: sun"
        );
    }

    #[test]
    fn an_error_ends_the_wait_at_once() {
        let mut looks = 0;
        let result = wait_for::<()>("rain", Duration::from_secs(60), || {
            looks += 1;
            bail!("flood")
        });
        assert_eq!(
            (result.unwrap_err().to_string().as_str(), looks),
            ("flood", 1)
        );
    }
}
