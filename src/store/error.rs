//! What can go wrong with the database, as far as a caller chooses by it.

use sea_orm::{DbErr, RuntimeErr, SqlxError, sqlx};
use thiserror::Error;

use super::sqlite;

/// Why a store function failed.
#[derive(Debug, Error)]
pub(crate) enum StoreError {
    /// The database is away, busy, full or read-only: the same statement may succeed later.
    #[error("the database is not available: {}", in_words(.0))]
    Away(#[source] DbErr),
    /// The database does not let us in, or not do this: an operator has to act.
    #[error("the database denies access: {0}")]
    Denied(#[source] DbErr),
    /// The database refused this statement or these values.
    #[error("the database refused: {0}")]
    Refused(#[source] DbErr),
    /// The other daemons of this database have taken over, because this one seemed dead.
    #[error("the other daemons have declared this one dead and taken over its work")]
    Fenced,
    /// The task was cut off, by a panic or because the process is ending.
    #[error("the database task ended early: {0}")]
    Ended(String),
}

impl StoreError {
    /// Whether the database is away, as opposed to refusing us.
    pub(crate) fn is_away(&self) -> bool {
        matches!(self, Self::Away(_))
    }

    /// Whether somebody else's lock was not released in time.
    pub(crate) fn is_lock_timeout(&self) -> bool {
        let Self::Away(DbErr::Conn(error) | DbErr::Exec(error) | DbErr::Query(error)) = self else {
            return false;
        };
        let RuntimeErr::SqlxError(error) = error else { return false };
        let code = error.as_database_error().and_then(|error| error.code());
        code.is_some_and(|code| LOCK_TIMEOUTS.contains(&&*code))
    }

    /// The fault of an SQLite file that waiting does not mend, in words for the operator.
    pub(super) fn lasting_fault(&self) -> Option<String> {
        match self {
            Self::Away(error) | Self::Denied(error) | Self::Refused(error) => sqlite::lasting_fault(error),
            Self::Fenced | Self::Ended(_) => None,
        }
    }

    /// Whether the same call may succeed later, with nothing changed on our side.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Away(_) | Self::Denied(_) | Self::Fenced)
    }
}

impl From<DbErr> for StoreError {
    fn from(error: DbErr) -> Self {
        match weigh(&error) {
            Weight::Away => Self::Away(error),
            Weight::Denied => Self::Denied(error),
            Weight::Refused => Self::Refused(error),
        }
    }
}

/// An error of the driver, met outside the ORM while connecting or listening.
pub(super) fn from_sqlx(error: SqlxError) -> StoreError {
    DbErr::Conn(RuntimeErr::SqlxError(std::sync::Arc::new(error))).into()
}

/// What the driver says, or what that means for an SQLite file.
fn in_words(error: &DbErr) -> String {
    sqlite::fault_of_file(error).unwrap_or_else(|| error.to_string())
}

enum Weight {
    Away,
    Denied,
    Refused,
}

/// SQLSTATE classes and codes that pass by themselves: connection trouble (08), no resources (53, which
/// includes a full disk), an operator's intervention such as a shutdown (57), system errors (58), read-only
/// for now (25006), a transaction that lasted too long (25P03, 25P04), serialisation failure and deadlock
/// (40001, 40P01), lock not available (55P03).
const PASSING_SQLSTATES: [&str; 10] =
    ["08", "53", "57", "58", "25006", "25P03", "25P04", "40001", "40P01", "55P03"];

/// SQLSTATEs of locks that could not be had: lock not available, deadlock.
const LOCK_TIMEOUTS: [&str; 2] = ["55P03", "40P01"];

/// SQLSTATE classes that are no fault of the values: bad credentials (28), no such database (3D), a
/// missing privilege, table or column (42).
const DENIED_SQLSTATES: [&str; 3] = ["28", "3D", "42"];

/// Primary result codes of SQLite that are no fault of the values: ERROR, which a missing table is, and
/// PERM.
const DENIED_SQLITE_CODES: [i64; 2] = [1, 3];

/// Primary result codes of SQLite that pass by themselves, or once an operator has mended the file: BUSY,
/// LOCKED, NOMEM, READONLY, IOERR, CORRUPT, FULL, CANTOPEN, PROTOCOL, NOTADB.
const PASSING_SQLITE_CODES: [i64; 10] = [5, 6, 7, 8, 10, 11, 13, 14, 15, 26];

fn weigh(error: &DbErr) -> Weight {
    match error {
        DbErr::ConnectionAcquire(_) => Weight::Away,
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => weigh_sqlx(error),
        DbErr::Conn(_) => Weight::Away,
        _ => Weight::Refused,
    }
}

fn weigh_sqlx(error: &SqlxError) -> Weight {
    match error {
        SqlxError::Database(error) => weigh_code(error.as_ref()),
        SqlxError::Io(_)
        | SqlxError::Tls(_)
        | SqlxError::Protocol(_)
        | SqlxError::PoolTimedOut
        | SqlxError::PoolClosed
        | SqlxError::WorkerCrashed => Weight::Away,
        _ => Weight::Refused,
    }
}

fn weigh_code(error: &dyn sqlx::error::DatabaseError) -> Weight {
    let Some(code) = error.code() else { return Weight::Refused };
    if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
        let primary = code.parse::<i64>().map_or(0, |code| code & 0xff);
        return match () {
            () if PASSING_SQLITE_CODES.contains(&primary) => Weight::Away,
            () if DENIED_SQLITE_CODES.contains(&primary) => Weight::Denied,
            () => Weight::Refused,
        };
    }
    let is_among = |codes: &[&str]| codes.iter().any(|known| code.starts_with(known));
    match () {
        () if is_among(&PASSING_SQLSTATES) => Weight::Away,
        () if is_among(&DENIED_SQLSTATES) => Weight::Denied,
        () => Weight::Refused,
    }
}
