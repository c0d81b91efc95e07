//! What an HTTP answer, or the lack of one, means.

use std::fmt;

use crate::identity::Millis;

/// What came of one attempt, as the HTTP side saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// A whole answer.
    Answered {
        /// Status code.
        status: u16,
        /// When the endpoint asked to be tried again (`Retry-After`).
        retry_after: Option<Millis>,
        /// Where a redirect leads, fit to be shown.
        leads_to: Option<String>,
        /// The body after decompression.
        body: Vec<u8>,
    },
    /// No whole answer.
    Failed {
        /// What went wrong.
        fault: Fault,
        /// The technical detail, for the ledger and the log.
        detail: String,
    },
    /// The proxy answered in the endpoint's place.
    Intercepted {
        /// What it means.
        fault: Fault,
        /// When the proxy asked to be tried again (`Retry-After`).
        retry_after: Option<Millis>,
        /// The technical detail, for the ledger and the log.
        detail: String,
    },
}

/// Why there was no usable answer. The names are stored and shown (see [`Fault::name`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The deadline over the whole call passed.
    Timeout,
    /// The connection was refused.
    Refused,
    /// The connection broke before the answer's head.
    Reset,
    /// The host name could not be resolved.
    Dns,
    /// TLS could not be agreed on.
    Tls,
    /// The body ended early or was framed wrongly.
    Truncated,
    /// The response is not HTTP; the detail names the line or header that is wrong.
    NotHttp,
    /// The answer is larger than `http.max_response_bytes`, or its head or its frames are larger than they
    /// may be.
    TooLarge,
    /// The URL can't be used.
    BadUrl,
    /// The egress rules, or the proxy's, forbid the address.
    Blocked,
    /// The proxy can't be reached, or failed; the endpoint has no part in it.
    Proxy,
    /// Not called: no file was left to open a connection with, here or on the machine.
    NoFiles,
    /// Not called: this machine has no port, no route or no memory for a connection.
    Local,
    /// An answer with a status that is not 2xx.
    Status,
    /// A 2xx answer that is not one of the accepted shapes.
    BadAnswer,
    /// The interface can't carry this event (Slack's has no direct messages).
    Unsupported,
    /// No request could be made of the event.
    Unsendable,
    /// The service's interface has no handler.
    BadInterface,
    /// The handler panicked.
    Panicked,
    /// Not called: the endpoint has failed too often in a row.
    Breaker,
    /// Not called: the endpoint asked for no calls until later.
    RetryAfter,
    /// Not called: the service is paused.
    Paused,
}

impl Fault {
    /// The stable name under which the ledger and the metrics show it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::Truncated => "truncated",
            Self::NotHttp => "not_http",
            Self::TooLarge => "too_large",
            Self::BadUrl => "bad_url",
            Self::Blocked => "blocked",
            Self::Proxy => "proxy",
            Self::NoFiles => "no_files",
            Self::Local => "local",
            Self::Status => "status",
            Self::BadAnswer => "bad_answer",
            Self::Unsupported => "unsupported",
            Self::Unsendable => "unsendable",
            Self::BadInterface => "bad_interface",
            Self::Panicked => "panicked",
            Self::Breaker => "breaker",
            Self::RetryAfter => "retry_after",
            Self::Paused => "paused",
        }
    }

    /// Whether the conversation may be told how many attempts there were. Names that are not found are tried
    /// again and blocked addresses are not, so the number would tell them apart.
    pub const fn may_count_attempts(self) -> bool {
        !matches!(self, Self::Dns | Self::Blocked)
    }

    /// Whether another attempt may end better.
    const fn may_pass(self) -> bool {
        matches!(
            self,
            Self::Timeout
                | Self::Refused
                | Self::Reset
                | Self::Dns
                | Self::Tls
                | Self::Truncated
                | Self::NotHttp
                | Self::Proxy
                | Self::NoFiles
                | Self::Local
        )
    }

    /// Whether the endpoint has no part in it.
    pub(crate) const fn is_ours(self) -> bool {
        matches!(self, Self::Proxy | Self::NoFiles | Self::Local)
    }

    /// Whether this machine made no attempt.
    pub const fn spends_no_attempt(self) -> bool {
        matches!(self, Self::NoFiles | Self::Local)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a call did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind.
    pub fault: Fault,
    /// Status of the answer, if there was one.
    pub status: Option<u16>,
    /// Technical detail for operators; never shown in a conversation.
    pub detail: String,
}

