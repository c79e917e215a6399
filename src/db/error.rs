//! Failure of the database: which errors are temporary, which are permanent, and after which a transaction is run
//! again.

use crate::model::error::Error;
use crate::model::version::VERSION;
use std::path::PathBuf;

/// Failure of the database.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The message does not contain the URL, as there may be a password in it.
    #[error("the database's URL is neither sqlite:PATH nor postgresql://…")]
    Url,
    #[error("database: no connection")]
    Connect(#[source] diesel::r2d2::PoolError),
    #[error("database: it cannot be opened")]
    Open(#[source] Box<diesel::r2d2::Error>),
    #[error("database: a query panicked")]
    Panicked,
    #[error("database: {0}")]
    Query(#[from] diesel::result::Error),
    #[error("database: migration failed")]
    Migrate(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(
        "database: its tables have version {database}, made by {program}. This is embervault {VERSION}, which knows \
         versions up to {known}, and must not use them. Start {program} instead, or put back a copy of the database \
         from before the upgrade"
    )]
    Newer {
        database: String,
        program: String,
        known: String,
    },
    #[error(
        "database: its tables must be brought to a new version, but processes of another version use it: {}. Stop them \
         first",
        .0.join(", ")
    )]
    InUse(Vec<String>),
    #[error(
        "database{}: it holds the tables of another program, and nothing was changed. Name another one in database.url",
        path.as_ref().map(|path| format!(" {}", path.display())).unwrap_or_default()
    )]
    Foreign { path: Option<PathBuf> },
    #[error(
        "database {}: it is damaged, or no SQLite database ({reason}). Stop all processes, move the file and those beside \
         it that end in -wal and -shm away, and put a copy back that `embervault db backup` made. Without a copy start with \
         none and run `embervault vault rebuild` for each storage: it brings the backups back",
        path.display()
    )]
    Damaged { path: PathBuf, reason: String },
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

    /// The error of a row with an impossible value.
    #[cfg(test)]
    pub(crate) fn of_a_row() -> Self {
        Self::Query(diesel::result::Error::DeserializationError(
            "no such value".into(),
        ))
    }
}

/// The result of every query of this folder. diesel's own error does not leave the folder; a caller's `?` converts this
/// one into its own.
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
            | DbError::Open(_)
            | DbError::Newer { .. }
            | DbError::InUse(_)
            | DbError::Foreign { .. }
            | DbError::Damaged { .. }
            | DbError::File { .. } => Error::internal(error),
        }
    }
}

/// Whether the same may succeed a moment later: the connection was closed, or another transaction held a lock for too
/// long.
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

/// Whether the database aborted the transaction in favour of another one, so that a repetition may succeed: a deadlock
/// or a serialisation failure. Through diesel, a deadlock of PostgreSQL is recognised by its English text alone.
pub(super) fn is_thrown_out(error: &(dyn std::error::Error + 'static)) -> bool {
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
pub(super) fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    says(error, &["disk is full"])
}

/// Whether SQLite could not write to its disk.
pub(super) fn is_unwritable(error: &(dyn std::error::Error + 'static)) -> bool {
    let signs = [
        "disk is full",
        "readonly database",
        "disk I/O error",
        "read-only transaction",
    ];
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
