//! Connections to either database: how they are made and what they are set to.

use crate::db::error::DbError;
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::r2d2::{ManageConnection, Pool, R2D2Connection};
use std::path::PathBuf;
use std::time::Duration;

/// SQLite waits for a lock of another process for 30 seconds; signs of life for less. What all connections of
/// the process keep of the database is bounded together: the pages used last, wherever they were used.
const SQLITE_PRAGMAS: &str = "PRAGMA soft_heap_limit = 16777216; PRAGMA busy_timeout = 30000; PRAGMA journal_mode = WAL; \
     PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA cache_size = -16384; \
     PRAGMA secure_delete = ON;";

/// A process that is halted inside a transaction must not hold its locks for ever, and a wait for a lock ends
/// while the waiting job still has its lease (15 s by default). The longest transactions, those that look at
/// all packs of a vault, take seconds.
pub(super) const POSTGRES_LIMITS: &str =
    "SET idle_in_transaction_session_timeout = '60s'; SET lock_timeout = '8s'";

/// Has the server speak English, if we may ask for that: a deadlock, and a lock that was not got in time, are
/// recognised by their texts.
const POSTGRES_ENGLISH: &str = "DO $$ BEGIN PERFORM set_config('lc_messages', 'C', FALSE); \
     EXCEPTION WHEN insufficient_privilege THEN NULL; END $$";

/// Longest wait for a connection out of a pool. Together with the wait for a lock it is shorter than a lease.
const POOL_WAIT: Duration = Duration::from_secs(5);

/// Parameters that are added to a URL which lacks them. They end connections whose server or network has failed without
/// closing them.
const POSTGRES_DEAD_AFTER: [(&str, &str); 5] = [
    ("connect_timeout", "10"),
    ("keepalives_idle", "15"),
    ("keepalives_interval", "5"),
    ("keepalives_count", "3"),
    ("tcp_user_timeout", "30000"),
];

/// One connection to either database.
#[derive(diesel::MultiConnection)]
pub enum DbConnection {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

/// The language of PostgreSQL's messages.
#[derive(diesel::QueryableByName)]
struct Language {
    #[diesel(sql_type = diesel::sql_types::Text)]
    lc_messages: String,
}

impl Language {
    fn is_english(&self) -> bool {
        let name = self.lc_messages.to_lowercase();
        // Without a name it is that of the server's environment.
        matches!(&*name, "" | "c" | "posix") || name.starts_with("c.") || name.starts_with("en")
    }
}

pub(super) fn pool(manager: Manager, size: u32) -> Result<Pool<Manager>, DbError> {
    Pool::builder()
        .max_size(size)
        .min_idle(Some(1))
        .connection_timeout(POOL_WAIT)
        .build(manager)
        .map_err(DbError::Connect)
}

/// Logs a warning if PostgreSQL's messages are not in English.
pub(super) fn warn_of_language(connection: &mut DbConnection) -> Result<(), DbError> {
    let DbConnection::Postgres(connection) = connection else {
        return Ok(());
    };
    let language: Language = diesel::sql_query("SHOW lc_messages").get_result(connection)?;
    if !language.is_english() {
        tracing::warn!(
            lc_messages = language.lc_messages,
            "PostgreSQL does not speak English, and its user may not change that: what ends in a deadlock fails instead \
             of being run again. Run `ALTER DATABASE … SET lc_messages TO 'C'`"
        );
    }
    Ok(())
}

/// SQLite gives its files the mode of the database file, so that file must be private first.
pub(super) fn create_private(path: &PathBuf) -> Result<(), DbError> {
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
#[derive(Clone)]
pub(super) enum Manager {
    Sqlite(PathBuf),
    Postgres(String),
}

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite(path) => f.debug_tuple("Sqlite").field(path).finish(),
            // There may be a password in its URL.
            Self::Postgres(_) => f.write_str("Postgres"),
        }
    }
}

impl Manager {
    pub(super) fn from_url(url: &str) -> Result<Self, DbError> {
        if let Some(path) = url.strip_prefix("sqlite:") {
            return Ok(Self::Sqlite(PathBuf::from(path)));
        }
        if url.starts_with("postgresql://") || url.starts_with("postgres://") {
            return Ok(Self::Postgres(url.to_owned()));
        }
        Err(DbError::Url)
    }
}

impl Manager {
    /// A connection that no pool keeps. Only one try is made.
    pub(super) fn connect_once(&self) -> Result<DbConnection, DbError> {
        self.connect()
            .map_err(|source| DbError::Open(Box::new(source)))
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
                // Where there is no PL/pgSQL, the language stays; the start looks at it.
                if let Err(error) = connection.batch_execute(POSTGRES_ENGLISH) {
                    tracing::debug!(error = %error, "PostgreSQL was not asked to speak English");
                }
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
