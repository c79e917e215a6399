//! The door to the database: SQLite or PostgreSQL, chosen by URL at run time.
//!
//! Queries stand in the files of this folder. Most files hold those of one table. Some hold those of one task over
//! several tables: `collection` (garbage collection), `condition` (health of packs and backups), `orphans`, and
//! `vaults` with `storages`. The queries are the same for both databases, but for a few that say why.
//!
//! `write` begins IMMEDIATE on SQLite: of two deferred transactions that read and then write, one fails with
//! "database is locked". On PostgreSQL both would succeed, and the second would overwrite the first. So every
//! change of state is a compare-and-set.
//!
//! Each query finds its rows by an index, however large its table is. `tests/suite/plans.rs` calls every function
//! and looks at the plans; the few that may go through a whole table, or all of a vault, stand there with the
//! reason.
//!
//! All calls block; async callers use a blocking thread.

pub mod backups;
pub mod chunks;
pub mod collection;
pub mod condition;
mod exclusive;
pub mod jobs;
pub mod messages;
pub mod orphans;
pub mod packs;
mod page;
pub mod quotas;
mod reserve;
pub mod services;
pub mod sessions;
pub mod standalone;
pub mod vaults;
pub mod volume_holds;
pub mod workers;

use crate::db::reserve::Reserve;
use crate::model::error::Error;
use diesel::connection::{AnsiTransactionManager, SimpleConnection, TransactionManager};
use diesel::prelude::*;
use diesel::r2d2::{ManageConnection, Pool, R2D2Connection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

/// SQLite waits for a lock of another process for 30 seconds; signs of life for less. What all connections of
/// the process keep of the database is bounded together: the pages used last, wherever they were used.
const SQLITE_PRAGMAS: &str = "PRAGMA soft_heap_limit = 16777216; PRAGMA busy_timeout = 30000; PRAGMA journal_mode = WAL; \
     PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA cache_size = -16384; \
     PRAGMA secure_delete = ON;";

/// A process that is halted inside a transaction must not hold its locks for ever, and a wait for a lock ends
/// while the waiting job still has its lease (15 s by default). The longest transactions, those that look at
/// all packs of a vault, take seconds.
const POSTGRES_LIMITS: &str =
    "SET idle_in_transaction_session_timeout = '60s'; SET lock_timeout = '8s'";

/// Has the server speak English, if we may ask for that: a deadlock, and a lock that was not got in time, are
/// recognised by their texts.
const POSTGRES_ENGLISH: &str = "DO $$ BEGIN PERFORM set_config('lc_messages', 'C', FALSE); \
     EXCEPTION WHEN insufficient_privilege THEN NULL; END $$";

/// Longest wait for a connection out of a pool. Together with the wait for a lock it is shorter than a lease.
const POOL_WAIT: Duration = Duration::from_secs(5);

/// How often a transaction is tried that another one has thrown out.
const TRIES: u32 = 5;
/// Pause before the first repetition; doubled each time.
const TRY_PAUSE: Duration = Duration::from_millis(20);

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
/// Most rows that one transaction removes where any number may be due.
pub const BATCH: i64 = 1000;

/// Connections for signs of life.
const RENEWALS_MAX: u32 = 2;

/// One connection to either database.
#[derive(diesel::MultiConnection)]
pub enum DbConnection {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

/// Failure of the database.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// Which one is not said: there may be a password in it.
    #[error("the database's URL is neither sqlite:PATH nor postgresql://…")]
    Url,
    #[error("database: no connection")]
    Connect(#[source] diesel::r2d2::PoolError),
    #[error("database: a query panicked")]
    Panicked,
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

impl DbError {
    /// Whether the same query fails whenever it is asked: a row has, or was to get, a value that cannot be.
    pub fn is_lasting(&self) -> bool {
        use diesel::result::Error;
        matches!(
            self,
            DbError::Query(Error::DeserializationError(_) | Error::SerializationError(_))
        )
    }

    /// What a row gives that holds a value that cannot be.
    #[cfg(test)]
    pub(crate) fn of_a_row() -> Self {
        Self::Query(diesel::result::Error::DeserializationError(
            "no such value".into(),
        ))
    }
}

/// What every query of this folder gives. diesel's own error does not leave it: a caller's `?` turns this one
/// into its own.
pub type DbResult<T> = Result<T, DbError>;

impl From<DbError> for Error {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Connect(_) => Error::Unavailable {
                message: "The database is unavailable for now.".to_owned(),
                source: Some(error.into()),
            },
            DbError::Query(ref failed) if is_passing(failed) => Error::Unavailable {
                message: "The database is unavailable for now.".to_owned(),
                source: Some(error.into()),
            },
            DbError::Url
            | DbError::Query(_)
            | DbError::Migrate(_)
            | DbError::Panicked
            | DbError::File { .. } => Error::internal(error),
        }
    }
}

/// Whether the same may succeed a moment later: the connection was closed, or another transaction was in the
/// way for too long.
fn is_passing(error: &diesel::result::Error) -> bool {
    use diesel::result::{DatabaseErrorKind, Error};
    match error {
        Error::DatabaseError(
            DatabaseErrorKind::ClosedConnection | DatabaseErrorKind::SerializationFailure,
            _,
        ) => true,
        Error::DatabaseError(_, information) => {
            let passing = ["lock timeout", "deadlock detected", "database is locked"];
            let message = information.message();
            passing.iter().any(|text| message.contains(text))
        }
        _ => false,
    }
}

/// Whether a failed insert ran into a unique index.
pub fn is_duplicate(error: &DbError) -> bool {
    use diesel::result::{DatabaseErrorKind, Error};
    matches!(
        error,
        DbError::Query(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _))
    )
}

