//! Versions of the tables: which a database has, which this program knows, and whether the two fit.
//!
//! A version is the name of a migration. Two rules keep programs of different versions apart:
//!
//! * A program that finds a migration which it does not know refuses the database. It would not keep the rules of the
//!   newer tables, and it decides which stored data is garbage.
//! * A program that knows further migrations applies them only when no other process uses the database.

use crate::clock::Clock;
use crate::db::connection::POSTGRES_LIMITS;
use crate::db::processes::HEARTBEAT;
use crate::db::{DbConnection, DbError, DbResult};
use crate::model::schema::migrated_by;
use crate::model::time::Timestamp;
use crate::model::version::VERSION;
use diesel::connection::SimpleConnection;
use diesel::migration::{Migration, MigrationSource};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Text};
use diesel::sqlite::Sqlite;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use std::time::{Duration, Instant};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

/// Where diesel notes the migrations that a database has had.
pub(super) const TABLE: &str = "__diesel_schema_migrations";

/// The migration that made the table `workers`, and the one that made `processes`.
const WORKERS: &str = "20261122000005";
const PROCESSES: &str = "20261130000046";

/// How long the heartbeats of others are watched: a process that runs sends several in this time.
const WATCH: Duration = HEARTBEAT.saturating_mul(4);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Heartbeats that are older are not watched: the process has long ended. The clocks of the machines may differ by less.
const OLD: Duration = Duration::from_secs(3600);

/// Migrations, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// Those that the database has had.
    pub applied: Vec<String>,
    /// Those that this program knows.
    pub known: Vec<String>,
    /// The program that applied the newest one, if it wrote that down.
    pub program: Option<String>,
}

impl Schema {
    /// Migrations that this program would apply.
    pub fn pending(&self) -> Vec<&str> {
        missing(&self.known, &self.applied)
    }

    /// Migrations that a newer program has applied.
    pub fn unknown(&self) -> Vec<&str> {
        missing(&self.applied, &self.known)
    }

    /// Whether the database has the table of processes.
    pub(super) fn has_processes(&self) -> bool {
        has(&self.applied, PROCESSES)
    }

    /// Whether the tables are those of another program, which also uses diesel.
    fn is_foreign(&self) -> bool {
        !self.applied.is_empty() && self.pending().len() == self.known.len()
    }

    /// An error if this program must not use the database.
    pub(super) fn check(&self) -> Result<(), DbError> {
        if self.is_foreign() {
            return Err(DbError::Foreign { path: None });
        }
        let Some(newest) = self.unknown().pop() else {
            return Ok(());
        };
        let program = self.program.as_deref();
        Err(DbError::Newer {
            database: newest.to_owned(),
            program: program.map_or("a newer version of embervault".to_owned(), |version| {
                format!("embervault {version}")
            }),
            known: self.known.last().cloned().unwrap_or_default(),
        })
    }
}

fn missing<'a>(these: &'a [String], those: &[String]) -> Vec<&'a str> {
    let these = these.iter().filter(|name| !those.contains(name));
    these.map(String::as_str).collect()
}

#[derive(QueryableByName)]
struct Applied {
    #[diesel(sql_type = Text)]
    version: String,
}

#[derive(QueryableByName)]
struct Found {
    #[diesel(sql_type = Bool)]
    is_there: bool,
}

#[derive(QueryableByName)]
struct Seen {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = BigInt)]
    seen_at: i64,
}

/// Runs a query that is the same on both databases.
macro_rules! load {
    ($connection:expr, $row:ty, $query:expr) => {
        match $connection {
            DbConnection::Sqlite(c) => diesel::sql_query($query).load::<$row>(c),
            DbConnection::Postgres(c) => diesel::sql_query($query).load::<$row>(c),
        }
    };
}

/// The versions of a database and of this program. Changes nothing.
pub(super) fn of(connection: &mut DbConnection) -> Result<Schema, DbError> {
    let exists = match connection {
        DbConnection::Sqlite(_) => {
            "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = '__diesel_schema_migrations') AS is_there"
        }
        DbConnection::Postgres(_) => {
            "SELECT to_regclass('__diesel_schema_migrations') IS NOT NULL AS is_there"
        }
    };
    let found: Vec<Found> = load!(connection, Found, exists)?;
    let mut applied = Vec::new();
    if found.iter().any(|found| found.is_there) {
        let query = "SELECT CAST(version AS TEXT) AS version FROM __diesel_schema_migrations ORDER BY version";
        let rows = load!(connection, Applied, query)?;
        applied = rows.into_iter().map(|row| row.version).collect();
    }
    let program = match applied.last() {
        Some(newest) if has(&applied, PROCESSES) => program_of(connection, newest)?,
        _ => None,
    };
    Ok(Schema {
        applied,
        known: known()?,
        program,
    })
}

