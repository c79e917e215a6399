//! The file of an SQLite database: whether it is one of ours, and a copy of it.

use crate::db::connection::create_private;
use crate::db::{DbConnection, DbError, versions};
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::Text;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Up to this size the whole file is checked at each start. SQLite finds damage in a larger one where it reads it.
const CHECKED_BYTES: u64 = 64 << 20;

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    line: String,
}

/// An error if this is no SQLite database, a damaged one, or one of another program. Changes nothing.
pub(super) fn check(path: &Path) -> Result<(), DbError> {
    let size = std::fs::metadata(path).map_or(0, |file| file.len());
    if size == 0 {
        return Ok(());
    }
    let damaged = |reason: String| DbError::Damaged {
        path: path.to_owned(),
        reason,
    };
    let mut connection = open(path).map_err(|error| damaged(error.to_string()))?;
    let names =
        "SELECT name AS line FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let names = lines(&mut connection, names);
    let names = names.map_err(|error| of_query(path, error))?;
    if size <= CHECKED_BYTES {
        let checked = lines(
            &mut connection,
            "SELECT quick_check AS line FROM pragma_quick_check LIMIT 1",
        );
        let checked = checked.map_err(|error| of_query(path, error))?;
        if let Some(reason) = checked.into_iter().find(|line| line != "ok") {
            return Err(damaged(reason));
        }
    }
    let foreign = || DbError::Foreign {
        path: Some(path.to_owned()),
    };
    if !names.is_empty() && !names.iter().any(|name| name == versions::TABLE) {
        return Err(foreign());
    }
    match versions::of(&mut DbConnection::Sqlite(connection))?.check() {
        Err(DbError::Foreign { .. }) => Err(foreign()),
        result => result,
    }
}

/// A connection that changes nothing by itself.
fn open(path: &Path) -> ConnectionResult<SqliteConnection> {
    let mut connection = SqliteConnection::establish(&path.to_string_lossy())?;
    // Another process may just be writing.
    connection.batch_execute("PRAGMA busy_timeout = 30000").ok();
    Ok(connection)
}

fn lines(connection: &mut SqliteConnection, query: &str) -> QueryResult<Vec<String>> {
    let rows: Vec<Line> = diesel::sql_query(query).load(connection)?;
    Ok(rows.into_iter().map(|row| row.line).collect())
}

/// SQLite's words for damage become ours. Other errors may pass.
fn of_query(path: &Path, error: diesel::result::Error) -> DbError {
    let text = error.to_string();
    let is_damage = ["not a database", "malformed", "unsupported file format"]
        .iter()
        .any(|sign| text.contains(sign));
    if is_damage {
        DbError::Damaged {
            path: path.to_owned(),
            reason: text,
        }
    } else {
        DbError::Query(error)
    }
}

/// Copies a database to a file that only its owner may read. Other processes may use the database meanwhile: the copy is as
/// it was at one moment. An existing file is replaced only if that is wanted, and only when the copy is complete. Gives
/// its length.
pub(super) fn copy(database: &Path, target: &Path, replaces: bool) -> Result<u64, DbError> {
    let fail = |source: io::Error| DbError::File {
        path: target.to_owned(),
        source,
    };
    let is_there = target.symlink_metadata().is_ok();
    if is_there && !replaces {
        return Err(fail(io::ErrorKind::AlreadyExists.into()));
    }
    if target.is_dir() {
        return Err(fail(io::ErrorKind::IsADirectory.into()));
    }
    check(database)?;
    let mut partial = target.as_os_str().to_owned();
    partial.push(format!(".partial-{}", std::process::id()));
    let partial = PathBuf::from(partial);
    std::fs::remove_file(&partial).ok();
    let copied = copy_to(database, &partial).and_then(|length| {
        let placed = if replaces {
            std::fs::rename(&partial, target)
        } else {
            // Unlike a rename, this never replaces a file that has come meanwhile.
            std::fs::hard_link(&partial, target)
        };
        placed.map_err(fail)?;
        sync_folder(target).map_err(fail)?;
        Ok(length)
    });
    std::fs::remove_file(&partial).ok();
    copied
}

fn copy_to(database: &Path, partial: &Path) -> Result<u64, DbError> {
    create_private(&partial.to_owned())?;
    let mut connection = open(database)
        .map_err(|error| DbError::Open(Box::new(diesel::r2d2::Error::ConnectionError(error))))?;
    diesel::sql_query("VACUUM INTO ?")
        .bind::<Text, _>(partial.to_string_lossy())
        .execute(&mut connection)?;
    let fail = |source| DbError::File {
        path: partial.to_owned(),
        source,
    };
    let file = File::open(partial).map_err(fail)?;
    file.sync_all().map_err(fail)?;
    check(partial)?;
    Ok(file.metadata().map_err(fail)?.len())
}

fn sync_folder(file: &Path) -> io::Result<()> {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}
