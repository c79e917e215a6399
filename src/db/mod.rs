//! The door to the database: SQLite or PostgreSQL, chosen by URL at run time.
//!
//! Queries stand in the files of this folder. Most files hold those of one table. Some hold those of one task over
//! several tables: `gc` (garbage collection), `health` (of packs and backups), `orphans`, and
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
mod connection;
mod error;
mod exclusive;
mod file;
pub mod gc;
pub mod health;
pub mod jobs;
pub mod messages;
pub mod orphans;
pub mod packs;
mod page;
pub mod processes;
pub mod quotas;
mod reserve;
pub mod services;
pub mod sessions;
pub mod standalone;
pub mod temporaries;
pub mod vaults;
mod versions;
pub mod volume_holds;
pub mod workers;

pub use connection::DbConnection;
pub use error::{DbError, DbResult, is_duplicate};
pub use versions::Schema;

use crate::db::connection::{Manager, create_private, pool, warn_of_language};
use crate::db::error::{is_full, is_thrown_out, is_unwritable};
use crate::db::processes::ProcessRow;
use crate::db::reserve::Reserve;
use crate::model::schema::storages;
use diesel::connection::{AnsiTransactionManager, SimpleConnection, TransactionManager};
use diesel::prelude::*;
use diesel::r2d2::Pool;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often a transaction is tried that the database aborts in favour of another one.
const TRIES: u32 = 5;
/// Pause before the first repetition; doubled each time.
const TRY_PAUSE: Duration = Duration::from_millis(20);

/// Connections kept for reading on SQLite, and for everything on PostgreSQL.
const CONNECTIONS_MAX: u32 = 8;
/// Most rows that one transaction removes where any number may be due.
pub const BATCH: i64 = 1000;

/// Connections for heartbeats and leases.
const RENEWALS_MAX: u32 = 2;

/// Where the old content of rows may still be read.
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

/// SQLite's answer to a checkpoint.
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
    /// For heartbeats and leases alone, which must not wait behind other work.
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
                file::check(path)?;
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
        versions::migrate(&mut first)?;
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

    /// The versions of a database and the processes that use it. Changes nothing.
    pub fn look(url: &str) -> Result<(Schema, Vec<ProcessRow>), DbError> {
        let manager = Manager::from_url(url)?;
        if let Manager::Sqlite(path) = &manager {
            match file::check(path) {
                // It is looked at to see that.
                Err(DbError::Newer { .. }) => {}
                result => result?,
            }
        }
        let mut connection = manager.connect_once()?;
        let schema = versions::of(&mut connection)?;
        let processes = if schema.has_processes() {
            processes::all(&mut connection)?
        } else {
            Vec::new()
        };
        Ok((schema, processes))
    }

    /// Copies an SQLite database to a file, and gives the length. `None`: it is PostgreSQL, which has its own tools.
    pub fn copy(url: &str, target: &Path, replaces: bool) -> Result<Option<u64>, DbError> {
        match Manager::from_url(url)? {
            Manager::Sqlite(path) => file::copy(&path, target, replaces).map(Some),
            Manager::Postgres(_) => Ok(None),
        }
    }

    /// An error once a newer program has changed the tables.
    pub fn check_version(&self) -> Result<(), DbError> {
        self.read(versions::of)?.check()
    }

    /// Whether the disk of an SQLite database has room to spare. If so, the reserve is filled too.
    pub fn has_room(&self) -> bool {
        self.reserve.as_ref().is_none_or(|reserve| reserve.fill())
    }

    /// Whether the database can be written. Once a transaction has failed because it could not, a row is written to see
    /// whether it can be again: many transactions succeed without a write.
    pub fn is_writable(&self) -> bool {
        if !self.is_unwritable.load(Ordering::Relaxed) {
            return true;
        }
        let mut write = |c: &mut DbConnection| -> DbResult<()> {
            let same = storages::created_at.eq(storages::created_at);
            diesel::update(storages::table).set(same).execute(c)?;
            Ok(())
        };
        let is_writable = transact(&self.writer, &mut write).is_ok();
        self.is_unwritable.store(!is_writable, Ordering::Relaxed);
        is_writable
    }

    fn note_writability<T, E: std::error::Error + 'static>(&self, result: &Result<T, E>) {
        if result.as_ref().is_err_and(|error| is_unwritable(error)) {
            self.is_unwritable.store(true, Ordering::Relaxed);
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

    /// Erases the old content of changed and deleted rows from the database's own files, as far as this program can.
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

    /// The same for heartbeats and leases, on connections that nothing else uses.
    pub fn renew<T>(
        &self,
        mut queries: impl FnMut(&mut DbConnection) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        let result = transact(&self.renewals, &mut queries);
        self.note_writability(&result);
        result
    }

    /// Runs SQL that no query contains, to remove tables and rows.
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

/// The sum of an expression of whole numbers, as one: PostgreSQL's own is a decimal.
fn sum(expression: &str) -> diesel::expression::SqlLiteral<diesel::sql_types::BigInt> {
    diesel::dsl::sql(&format!("CAST(COALESCE(SUM({expression}), 0) AS BIGINT)"))
}

/// Locks a project: until the transaction ends, other transactions that lock it wait. So no row is added between a
/// check of the quota and the insert that follows. On SQLite there is one writer anyway.
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
