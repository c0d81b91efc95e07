//! Open files, of which each socket is one: a process may have only so many.

use std::io;

use super::{dial, resolve};

/// Files that one call has open at most: the sockets of its look-up, then those of its attempts to connect, then its
/// connection. A look-up that is sent again because no name server answers has more for a moment. Connections
/// that are kept beside calls are let go of when files are used up.
pub(crate) const PER_CALL: u64 =
    if resolve::SOCKETS > dial::OPEN_MAX { resolve::SOCKETS as u64 } else { dial::OPEN_MAX as u64 };

/// `EMFILE` and `ENFILE` of Linux (errno-base.h, the same on every architecture): this process, or the machine, has as
/// many files open as it may. `io::ErrorKind` tells neither.
const USED_UP: [i32; 2] = [24, 23];

/// Whether something failed because no further file could be opened.
pub(super) fn are_used_up(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|number| USED_UP.contains(&number))
}
