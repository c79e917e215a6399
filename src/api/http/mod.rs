//! Parts that every handler uses: the request and its body, the answer, faults, versions and lists.

pub(super) mod body;
pub(super) mod budget;
pub(super) mod call;
pub(super) mod connection;
pub(super) mod cors;
pub(super) mod fault;
pub(super) mod gateway;
pub(super) mod kinds;
pub(super) mod links;
pub(super) mod list;
pub(super) mod metrics;
pub(super) mod microversion;
pub(super) mod printable;
pub(super) mod proxy;
pub(super) mod python;
pub(super) mod reply;
pub(super) mod schema;
pub(super) mod state;
pub(super) mod taking;
pub(super) mod wire;
