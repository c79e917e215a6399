//! HTTP in, HTTP out, and nothing else.
//!
//! One table of routes ([`routes`]), one line from request to answer ([`server`]), one map from
//! failures to faults (`fault`). Handlers parse, call a service and show the result; they are
//! ordinary blocking functions, run on a blocking thread.

mod backups;
mod cinder_services;
mod dispatch;
mod gateway;
mod http;
mod jobs;
mod messages;
mod quotas;
mod router;
pub mod routes;
pub mod server;
mod standalone;
mod versions;

pub use http::gateway::Gateway;
pub use http::metrics::{METRICS_CONNECTIONS_MAX, serve_metrics};
pub use http::state::Api;
pub use server::listen;
