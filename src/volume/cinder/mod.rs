//! A Cinder, over its public API alone: as its administrator, and for new volumes as the tenant. As a gateway, requests of
//! others are passed on to it as they came.

mod answer;
mod client;
mod error;
mod upstream;

pub use answer::{CinderSnapshot, CinderVolume};
pub use client::{Client, NewVolume};
pub use error::CinderError;
pub use upstream::{
    Answer, Feed, Head, NotTaken, RequestBody, Upstream, UpstreamError, WholeAnswer,
};
