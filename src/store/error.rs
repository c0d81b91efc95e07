//! What can go wrong with the database, as far as a caller chooses by it.

use std::borrow::Cow;

use outhook_core::identity::EventId;
use sea_orm::{
    DbErr, RuntimeErr, SqlxError,
    sqlx::{
        error::DatabaseError,
        postgres::{PgDatabaseError, PgSeverity},
        sqlite::SqliteError,
    },
};
use thiserror::Error;

use super::sqlite;

/// Why a store function failed.
#[derive(Debug, Error)]
pub(crate) enum StoreError {
    /// The database is away, silent, busy, full or read-only: the same statement may succeed later.
    #[error("the database is not available: {}", sentence(.0))]
    Away(#[source] DbErr),
    /// The database does not let us in, or not do this: an operator has to act.
    #[error("the database denies access: {}", sentence(.0))]
    Denied(#[source] DbErr),
    /// Rights are missing; the text holds the statements that grant them.
    #[error("{0}")]
    MissingRights(String),
    /// The database refused this statement or these values.
    #[error("the database refused: {}", sentence(.0))]
    Refused(#[source] DbErr),
    /// The other daemons of this database have taken over, because this one seemed dead.
    #[error("the other daemons have declared this one dead and taken over its work")]
    Fenced,
    /// Somebody else has locked the message rows of these events.
    #[error("the message rows of {} events are locked", .0.len())]
    Locked(Vec<EventId>),
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
        let Self::Away(error) = self else { return false };
        driver_error(error).and_then(sqlstate).is_some_and(|code| LOCK_TIMEOUTS.contains(&&*code))
    }

    /// Whether a right is missing.
    pub(crate) fn is_missing_right(&self) -> bool {
        let Self::Denied(error) = self else { return false };
        driver_error(error).and_then(sqlstate).is_some_and(|code| code == INSUFFICIENT_PRIVILEGE)
    }

    /// The fault of an SQLite file that waiting does not mend, in words for the operator.
    pub(super) fn lasting_fault(&self) -> Option<String> {
        match self {
            Self::Away(error) | Self::Denied(error) | Self::Refused(error) => sqlite::lasting_fault(error),
            Self::MissingRights(_) | Self::Fenced | Self::Locked(_) | Self::Ended(_) => None,
        }
    }

    /// Whether the same call may succeed later, with nothing changed on our side.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Away(_) | Self::Denied(_) | Self::MissingRights(_) | Self::Fenced)
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

/// Whether the server has no connection left for this role, database or process: PostgreSQL's own answer, and
/// PgBouncer's, for which it has no SQLSTATE.
pub(super) fn is_out_of_connections(error: &SqlxError) -> bool {
    let says = |error: &dyn DatabaseError| error.message().contains("no more connections allowed");
    sqlstate(error).is_some_and(|code| code == "53300") || error.as_database_error().is_some_and(says)
}

/// Whether a connection that answered so can go on: only the statement was at fault.
pub(super) fn leaves_connection_sound(error: &SqlxError) -> bool {
    match error {
        SqlxError::Database(error) => match error.try_downcast_ref::<PgDatabaseError>() {
            Some(error) => {
                let is_over = matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic);
                !is_over && !starts_with_any(error.code(), &CLOSING_SQLSTATES)
            }
            None => true,
        },
        SqlxError::RowNotFound
        | SqlxError::ColumnNotFound(_)
        | SqlxError::ColumnDecode { .. }
        | SqlxError::Encode(_)
        | SqlxError::Decode(_) => true,
        _ => false,
    }
}

/// SQLSTATEs of a connection that is of no more use: connection trouble (08), no connections left (53300),
/// read-only (25006: after a failover this is the wrong server), a transaction that lasted too long (25P03,
/// 25P04), a server that shuts down, has crashed or starts (57P01 to 57P03), an internal error (XX), and plans or
/// statements that it remembers and that no longer fit the tables (0A000, 26000, 42P05).
const CLOSING_SQLSTATES: [&str; 12] =
    ["08", "53300", "25006", "25P03", "25P04", "57P01", "57P02", "57P03", "XX", "0A000", "26000", "42P05"];

enum Weight {
    Away,
    Denied,
    Refused,
}

/// SQLSTATE classes and codes that pass by themselves, beside those of [`CLOSING_SQLSTATES`], which a new connection
/// mends: no resources (53, which includes a full disk), an operator's intervention such as a shutdown (57),
/// system errors (58), serialization failure and deadlock (40001, 40P01), lock not available (55P03).
const PASSING_SQLSTATES: [&str; 6] = ["53", "57", "58", "40001", "40P01", "55P03"];

/// SQLSTATEs of locks that could not be had: lock not available, deadlock.
const LOCK_TIMEOUTS: [&str; 2] = ["55P03", "40P01"];

/// SQLSTATE of a missing right.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

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
    match (error, driver_error(error)) {
        // Whatever keeps a connection from being made, it is not the fault of what is to be stored.
        (DbErr::Conn(_), Some(error)) if matches!(weigh_sqlx(error), Weight::Refused) => Weight::Away,
        (_, Some(error)) => weigh_sqlx(error),
        (DbErr::ConnectionAcquire(_) | DbErr::Conn(_), None) => Weight::Away,
        _ => Weight::Refused,
    }
}

fn driver_error(error: &DbErr) -> Option<&SqlxError> {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => Some(error),
        _ => None,
    }
}

