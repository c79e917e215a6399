//! Handlers of the stand-in for Cinder and Keystone. Their routes are always in the table of `api/routes.rs`. Without
//! the embedded identity, its routes answer 404. Without our catalogue of volumes, `api/dispatch.rs` answers as if there
//! were no routes to it.

pub(super) mod attachments;
pub(super) mod group_snapshots;
pub(super) mod group_types;
pub(super) mod groups;
pub(super) mod hosts;
pub(super) mod identity;
pub(super) mod identity_admin;
pub(super) mod identity_catalog;
pub(super) mod identity_credentials;
pub(super) mod identity_roles;
pub(super) mod identity_views;
pub(super) mod overview;
pub(super) mod pools;
pub(super) mod qos;
pub(super) mod snapshots;
pub(super) mod transfers;
pub(super) mod type_encryption;
pub(super) mod types;
pub(super) mod views;
pub(super) mod volume_actions;
pub(super) mod volumes;
