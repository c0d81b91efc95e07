//! What the errors of the HTTP libraries mean for a call.

use std::io;

use actix_web::error::{ParseError, PayloadError};
use awc::error::{ConnectError, SendRequestError};
use outhook_core::outcome::{Attempt, Fault};

use super::{
    connect::ConnectFault,
    dial::DialError,
    header_section::HeaderFault,
    inflate::InflateError,
    responses::header_fault,
    socket::is_excess,
    tls::{explained, rustls_error},
};

/// An attempt that got no answer's head.
pub(super) fn no_answer(error: &SendRequestError) -> Attempt {
    let fault = match error {
        SendRequestError::Connect(error) => return not_connected(error),
        SendRequestError::Timeout => Fault::Timeout,
        SendRequestError::Send(error) => return broken(error),
        SendRequestError::Response(ParseError::Io(error)) => return broken(error),
        SendRequestError::Response(error) => response_fault(error),
        SendRequestError::Url(_) | SendRequestError::Http(_) => Fault::BadUrl,
        _ => Fault::Reset,
    };
    failed(fault, error.to_string())
}

/// An attempt whose answer's body could not be read.
pub(super) fn no_body(error: &PayloadError) -> Attempt {
    let fault = match error {
        error if cause(error).is_some_and(is_tls) => Fault::Tls,
        error if cause(error).is_some_and(is_excess) => Fault::TooLarge,
        PayloadError::Overflow => Fault::TooLarge,
        _ => Fault::Truncated,
    };
    let why = match (cause(error), error) {
        (Some(cause), _) => cause.to_string(),
        (None, PayloadError::Incomplete(_)) => "the connection ended before it was complete".into(),
        (None, other) => other.to_string(),
    };
    failed(fault, format!("the answer's body: {why}"))
}

/// The I/O error behind an error of a body.
pub(super) fn cause(error: &PayloadError) -> Option<&io::Error> {
    match error {
        PayloadError::Io(cause) | PayloadError::Incomplete(Some(cause)) => Some(cause),
        _ => None,
    }
}

/// An attempt whose answer could not be decompressed.
pub(super) fn not_inflated(error: &InflateError) -> Attempt {
    match error {
        InflateError::TooLarge => too_large(),
        InflateError::Damaged(detail) => {
            failed(Fault::Truncated, format!("the answer can't be decompressed: {detail}"))
        }
    }
}

/// An attempt whose answer is too large.
pub(super) fn too_large() -> Attempt {
    failed(Fault::TooLarge, "the answer is larger than http.max_response_bytes".into())
}

/// An attempt that took too long.
pub(super) fn timed_out(what: &str) -> Attempt {
    failed(Fault::Timeout, format!("no whole answer within {what}"))
}

fn failed(fault: Fault, detail: String) -> Attempt {
    Attempt::Failed { fault, detail }
}

fn not_connected(error: &ConnectError) -> Attempt {
    match error {
        ConnectError::Timeout => failed(Fault::Timeout, "no connection within http.timeout".into()),
        ConnectError::Resolver(inner) => match inner.downcast_ref() {
            Some(fault) => connect_fault(fault),
            None => failed(Fault::Reset, inner.to_string()),
        },
        other => failed(Fault::Reset, other.to_string()),
    }
}

fn connect_fault(error: &ConnectFault) -> Attempt {
    let fault = match error {
        ConnectFault::Proxy(fault) => return fault.clone().into(),
        ConnectFault::Tls(_) => Fault::Tls,
        ConnectFault::Late(_) => Fault::Timeout,
        ConnectFault::Dial(error) => error.local_fault().unwrap_or_else(|| dial_fault(error)),
    };
    failed(fault, error.to_string())
}

fn dial_fault(error: &DialError) -> Fault {
    match error {
        DialError::Blocked(_) => Fault::Blocked,
        DialError::Unresolved(..) => Fault::Dns,
        DialError::Io(error) => io_fault(error),
    }
}

/// A connection that broke; TLS may do so after it was agreed on, as when a certificate of ours is asked for.
fn broken(error: &io::Error) -> Attempt {
    let detail = rustls_error(error).map_or_else(|| error.to_string(), explained);
    failed(io_fault(error), detail)
}

fn io_fault(error: &io::Error) -> Fault {
    if is_tls(error) {
        return Fault::Tls;
    }
    if is_excess(error) {
        return Fault::TooLarge;
    }
    if let Some(fault) = header_fault(error) {
        return match fault {
            HeaderFault::TooManyBytes | HeaderFault::TooManyLines => Fault::TooLarge,
            HeaderFault::StatusLine(_) | HeaderFault::Header { .. } => Fault::NotHttp,
        };
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Fault::Refused,
        io::ErrorKind::TimedOut => Fault::Timeout,
        _ => Fault::Reset,
    }
}

fn is_tls(error: &io::Error) -> bool {
    rustls_error(error).is_some()
}

fn response_fault(error: &ParseError) -> Fault {
    match error {
        ParseError::Incomplete => Fault::Reset,
        ParseError::Timeout => Fault::Timeout,
        ParseError::TooLarge => Fault::TooLarge,
        _ => Fault::NotHttp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::resolve::LookupError;

    /// What an attempt comes to that failed before there was a connection.
    fn fault(error: ConnectFault) -> Fault {
        match no_answer(&SendRequestError::Connect(ConnectError::Resolver(Box::new(error)))) {
            Attempt::Failed { fault, .. } => fault,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_fault_of_this_machine_is_none_of_the_endpoint() {
        let dial = |number| fault(DialError::Io(io::Error::from_raw_os_error(number)).into());
        let (no_memory, enfile, emfile, not_a_terminal, unreachable) = (12, 23, 24, 25, 101);
        assert_eq!([enfile, emfile].map(dial), [Fault::NoFiles; 2]);
        assert_eq!([no_memory, unreachable].map(dial), [Fault::Local; 2]);
        assert_eq!(dial(not_a_terminal), Fault::Reset);
        let look_up = |error| fault(DialError::Unresolved("bot.example".into(), error).into());
        assert_eq!(look_up(LookupError::NoFiles), Fault::NoFiles);
        assert_eq!(look_up(LookupError::Local("no route".into())), Fault::Local);
        assert_eq!(look_up(LookupError::Silence), Fault::Dns);
    }
}