/// Whether the transaction was thrown out for the sake of another one, so that a repetition may succeed: a
/// deadlock or a serialisation failure. Through diesel, a deadlock of PostgreSQL is recognised by its English text
/// alone.
fn is_thrown_out(error: &(dyn std::error::Error + 'static)) -> bool {
    use diesel::result::{DatabaseErrorKind, Error};
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| match cause.downcast_ref() {
        Some(Error::DatabaseError(DatabaseErrorKind::SerializationFailure, _)) => true,
        Some(Error::DatabaseError(_, information)) => {
            information.message().contains("deadlock detected")
        }
        _ => false,
    })
}

/// Whether SQLite found no room on its disk, which diesel has no kind for.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    says(error, &["disk is full"])
}

/// Whether SQLite could not write to its disk.
fn is_unwritable(error: &(dyn std::error::Error + 'static)) -> bool {
    let signs = ["disk is full", "readonly database", "disk I/O error"];
    says(error, &signs)
}

/// Whether the database's error says one of these.
fn says(error: &(dyn std::error::Error + 'static), signs: &[&str]) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| match cause.downcast_ref() {
        Some(diesel::result::Error::DatabaseError(_, information)) => signs
            .iter()
            .any(|sign| information.message().contains(sign)),
        _ => false,
    })
}

/// Where what rows held before may still be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OldRows {
    /// Nowhere in the database's files.
    Erased,
    /// In SQLite's log, which another process reads; it goes when the last process ends.
    InLog,
    /// Not in the table, but in PostgreSQL's write-ahead log and what is made of it.
    OnServer,
    /// In the database: they could not be erased, for this reason.
    Remain(String),
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

/// What SQLite says of a checkpoint.
#[derive(diesel::QueryableByName)]
struct Checkpointed {
    #[diesel(sql_type = diesel::sql_types::Integer)]
    busy: i32,
}

/// The database. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    readers: Pool<Manager>,
    /// On SQLite a single connection, as SQLite has a single writer.
    writer: Pool<Manager>,
    /// For signs of life alone, which must not wait behind other work.
    renewals: Pool<Manager>,
    /// Of SQLite.
    reserve: Option<Arc<Reserve>>,
    /// Where an SQLite database is.
    file: Option<PathBuf>,
    /// Whether the last transaction failed because the database could not be written.
    is_unwritable: Arc<AtomicBool>,
}

