//! The program, driven over HTTP and by signals, on SQLite and PostgreSQL. Every test starts what
//! it needs itself.

#![allow(clippy::unwrap_used, reason = "the whole program is a test")]

mod api_ref;
mod backups;
mod bad_input;
mod bench;
mod collection;
mod crash;
mod db_both;
mod faults;
mod filled;
mod isolation;
mod lifecycle;
mod lists;
mod metadata;
mod operators;
mod plans;
mod policy;
mod quotas;
mod races;
mod rotation;
mod support;
mod tracking;
mod upgrade;
mod versions;
