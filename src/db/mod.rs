//! The door to the database: SQLite or PostgreSQL, chosen by URL at run time.
//!
//! Queries stand in the files of this folder, one for each table, and are the same text for both
//! databases. `write` begins IMMEDIATE on SQLite: a deferred transaction that reads and then
//! writes dies with "database is locked" as soon as there are two. PostgreSQL fails the other way
//! and loses updates silently, so every change of state is a compare-and-set.
//!
//! All calls block; async callers use a blocking thread.

pub mod backups;
pub mod chunks;
pub mod collection;
pub mod condition;
pub mod groups;
pub mod identity;
pub mod jobs;
pub mod messages;
pub mod orphans;
pub mod owners;
pub mod packs;
mod page;
pub mod quotas;
pub mod records;
pub mod services;
pub mod sessions;
pub mod snapshots;
pub mod types;
pub mod vaults;
pub mod volumes;
pub mod workers;

use crate::model::error::Error;
use diesel::connection::{AnsiTransactionManager, SimpleConnection, TransactionManager};
use diesel::prelude::*;
use diesel::r2d2::{ManageConnection, Pool, R2D2Connection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use std::path::PathBuf;

use std::time::Duration;

pub use diesel::QueryResult;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

/// Pages a SQLite reader or the writer waits for a lock: 30 seconds.
const SQLITE_PRAGMAS: &str = "PRAGMA busy_timeout = 30000; PRAGMA journal_mode = WAL; \
     PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA cache_size = -16384;";

/// A process that is halted inside a transaction must not hold its locks for ever, and who waits for one
/// gives up in the end. The longest transactions, those that remove a vault, take seconds.
const POSTGRES_LIMITS: &str =
    "SET idle_in_transaction_session_timeout = '60s'; SET lock_timeout = '60s'";

/// What a URL says of connections that go dead without a word, unless it says something else: the server
/// or the network may be gone.
const POSTGRES_DEAD_AFTER: [(&str, &str); 5] = [
    ("connect_timeout", "10"),
    ("keepalives_idle", "15"),
    ("keepalives_interval", "5"),
    ("keepalives_count", "3"),
    ("tcp_user_timeout", "30000"),
];

/// Connections kept for reading on SQLite, and for everything on PostgreSQL.
const CONNECTIONS_MAX: u32 = 8;

/// One connection to either database.
#[derive(diesel::MultiConnection)]
pub enum DbConnection {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

/// Failure of the database.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    #[error("database URL {0:?}: use sqlite:PATH or postgresql://…")]
    Url(String),
    #[error("database: no connection")]
    Connect(#[source] diesel::r2d2::PoolError),
    #[error("database: {0}")]
    Query(#[from] diesel::result::Error),
    #[error("database: migration failed")]
    Migrate(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("database {}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
}

impl From<DbError> for Error {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Connect(_) => Error::Unavailable {
                message: "The database is unavailable for now.".to_owned(),
                source: Some(error.into()),
            },
            DbError::Query(diesel::result::Error::DatabaseError(
                diesel::result::DatabaseErrorKind::ClosedConnection,
                _,
            )) => Error::Unavailable {
                message: "The database is unavailable for now.".to_owned(),
                source: Some(error.into()),
            },
            DbError::Url(_) | DbError::Query(_) | DbError::Migrate(_) | DbError::File { .. } => {
                Error::internal(error)
            }
        }
    }
}

impl From<diesel::result::Error> for Error {
    fn from(error: diesel::result::Error) -> Self {
        DbError::from(error).into()
    }
}

/// Whether a failed insert ran into a unique index.
pub fn is_duplicate(error: &diesel::result::Error) -> bool {
    use diesel::result::{DatabaseErrorKind, Error};
    matches!(
        error,
        Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _)
    )
}

/// The database. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    readers: Pool<Manager>,
    /// On SQLite a single connection, as SQLite has a single writer.
    writer: Pool<Manager>,
}

impl Db {
    /// Connects, and brings the tables to the present form.
    pub fn open(url: &str) -> Result<Self, DbError> {
        let manager = Manager::from_url(url)?;
        if let Manager::Sqlite(path) = &manager {
            create_private(path)?;
        }
        let writers = match &manager {
            Manager::Sqlite(_) => 1,
            Manager::Postgres(_) => CONNECTIONS_MAX,
        };
        let writer = pool(manager.clone(), writers)?;
        migrate(&mut *writer.get().map_err(DbError::Connect)?)?;
        let readers = match &manager {
            Manager::Sqlite(_) => pool(manager, CONNECTIONS_MAX)?,
            Manager::Postgres(_) => writer.clone(),
        };
        Ok(Self { readers, writer })
    }

    /// Runs queries that change nothing.
    pub fn read<T, E: From<DbError>>(
        &self,
        queries: impl FnOnce(&mut DbConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut connection = self.readers.get().map_err(DbError::Connect)?;
        queries(&mut connection)
    }

    /// Runs queries in one transaction: all of them happen, or, after an error, none.
    pub fn write<T, E: From<DbError>>(
        &self,
        queries: impl FnOnce(&mut DbConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut connection = self.writer.get().map_err(DbError::Connect)?;
        let connection: &mut DbConnection = &mut connection;
        begin(connection).map_err(DbError::Query)?;
        match queries(connection) {
            Ok(value) => {
                commit(connection).map_err(DbError::Query)?;
                Ok(value)
            }
            Err(error) => {
                roll_back(connection).map_err(DbError::Query)?;
                Err(error)
            }
        }
    }
}

// diesel's own manager counts the transaction, so that its inner ones become savepoints and a
// connection that was left inside one is not used again.
fn begin(connection: &mut DbConnection) -> QueryResult<()> {
    match connection {
        DbConnection::Sqlite(c) => {
            AnsiTransactionManager::begin_transaction_sql(c, "BEGIN IMMEDIATE")
        }
        DbConnection::Postgres(c) => AnsiTransactionManager::begin_transaction(c),
    }
}

fn commit(connection: &mut DbConnection) -> QueryResult<()> {
    match connection {
        DbConnection::Sqlite(c) => AnsiTransactionManager::commit_transaction(c),
        DbConnection::Postgres(c) => AnsiTransactionManager::commit_transaction(c),
    }
}

fn roll_back(connection: &mut DbConnection) -> QueryResult<()> {
    match connection {
        DbConnection::Sqlite(c) => AnsiTransactionManager::rollback_transaction(c),
        DbConnection::Postgres(c) => AnsiTransactionManager::rollback_transaction(c),
    }
}

fn pool(manager: Manager, size: u32) -> Result<Pool<Manager>, DbError> {
    Pool::builder()
        .max_size(size)
        .min_idle(Some(1))
        .connection_timeout(Duration::from_secs(30))
        .build(manager)
        .map_err(DbError::Connect)
}

fn migrate(connection: &mut DbConnection) -> Result<(), DbError> {
    match connection {
        DbConnection::Postgres(connection) => {
            // Several processes may start at once.
            connection
                .batch_execute("SET lock_timeout = 0; SELECT pg_advisory_lock(7223021)")
                .map_err(DbError::Query)?;
            let result = connection.run_pending_migrations(MIGRATIONS).map(|_| ());
            connection
                .batch_execute("SELECT pg_advisory_unlock(7223021)")
                .and_then(|()| connection.batch_execute(POSTGRES_LIMITS))
                .map_err(DbError::Query)?;
            result
        }
        DbConnection::Sqlite(connection) => {
            connection.run_pending_migrations(MIGRATIONS).map(|_| ())
        }
    }
    .map_err(DbError::Migrate)
}

/// SQLite gives its files the mode of the database file, so that file must be private first.
fn create_private(path: &PathBuf) -> Result<(), DbError> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map(|_| ())
        .map_err(|source| DbError::File {
            path: path.clone(),
            source,
        })
}

/// Makes connections for the pools. Our own, so that a mistyped PostgreSQL URL can never open a
/// SQLite file of that name.
#[derive(Debug, Clone)]
enum Manager {
    Sqlite(PathBuf),
    Postgres(String),
}

impl Manager {
    fn from_url(url: &str) -> Result<Self, DbError> {
        if let Some(path) = url.strip_prefix("sqlite:") {
            return Ok(Self::Sqlite(PathBuf::from(path)));
        }
        if url.starts_with("postgresql://") || url.starts_with("postgres://") {
            return Ok(Self::Postgres(url.to_owned()));
        }
        let scheme = url.split(':').next().unwrap_or_default();
        Err(DbError::Url(format!("{scheme}:…")))
    }
}

/// A PostgreSQL URL with limits for dead connections.
fn guarded(url: &str) -> String {
    let mut guarded = url.to_owned();
    for (name, value) in POSTGRES_DEAD_AFTER {
        if !url.contains(&format!("{name}=")) {
            let joint = if guarded.contains('?') { '&' } else { '?' };
            guarded.push_str(&format!("{joint}{name}={value}"));
        }
    }
    guarded
}

impl ManageConnection for Manager {
    type Connection = DbConnection;
    type Error = diesel::r2d2::Error;

    fn connect(&self) -> Result<DbConnection, Self::Error> {
        use diesel::r2d2::Error;
        match self {
            Self::Sqlite(path) => {
                let path = path.to_string_lossy();
                let mut connection =
                    SqliteConnection::establish(&path).map_err(Error::ConnectionError)?;
                connection
                    .batch_execute(SQLITE_PRAGMAS)
                    .map_err(Error::QueryError)?;
                Ok(DbConnection::Sqlite(connection))
            }
            Self::Postgres(url) => {
                let mut connection =
                    PgConnection::establish(&guarded(url)).map_err(Error::ConnectionError)?;
                connection
                    .batch_execute(POSTGRES_LIMITS)
                    .map_err(Error::QueryError)?;
                Ok(DbConnection::Postgres(connection))
            }
        }
    }

    fn is_valid(&self, connection: &mut DbConnection) -> Result<(), Self::Error> {
        match connection {
            DbConnection::Sqlite(_) => Ok(()),
            DbConnection::Postgres(connection) => {
                connection.ping().map_err(diesel::r2d2::Error::QueryError)
            }
        }
    }

    fn has_broken(&self, connection: &mut DbConnection) -> bool {
        // A panic inside a transaction leaves the connection in it.
        std::thread::panicking()
            || match connection {
                DbConnection::Sqlite(connection) => connection.is_broken(),
                DbConnection::Postgres(connection) => connection.is_broken(),
            }
    }
}

/// Makes the checks of a project's quota and what follows one step, also where transactions run
/// beside one another: until the transaction ends, others of the project wait. SQLite has one
/// writer anyway.
pub fn lock_project(
    connection: &mut DbConnection,
    project: &crate::model::id::ProjectId,
) -> QueryResult<()> {
    lock(connection, project.as_str())
}

/// Until the transaction ends, others that lock the same name wait.
pub fn lock(connection: &mut DbConnection, name: &str) -> QueryResult<()> {
    match connection {
        DbConnection::Sqlite(_) => Ok(()),
        DbConnection::Postgres(connection) => {
            diesel::sql_query("SELECT pg_advisory_xact_lock(hashtext($1))")
                .bind::<diesel::sql_types::Text, _>(name)
                .execute(connection)
                .map(|_| ())
        }
    }
}
