//! What a server refuses for its size: less of it at a time may be taken.

use sea_orm::{
    DbErr, RuntimeErr,
    sqlx::{error::DatabaseError, sqlite::SqliteError},
};

use super::StoreError;

/// PostgreSQL: program limit exceeded, out of memory.
const SQLSTATES: [&str; 2] = ["54000", "53200"];

/// PostgreSQL and its poolers: protocol violation, which a message too large is among others.
const PROTOCOL_VIOLATION: &str = "08P01";

/// SQLite: TOOBIG.
const SQLITE_TOO_BIG: i64 = 18;

impl StoreError {
    /// Whether the database may take the same in smaller pieces.
    pub(crate) fn is_too_large(&self) -> bool {
        let (Self::Away(error) | Self::Denied(error) | Self::Refused(error)) = self else { return false };
        let (DbErr::Conn(error) | DbErr::Exec(error) | DbErr::Query(error)) = error else { return false };
        let RuntimeErr::SqlxError(error) = error else { return false };
        error.as_database_error().is_some_and(is_too_large)
    }
}

fn is_too_large(error: &dyn DatabaseError) -> bool {
    let code = error.code().unwrap_or_default();
    match error.try_downcast_ref::<SqliteError>() {
        Some(_) => code.parse::<i64>().is_ok_and(|code| code & 0xff == SQLITE_TOO_BIG),
        None => is_sqlstate_of_size(&code, error.message()),
    }
}

fn is_sqlstate_of_size(code: &str, message: &str) -> bool {
    let is_of_length = || ["too large", "too long", "length"].iter().any(|word| message.contains(word));
    SQLSTATES.contains(&code) || code == PROTOCOL_VIOLATION && is_of_length()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::in_memory::in_memory;

    #[test]
    fn refusals_for_size_are_told_from_others() {
        for (code, message, expected) in [
            ("54000", "index row size 2720 exceeds maximum 2712", true),
            ("53200", "out of memory", true),
            ("08P01", "message too large", true),
            ("08P01", "invalid message length", true),
            ("08P01", "unsupported startup parameter: options", false),
            ("53100", "could not extend file: No space left on device", false),
            ("57014", "canceling statement due to user request", false),
        ] {
            assert_eq!(is_sqlstate_of_size(code, message), expected, "{code} {message}");
        }
    }

    #[actix::test]
    async fn sqlite_refuses_what_is_too_big() {
        use sea_orm::ConnectionTrait;
        let (db, _) = in_memory(false).await;
        let error = db.execute_unprepared("SELECT zeroblob(2000000000)").await.expect_err("a refusal");
        assert!(StoreError::from(error).is_too_large());
        let error = db.execute_unprepared("SELECT * FROM nowhere").await.expect_err("a refusal");
        assert!(!StoreError::from(error).is_too_large());
    }
}
