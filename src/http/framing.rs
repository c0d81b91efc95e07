//! Where the body of an answer ends, and whether the connection can carry another answer behind it
//! (RFC 9112, 6.3 and 9.3).
//!
//! awc keeps a connection unless the answer says `Connection: close`, also where it can't know that the
//! answer is over. What then still comes would be taken for the answer to the next request.

use actix_web::http::{
    StatusCode, Version,
    header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING},
};

/// How an answer is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Framing {
    /// Where the body ends.
    pub(super) body: Body,
    /// Whether nothing of this answer can come behind it.
    pub(super) is_safe: bool,
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
    /// The framing of an answer with this head, which awc has accepted.
    pub(super) fn of(status: StatusCode, version: Version, headers: &HeaderMap) -> Self {
        let length: Option<u64> =
            headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let is_chunked = version == Version::HTTP_11
            && headers
                .get(TRANSFER_ENCODING)
                .is_some_and(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"));
        let body = match length {
            _ if has_no_body(status) => Body::None,
            _ if is_chunked => Body::Chunks,
            Some(length) => Body::Length(length),
            None => Body::Connection,
        };
        // Behind an interim answer the final one comes, or another protocol.
        let is_over = !status.is_informational() && body != Body::Connection;
        let is_clear = length.is_none() || !headers.contains_key(TRANSFER_ENCODING);
        Self { body, is_safe: is_over && is_clear && version == Version::HTTP_11 }
    }
}

fn has_no_body(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn framing(status: u16, version: Version, lines: &[(&'static str, &'static str)]) -> Framing {
        let mut headers = HeaderMap::new();
        for &(name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        Framing::of(StatusCode::from_u16(status).expect("a status"), version, &headers)
    }

    #[test]
    fn a_body_ends_where_rfc_9112_says() {
        const LENGTH: (&str, &str) = ("content-length", "7");
        const CHUNKS: (&str, &str) = ("transfer-encoding", "Chunked");
        let body = |status, lines: &[_]| framing(status, Version::HTTP_11, lines).body;
        assert_eq!(body(200, &[LENGTH]), Body::Length(7));
        assert_eq!(body(200, &[CHUNKS]), Body::Chunks);
        assert_eq!(body(200, &[LENGTH, CHUNKS]), Body::Chunks);
        assert_eq!(body(500, &[]), Body::Connection);
        assert_eq!(body(200, &[("transfer-encoding", "identity")]), Body::Connection);
        for status in [100, 101, 103, 204, 304] {
            assert_eq!(body(status, &[LENGTH]), Body::None, "{status}");
        }
        assert_eq!(framing(200, Version::HTTP_10, &[CHUNKS]).body, Body::Connection);
    }

    #[test]
    fn a_connection_carries_another_answer_only_behind_one_that_is_certainly_over() {
        let is_safe = |status, version, lines: &[_]| framing(status, version, lines).is_safe;
        let length = ("content-length", "0");
        let chunks = ("transfer-encoding", "chunked");
        assert!(is_safe(200, Version::HTTP_11, &[length]));
        assert!(is_safe(500, Version::HTTP_11, &[chunks]));
        assert!(is_safe(204, Version::HTTP_11, &[]));
        assert!(!is_safe(100, Version::HTTP_11, &[]));
        assert!(!is_safe(103, Version::HTTP_11, &[length]));
        assert!(!is_safe(200, Version::HTTP_11, &[]));
        assert!(!is_safe(200, Version::HTTP_11, &[length, chunks]));
        assert!(!is_safe(200, Version::HTTP_10, &[length]));
    }
}
