//! `[http]`: the limits of one call to a bot's endpoint.
//!
//! | key | default | allowed |
//! | --- | --- | --- |
//! | `timeout` | `"10s"` | `"1ms"` to `"10m"` |
//! | `connect_timeout` | `"5s"`, or `timeout` if that is shorter | `"1ms"` to `timeout` |
//! | `max_calls` | 10000 calls | 1 to 100000 |
//! | `max_response_bytes` | 65536 bytes | 1 to 16777216 |

use std::time::Duration;

use super::section::Section;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// `[http]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Http {
    /// The one deadline of a call: connecting, TLS, sending, head and body.
    pub(crate) timeout: Duration,
    /// The share of it that connecting may take.
    pub(crate) connect_timeout: Duration,
    /// How many calls of all bots are in flight at once, if the limit of open files allows so many.
    pub(crate) max_calls: usize,
    /// The largest answer that is read, after decompression.
    pub(crate) max_response_bytes: usize,
}

impl Http {
    pub(super) fn read(section: &mut Section) -> Self {
        let timeouts = Duration::from_millis(1)..=Duration::from_secs(600);
        let timeout = section.duration("timeout", Duration::from_secs(10), timeouts.clone());
        let connect_timeout = section.duration("connect_timeout", CONNECT_TIMEOUT, timeouts);
        Self {
            timeout,
            connect_timeout: within(timeout, connect_timeout, section),
            max_calls: section.integer("max_calls", 10_000, 1..=100_000),
            max_response_bytes: section.integer("max_response_bytes", 65_536, 1..=16_777_216),
        }
    }
}

/// The default gives way: whoever shortens only `timeout`, in the shipped file or by a variable, means the
/// whole call.
fn within(timeout: Duration, connect_timeout: Duration, section: &mut Section) -> Duration {
    if connect_timeout > timeout && connect_timeout != CONNECT_TIMEOUT && !section.has_fault("timeout") {
        let [shown, limit] = [connect_timeout, timeout].map(humantime::format_duration);
        let allowed = format!("at most http.timeout, which is {limit}");
        section.reject("connect_timeout", &format!("\"{shown}\""), &allowed);
    }
    connect_timeout.min(timeout)
}
