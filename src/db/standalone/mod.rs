//! Rows of the stand-in for Cinder and Keystone.

pub mod credentials;
pub mod groups;
pub mod identity;
pub mod owners;
pub mod records;
pub mod snapshots;
pub mod types;
pub mod volumes;
