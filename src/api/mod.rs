//! HTTP in, HTTP out, and nothing else.
//!
//! One table of routes ([`routes`]), one line from request to answer ([`server`]), one map from
//! failures to faults (`fault`). Handlers parse, call a service and show the result; they are
//! ordinary blocking functions, run on a blocking thread.

mod attachments;
mod backups;
mod body;
mod call;
mod cors;
mod fault;
mod group_snapshots;
mod group_types;
mod groups;
mod identity;
mod identity_admin;
mod jobs;
mod list;
mod messages;
mod metrics;
mod microversion;
mod overview;
mod printable;
mod programs;
mod proxy;
mod python;
mod qos;
mod quotas;
pub mod routes;
pub mod server;
mod snapshots;
mod transfers;
mod type_encryption;
mod types;
mod versions;
mod views;
mod volume_actions;
mod volumes;

pub use metrics::serve_metrics;
pub use server::{Api, listen};
