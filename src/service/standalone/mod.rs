//! Carries out requests to the stand-in for Cinder: volumes, snapshots and all that belongs to them.

pub mod attachments;
pub mod group_snapshots;
pub mod group_types;
pub mod groups;
pub mod hosts;
pub mod qos;
pub mod snapshots;
pub(super) mod stored;
pub mod transfers;
pub mod types;
pub mod volume_actions;
pub mod volume_summary;
pub mod volumes;
