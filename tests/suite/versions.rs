//! Programs of different versions on one database.

use crate::support::{BOTH, Bed, Database, Postgres, until};
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel_migrations::{FileBasedMigrations, MigrationHarness};
use embervault::db::{Db, DbError};
use serde_json::Value;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

/// Where the database of a bed is.
fn url(bed: &Bed) -> String {
    match &bed.postgres {
        Some(postgres) => postgres.url(),
        None => format!("sqlite:{}", bed.data().join("embervault.db").display()),
    }
}

/// Runs SQL in a database, beside the program.
fn run(url: &str, text: &str) {
    let done = match url.strip_prefix("sqlite:") {
        Some(path) => {
            let mut connection = SqliteConnection::establish(path).unwrap();
            connection.batch_execute(&format!("PRAGMA busy_timeout = 30000; {text}"))
        }
        None => PgConnection::establish(url).unwrap().batch_execute(text),
    };
    done.unwrap_or_else(|error| panic!("{text}: {error}"));
}

fn output(bed: &Bed, arguments: &[&str]) -> Output {
    bed.command(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn status(bed: &Bed) -> Value {
    let output = output(bed, &["db", "status", "--json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)))
}

fn micros() -> u128 {
    #[allow(clippy::disallowed_methods, reason = "the test plays a process")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap().as_micros()
}

#[test]
fn an_older_program_refuses_a_newer_database_and_names_both_versions() {
    for database in BOTH {
        let bed = Bed::new(database);
        assert!(bed.start().terminate());
        let known = status(&bed)["program_version"].as_str().unwrap().to_owned();
        run(
            &url(&bed),
            "INSERT INTO __diesel_schema_migrations (version) VALUES ('20991231000099'); \
             INSERT INTO migrated_by (migration, program) VALUES ('20991231000099', '9.8.7')",
        );
        for command in [
            &["serve", "--listen", "127.0.0.1:0"][..],
            &["worker"],
            &["vault", "gc"],
            &["vault", "gc", "--dry-run"],
            &["vault", "verify"],
            &["key", "rotate"],
            &["db", "migrate"],
        ] {
            let refused = output(&bed, command);
            let text = stderr(&refused);
            assert!(!refused.status.success(), "{command:?}");
            for part in ["20991231000099", "9.8.7", &known, env!("CARGO_PKG_VERSION")] {
                assert!(text.contains(part), "{command:?}: {text}");
            }
        }
        let shown = output(&bed, &["db", "status"]);
        assert_eq!(shown.status.code(), Some(1), "{}", stderr(&shown));
        let shown = status(&bed);
        assert_eq!(shown["unknown"], serde_json::json!(["20991231000099"]));
        assert_eq!(shown["database_program"], "9.8.7");
        // The way back that the message names.
        run(
            &url(&bed),
            "DELETE FROM __diesel_schema_migrations WHERE version = '20991231000099'",
        );
        assert!(bed.start().terminate());
    }
}

#[test]
fn a_process_that_has_become_too_old_ends() {
    let bed = Bed::new(Database::Sqlite);
    let service = bed.start();
    run(
        &url(&bed),
        "INSERT INTO __diesel_schema_migrations (version) VALUES ('20991231000099')",
    );
    until("the process ends", || {
        bed.log().contains("too old for the database").then_some(())
    });
    let base = service.base.clone();
    until("nothing listens", || {
        std::net::TcpStream::connect(base.trim_start_matches("http://")).err()
    });
    drop(service);
}

#[test]
fn processes_of_unlike_versions_are_shown_and_logged_once() {
    for database in BOTH {
        let bed = Bed::new(database);
        assert!(bed.start().terminate());
        let seen = micros() + 3_600_000_000;
        run(
            &url(&bed),
            &format!(
                "INSERT INTO processes (id, role, host, version, started_at, seen_at) VALUES \
                 ('other', 'worker', 'elsewhere', '0.0.1', {seen}, {seen}), \
                 ('gone', 'worker', 'nowhere', '0.0.2', 1, {})",
                micros() - 3_600_000_000
            ),
        );
        let service = bed.start();
        // Several heartbeats.
        std::thread::sleep(Duration::from_secs(7));
        let shown = status(&bed);
        let of = |host: &str| {
            let rows = shown["processes"].as_array().unwrap().iter();
            let mut rows = rows.filter(|row| row["host"] == host);
            let row = rows.next().unwrap_or_else(|| panic!("{shown}")).clone();
            (
                row["role"].clone(),
                row["version"].clone(),
                row["up"].clone(),
            )
        };
        assert_eq!(
            of("elsewhere"),
            ("worker".into(), "0.0.1".into(), true.into())
        );
        assert_eq!(
            of("nowhere"),
            ("worker".into(), "0.0.2".into(), false.into())
        );
        let ours = shown["processes"].as_array().unwrap().iter();
        let ours: Vec<&Value> = ours.filter(|row| row["role"] == "serve").collect();
        assert_eq!(ours.len(), 1, "{shown}");
        assert_eq!(ours[0]["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(ours[0]["up"], true);
        assert!(service.terminate());
        let log = bed.log();
        let warnings = log.matches("a process of another version").count();
        assert_eq!(warnings, 1, "{log}");
        assert!(log.contains("0.0.1") && !log.contains("0.0.2"), "{log}");
        // A process that ends in peace is gone at once.
        let shown = status(&bed).to_string();
        assert!(!shown.contains("\"serve\""), "{shown}");
    }
}

/// The tables of the version before the newest one.
fn before_the_newest(database: Database) -> (TempDir, Option<Postgres>, String) {
    let dir = tempfile::tempdir().unwrap();
    let postgres = (database == Database::Postgres).then(Postgres::start);
    let url = match &postgres {
        Some(postgres) => postgres.url(),
        None => format!("sqlite:{}", dir.path().join("db").display()),
    };
    let root = env!("CARGO_MANIFEST_DIR");
    let all = FileBasedMigrations::find_migrations_directory_in_path(root).unwrap();
    let count = std::fs::read_dir(format!("{root}/migrations"))
        .unwrap()
        .count();
    for _ in 1..count {
        match url.strip_prefix("sqlite:") {
            Some(path) => {
                let mut connection = SqliteConnection::establish(path).unwrap();
                connection.run_next_migration(all.clone()).unwrap();
            }
            None => {
                let mut connection = PgConnection::establish(&url).unwrap();
                connection.run_next_migration(all.clone()).unwrap();
            }
        }
    }
    (dir, postgres, url)
}

#[test]
fn tables_are_not_changed_while_an_older_process_uses_them() {
    for database in BOTH {
        let (_dir, _postgres, url) = before_the_newest(database);
        // What an older process writes, which need not be the newest form of it.
        let has_processes = Db::look(&url)
            .unwrap()
            .0
            .applied
            .iter()
            .any(|name| name == "20261130000046");
        let insert = if has_processes {
            "INSERT INTO processes (id, role, host, version, started_at, seen_at) VALUES ('old', 'api', 'h', '0.0.1', 1, 1)"
        } else {
            "INSERT INTO workers (name, started_at, seen_at) VALUES ('old', 1, 1)"
        };
        run(&url, insert);
        let table = if has_processes {
            "processes"
        } else {
            "workers"
        };
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::SeqCst) {
                    run(&url, &format!("UPDATE {table} SET seen_at = {}", micros()));
                    std::thread::sleep(Duration::from_millis(300));
                }
            });
            // The first heartbeat may not be written yet.
            std::thread::sleep(Duration::from_secs(1));
            let refused = Db::open(&url).map(|_| ()).unwrap_err();
            assert!(matches!(refused, DbError::InUse(_)), "{refused:?}");
            assert!(refused.to_string().contains("old"), "{refused}");
            ended.store(true, Ordering::SeqCst);
        });
        assert_eq!(Db::look(&url).unwrap().0.pending().len(), 1);
        // Its last heartbeat alone keeps nobody from the upgrade.
        Db::open(&url).unwrap();
        assert!(Db::look(&url).unwrap().0.pending().is_empty());
    }
}

#[test]
fn the_tables_are_brought_up_to_date_by_a_command() {
    let bed = Bed::new(Database::Sqlite);
    let missing = output(&bed, &["db", "status"]);
    assert!(!missing.status.success());
    assert!(stderr(&missing).contains("there is no database at"));
    assert!(!bed.data().exists());
    let migrated = output(&bed, &["db", "migrate"]);
    assert!(migrated.status.success(), "{}", stderr(&migrated));
    let text = String::from_utf8_lossy(&migrated.stdout).into_owned();
    let newest = status(&bed)["program_version"].as_str().unwrap().to_owned();
    assert!(text.contains(&format!("applied {newest}")), "{text}");
    let again = output(&bed, &["db", "migrate"]);
    assert!(!String::from_utf8_lossy(&again.stdout).contains("applied"));
    let shown = output(&bed, &["db", "status"]);
    assert!(shown.status.success());
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        text.contains(&newest) && text.contains("to be applied     nothing"),
        "{text}"
    );
}
