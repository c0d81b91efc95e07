//! Open files, of which each socket is one: a process may have only so many.

use std::io;

/// `EMFILE` and `ENFILE` of Linux (errno-base.h, the same on every architecture): this process, or the machine, has as
/// many files open as it may. `io::ErrorKind` tells neither.
const USED_UP: [i32; 2] = [24, 23];

/// Whether something failed because no further file could be opened.
pub(super) fn are_used_up(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|number| USED_UP.contains(&number))
}
