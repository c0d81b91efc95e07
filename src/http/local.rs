//! Faults of this machine. They say nothing of the endpoint that was to be called.

use std::io;

use outhook_core::outcome::Fault;

use super::files;

/// `EAFNOSUPPORT` and `ENOBUFS` of Linux (asm-generic/errno.h), which `io::ErrorKind` does not tell: no IPv6, no
/// buffer.
const NUMBERS: [i32; 2] = [97, 105];

/// The fault, if an error of opening a connection is one of this machine. A host that can't be reached
/// (`EHOSTUNREACH`) is none: that is what a router or a silent neighbor makes of an endpoint that is away.
pub(super) fn fault(error: &io::Error) -> Option<Fault> {
    use io::ErrorKind::{AddrNotAvailable, NetworkDown, NetworkUnreachable, OutOfMemory};
    let is_local = matches!(error.kind(), AddrNotAvailable | NetworkDown | NetworkUnreachable | OutOfMemory)
        || error.raw_os_error().is_some_and(|number| NUMBERS.contains(&number));
    match () {
        () if files::are_used_up(error) => Some(Fault::NoFiles),
        () if is_local => Some(Fault::Local),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_this_machine_are_known() {
        let fault = |number| fault(&io::Error::from_raw_os_error(number));
        for number in [23, 24] {
            assert_eq!(fault(number), Some(Fault::NoFiles), "{number}");
        }
        for number in [12, 97, 99, 100, 101, 105] {
            assert_eq!(fault(number), Some(Fault::Local), "{number}");
        }
        let (refused, timed_out, reset, host_unreachable, not_a_terminal) = (111, 110, 104, 113, 25);
        for number in [refused, timed_out, reset, host_unreachable, not_a_terminal] {
            assert_eq!(fault(number), None, "{number}");
        }
    }
}
