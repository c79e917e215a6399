//! Locks for work that only one process may do at a time, whichever host it runs on.
//!
//! On PostgreSQL it is a lock of a session: it ends with the connection, so a process that dies leaves nothing behind.
//! On SQLite it is a lock on an empty file beside the database.

use crate::db::connection::Manager;
use crate::db::{Db, DbConnection, DbError};
use diesel::prelude::*;
use diesel::r2d2::PooledConnection;
use diesel::sql_types::{Bool, Text};
use std::cell::RefCell;
use std::fs::{File, TryLockError};

/// PostgreSQL tells locks with two numbers from those with one. Transactions use locks with one.
const TRY: &str = "SELECT pg_try_advisory_lock(7223022, hashtext($1)) AS is_held";
const END: &str = "SELECT pg_advisory_unlock_all()";

#[derive(QueryableByName)]
struct Tried {
    #[diesel(sql_type = Bool)]
    is_held: bool,
}

/// Held until it is dropped, the process ends, or its connection to the database is lost.
pub struct Exclusive {
    session: Option<RefCell<PooledConnection<Manager>>>,
    _file: Option<File>,
}

impl Db {
    /// Takes the lock of this name. `None`: another process holds it.
    pub fn exclusive(&self, name: &str) -> Result<Option<Exclusive>, DbError> {
        if let Some(database) = &self.file {
            let mut path = database.as_os_str().to_owned();
            path.push(format!("-{name}"));
            return lock_file(path.into());
        }
        // Two numbers, so that no transaction waits for it.
        let mut session = self.renewals.get().map_err(DbError::Connect)?;
        let DbConnection::Postgres(connection) = &mut *session else {
            return Err(DbError::Url);
        };
        let tried: Tried = diesel::sql_query(TRY)
            .bind::<Text, _>(name)
            .get_result(connection)?;
        Ok(tried.is_held.then(|| Exclusive {
            session: Some(RefCell::new(session)),
            _file: None,
        }))
    }
}

fn lock_file(path: std::path::PathBuf) -> Result<Option<Exclusive>, DbError> {
    let locked = File::create(&path).map(|file| (file.try_lock(), file));
    let source = match locked {
        Ok((Ok(()), file)) => {
            return Ok(Some(Exclusive {
                session: None,
                _file: Some(file),
            }));
        }
        Ok((Err(TryLockError::WouldBlock), _)) => return Ok(None),
        Ok((Err(TryLockError::Error(source)), _)) | Err(source) => source,
    };
    Err(DbError::File { path, source })
}

impl Exclusive {
    /// An error once the connection is lost: then another process may hold the same.
    pub fn check(&self) -> Result<(), DbError> {
        match &self.session {
            Some(session) => ask(&mut session.borrow_mut()),
            None => Ok(()),
        }
    }
}

fn ask(connection: &mut DbConnection) -> Result<(), DbError> {
    if let DbConnection::Postgres(connection) = connection {
        diesel::sql_query("SELECT 1").execute(connection)?;
    }
    Ok(())
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        if let Some(session) = &self.session
            && let DbConnection::Postgres(connection) = &mut **session.borrow_mut()
        {
            // The connection goes back to its pool. If it is lost, so is the lock.
            diesel::sql_query(END).execute(connection).ok();
        }
    }
}
