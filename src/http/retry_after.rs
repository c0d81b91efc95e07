//! `Retry-After`: when an endpoint, a proxy or Zulip wants to hear from us again.

use std::time::{SystemTime, UNIX_EPOCH};

use actix_web::http::header::{HeaderMap, RETRY_AFTER};
use outhook_core::identity::Millis;

use crate::store::now;

/// The header as a time.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Millis> {
    retry_after_value(headers.get(RETRY_AFTER)?.to_str().ok()?)
}

/// The header's value as a time: seconds from now, or an HTTP date (RFC 9110 §10.2.3).
pub(crate) fn retry_after_value(value: &str) -> Option<Millis> {
    let value = value.trim();
    if let Some(seconds) = seconds(value) {
        return Some(now().saturating_add(i64::from(seconds) * 1000));
    }
    let date: SystemTime = httpdate::parse_http_date(value).ok()?;
    Millis::try_from(date.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}

/// Seconds, rounded up: Zulip and many rate limiters send a fraction, which RFC 9110 does not know.
fn seconds(value: &str) -> Option<u32> {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !are_digits(whole) || !are_digits(fraction) || whole.len() + fraction.len() == 0 {
        return None;
    }
    let seconds = if whole.is_empty() { 0 } else { whole.parse().unwrap_or(u32::MAX) };
    let has_fraction = fraction.bytes().any(|digit| digit != b'0');
    Some(seconds.saturating_add(u32::from(has_fraction)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_of_seconds_are_rounded_up() {
        for (value, expected) in [
            ("0", Some(0)),
            ("7", Some(7)),
            ("007", Some(7)),
            ("21.66437864303589", Some(22)),
            ("0.001", Some(1)),
            ("1.0", Some(1)),
            ("5.", Some(5)),
            (".5", Some(1)),
            ("99999999999", Some(u32::MAX)),
            ("99999999999.5", Some(u32::MAX)),
        ] {
            assert_eq!(seconds(value), expected, "{value}");
        }
        for value in ["", ".", "-1", "+1", "1e3", "1,5", "1.2.3", "5 s", "soon", "inf", "NaN", "٣"] {
            assert_eq!(seconds(value), None, "{value}");
        }
    }

    #[test]
    fn seconds_count_from_now_and_dates_do_not() {
        let before = now();
        let until = retry_after_value(" 21.66437864303589 ").expect("a time");
        assert!((before + 22_000..=now() + 22_000).contains(&until), "{until}");
        assert_eq!(retry_after_value("Thu, 01 Jan 1970 00:00:07 GMT"), Some(7000));
        for nonsense in ["soon", "Fri, 31 Dec 1899 23:59:59 GMT"] {
            assert_eq!(retry_after_value(nonsense), None, "{nonsense}");
        }
        let century = 100 * 365 * 86_400_000;
        for late in ["4294967296", "99999999999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"] {
            assert!(retry_after_value(late) > Some(now() + century), "{late}");
        }
    }
}