impl Db {
    /// Connects, and brings the tables to the present form.
    pub fn open(url: &str) -> Result<Self, DbError> {
        let manager = Manager::from_url(url)?;
        let file = match &manager {
            Manager::Sqlite(path) => Some(path.clone()),
            Manager::Postgres(_) => None,
        };
        let reserve = match &manager {
            Manager::Sqlite(path) => {
                let reserve = Reserve::beside(path);
                reserve.make_room_to_start();
                create_private(path)?;
                Some(Arc::new(reserve))
            }
            Manager::Postgres(_) => None,
        };
        let writers = match &manager {
            Manager::Sqlite(_) => 1,
            Manager::Postgres(_) => CONNECTIONS_MAX,
        };
        let writer = pool(manager.clone(), writers)?;
        let mut first = writer.get().map_err(DbError::Connect)?;
        migrate(&mut first)?;
        warn_of_language(&mut first)?;
        drop(first);
        let renewals = pool(manager.clone(), RENEWALS_MAX)?;
        let readers = match &manager {
            Manager::Sqlite(_) => pool(manager, CONNECTIONS_MAX)?,
            Manager::Postgres(_) => writer.clone(),
        };
        let db = Self {
            readers,
            writer,
            renewals,
            reserve,
            file,
            is_unwritable: Arc::default(),
        };
        db.has_room();
        Ok(db)
    }

    /// Whether the disk of an SQLite database has room to spare; if so, the reserve for the day on which it has
    /// not is there as well.
    pub fn has_room(&self) -> bool {
        self.reserve.as_ref().is_none_or(|reserve| reserve.fill())
    }

    /// Whether the last transaction could be written, or failed for another reason.
    pub fn is_writable(&self) -> bool {
        !self.is_unwritable.load(Ordering::Relaxed)
    }

    fn note_writability<T, E: std::error::Error + 'static>(&self, result: &Result<T, E>) {
        match result {
            Ok(_) => self.is_unwritable.store(false, Ordering::Relaxed),
            Err(error) if is_unwritable(error) => self.is_unwritable.store(true, Ordering::Relaxed),
            Err(_) => {}
        }
    }

    /// Runs queries that change nothing.
    pub fn read<T, E: From<DbError>>(
        &self,
        queries: impl FnOnce(&mut DbConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut connection = self.readers.get().map_err(DbError::Connect)?;
        queries(&mut connection)
    }

    /// Runs queries in one transaction: all of them happen, or, after an error, none. They are run again
    /// if the database threw the transaction out for the sake of another one, and if it found no room and the
    /// reserve gave some.
    pub fn write<T, E: From<DbError> + std::error::Error + 'static>(
        &self,
        mut queries: impl FnMut(&mut DbConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut pause = TRY_PAUSE;
        for _ in 1..TRIES {
            let result = transact(&self.writer, &mut queries);
            self.note_writability(&result);
            match result {
                Err(error) if is_thrown_out(&error) => {
                    std::thread::sleep(pause);
                    pause *= 2;
                }
                Err(error) if is_full(&error) && self.release_reserve() => {}
                result => return result,
            }
        }
        transact(&self.writer, &mut queries)
    }

    /// Removes from the database's own files what rows held before they were changed or deleted, as far as that
    /// is ours to do.
    pub fn erase_old_rows(&self) -> OldRows {
        self.try_to_erase()
            .unwrap_or_else(|error| OldRows::Remain(error.to_string()))
    }

    fn try_to_erase(&self) -> Result<OldRows, DbError> {
        let mut connection = self.writer.get().map_err(DbError::Connect)?;
        match &mut *connection {
            DbConnection::Sqlite(connection) => {
                // Pages that were free before they were made zeros may hold anything.
                connection.batch_execute("VACUUM")?;
                let checkpoint = diesel::sql_query("PRAGMA wal_checkpoint(TRUNCATE)");
                let done: Checkpointed = checkpoint.get_result(connection)?;
                let is_erased = done.busy == 0;
                Ok(if is_erased {
                    OldRows::Erased
                } else {
                    OldRows::InLog
                })
            }
            DbConnection::Postgres(connection) => {
                connection.batch_execute("VACUUM FULL vaults")?;
                Ok(OldRows::OnServer)
            }
        }
    }

    fn release_reserve(&self) -> bool {
        let is_released = self
            .reserve
            .as_ref()
            .is_some_and(|reserve| reserve.release());
        if is_released {
            tracing::error!(
                "the disk of the database is full, and the reserve is in use now: free some space"
            );
        }
        is_released
    }

    /// The same for signs of life, on connections that nothing else uses.
    pub fn renew<T>(
        &self,
        mut queries: impl FnMut(&mut DbConnection) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        let result = transact(&self.renewals, &mut queries);
        self.note_writability(&result);
        result
    }

    /// What no query does: tables and rows that are taken away.
    #[cfg(test)]
    pub(crate) fn batch_execute(&self, sql: &str) {
        let mut connection = self.writer.get().unwrap();
        connection.batch_execute(sql).unwrap();
    }
}

