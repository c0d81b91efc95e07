//! How the process ends.

use std::process::ExitCode;

/// An end with a status that scripts and service managers can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Success,
    /// Bad usage or configuration (`EX_USAGE`).
    Usage,
    /// Something outhook depends on is missing or refuses it (`EX_UNAVAILABLE`).
    Unavailable,
    /// A fault of outhook's own (`EX_SOFTWARE`).
    Internal,
    /// Not everything could be stored (`EX_TEMPFAIL`); the next start goes on with it.
    Unfinished,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Success => 0,
            Exit::Usage => 64,
            Exit::Unavailable => 69,
            Exit::Internal => 70,
            Exit::Unfinished => 75,
        })
    }
}

/// An error that ends a command: one clear sentence for the person, and a status.
#[derive(Debug)]
pub(crate) struct Failed {
    /// The status.
    pub(crate) exit: Exit,
    /// The sentence.
    pub(crate) message: String,
}

impl Failed {
    /// An end with this status and sentence.
    pub(crate) fn new(exit: Exit, message: impl ToString) -> Self {
        Self { exit, message: message.to_string() }
    }

    /// A fault of outhook's own.
    pub(crate) fn internal(message: impl ToString) -> Self {
        Self::new(Exit::Internal, message)
    }

    /// Something outhook depends on is missing.
    pub(crate) fn unavailable(message: impl ToString) -> Self {
        Self::new(Exit::Unavailable, message)
    }

    /// The command was called wrongly.
    pub(crate) fn usage(message: impl ToString) -> Self {
        Self::new(Exit::Usage, message)
    }
}

impl From<crate::store::StoreError> for Failed {
    fn from(error: crate::store::StoreError) -> Self {
        Self::unavailable(error)
    }
}

impl From<crate::store::OpenError> for Failed {
    fn from(error: crate::store::OpenError) -> Self {
        match error {
            crate::store::OpenError::Unsuitable(message) => Self::usage(message),
            crate::store::OpenError::Unusable(message) => Self::unavailable(message),
            crate::store::OpenError::Store(error) => error.into(),
        }
    }
}
