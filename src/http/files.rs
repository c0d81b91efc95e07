//! Open files, of which each socket is one: a process may have only so many, and this shares them out.
//!
//! A new file gets the lowest number that is free, and the limit is one on numbers. So what is kept for
//! somebody is the numbers above those that everybody else may take.

use std::{io, os::fd::AsRawFd, sync::OnceLock};

use super::dial;

/// Files for everything but calls: the database, the broker, replies, the admin server and those who ask it,
/// threads.
pub(crate) const BESIDE: u64 = 100;
/// Files that a call has open at most: its connection, or the attempts to make one. Only its look-up has
/// more, mostly for a moment.
const PER_CALL: u64 = dial::OPEN_MAX as u64;
/// Calls that may be in flight however small the limit is.
const CALLS_MIN: usize = 4;
/// The part of [`BESIDE`] that is not open from the start on, and stays free for the database and the admin
/// server.
const SPARE: u64 = BESIDE / 2;

/// `EMFILE` and `ENFILE` of Linux (errno-base.h, the same on every architecture): this process, or the
/// machine, has as many files open as it may. `io::ErrorKind` tells neither.
const USED_UP: [i32; 2] = [24, 23];

/// The shares of this process, of which there is one limit. Before they are known, calls may take everything.
static SHARES: OnceLock<Shares> = OnceLock::new();

/// Who may have how many of the files that a process may open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shares {
    limit: u64,
    max_calls: usize,
    calls: usize,
}

impl Shares {
    /// Shares of so many files, for at most so many calls (`http.max_calls`).
    pub(crate) fn new(limit: u64, max_calls: usize) -> Self {
        let room = limit.saturating_sub(BESIDE) / PER_CALL;
        let allowed = usize::try_from(room).unwrap_or(usize::MAX).max(CALLS_MIN);
        Self { limit, max_calls, calls: max_calls.min(allowed) }
    }

    /// Has every socket of a call keep to these shares. The first ones hold.
    pub(crate) fn apply(self) {
        let _ = SHARES.set(self);
    }

    /// How many calls may be in flight.
    pub(crate) fn calls(self) -> usize {
        self.calls
    }

    /// The limit at which `http.max_calls` calls may be in flight.
    pub(crate) fn wanted(self) -> u64 {
        self.max_calls as u64 * PER_CALL + BESIDE
    }

    /// What to say if the limit allows fewer calls than `http.max_calls`.
    pub(crate) fn shortage(self) -> Option<String> {
        let Self { limit, max_calls, calls } = self;
        (calls < max_calls).then(|| {
            format!(
                "only {limit} files may be open, so at most {calls} calls are made at a time, fewer than \
                 http.max_calls = {max_calls}: raise the limit of open files to {} (LimitNOFILE= of systemd, \
                 ulimit -n), or lower http.max_calls",
                self.wanted()
            )
        })
    }

    /// Whether so many calls are missing that somebody should do something about it: more than a tenth.
    pub(crate) fn are_far_too_few(self) -> bool {
        self.calls < self.max_calls - self.max_calls / 10
    }

    /// Sockets of calls have lower numbers than this.
    fn end(self) -> u64 {
        self.limit - SPARE.min(self.limit / 8)
    }

    /// Connections that nobody uses have lower numbers than this: above are as many as there may be calls.
    fn idle_end(self) -> u64 {
        self.end().saturating_sub(self.calls as u64)
    }
}

/// Lets a call have a new socket, unless that is one of the files that are kept for everything else.
///
/// # Errors
/// As if no file were left.
pub(super) fn admit(socket: &impl AsRawFd) -> io::Result<()> {
    match SHARES.get() {
        Some(shares) if number(socket) >= shares.end() => Err(io::Error::from_raw_os_error(USED_UP[0])),
        _ => Ok(()),
    }
}

/// Whether a call's new socket is one of those that no connection may keep which nobody uses.
pub(super) fn is_for_use_only(socket: &impl AsRawFd) -> bool {
    SHARES.get().is_some_and(|shares| number(socket) >= shares.idle_end())
}

/// Whether something failed because no further file could be opened.
pub(super) fn are_used_up(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|number| USED_UP.contains(&number))
}

fn number(socket: &impl AsRawFd) -> u64 {
    // One that is open has no negative number.
    u64::try_from(socket.as_raw_fd()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_as_many_as_the_files_beside_the_others_allow_and_never_more_than_max_calls() {
        let calls = |limit, max_calls| Shares::new(limit, max_calls).calls();
        assert_eq!([298, 299, 300, 301].map(|limit| calls(limit, 100)), [99, 99, 100, 100]);
        assert_eq!([calls(256, 10_000), calls(20_000, 10_000)], [78, 9950]);
        assert_eq!([20_099, 20_100].map(|limit| calls(limit, 10_000)), [9999, 10_000]);
        assert_eq!(calls(u64::MAX, 100_000), 100_000);
    }

    #[test]
    fn a_few_calls_are_made_however_few_files_there_are() {
        let calls = |limit| Shares::new(limit, 10_000).calls();
        assert_eq!([0, 1, 64, 100, 109, 110].map(calls), [4, 4, 4, 4, 4, 5]);
        assert_eq!(Shares::new(64, 1).calls(), 1);
    }

    #[test]
    fn a_shortage_is_told_with_the_limit_at_which_there_is_none() {
        let told = Shares::new(299, 100).shortage().expect("a shortage");
        let parts = ["299 files", "99 calls", "http.max_calls = 100", "to 300", "LimitNOFILE"];
        assert!(parts.iter().all(|part| told.contains(part)), "{told}");
        assert_eq!(Shares::new(300, 100).shortage(), None);
        assert_eq!(Shares::new(64, 4).shortage(), None);
    }

    #[test]
    fn a_tenth_of_the_calls_may_be_missing_and_not_one_more() {
        let are_far_too_few = |limit| Shares::new(limit, 100).are_far_too_few();
        assert_eq!([278, 280, 300].map(are_far_too_few), [true, false, false]);
        assert!(!Shares::new(20_000, 10_000).are_far_too_few(), "by default, on many machines");
    }

    #[test]
    fn what_is_kept_free_is_beyond_the_reach_of_calls_and_idle_connections() {
        let ends = |limit| {
            let shares = Shares::new(limit, 10_000);
            (shares.idle_end(), shares.end())
        };
        assert_eq!(ends(0), (0, 0));
        assert_eq!(ends(64), (52, 56));
        assert_eq!(ends(256), (146, 224));
        assert_eq!(ends(400), (200, 350));
        assert_eq!(ends(20_000), (10_000, 19_950));
        assert_eq!(ends(u64::MAX), (u64::MAX - 10_050, u64::MAX - 50));
    }
}