fn transact<T, E: From<DbError>>(
    pool: &Pool<Manager>,
    queries: &mut impl FnMut(&mut DbConnection) -> Result<T, E>,
) -> Result<T, E> {
    let mut connection = pool.get().map_err(DbError::Connect)?;
    let connection: &mut DbConnection = &mut connection;
    begin(connection)?;
    match queries(connection) {
        Ok(value) => {
            commit(connection)?;
            Ok(value)
        }
        Err(error) => {
            // The database may have done so itself; what counts is why.
            if let Err(failed) = roll_back(connection) {
                tracing::debug!(error = %failed, "a transaction could not be rolled back");
            }
            Err(error)
        }
    }
}

// diesel's own manager counts the transaction, so that its inner ones become savepoints and a
// connection that was left inside one is not used again.
fn begin(connection: &mut DbConnection) -> DbResult<()> {
    Ok(match connection {
        DbConnection::Sqlite(c) => {
            AnsiTransactionManager::begin_transaction_sql(c, "BEGIN IMMEDIATE")
        }
        DbConnection::Postgres(c) => AnsiTransactionManager::begin_transaction(c),
    }?)
}

fn commit(connection: &mut DbConnection) -> DbResult<()> {
    Ok(match connection {
        DbConnection::Sqlite(c) => AnsiTransactionManager::commit_transaction(c),
        DbConnection::Postgres(c) => AnsiTransactionManager::commit_transaction(c),
    }?)
}

fn roll_back(connection: &mut DbConnection) -> DbResult<()> {
    Ok(match connection {
        DbConnection::Sqlite(c) => AnsiTransactionManager::rollback_transaction(c),
        DbConnection::Postgres(c) => AnsiTransactionManager::rollback_transaction(c),
    }?)
}

fn pool(manager: Manager, size: u32) -> Result<Pool<Manager>, DbError> {
    Pool::builder()
        .max_size(size)
        .min_idle(Some(1))
        .connection_timeout(POOL_WAIT)
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

/// Says so if we cannot read what PostgreSQL says.
fn warn_of_language(connection: &mut DbConnection) -> Result<(), DbError> {
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
        Err(DbError::Url)
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

/// The sum of a column of whole numbers, as one: PostgreSQL's own is a decimal.
fn sum(column: &str) -> diesel::expression::SqlLiteral<diesel::sql_types::BigInt> {
    diesel::dsl::sql(&format!("CAST(COALESCE(SUM({column}), 0) AS BIGINT)"))
}

/// Makes the checks of a project's quota and what follows one step, also where transactions run
/// beside one another: until the transaction ends, others of the project wait. SQLite has one
/// writer anyway.
pub fn lock_project(
    connection: &mut DbConnection,
    project: &crate::model::id::ProjectId,
) -> DbResult<()> {
    lock(connection, project.as_str())
}

/// Until the transaction ends, others that lock the same name wait.
pub fn lock(connection: &mut DbConnection, name: &str) -> DbResult<()> {
    advise(
        connection,
        "SELECT pg_advisory_xact_lock(hashtext($1))",
        name,
    )
}

/// The same; those that share the lock do not wait for each other.
pub fn lock_shared(connection: &mut DbConnection, name: &str) -> DbResult<()> {
    advise(
        connection,
        "SELECT pg_advisory_xact_lock_shared(hashtext($1))",
        name,
    )
}

fn advise(connection: &mut DbConnection, query: &str, name: &str) -> DbResult<()> {
    if let DbConnection::Postgres(connection) = connection {
        diesel::sql_query(query)
            .bind::<diesel::sql_types::Text, _>(name)
            .execute(connection)?;
    }
    Ok(())
}
