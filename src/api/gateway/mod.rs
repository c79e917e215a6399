//! The service in front of all of Cinder's API: what is not about backups is passed on, and a few answers are merged.

mod merge;
mod messages;
mod pass;
mod quotas;
pub(super) mod routes;
mod services;
mod versions;
mod volumes;

pub(super) use pass::{head_of, is_passed_on, pass};
