//! A Cinder, over its public API alone: as its administrator, and for new volumes as the tenant.

mod answer;
mod client;
mod error;

pub use answer::{CinderSnapshot, CinderVolume};
pub use client::{Client, NewVolume};
pub use error::CinderError;
