//! A database of the last form that was landed before this one, filled, and what the next start makes of it.

use crate::support::{BOTH, Bed, Client, Database, Postgres};
use argon2::Argon2;
use argon2::password_hash::PasswordHasher;
use diesel::backend::Backend;
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel_migrations::{FileBasedMigrations, MigrationHarness};
use embervault::db::jobs::Claimer;
use embervault::db::standalone::{snapshots, volumes};
use embervault::db::{self, Db};
use embervault::model::id::{BackupId, JobId, SnapshotId, VolumeId, configured_project};
use embervault::model::job::{Checkpoint, JobState, Queue};
use embervault::model::time::Timestamp;
use embervault::model::vault::VaultRow;
use serde_json::json;
use std::collections::BTreeMap;

/// Migrations that made the old form, and the last of them.
const MIGRATIONS: usize = 8;
const LAST: &str = "20261128000008";

/// What the present form does not keep: everybody logs in again.
const DROPPED: &str = "tokens";

/// Users of the old database: the first two are configured, an administrator has made the others.
const USERS: [&str; 4] = ["demo", "admin", "bob", "carol"];

/// Jobs: kind, queue, and what else the arguments say.
const JOBS: [(&str, &str, &str, &str); 12] = [
    (
        "create_backup",
        "backup",
        "backup_id",
        r#","source":{"volume_id":"v","snapshot_id":null},"force":false"#,
    ),
    (
        "restore_backup",
        "backup",
        "backup_id",
        r#","target":{"volume_id":"v","create":{"project_id":"p","user_id":"u","name":"n","size_gib":1}}"#,
    ),
    ("delete_backup", "quick", "backup_id", ""),
    ("reset_backup", "quick", "backup_id", ""),
    (
        "import_backup",
        "quick",
        "backup_id",
        r#","record":{"id":"i","size":1}"#,
    ),
    ("create_volume", "quick", "volume_id", ""),
    ("delete_volume", "quick", "volume_id", ""),
    ("extend_volume", "quick", "volume_id", r#","size_gib":2"#),
    ("create_snapshot", "quick", "snapshot_id", ""),
    ("delete_snapshot", "quick", "snapshot_id", ""),
    ("collect_vault", "quick", "vault_id", ""),
    ("verify_vault", "quick", "vault_id", ""),
];
const STATES: [&str; 5] = [
    "available",
    "running",
    "completed",
    "cancelled",
    "discarded",
];

/// Either kind of connection.
enum Raw {
    Sqlite(Box<SqliteConnection>),
    Postgres(Box<PgConnection>),
}

#[derive(QueryableByName)]
struct Named {
    #[diesel(sql_type = Text)]
    name: String,
}

#[derive(QueryableByName)]
struct Counted {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

impl Raw {
    fn open(url: &str) -> Self {
        match url.strip_prefix("sqlite:") {
            Some(path) => Self::Sqlite(Box::new(SqliteConnection::establish(path).unwrap())),
            None => Self::Postgres(Box::new(PgConnection::establish(url).unwrap())),
        }
    }

    fn run(&mut self, text: &str) {
        let done = match self {
            Self::Sqlite(connection) => connection.batch_execute(text),
            Self::Postgres(connection) => connection.batch_execute(text),
        };
        done.unwrap_or_else(|error| panic!("{text}: {error}"));
    }

    /// How many rows each table has.
    fn counts(&mut self) -> BTreeMap<String, i64> {
        let names: Vec<Named> = match self {
            Self::Sqlite(connection) => {
                diesel::sql_query("SELECT name FROM sqlite_master WHERE type = 'table'")
                    .load(connection.as_mut())
            }
            Self::Postgres(connection) => diesel::sql_query(
                "SELECT CAST(tablename AS TEXT) AS name FROM pg_tables WHERE schemaname = 'public'",
            )
            .load(connection.as_mut()),
        }
        .unwrap();
        let names = names.into_iter().map(|table| table.name);
        names
            .filter(|name| !name.starts_with("__diesel"))
            .map(|name| {
                let query = diesel::sql_query(format!("SELECT COUNT(*) AS count FROM {name}"));
                let counted: Counted = match self {
                    Self::Sqlite(connection) => query.get_result(connection.as_mut()),
                    Self::Postgres(connection) => query.get_result(connection.as_mut()),
                }
                .unwrap();
                (name, counted.count)
            })
            .collect()
    }

    /// Bytes, as this database writes them.
    fn bytes(&self, bytes: &[u8]) -> String {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sqlite(_) => format!("X'{digits}'"),
            Self::Postgres(_) => format!("'\\x{digits}'::bytea"),
        }
    }
}

/// Makes the tables of the old form.
fn migrate<DB: Backend>(connection: &mut impl MigrationHarness<DB>) {
    let all =
        FileBasedMigrations::find_migrations_directory_in_path(env!("CARGO_MANIFEST_DIR")).unwrap();
    let mut last = String::new();
    for _ in 0..MIGRATIONS {
        let version = connection.run_next_migration(all.clone()).unwrap();
        last = version.to_string();
    }
    assert_eq!(last, LAST);
}

/// A database of the old form without rows.
fn old(url: &str) -> Raw {
    let mut raw = Raw::open(url);
    match &mut raw {
        Raw::Sqlite(connection) => migrate(connection.as_mut()),
        Raw::Postgres(connection) => migrate(connection.as_mut()),
    }
    raw
}

/// The users with their roles, one in a project of its own, and an application credential of `bob`. The password of
/// each is its name.
fn fill_identity(raw: &mut Raw) {
    let project = |name: &str| match name {
        "own" => "0123456789ab4cdef0123456789abcde".to_owned(),
        _ => configured_project(name).to_string(),
    };
    for name in ["demo", "admin", "own"] {
        raw.run(&format!(
            "INSERT INTO projects (id, name) VALUES ('{}', '{name}')",
            project(name)
        ));
    }
    for user in USERS {
        let hash = Argon2::default().hash_password(user.as_bytes()).unwrap();
        raw.run(&format!(
            "INSERT INTO users (id, name, password_hash) VALUES ('{user}', '{user}', '{hash}')"
        ));
    }
    let given = [
        ("demo", "demo", "member"),
        ("admin", "admin", "admin"),
        // An administrator has given these.
        ("demo", "admin", "reader"),
        ("bob", "demo", "member"),
        ("carol", "own", "member"),
    ];
    for (user, name, role) in given {
        raw.run(&format!(
            "INSERT INTO assignments (user_id, project_id, role) VALUES ('{user}', '{}', '{role}')",
            project(name)
        ));
    }
    let hash = raw.bytes(blake3::hash(b"secret").as_bytes());
    raw.run(&format!(
        "INSERT INTO application_credentials (id, name, user_id, project_id, roles, secret_hash, created_at) \
         VALUES ('credential', 'c', 'bob', '{}', '[\"member\"]', {hash}, 1)",
        project("demo")
    ));
}

/// Rows of every table, in every state.
fn fill(raw: &mut Raw) {
    fill_identity(raw);
    let bytes = raw.bytes(b"bytes");
    for text in [
        "INSERT INTO storages (id, name, master_key_check, created_at, last_vault) VALUES ('s', 'local', 'k', 1, 7)",
        "INSERT INTO vaults (number, id, project_id, storage_id, next_pack, created_at, generation, record, \
         collected_at, verified_at, verifying_since, collect_failures, collect_failed_at, verify_failures, \
         verify_failed_at) VALUES (5, 'v', 'p', 's', 9, 1, 3, '{}', 11, 12, 13, 1, 14, 2, 15)",
        "INSERT INTO vaults (number, id, project_id, storage_id, next_pack, created_at) VALUES (6, 'w', 'q', 's', 1, 1)",
        "INSERT INTO volume_types (id, name, is_public, extra_specs, created_at) VALUES ('t', 't', TRUE, '{}', 1)",
        "INSERT INTO volumes (id, project_id, user_id, size_gib, status, volume_type_id, bootable, availability_zone, \
         metadata, created_at) VALUES ('volume', 'p', 'u', 1, 'available', 't', FALSE, 'nova', '{\"k\":\"v\"}', 1)",
        "INSERT INTO volumes (id, project_id, user_id, size_gib, status, previous_status, volume_type_id, bootable, \
         snapshot_id, source_volume_id, availability_zone, metadata, reserved_by, created_at, updated_at) \
         VALUES ('held', 'p', 'u', 1, 'backing-up', 'in-use', 't', FALSE, 'snapshot', 'volume', 'nova', '{}', 'j#1', 1, 2)",
        "INSERT INTO snapshots (id, volume_id, project_id, user_id, size_gib, status, metadata, created_at) \
         VALUES ('snapshot', 'volume', 'p', 'u', 1, 'available', '{}', 1)",
        "INSERT INTO attachments (id, volume_id, project_id, mode, status, created_at) \
         VALUES ('attachment', 'held', 'p', 'rw', 'attached', 1)",
        "INSERT INTO messages (id, project_id, action, detail, event_id, level, created_at, expires_at) \
         VALUES ('message', 'p', 'a', 'd', 'e', 'ERROR', 1, 2)",
        "INSERT INTO quotas (scope, name, resource, hard_limit) VALUES ('project', 'p', 'backups', 10)",
        "INSERT INTO services (name, disabled, frozen, updated_at) VALUES ('cinder-backup@worker', TRUE, FALSE, 1)",
        "INSERT INTO records (id, kind, project_id, status, body, created_at) \
         VALUES ('record', 'group', 'p', 'available', '{}', 1)",
        "INSERT INTO sessions (job, attempt) VALUES ('j', 2)",
        "INSERT INTO session_packs (session, vault, pack, rewrite) VALUES ('j', 5, 1, 0), ('j', 5, 2, NULL)",
        "INSERT INTO workers (name, started_at, seen_at) VALUES ('worker', 1, 2)",
        "INSERT INTO removed_roots (vault, root, was_available) VALUES (5, 'r', TRUE)",
        "INSERT INTO unknown_objects (object, vault, generation) VALUES ('o', 5, 1)",
    ] {
        raw.run(text);
    }
    for (number, state) in ["writing", "live", "condemned", "deleting", "gone"]
        .iter()
        .enumerate()
    {
        raw.run(&format!(
            "INSERT INTO packs (vault, number, rewrite, kind, state, stored_bytes, chunk_count, damage) \
             VALUES (5, {number}, 0, 'data', '{state}', 1, 1, 'a fault')"
        ));
    }
    for (table, more, values) in [
        ("chunks", "", ""),
        (
            "lost_chunks",
            ", frame_offset, frame_length, frame_check",
            ", 0, 1, 2",
        ),
    ] {
        raw.run(&format!(
            "INSERT INTO {table} (vault, id, pack, ordinal, length{more}) VALUES (5, {bytes}, 1, 0, 1{values})"
        ));
    }
    for status in [
        "creating",
        "available",
        "restoring",
        "deleting",
        "error",
        "error_deleting",
    ] {
        raw.run(&format!(
            "INSERT INTO backups (id, project_id, user_id, storage_id, vault_id, volume_id, status, size_gib, \
             object_count, metadata, pack_set, logical_bytes, read_bytes, stored_bytes, deduplicated_bytes, created_at) \
             VALUES ('{status}', 'p', 'u', 's', 'v', 'volume', '{status}', 1, 3, '{{}}', {bytes}, 1, 2, 3, 4, 1)"
        ));
    }
    for (kind, queue, key, rest) in JOBS {
        for state in STATES {
            raw.run(&format!(
                "INSERT INTO jobs (id, lane, kind, subject, args, state, attempt, run_at, leased_until, worker, holder, \
                 reason, progress_done, progress_total, failures, orphaned, checkpoint, request_id, cancel_requested, \
                 project_id, beats, created_at, updated_at) VALUES ('{kind} {state}', '{queue}', '{kind}', \
                 'of {kind} {state}', '{{\"kind\":\"{kind}\",\"{key}\":\"of {kind} {state}\"{rest}}}', '{state}', 1, 2, \
                 3, 'worker', 'place', 'reason', 4, 5, 6, 7, 'written', 'request', TRUE, 'p', 8, 9, 10)"
            ));
        }
    }
    raw.run(&format!(
        "INSERT INTO tokens (hash, user_id, methods, roles, audit_id, issued_at, expires_at) \
         VALUES ({bytes}, 'bob', '[\"password\"]', '[\"admin\"]', 'a', 1, 9000000000000000)"
    ));
}

#[test]
fn a_filled_database_of_the_form_before_keeps_its_rows() {
    for database in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let postgres = (database == Database::Postgres).then(Postgres::start);
        let url = match &postgres {
            Some(postgres) => postgres.url(),
            None => format!("sqlite:{}", dir.path().join("db").display()),
        };
        let mut raw = old(&url);
        fill(&mut raw);
        let before = raw.counts();
        assert!(before.values().all(|count| *count > 0), "{before:?}");
        let db = Db::open(&url).unwrap();
        let mut after = raw.counts();
        assert_eq!(after.insert(DROPPED.to_owned(), 1), Some(0));
        // Tables that are new are empty, but for the note of who made them.
        assert_eq!(after.remove("migrated_by"), Some(1));
        after.retain(|table, count| before.contains_key(table) || *count > 0);
        assert_eq!(before, after, "{database:?}");
        check_jobs(&db);
        check_others(&db);
    }
}