fn has(applied: &[String], migration: &str) -> bool {
    applied.iter().any(|name| name == migration)
}

fn known() -> Result<Vec<String>, DbError> {
    let migrations: Vec<Box<dyn Migration<Sqlite>>> =
        MIGRATIONS.migrations().map_err(DbError::Migrate)?;
    let names = migrations
        .iter()
        .map(|one| one.name().version().to_string());
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    Ok(names)
}

fn program_of(connection: &mut DbConnection, migration: &str) -> DbResult<Option<String>> {
    Ok(migrated_by::table
        .find(migration)
        .select(migrated_by::program)
        .first(connection)
        .optional()?)
}

/// Brings the tables to the version of this program. Refuses a database of a newer version, and one that must be changed
/// while other processes use it.
pub(super) fn migrate(connection: &mut DbConnection) -> Result<(), DbError> {
    let schema = of(connection)?;
    schema.check()?;
    if !schema.pending().is_empty() {
        refuse_beside_others(connection)?;
    }
    apply(connection)?;
    // A newer program may have been at work meanwhile.
    of(connection)?.check()?;
    sign(connection)
}

fn apply(connection: &mut DbConnection) -> Result<(), DbError> {
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

/// Writes down which program has applied the newest migration.
fn sign(connection: &mut DbConnection) -> Result<(), DbError> {
    let newest = known()?.pop().unwrap_or_default();
    if program_of(connection, &newest)?.is_none() {
        let row = (
            migrated_by::migration.eq(&newest),
            migrated_by::program.eq(VERSION),
        );
        let insert = diesel::insert_into(migrated_by::table).values(row);
        match insert.execute(connection).map_err(DbError::from) {
            // Another process was faster.
            Err(error) if !crate::db::is_duplicate(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Refuses while other processes use the tables as they are now. Only a heartbeat that is seen to change proves that a
/// process runs; a recent one may be the last of a process that was killed.
fn refuse_beside_others(connection: &mut DbConnection) -> Result<(), DbError> {
    let oldest = Timestamp(Clock::System.now().0 - Timestamp(0).after(OLD).0);
    let mut before = heartbeats(connection)?;
    before.retain(|seen| seen.seen_at >= oldest.0);
    if before.is_empty() {
        return Ok(());
    }
    tracing::warn!(
        "the tables must be brought to a new version; waiting {WATCH:?} to see whether other processes still use them"
    );
    let started = Instant::now();
    while started.elapsed() < WATCH {
        std::thread::sleep(LOOK_EVERY);
        let now = heartbeats(connection)?;
        let is_same = |seen: &&Seen| {
            let mut before = before.iter();
            before.any(|old| (&old.name, old.seen_at) == (&seen.name, seen.seen_at))
        };
        let alive = now.iter().filter(|seen| seen.seen_at >= oldest.0);
        let alive: Vec<&Seen> = alive.filter(|seen| !is_same(seen)).collect();
        if alive.is_empty() {
            continue;
        }
        // Another process of our version may have been faster, and is the one that is seen.
        if of(connection)?.pending().is_empty() {
            return Ok(());
        }
        let names = alive.into_iter().map(|seen| seen.name.clone());
        return Err(DbError::InUse(names.collect()));
    }
    Ok(())
}

fn heartbeats(connection: &mut DbConnection) -> Result<Vec<Seen>, DbError> {
    let applied = of(connection)?.applied;
    let query = if has(&applied, PROCESSES) {
        "SELECT role || ' on ' || host || ' (version ' || version || ', ' || id || ')' AS name, seen_at FROM processes"
    } else if has(&applied, WORKERS) {
        "SELECT 'worker ' || name AS name, seen_at FROM workers"
    } else {
        return Ok(Vec::new());
    };
    Ok(load!(connection, Seen, query)?)
}
