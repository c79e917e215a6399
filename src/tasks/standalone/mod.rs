//! Jobs of the stand-in for Cinder.

pub(super) mod snapshots;
pub(super) mod volumes;