fn check_jobs(db: &Db) {
    for (kind, queue, ..) in JOBS {
        for state in STATES {
            let id = JobId::new(format!("{kind} {state}"));
            let job = db.read(|c| db::jobs::find(c, &id)).unwrap().unwrap();
            let words = (job.queue.as_str(), job.state.as_str(), job.args.kind());
            assert_eq!(words, (queue, state, kind));
            assert_eq!(job.subject, job.args.subject().id());
            let numbers = [
                job.run_at.0,
                job.progress_done,
                job.progress_total,
                job.failures.into(),
                job.orphaned.into(),
                job.heartbeats,
                job.created_at.0,
                job.updated_at.0,
            ];
            assert_eq!(numbers, [2, 4, 5, 6, 7, 8, 9, 10]);
            assert_eq!(job.checkpoint, Some(Checkpoint::Written));
            assert!(job.cancel_requested);
        }
    }
    let us = Claimer {
        worker: "us".to_owned(),
        place: "here".to_owned(),
        places: 4,
        reserves: false,
        others: vec!["worker".to_owned()],
    };
    for queue in [Queue::Backup, Queue::Quick] {
        let claim = |abandoned: &[(JobId, i64)]| {
            let until = Timestamp(2000);
            db.write(|c| db::jobs::claim(c, queue, &us, Timestamp(1000), until, abandoned))
                .unwrap()
        };
        let waiting = claim(&[]).unwrap();
        assert_eq!((waiting.attempt, waiting.state), (2, JobState::Running));
        let left = match queue {
            Queue::Backup => "restore_backup running",
            _ => "delete_volume running",
        };
        let left = JobId::new(left);
        let taken = claim(&[(left.clone(), 8)]).unwrap();
        assert_eq!((taken.id, taken.orphaned), (left, 8));
    }
}