/// The status by which an endpoint says that it is gone for good.
const GONE: u16 = 410;

impl Failure {
    /// Whether the endpoint says that it is gone for good.
    pub fn is_gone(&self) -> bool {
        self.fault == Fault::Status && self.status == Some(GONE)
    }

    /// The failure as half a sentence for the conversation: `…, so it got no answer.` can follow.
    /// It names no URL, no address and nothing that the endpoint wrote.
    pub fn told(&self) -> String {
        match (self.fault, self.status) {
            (Fault::Status, Some(status)) => format!("its endpoint answered with status {status}"),
            (Fault::Timeout, _) => "its endpoint did not answer in time".into(),
            // A blocked address as an unknown name: the line must not tell which names there are inside.
            (Fault::Refused | Fault::Reset | Fault::Dns | Fault::Proxy | Fault::Blocked, _) => {
                "its endpoint could not be reached".into()
            }
            (Fault::NoFiles, _) => "this server has too many connections open".into(),
            (Fault::Local, _) => "this server could not open a connection".into(),
            (Fault::Tls, _) => "no secure connection to its endpoint could be made".into(),
            (Fault::Truncated, _) => "its endpoint's answer was cut short".into(),
            (Fault::TooLarge, _) => "its endpoint's answer was too large".into(),
            (Fault::BadUrl, _) => "its endpoint's URL can't be used".into(),
            (Fault::Unsupported, _) => "its Slack-format interface has no direct messages".into(),
            (Fault::Unsendable, _) => "no request could be made of it".into(),
            (Fault::BadInterface, _) => "its interface is of an unknown kind".into(),
            (Fault::Breaker, _) => "its endpoint has been failing for a while".into(),
            (Fault::RetryAfter, _) => "its endpoint asked not to be called for a while".into(),
            (Fault::Paused, _) => "its endpoint is not called for the time being".into(),
            (Fault::NotHttp | Fault::Status | Fault::BadAnswer | Fault::Panicked, _) => {
                "its endpoint's answer could not be understood".into()
            }
        }
    }
}

/// What an attempt means for its call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The endpoint took the event; `body` is for the handler to read.
    Success {
        /// Body of the 2xx answer, possibly empty.
        body: Vec<u8>,
    },
    /// Another attempt may succeed.
    Retry {
        /// What went wrong this time.
        failure: Failure,
        /// The earliest moment the endpoint wants to hear from us.
        not_before: Option<Millis>,
    },
    /// No further attempt would help.
    Final(Failure),
}

/// Client errors that ask for another attempt.
const RETRIED_4XX: [u16; 3] = [408, 425, 429];
/// Registered server errors that another attempt would not change.
const FINAL_5XX: [u16; 7] = [501, 505, 506, 507, 508, 510, 511];

/// Whether a status asks for another attempt. One that is not registered means the same as the first of its
/// class, and one beyond 599 is a server error (RFC 9110 §15).
pub fn is_retried(status: u16) -> bool {
    RETRIED_4XX.contains(&status) || (status >= 500 && !FINAL_5XX.contains(&status))
}

