//! Where the body of a response ends, and whether its connection can carry another response behind it
//! (RFC 9112 §6.3 and §9.3).

use super::header_section::{HeaderFault, HeaderSection, Version};

/// How a response is framed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Framing {
    /// Where the body ends.
    pub(super) body: Body,
    /// Whether nothing of this response can come behind it, and the endpoint keeps the connection.
    pub(super) is_reusable: bool,
}

/// Where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// There is none, whatever the headers say.
    None,
    /// After so many bytes.
    Length(u64),
    /// With the last chunk.
    Chunks,
    /// With the connection.
    Connection,
}

impl Framing {
    /// The framing of a response with these headers.
    pub(super) fn of(section: &HeaderSection) -> Result<Self, HeaderFault> {
        let body = match section.status {
            100..=199 | 204 | 304 => Body::None,
            // Chunks override a length (RFC 9112 §6.3), and are sent by servers of HTTP/1.0 too.
            _ if is_chunked(section)? => Body::Chunks,
            _ => length(section)?.map_or(Body::Connection, Body::Length),
        };
        let is_over = match body {
            Body::None => !has_any(section, LENGTH) && !has_any(section, CODING) && section.status >= 200,
            Body::Length(_) => !has_any(section, CODING) && tokens(section, LENGTH).count() == 1,
            Body::Chunks => !has_any(section, LENGTH) && tokens(section, CODING).count() == 1,
            Body::Connection => false,
        };
        let is_kept = section.version == Version::Http11 && !tokens(section, "connection").any(is_close);
        Ok(Self { body, is_reusable: is_over && is_kept && section.is_clean })
    }
}

const LENGTH: &str = "content-length";
const CODING: &str = "transfer-encoding";

fn is_close(option: &[u8]) -> bool {
    option.eq_ignore_ascii_case(b"close")
}

fn has_any(section: &HeaderSection, name: &str) -> bool {
    section.values(name).next().is_some()
}

/// The elements of a list, which may stand in several headers, and some of which may be empty (RFC 9110 §5.6.1).
fn tokens<'a>(section: &'a HeaderSection, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
    let elements = section.values(name).flat_map(|value| value.split(|byte| *byte == b','));
    elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// `identity` says nothing, and some proxies say `chunked` twice. No other coding was asked for.
fn is_chunked(section: &HeaderSection) -> Result<bool, HeaderFault> {
    let mut is_chunked = false;
    for coding in tokens(section, CODING) {
        if coding.eq_ignore_ascii_case(b"chunked") {
            is_chunked = true;
        } else if !coding.eq_ignore_ascii_case(b"identity") {
            return Err(section.fault(CODING, "which was not asked for"));
        }
    }
    Ok(is_chunked)
}

/// The one length that is said, however often (RFC 9112 §6.3).
fn length(section: &HeaderSection) -> Result<Option<u64>, HeaderFault> {
    let mut known = None;
    for element in tokens(section, LENGTH) {
        let length =
            number(element).ok_or_else(|| section.fault(LENGTH, "which is not a number of bytes"))?;
        if known.is_some_and(|known| known != length) {
            return Err(section.fault(LENGTH, "which is more than one length"));
        }
        known = Some(length);
    }
    Ok(known)
}

fn number(digits: &[u8]) -> Option<u64> {
    // `parse` takes a sign.
    let are_digits = digits.iter().all(u8::is_ascii_digit);
    str::from_utf8(digits).ok().filter(|_| are_digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing(start: &str, lines: &[&str]) -> Result<Framing, HeaderFault> {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let section = HeaderSection::read(format!("{start}\r\n{lines}\r\n").as_bytes());
        Framing::of(&section.expect("a header section"))
    }

    fn body(start: &str, lines: &[&str]) -> Body {
        framing(start, lines).unwrap_or_else(|fault| panic!("{start} {lines:?}: {fault}")).body
    }

    const OK: &str = "HTTP/1.1 200 OK";

    #[test]
    fn a_body_ends_where_rfc_9112_says() {
        for (lines, expected) in [
            (&["content-length: 7"][..], Body::Length(7)),
            (&["Content-Length: 007"], Body::Length(7)),
            (&["content-length: 7", "Content-Length: 7"], Body::Length(7)),
            (&["content-length: 7, 7"], Body::Length(7)),
            (&["content-length: 7,07,", "content-length:"], Body::Length(7)),
            (&["content-length:"], Body::Connection),
            (&["content-length: 0"], Body::Length(0)),
            (&["Transfer-Encoding: Chunked"], Body::Chunks),
            (&["transfer-encoding: chunked", "transfer-encoding: chunked"], Body::Chunks),
            (&["transfer-encoding: identity, chunked"], Body::Chunks),
            (&["content-length: 7", "transfer-encoding: chunked"], Body::Chunks),
            (&["transfer-encoding: chunked", "content-length: 7, 8"], Body::Chunks),
            (&["transfer-encoding: identity"], Body::Connection),
            (&["transfer-encoding: identity", "content-length: 7"], Body::Length(7)),
            (&[], Body::Connection),
        ] {
            assert_eq!(body(OK, lines), expected, "{lines:?}");
            assert_eq!(body("HTTP/1.0 500", lines), expected, "{lines:?}");
        }
        for status in [100, 101, 103, 204, 304] {
            let start = format!("HTTP/1.1 {status} x");
            assert_eq!(body(&start, &["content-length: 7, 8"]), Body::None, "{status}");
        }
    }

    #[test]
    fn what_cannot_frame_a_body_is_named() {
        for (lines, expected) in [
            (
                &["content-length: 2", "content-length: 12"][..],
                "header content-length is \"2, 12\", which is more",
            ),
            (&["content-length: 2, 3"], "header content-length is \"2, 3\", which is more"),
            (&["content-length: two"], "header content-length is \"two\", which is not"),
            (&["content-length: -2"], "header content-length is \"-2\", which is not"),
            (&["content-length: +2"], "header content-length is \"+2\", which is not"),
            (&["content-length: 99999999999999999999"], "is \"99999999999999999999\", which is not"),
            (
                &["transfer-encoding: gzip, chunked"],
                "header transfer-encoding is \"gzip, chunked\", which was not",
            ),
        ] {
            let fault = framing(OK, lines).expect_err("a fault").to_string();
            assert!(fault.contains(expected), "{lines:?}: {fault}");
        }
    }

    #[test]
    fn only_a_clean_end_leaves_a_connection_reusable() {
        for (start, lines) in [
            (OK, &["content-length: 0"][..]),
            (OK, &["transfer-encoding: chunked", "connection: keep-alive"]),
            ("HTTP/1.1 500", &["content-length: 7"]),
            ("HTTP/1.1 204 x", &[]),
        ] {
            assert!(framing(start, lines).expect("a framing").is_reusable, "{start} {lines:?}");
        }
        for (start, lines) in [
            ("HTTP/1.1 101 x", &[][..]),
            ("HTTP/1.1 204 x", &["content-length: 7"]),
            (OK, &[]),
            (OK, &["content-length: 7", "connection: keep-alive, Close"]),
            (OK, &["content-length: 7", "content-length: 7"]),
            (OK, &["content-length: 7", "transfer-encoding: chunked"]),
            (OK, &["content-length: 7", "transfer-encoding: identity"]),
            (OK, &["transfer-encoding: chunked", "transfer-encoding: chunked"]),
            (OK, &["content-length: 7", "noise"]),
            ("HTTP/1.0 200 OK", &["content-length: 7", "connection: keep-alive"]),
        ] {
            assert!(!framing(start, lines).expect("a framing").is_reusable, "{start} {lines:?}");
        }
    }
}
