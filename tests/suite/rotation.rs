//! Changes of the master key that meet.

use crate::support::{BOTH, Database, Postgres, until};
use diesel::connection::{Connection, SimpleConnection};
use diesel::pg::PgConnection;
use embervault::app::StartError;
use embervault::app::keys::rotate;
use embervault::config::{Config, DataDir, Storage};
use embervault::db::Db;
use std::path::Path;
use tokio::runtime::Runtime;

#[test]
fn what_one_process_holds_no_other_gets() {
    for database in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let postgres = (database == Database::Postgres).then(Postgres::start);
        let url = match &postgres {
            Some(postgres) => postgres.url(),
            None => format!("sqlite:{}", dir.path().join("db").display()),
        };
        let [one, other] = [0; 2].map(|_| Db::open(&url).unwrap());
        let held = one.exclusive("a").unwrap().unwrap();
        held.check().unwrap();
        assert!(other.exclusive("a").unwrap().is_none(), "{database:?}");
        assert!(other.exclusive("b").unwrap().is_some(), "{database:?}");
        drop(held);
        assert!(other.exclusive("a").unwrap().is_some(), "{database:?}");
    }
}

#[test]
fn a_lost_connection_holds_nothing_and_says_so() {
    let postgres = Postgres::start();
    let [one, other] = [0; 2].map(|_| Db::open(&postgres.url()).unwrap());
    let held = one.exclusive("a").unwrap().unwrap();
    let mut admin = PgConnection::establish(&postgres.url()).unwrap();
    admin
        .batch_execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2",
        )
        .unwrap();
    until("the lock is free", || other.exclusive("a").unwrap());
    assert!(held.check().is_err());
}

/// A host with files of its own, and the database and the storage of all.
fn host(dir: &Path, database: &str, storage: &Path) -> Config {
    let settings = format!("[database]\nurl = {database:?}\n");
    let mut config: Config = toml::from_str(&settings).unwrap();
    let shared = Storage {
        default: true,
        ..Storage::at(format!("fs:{}", storage.display()))
    };
    config.data_dir = DataDir(dir.to_owned());
    config.storage.insert("shared".to_owned(), shared);
    config
}

#[test]
fn two_hosts_never_change_the_master_key_at_once() {
    let postgres = Postgres::start();
    let (runtime, dir) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let storage = dir.path().join("storage");
    let [one, other] = ["one", "other"].map(|name| {
        let dir = dir.path().join(name);
        host(&dir, &postgres.url(), &storage)
    });
    rotate(&one, runtime.handle()).unwrap();
    // Both hosts have the same keys.
    let copy = other.master_key_file();
    std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
    std::fs::copy(one.master_key_file(), &copy).unwrap();
    let (before, next) = (
        std::fs::read(&copy).unwrap(),
        one.master_key_file().with_extension("next"),
    );
    // The first is halted in the middle, where it looks for vaults.
    let mut admin = PgConnection::establish(&postgres.url()).unwrap();
    admin
        .batch_execute("BEGIN; LOCK TABLE vaults IN ACCESS EXCLUSIVE MODE")
        .unwrap();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| rotate(&one, runtime.handle()));
        until("the first has begun", || next.exists().then_some(()));
        let second = rotate(&other, runtime.handle());
        admin.batch_execute("ROLLBACK").unwrap();
        first.join().unwrap().unwrap();
        let error = second.map(|_| ()).unwrap_err();
        assert!(matches!(error, StartError::Rotating), "{error:?}");
    });
    assert_eq!(std::fs::read(&copy).unwrap(), before);
    assert!(!copy.with_extension("next").exists());
    assert_ne!(std::fs::read(one.master_key_file()).unwrap(), before);
}