fn check_others(db: &Db) {
    let vaults = db.read(db::vaults::all).unwrap();
    let numbers: Vec<i64> = vaults.iter().map(|row: &VaultRow| row.number).collect();
    assert_eq!(numbers, [5, 6]);
    let volume = db
        .read(|c| volumes::find(c, &VolumeId::new("held")))
        .unwrap();
    assert_eq!(volume.unwrap().reserved_by.as_deref(), Some("j#1"));
    let snapshot = db.read(|c| snapshots::find(c, &SnapshotId::new("snapshot")));
    assert!(snapshot.unwrap().is_some());
    for status in ["creating", "restoring", "error_deleting"] {
        let backup = db.read(|c| db::backups::find(c, &BackupId::new(status)));
        assert_eq!(backup.unwrap().unwrap().status.as_str(), status);
    }
    assert!(db.read(db::workers::are_disabled).unwrap());
}

#[test]
fn users_keep_their_roles_and_credentials() {
    for database in BOTH {
        let mut bed = Bed::new(database);
        let keys = bed.data().join("keys");
        std::fs::create_dir_all(&keys).unwrap();
        let url = match &bed.postgres {
            Some(postgres) => postgres.url(),
            None => format!("sqlite:{}", bed.dir.path().join("old").display()),
        };
        bed.set("DATABASE__URL", &url);
        fill_identity(&mut old(&url));
        let configure = |names: &[&str]| {
            let users = names.iter().map(|name| {
                let role = if *name == "admin" { "admin" } else { "member" };
                format!(
                    "[[users]]\nname = '{name}'\npassword = '{name}'\nproject = '{name}'\nrole = '{role}'\n"
                )
            });
            std::fs::write(keys.join("users.toml"), users.collect::<String>()).unwrap();
        };
        let log_in = |base: &str, user: &str, project: &str| {
            let domain = json!({ "id": "default" });
            let body = json!({ "auth": {
                "identity": { "methods": ["password"], "password": { "user": {
                    "name": user, "password": user, "domain": domain,
                } } },
                "scope": { "project": { "name": project, "domain": domain } },
            } });
            let text = body.to_string();
            let client = Client::anonymous(base);
            client
                .send("POST", "/identity/v3/auth/tokens", Some(text))
                .status
        };
        let with_credential = |base: &str| {
            let body = json!({ "auth": { "identity": {
                "methods": ["application_credential"],
                "application_credential": { "id": "credential", "secret": "secret" },
            } } });
            let text = body.to_string();
            let client = Client::anonymous(base);
            client
                .send("POST", "/identity/v3/auth/tokens", Some(text))
                .status
        };
        configure(&["demo", "admin"]);
        let service = bed.start();
        for (user, project) in [
            ("demo", "demo"),
            ("admin", "admin"),
            ("demo", "admin"),
            ("bob", "demo"),
            ("carol", "own"),
        ] {
            let status = log_in(&service.base, user, project);
            assert_eq!(status, 201, "{database:?}: {user} in {project}");
        }
        assert_eq!(with_credential(&service.base), 201);
        service.kill();
        let log = bed.log();
        let named = log.lines().filter(|line| line.contains("does not give"));
        let named: Vec<&str> = named.collect();
        assert!(
            matches!(*named, [line] if line.contains("demo in admin, bob in demo") || line.contains("bob in demo, demo in admin")),
            "{log}"
        );

        // From now on it is known whom the configuration names.
        configure(&["admin"]);
        let service = bed.start();
        assert_eq!(log_in(&service.base, "demo", "demo"), 401);
        assert_eq!(log_in(&service.base, "bob", "demo"), 201);
        service.kill();
    }
}