/// Judges an attempt by the outcome table. Whether a 2xx body is acceptable is for
/// [`crate::answer`] to say.
pub fn judge(attempt: Attempt) -> Verdict {
    match attempt {
        Attempt::Answered { status: 200..=299, body, .. } => Verdict::Success { body },
        Attempt::Answered { status, retry_after, leads_to, .. } => {
            let detail = match leads_to {
                Some(place) => {
                    format!("the endpoint redirects with status {status}, which is not followed, to {place}")
                }
                None => format!("the endpoint answered with status {status}"),
            };
            let failure = Failure { fault: Fault::Status, status: Some(status), detail };
            if is_retried(status) {
                Verdict::Retry { failure, not_before: retry_after }
            } else {
                Verdict::Final(failure)
            }
        }
        Attempt::Failed { fault, detail } => judge_fault(fault, detail, None),
        Attempt::Intercepted { fault, retry_after, detail } => judge_fault(fault, detail, retry_after),
    }
}

fn judge_fault(fault: Fault, detail: String, not_before: Option<Millis>) -> Verdict {
    let failure = Failure { fault, status: None, detail };
    if fault.may_pass() { Verdict::Retry { failure, not_before } } else { Verdict::Final(failure) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16) -> Verdict {
        let body = b"x".to_vec();
        judge(Attempt::Answered { status, retry_after: Some(5), leads_to: None, body })
    }

    #[test]
    fn only_statuses_of_the_table_are_tried_again() {
        for status in 100..=999 {
            let verdict = answered(status);
            match status {
                200..=299 => assert!(matches!(verdict, Verdict::Success { .. }), "{status}"),
                100..=407 | 409..=424 | 426..=428 | 430..=499 | 501 | 505..=508 | 510 | 511 => {
                    assert!(matches!(verdict, Verdict::Final(_)), "{status}");
                }
                _ => assert!(matches!(verdict, Verdict::Retry { not_before: Some(5), .. }), "{status}"),
            }
        }
    }

    #[test]
    fn a_redirect_says_where_it_leads() {
        let leads_to = Some("https://bot.example/new".to_owned());
        let attempt = Attempt::Answered { status: 307, retry_after: None, leads_to, body: Vec::new() };
        let Verdict::Final(failure) = judge(attempt) else { panic!("it is final") };
        assert!(failure.detail.ends_with("status 307, which is not followed, to https://bot.example/new"));
        assert!(!failure.told().contains("bot.example"));
    }

    #[test]
    fn a_fault_of_the_line_is_tried_again_and_a_fault_of_the_target_is_not() {
        let verdict = |fault| judge(Attempt::Failed { fault, detail: String::new() });
        for fault in [
            Fault::Timeout,
            Fault::Refused,
            Fault::Reset,
            Fault::Dns,
            Fault::Tls,
            Fault::Truncated,
            Fault::NoFiles,
            Fault::Local,
        ] {
            assert!(matches!(verdict(fault), Verdict::Retry { not_before: None, .. }), "{fault}");
        }
        for fault in [Fault::TooLarge, Fault::BadUrl, Fault::Blocked, Fault::Unsupported, Fault::Unsendable] {
            assert!(matches!(verdict(fault), Verdict::Final(_)), "{fault}");
        }
    }

    #[test]
    fn a_proxy_may_say_when_it_wants_to_be_asked_again() {
        let verdict =
            |fault| judge(Attempt::Intercepted { fault, retry_after: Some(5), detail: "busy".into() });
        for fault in [Fault::Proxy, Fault::Refused, Fault::Timeout] {
            let Verdict::Retry { failure, not_before: Some(5) } = verdict(fault) else { panic!("{fault}") };
            assert_eq!((failure.fault, failure.status), (fault, None));
        }
        assert!(matches!(verdict(Fault::Blocked), Verdict::Final(_)));
    }

    #[test]
    fn the_notice_does_not_tell_a_blocked_address_from_an_unknown_name() {
        let told = |fault| Failure { fault, status: None, detail: String::new() }.told();
        assert_eq!(told(Fault::Blocked), told(Fault::Dns));
        assert!(!Fault::Blocked.may_count_attempts() && !Fault::Dns.may_count_attempts());
        assert!(Fault::Refused.may_count_attempts());
    }
}
