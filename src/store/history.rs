//! The history: what is done with.

use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr};

/// Any number will do, as long as it is only outhook's ("outhook" in ASCII, then a number).
const HISTORY_LOCK: i64 = 0x6f75_7468_6f6f_6b02;

/// One transaction at a time works on what is done with, so that no two replays get the same number. On SQLite, whoever writes is alone anyway.
pub(super) async fn lock_history(transaction: &DatabaseTransaction) -> Result<(), DbErr> {
    if transaction.get_database_backend() == DbBackend::Postgres {
        transaction.execute_unprepared(&format!("SELECT pg_advisory_xact_lock({HISTORY_LOCK})")).await?;
    }
    Ok(())
}
