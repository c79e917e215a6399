//! The program, driven over HTTP and by signals, on SQLite and PostgreSQL. Every test starts what
//! it needs itself.

mod api_ref;
mod backups;
mod bad_input;
mod crash;
mod db_both;
mod faults;
mod lifecycle;
mod support;
