//! A token of our own that many use at once.

use http::HeaderValue;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long a log-in that failed is not tried again. One that was refused is refused again until an administrator changes
/// something, and a Keystone may lock out who tries too often: that time doubles, up to the longest.
const PATIENCE: Duration = Duration::from_secs(1);
const PATIENCE_MAX: Duration = Duration::from_secs(60);

/// A token, and from when on it is better replaced; `None` while it is not refused.
#[derive(Debug, Clone)]
pub struct KeptToken {
    pub token: HeaderValue,
    pub renew_at: Option<Instant>,
}

/// The token that is kept. While one user asks for a new one, the others wait for it; and where that failed, they
/// do not each try again.
pub struct Kept<E> {
    state: Mutex<State<E>>,
    is_passing: fn(&E) -> bool,
}

struct State<E> {
    kept: Option<KeptToken>,
    failed: Option<(Instant, Arc<E>)>,
    /// How long the next refusal counts.
    patience: Duration,
}

impl<E> Kept<E> {
    /// Keeps this token, or none yet. Failures that pass by themselves do not make the next try wait longer.
    pub fn new(kept: Option<KeptToken>, is_passing: fn(&E) -> bool) -> Self {
        Self {
            state: Mutex::new(State {
                kept,
                failed: None,
                patience: PATIENCE,
            }),
            is_passing,
        }
    }

    /// A token other than one that was refused, if one was: the one that is kept, or a new one.
    pub async fn get<F>(
        &self,
        refused: Option<&HeaderValue>,
        log_in: impl FnOnce() -> F,
    ) -> Result<HeaderValue, Arc<E>>
    where
        F: Future<Output = Result<KeptToken, E>>,
    {
        let mut state = self.state.lock().await;
        let now = Instant::now();
        // Another user may have renewed it meanwhile.
        if let Some(kept) = &state.kept
            && refused != Some(&kept.token)
            && kept.renew_at.is_none_or(|moment| moment > now)
        {
            return Ok(kept.token.clone());
        }
        if let Some((until, error)) = &state.failed
            && *until > now
        {
            return Err(error.clone());
        }
        state.kept = None;
        match log_in().await {
            Ok(new) => {
                let token = new.token.clone();
                (state.kept, state.failed) = (Some(new), None);
                state.patience = PATIENCE;
                Ok(token)
            }
            Err(error) => {
                let error = Arc::new(error);
                if (self.is_passing)(&error) {
                    state.patience = PATIENCE;
                }
                let patience = state.patience;
                state.failed = Some((Instant::now() + patience, error.clone()));
                state.patience = (patience * 2).min(PATIENCE_MAX);
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A Keystone that counts, and takes its time.
    #[derive(Default)]
    struct Desk {
        asked: AtomicUsize,
        renew_after: Option<Duration>,
        refuses: bool,
    }

    impl Desk {
        async fn log_in(&self) -> Result<KeptToken, usize> {
            let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
            if self.refuses {
                return Err(number);
            }
            Ok(KeptToken {
                token: HeaderValue::from(number),
                renew_at: self.renew_after.map(|after| Instant::now() + after),
            })
        }

        /// Many ask at once.
        async fn many(
            &self,
            kept: &Kept<usize>,
            refused: Option<&HeaderValue>,
        ) -> Vec<Result<HeaderValue, Arc<usize>>> {
            join_all((0..9).map(|_| kept.get(refused, || self.log_in()))).await
        }
    }

    fn all(number: usize) -> Vec<Result<HeaderValue, Arc<usize>>> {
        vec![Ok(HeaderValue::from(number)); 9]
    }

    #[tokio::test(start_paused = true)]
    async fn one_renews_a_refused_token_for_all_who_wait() {
        let (desk, kept) = (Desk::default(), Kept::new(None, |_| true));
        assert_eq!(desk.many(&kept, None).await, all(1));
        let first = HeaderValue::from(1_usize);
        assert_eq!(desk.many(&kept, Some(&first)).await, all(2));
        assert_eq!(desk.many(&kept, None).await, all(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_replaced_before_it_expires() {
        let desk = Desk {
            renew_after: Some(Duration::from_secs(60)),
            ..Desk::default()
        };
        let kept = Kept::new(None, |_| true);
        assert_eq!(desk.many(&kept, None).await, all(1));
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(desk.many(&kept, None).await, all(2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_failed_is_not_tried_again_at_once() {
        let desk = Desk {
            refuses: true,
            ..Desk::default()
        };
        let kept = Kept::new(None, |_| true);
        assert_eq!(desk.many(&kept, None).await, vec![Err(Arc::new(1)); 9]);
        tokio::time::advance(PATIENCE).await;
        assert_eq!(desk.many(&kept, None).await, vec![Err(Arc::new(2)); 9]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_refused_tries_less_and_less_often() {
        let desk = Desk {
            refuses: true,
            ..Desk::default()
        };
        let kept = Kept::new(None, |_| false);
        let mut tries = Vec::new();
        for second in 0..300 {
            let before = desk.asked.load(Ordering::SeqCst);
            kept.get(None, || desk.log_in()).await.unwrap_err();
            if desk.asked.load(Ordering::SeqCst) > before {
                tries.push(second);
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let pauses: Vec<i32> = tries.windows(2).map(|two| two[1] - two[0]).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }
}
