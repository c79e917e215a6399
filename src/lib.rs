//! Embervault: a volume backup service for OpenStack clouds.
//!
//! # Floor plan
//!
//! ```text
//!  9   cli/                         commands
//!  8   app/                         wiring of the parts; graceful stop
//!  7   api/                         HTTP in, HTTP out, and nothing else
//!  6   service/      tasks/         what a request does | what a job does
//!  5   engine/       admission/     deduplicating repository | the one way in for backups and restores
//!  4   volume/       identity/      doors onto floor 3: who owns volumes, who is asking
//!      store/        jobs/          door: objects | durable job runner
//!  3   db/  keystone/  metrics      doors: SQL, a Keystone, counters
//!                    logs           how much each part says
//!  2   config        clock          settings | time
//!  1   model/                       nouns, states, errors; no I/O
//! ```
//!
//! A module uses floors below its own, never its neighbours and never upward; `tests/layers.rs`
//! fails otherwise. It also lists for each foreign crate behind a door which modules may name it, mostly one:
//! diesel queries stand in [`db`], opendal in [`store`], actix in [`api`] (and [`app`], which starts the server).
//! The catalogues of volumes and the embedded identity keep rows in the database, and [`identity`], [`store`] and
//! [`volume`] ask a Keystone through [`keystone`]; so these doors stand one floor above instead of beside it.
//!
//! # The wall
//!
//! The product is a backup service. Where no cloud surrounds it, a stand-in plays Cinder and Keystone. On each floor
//! that has a part of the stand-in, that part lies in a folder `standalone`; that of [`identity`] is called
//! `embedded`. Outside of these folders, only the code that chooses between the stand-in and a real cloud may name it.
//! `identity.mode` makes that choice for users and projects, in `app/mod.rs`. `volumes.mode` makes it for volumes, in
//! `Catalog::open`. A few files name the stand-in without choosing; `tests/layers.rs` lists them, and none may be
//! added.
//!
//! Backups ask for volumes at one port, [`volume::catalog`]. Its header says which calls may share a transaction
//! and which are repeated.
//!
//! # The rooms of the engine
//!
//! ```text
//!  write      care                   a volume to packs and a root | upkeep
//!  read                              a root to a volume; reads what the two above need, too
//!  vault                             one project's keys, parameters and objects in one storage
//!  format                            every stored byte
//! ```
//!
//! Writing and upkeep never name each other. They are safe side by side by the rows they hold.
//!
//! # One request
//!
//! `POST /v3/{project}/backups`, for example, passes these files, and behind them the queries of `db/`:
//!
//! | file | what it does there |
//! |---|---|
//! | `api/server.rs` | the pipeline: request id, size, body, memory, answer |
//! | `api/dispatch.rs` | route, token, version, media type, project, handler |
//! | `api/routes.rs` | the table of all routes leads to `api::backups::create` |
//! | `api/backups.rs` | parses the body, calls the service, shows the result |
//! | `service/backups.rs` | looks the volume up and authorizes |
//! | `admission/create.rs` | describes the backup; what the transaction does for it: holds the volume, chooses the parent, inserts the backup (`creating`) |
//! | `admission/mod.rs` | the transaction, which takes the project's lock first and inserts the job last; the check of the quota |
//! | `volume/catalog/mod.rs` | the port to what keeps the volumes: finds the volume, and holds it in the same transaction |
//! | `db/backups.rs`, `db/quotas.rs`, `db/jobs.rs` | the rows of backups, limits and jobs |
//!
//! Every error becomes status, headers and body in `api/http/fault.rs`, and nowhere else. Who asks is decided by
//! [`identity`], our own or a Keystone; what they may do, by the rules of [`identity::policy`], which services ask
//! with the project of the object in question. An object of another project is looked up as if it did not exist, so a
//! refusal reveals nothing about it. Before all that, `api/http/connection.rs` limits how long a client may take and how
//! much of what it sends is read ahead, `api/http/wire.rs` the size of the head, and `api/server.rs` that of the body; a
//! request without a token may have only a small one.
//!
//! In front of a Cinder, a request that is not ours takes another way (`cinder.gateway`): `api/gateway/pass.rs` hands it on
//! piece by piece, `volume/cinder/upstream.rs` sends it, and the answer comes back the same way. Nothing of it is kept, so
//! neither needs memory for a whole body. `api/gateway/routes.rs` lists the requests whose answers are put together of
//! Cinder's and ours; their handlers ask Cinder as the client, and change what it answers.
//!
//! # One backup
//!
//! A backup is one straight line. After a crash at any point the job is claimed again and goes down the same line, until
//! its workers have died `jobs.attempts_max` times; chunks that are stored already are found and not uploaded again.
//!
//! 1. `jobs/runner.rs` claims the job under a lease and `tasks/run.rs` starts it.
//! 2. `tasks/create_backup.rs` opens the vault. A root that is there already, from a run that was cut off, is the
//!    result; go on with 7. Otherwise it compares the roots in the storage with the database; if the database turns out
//!    to be an old copy, the rows of packs are corrected first. Then it holds the volume, reads the parent's root and
//!    opens the volume.
//! 3. `engine/write/backup.rs` begins the session and shares the spans out among threads.
//! 4. `engine/write/span.rs` finds what changed in a span, `stage.rs` cuts it into chunks and looks them up
//!    (`index.rs`), and `splice.rs` puts the leaf together.
//! 5. `engine/write/packer.rs` fills packs with the new frames; `session.rs` uploads each pack and makes its row live.
//! 6. `engine/write/tree.rs` stores the nodes above the leaves. `engine/vault/mod.rs` stores the root: the commit point
//!    in the storage.
//! 7. `tasks/create_backup.rs` releases the volume. One last transaction makes the backup `available`, drops the
//!    session's references and completes the job.
//!
//! # One restore
//!
//! 1. `service/backups.rs` finds the target. If the request names no volume and a Cinder keeps the volumes, it has one
//!    made there, with the user's token.
//! 2. `admission/restore.rs` moves the backup to `restoring`, holds or inserts the target, and inserts the job, in one
//!    transaction.
//! 3. `tasks/restore_backup.rs` takes the hold over and opens the target.
//! 4. `engine/read/restore.rs` reads leaves and ranges of packs, verifies every chunk and writes it. Where the catalogue
//!    knows what changed since the backup, only that is read and written.
//! 5. `tasks/restore_backup.rs` notes that the target is written: from now on it may be in use, and no later run writes
//!    it again. The catalogue releases the target with the saved metadata. One last transaction makes the backup
//!    `available` again and completes the job.
//!
//! # Where new things go
//!
//! **A field of backups** begins in [`model::description::Description`], which is one struct from the request to root, row
//! and exported record. It is taken apart without `..`, so the compiler leads to most places. It does not lead to these:
//!
//! * Roots hold the struct as JSON, and those of older backups have no such field. It needs `#[serde(default)]`; without
//!   it every older root counts as corrupt. `engine/tests/stored.rs` reads a vault that was stored before.
//! * `model/schema.rs`, a migration for both databases, and in `db/backups.rs` the columns that an import writes
//!   (`set_imported`).
//! * What may be changed: `Changes` in `db/backups.rs` and `UPDATE` in `api/backups.rs`. By what lists are filtered and
//!   sorted: `COLUMNS` in `model/backup.rs`, and `COLLECTION` in `api/backups.rs` for members.
//! * A value that is known only later: `set_finished` and `set_place` in `db/backups.rs`.
//! * `api/http/microversion.rs` if clients get it only from some version on; `api-ref/`: README, `openapi.yaml`, samples.
//! * `tests/suite/plans/calls.rs`, where each query is made once.
//!
//! A new field of `vault.json` or its `Parameters` changes what its MAC is computed of, so a default is not enough there.
//!
//! **A kind of storage**: the header of `store/drivers/mod.rs` lists all places.
//!
//! **A source of volumes** is a variant of [`volume::catalog::Catalog`] with an arm in each of its methods, chosen in
//! `Catalog::open`. `volume/catalog/memory.rs` is the smallest one, for tests. Its volumes must be opened for reading and
//! writing (`volume/reader.rs`, `volume/writer.rs`). It is chosen by a `VolumesMode` in `config/cinder.rs`. What it holds
//! for jobs stands in `db/volume_holds.rs`; its errors become refusals in `volume/catalog/error.rs` and
//! `admission/mod.rs`. `cli/cloud.rs` has the check that operators run.
//!
//! **A resource with requests of its own** has a type in `model/`, a table in `model/schema.rs` with a migration for both
//! databases, queries in `db/`, a service in `service/`, handlers in `api/` with their lines in `api/routes.rs`, and rules
//! in `identity/policy.rs`. Tests ask for a line in `tests/suite/plans/calls.rs` for each query, rows in
//! `tests/suite/filled.rs`, rules in `tests/suite/policy.txt`, and the routes in `api-ref/openapi.yaml` with samples. In
//! front of a Cinder its paths must lead here: `is_passed_on` in `api/gateway/pass.rs`, and the samples for proxies in the
//! README.
//!
//! **Work that no request asks for** begins in `app/mod.rs`, in the processes that run jobs: `schedule` asks
//! `tasks/maintenance.rs` from time to time which jobs are due, `look_after_orphans` settles what no job will end. Other
//! periodic work needs such a loop, started in `run_queues` beside them. What takes long is a job: its arguments in
//! `model/job.rs`, its work in `tasks/`, found by `tasks/run.rs`. Backups that it starts go through [`admission`], as
//! those of requests do; so far only [`service`] has one.
//!
//! # Invariants
//!
//! * Engine, service and tasks are ordinary blocking code on bounded threads. Async code stands only in `api`, `app`,
//!   the runner and heartbeat of `jobs`, inside of `store`, `keystone` and `volume::cinder`, and where `cli` starts the
//!   runtime and waits for signals.
//! * State changes are compare-and-set on the row; no code reads a state and then writes it.
//! * An interrupted job is claimed by the same transaction as a new one, and runs from its beginning. Only rows that wait
//!   for a job that does not exist, as its row was removed, and files that such a job has left, are looked for and
//!   settled (`tasks/orphans.rs`).
//! * No backup needs another one. A row names its parent, and that of an import may name the root of another backup, but
//!   what a backup needs stays until it is deleted itself. So any backup that is available or failed can be deleted, in
//!   any order, and by force in every state.

pub mod admission;
pub mod api;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod db;
pub mod engine;
pub mod identity;
pub mod jobs;
pub mod keystone;
pub mod logs;
pub mod metrics;
pub mod model;
pub mod service;
pub mod store;
pub mod tasks;
pub mod volume;
