//! The time of day, for what is stored or shown. This is the only caller of `chrono::Utc::now`; clippy refuses
//! others. Durations and deadlines inside one process come from the monotonic `Instant`, wherever they are needed:
//! the time of day may jump.

use crate::model::time::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// A source of time: the system's, or one that tests move by hand.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// Microseconds since 1970; a test that holds the counter moves it.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// This moment.
    pub fn now(&self) -> Timestamp {
        match self {
            #[allow(clippy::disallowed_methods)]
            Clock::System => Timestamp(chrono::Utc::now().timestamp_micros()),
            Clock::Manual(micros) => Timestamp(micros.load(Ordering::SeqCst)),
        }
    }
}
