//! A token of our own that many use at once.

use http::HeaderValue;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a log-in that failed is not tried again. One that was refused is refused again until an administrator changes
/// something, and a Keystone may lock out who tries too often: that time doubles, up to the longest. So it is with a new
/// token that is refused as the one before it was.
const PATIENCE: Duration = Duration::from_secs(1);
const PATIENCE_MAX: Duration = Duration::from_secs(60);

/// A token.
#[derive(Debug, Clone)]
pub struct KeptToken {
    pub token: HeaderValue,
    /// From when on it is better replaced; `None` while it is not refused.
    pub renew_at: Option<Instant>,
    /// From when on it is certainly refused, if that is known.
    pub expires_at: Option<Instant>,
}

/// The token that is kept. While one user asks for a new one, the others go on with the old one if it is still good, and
/// otherwise wait; and where that failed, they do not each try again. A log-in must have a time limit of its own, which
/// is then the longest that they wait.
pub struct Kept<E> {
    state: Mutex<State<E>>,
    /// Who has it logs in.
    turn: tokio::sync::Mutex<()>,
    is_passing: fn(&E) -> bool,
}

struct State<E> {
    kept: Option<Held>,
    failed: Option<(Instant, Arc<E>)>,
    /// How long the next refusal of a log-in counts.
    patience: Duration,
    /// How long the next token that replaces a refused one is kept, even if it is refused.
    pause: Duration,
}

/// The token, and since when it is here.
struct Held {
    token: KeptToken,
    made_at: Instant,
    /// Until when it is not replaced, even if it is refused.
    stays_until: Instant,
}

impl<E> State<E> {
    fn kept_other_than(&self, refused: Option<&HeaderValue>) -> Option<&KeptToken> {
        let kept = self.kept.as_ref().map(|kept| &kept.token);
        kept.filter(|kept| refused != Some(&kept.token))
    }

    /// What needs no log-in.
    fn known(&self, refused: Option<&HeaderValue>) -> Option<Result<HeaderValue, Arc<E>>> {
        let now = Instant::now();
        let other = self.kept_other_than(refused);
        if let Some(kept) = other
            && kept.renew_at.is_none_or(|moment| moment > now)
        {
            return Some(Ok(kept.token.clone()));
        }
        // It was refused soon after another one was, and so would be the next: the user learns that from its answer.
        if other.is_none()
            && let Some(kept) = &self.kept
            && kept.stays_until > now
        {
            return Some(Ok(kept.token.token.clone()));
        }
        match &self.failed {
            Some((until, error)) if *until > now => {
                Some(self.still_good(refused).ok_or_else(|| error.clone()))
            }
            _ => None,
        }
    }

    /// A token that should be renewed, and need not be yet.
    fn still_good(&self, refused: Option<&HeaderValue>) -> Option<HeaderValue> {
        let now = Instant::now();
        let kept = self.kept_other_than(refused)?;
        let is_good = kept.expires_at.is_none_or(|moment| moment > now);
        is_good.then(|| kept.token.clone())
    }

    /// Drops the token if it is the one that was refused; whether it was.
    fn drop_refused(&mut self, refused: Option<&HeaderValue>) -> bool {
        let is_refused = self.kept.is_some() && self.kept_other_than(refused).is_none();
        if let Some(kept) = self.kept.take_if(|_| is_refused)
            // Longer than any pause, or one that lasted for a pause alone would end the pauses.
            && kept.made_at.elapsed() >= PATIENCE_MAX * 2
        {
            self.pause = PATIENCE;
        }
        is_refused
    }

    fn keep(&mut self, new: KeptToken, replaces_refused: bool) {
        let now = Instant::now();
        let stays_until = if replaces_refused {
            now + self.pause
        } else {
            now
        };
        self.pause = if replaces_refused {
            (self.pause * 2).min(PATIENCE_MAX)
        } else {
            PATIENCE
        };
        self.kept = Some(Held {
            token: new,
            made_at: now,
            stays_until,
        });
        (self.failed, self.patience) = (None, PATIENCE);
    }

    fn note_failure(&mut self, error: &Arc<E>, is_passing: bool) {
        if is_passing {
            self.patience = PATIENCE;
        }
        self.failed = Some((Instant::now() + self.patience, error.clone()));
        self.patience = (self.patience * 2).min(PATIENCE_MAX);
    }
}

impl<E> Kept<E> {
    /// Keeps this token, or none yet. Failures that pass by themselves do not make the next try wait longer.
    pub fn new(kept: Option<KeptToken>, is_passing: fn(&E) -> bool) -> Self {
        let now = Instant::now();
        Self {
            state: Mutex::new(State {
                kept: kept.map(|token| Held {
                    token,
                    made_at: now,
                    stays_until: now,
                }),
                failed: None,
                patience: PATIENCE,
                pause: PATIENCE,
            }),
            turn: tokio::sync::Mutex::default(),
            is_passing,
        }
    }

