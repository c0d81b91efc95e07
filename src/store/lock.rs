//! One daemon for each SQLite file: an OS lock beside it, which is released with the process, however it
//! ends.

use std::{fs::File, io, path::Path};

use thiserror::Error;

use super::connect::lock_path;

/// Why the lock was not taken.
#[derive(Debug, Error)]
pub(crate) enum LockError {
    /// Another daemon works on this file.
    #[error(
        "another outhook daemon is working on this database: stop it first, or give this one a database of its own"
    )]
    Taken,
    /// The lock could not be asked for.
    #[error("the lock of the database can't be taken: {0}")]
    File(#[from] io::Error),
}

/// The right to work on an SQLite file, until dropped.
#[derive(Debug)]
pub(crate) struct FileLock(#[expect(dead_code, reason = "kept open")] File);

impl FileLock {
    /// Takes the lock of a database.
    ///
    /// # Errors
    /// [`LockError::Taken`] if another process has it.
    pub(crate) fn take(database: &Path) -> Result<Self, LockError> {
        let file = File::create(lock_path(database))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(std::fs::TryLockError::WouldBlock) => Err(LockError::Taken),
            Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
        }
    }
}
