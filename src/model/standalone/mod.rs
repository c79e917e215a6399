//! Nouns of the stand-in for Cinder and Keystone.

pub mod attachment;
pub mod group;
pub mod identity;
pub mod qos;
pub mod snapshot;
pub mod stored;
pub mod transfer;
pub mod volume;
pub mod volume_type;