    fn state(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token other than one that was refused, if one was: the one that is kept, or a new one. It is the refused one
    /// again for a while if that had just replaced another refused one.
    pub async fn get<F>(
        &self,
        refused: Option<&HeaderValue>,
        log_in: impl FnOnce() -> F,
    ) -> Result<HeaderValue, Arc<E>>
    where
        F: Future<Output = Result<KeptToken, E>>,
    {
        if let Some(known) = self.state().known(refused) {
            return known;
        }
        let _turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(_) => {
                if let Some(token) = self.state().still_good(refused) {
                    return Ok(token);
                }
                self.turn.lock().await
            }
        };
        let replaces_refused = {
            let mut state = self.state();
            // Another user may have renewed it meanwhile.
            if let Some(known) = state.known(refused) {
                return known;
            }
            state.drop_refused(refused)
        };
        let answer = log_in().await;
        let mut state = self.state();
        match answer {
            Ok(new) => {
                let token = new.token.clone();
                state.keep(new, replaces_refused);
                Ok(token)
            }
            Err(error) => {
                let error = Arc::new(error);
                state.note_failure(&error, (self.is_passing)(&error));
                state.still_good(refused).ok_or(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    /// A Keystone that counts, and takes its time.
    #[derive(Default)]
    struct Desk {
        asked: AtomicUsize,
        renew_after: Option<Duration>,
        expires_after: Option<Duration>,
        refuses: AtomicBool,
    }

    impl Desk {
        async fn log_in(&self) -> Result<KeptToken, usize> {
            let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
            if self.refuses.load(Ordering::SeqCst) {
                return Err(number);
            }
            Ok(KeptToken {
                token: HeaderValue::from(number),
                renew_at: self.renew_after.map(|after| Instant::now() + after),
                expires_at: self.expires_after.map(|after| Instant::now() + after),
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
        desk.many(&kept, None).await;
        assert_eq!(desk.many(&kept, None).await, all(2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_failed_is_not_tried_again_at_once() {
        let desk = Desk {
            refuses: true.into(),
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
            refuses: true.into(),
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

    #[tokio::test(start_paused = true)]
    async fn a_token_is_good_until_it_expires_though_none_replaces_it() {
        let desk = Desk {
            renew_after: Some(Duration::from_secs(60)),
            expires_after: Some(Duration::from_secs(180)),
            ..Desk::default()
        };
        let kept = Kept::new(None, |_| true);
        assert_eq!(desk.many(&kept, None).await, all(1));
        tokio::time::advance(Duration::from_secs(61)).await;
        desk.refuses.store(true, Ordering::SeqCst);
        for _ in 0..10 {
            assert_eq!(desk.many(&kept, None).await, all(1));
            tokio::time::advance(Duration::from_secs(10)).await;
        }
        // Who was refused it does not get it again, and it is gone for all.
        let first = HeaderValue::from(1_usize);
        kept.get(Some(&first), || desk.log_in()).await.unwrap_err();
        kept.get(None, || desk.log_in()).await.unwrap_err();
        desk.refuses.store(false, Ordering::SeqCst);
        tokio::time::advance(PATIENCE_MAX).await;
        let next = kept.get(None, || desk.log_in()).await.unwrap();
        desk.refuses.store(true, Ordering::SeqCst);
        tokio::time::advance(Duration::from_secs(179)).await;
        assert_eq!(kept.get(None, || desk.log_in()).await, Ok(next));
        tokio::time::advance(PATIENCE_MAX).await;
        kept.get(None, || desk.log_in()).await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn the_old_token_is_used_while_one_asks_for_a_new_one() {
        let desk = Desk {
            renew_after: Some(Duration::from_secs(60)),
            ..Desk::default()
        };
        let kept = Kept::new(None, |_| true);
        assert_eq!(desk.many(&kept, None).await, all(1));
        tokio::time::advance(Duration::from_secs(61)).await;
        let mut tokens = desk.many(&kept, None).await;
        tokens.sort_by_key(|token| token.clone().unwrap().to_str().unwrap().to_owned());
        assert_eq!(tokens[..8], all(1)[..8]);
        assert_eq!(tokens[8], Ok(HeaderValue::from(2_usize)));
    }

    #[tokio::test(start_paused = true)]
    async fn new_tokens_that_are_all_refused_are_asked_for_less_and_less_often() {
        let (desk, kept) = (Desk::default(), Kept::new(None, |_: &usize| true));
        for _ in 0..300 {
            let token = kept.get(None, || desk.log_in()).await.unwrap();
            kept.get(Some(&token), || desk.log_in()).await.unwrap();
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let asked = desk.asked.load(Ordering::SeqCst);
        assert!((8..=12).contains(&asked), "{asked}");
        // One that lasts, and is then refused, is replaced at once.
        let token = kept.get(None, || desk.log_in()).await.unwrap();
        tokio::time::advance(PATIENCE_MAX * 2).await;
        let next = kept.get(Some(&token), || desk.log_in()).await.unwrap();
        assert_ne!(next, token);
    }
}
