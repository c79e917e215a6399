//! Embervault: a volume backup service for OpenStack clouds.
//!
//! # Floor plan
//!
//! ```text
//!  9   cli/                         commands
//!  8   app/                         wiring of the parts; graceful stop
//!  7   api/                         HTTP in, HTTP out, and nothing else
//!  6   service/      tasks/         what a request does | what a job does
//!  5   engine/       jobs/          deduplicating repository | durable job runner
//!  4   volume/       identity/      doors onto floor 3: who owns volumes, who is asking
//!  3   db/  store/   clock  metrics doors: SQL, objects, time, counters
//!  2   config                       settings
//!  1   model/                       nouns, states, errors; no I/O
//! ```
//!
//! A module uses floors below its own, never its neighbours and never upward; `tests/layers.rs`
//! fails otherwise. Each door is the only module that names its crate: diesel queries stand in
//! [`db`], opendal in [`store`], actix in [`api`] (and [`app`], which starts the server).
//! The standalone volume catalogue and the embedded identity keep their rows in the database, so
//! these two doors stand one floor above it instead of beside it.
//!
//! # One backup
//!
//! 1. `POST /v3/{project}/backups` reaches `api::backups`, which parses the body and calls
//!    [`service::backups`].
//! 2. The service checks the volume and the quota, then inserts the backup (`creating`) and its
//!    job in one transaction, and asks the catalogue to reserve the volume.
//! 3. A runner ([`jobs`]) claims the job under a lease; `tasks::create_backup` opens the volume
//!    and lets the [`engine`] write packs and, last, the root: the commit point in the store.
//! 4. The volume is released, then one transaction makes the backup `available` and completes the
//!    job. Whatever the moment of a crash, the job is claimed again and the line is walked again;
//!    chunks that are already stored are found and not uploaded twice.
//!
//! # One restore
//!
//! The API moves the backup to `restoring` and inserts the job in one transaction; the task
//! reserves or creates the target, the engine reads root, leaves and ranges of packs, verifies
//! every chunk and writes it, and the catalogue releases the target with the saved metadata.
//!
//! # One refusal
//!
//! `api::server` is the whole pipeline: request id, size, route, caller, version, media type, body,
//! project, handler. Who asks is told by [`identity`], our own or a Keystone; what they may do by
//! the rules of [`identity::policy`], which services ask with the project of the object at hand. An
//! object of another project is looked up as if it did not exist, so a refusal tells nobody of it.
//! Every error becomes status, headers and body in `api::fault`, and nowhere else.
//!
//! # Invariants
//!
//! * Engine, jobs, service and tasks are ordinary blocking code on bounded threads; only `api`,
//!   the runner's loop and the inside of `store` know of async.
//! * State changes are compare-and-set on the row; nobody reads a state and then writes it.
//! * An interrupted job is claimed by the same query as a new one. Only what waits for a job that is
//!   not there at all, as somebody removed its row, is looked for and ended (`tasks::orphans`).
//! * A backup never refers to another backup; any of them can be deleted at any time.

pub mod api;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod db;
pub mod engine;
pub mod identity;
pub mod jobs;
pub mod metrics;
pub mod model;
pub mod service;
pub mod store;
pub mod tasks;
pub mod volume;