fn weigh_sqlx(error: &SqlxError) -> Weight {
    match error {
        _ if remedy(error).is_some() => Weight::Denied,
        SqlxError::Database(error) => weigh_code(error.as_ref()),
        SqlxError::Configuration(_) | SqlxError::Tls(_) => Weight::Denied,
        SqlxError::Io(_)
        | SqlxError::Protocol(_)
        | SqlxError::PoolTimedOut
        | SqlxError::PoolClosed
        | SqlxError::WorkerCrashed => Weight::Away,
        _ => Weight::Refused,
    }
}

fn weigh_code(error: &dyn DatabaseError) -> Weight {
    let Some(code) = error.code() else { return Weight::Refused };
    let (passing, denied) = if error.try_downcast_ref::<SqliteError>().is_some() {
        let primary = code.parse::<i64>().map_or(0, |code| code & 0xff);
        (PASSING_SQLITE_CODES.contains(&primary), DENIED_SQLITE_CODES.contains(&primary))
    } else {
        let passes = starts_with_any(&code, &CLOSING_SQLSTATES) || starts_with_any(&code, &PASSING_SQLSTATES);
        (passes, starts_with_any(&code, &DENIED_SQLSTATES))
    };
    match (passing, denied) {
        (true, _) => Weight::Away,
        (false, true) => Weight::Denied,
        (false, false) => Weight::Refused,
    }
}

fn starts_with_any(code: &str, known: &[&str]) -> bool {
    known.iter().any(|known| code.starts_with(known))
}

fn sqlstate(error: &SqlxError) -> Option<Cow<'_, str>> {
    let error = error.as_database_error()?;
    error.try_downcast_ref::<PgDatabaseError>()?;
    error.code()
}

/// What the database or the driver said, without the names of the layers that it passed, and what to do.
fn sentence(error: &DbErr) -> String {
    if let Some(fault) = sqlite::fault_of_file(error) {
        return fault;
    }
    let cause = match (driver_error(error), error) {
        (Some(SqlxError::Database(error)), _) => error.message().to_owned(),
        (Some(SqlxError::Io(error)), _) => error.to_string(),
        (Some(SqlxError::Tls(error) | SqlxError::Configuration(error)), _) => error.to_string(),
        (Some(error), _) => error.to_string(),
        (None, DbErr::Conn(RuntimeErr::Internal(text))) => text.clone(),
        (None, error) => error.to_string(),
    };
    match driver_error(error).and_then(remedy) {
        Some(remedy) => format!("{cause}: {remedy}"),
        None => cause,
    }
}

/// What to do about a fault that does not pass by itself, if it is one of connecting.
fn remedy(error: &SqlxError) -> Option<&'static str> {
    match error {
        SqlxError::Database(error) if error.message().contains("startup parameter") => Some(
            "take this parameter out of database.url, or add it to ignore_startup_parameters of the pooler",
        ),
        SqlxError::Tls(error) if error.to_string().contains("does not support TLS") => Some(
            "switch TLS on in PostgreSQL, or set sslmode=disable in database.url if the network between is trusted",
        ),
        SqlxError::Tls(_) => Some("mend the file that sslrootcert, sslcert or sslkey of database.url names"),
        SqlxError::Io(error) if is_tls(error) => Some(
            "name the authority that signed the server's certificate by sslrootcert=FILE in database.url, and the server \
             as its certificate does; sslmode=require checks neither",
        ),
        _ => None,
    }
}

fn is_tls(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}
