//! Where the body of an answer ends, and whether the connection can carry another answer behind it
//! (RFC 9112, 6.3 and 9.3).
//!
//! awc keeps a connection unless the answer says `Connection: close`, also where it can't know that the
//! answer is over. What then still comes would be taken for the answer to the next request.

use actix_web::http::{
    StatusCode, Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};

/// A line of a head: a name and a value.
pub(super) type Field<'a> = (&'a str, &'a [u8]);

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
    /// As a transfer coding says that was not asked for. awc refuses such an answer.
    Coded,
}

impl Body {
    /// How many bytes it has, if the head tells.
    pub(super) fn length(self) -> Option<u64> {
        match self {
            Self::None => Some(0),
            Self::Length(length) => Some(length),
            Self::Chunks | Self::Connection | Self::Coded => None,
        }
    }
}

impl Framing {
    /// The framing of an answer with this head.
    pub(super) fn of(status: StatusCode, version: Version, fields: &[Field<'_>]) -> Self {
        let is_http_11 = version == Version::HTTP_11;
        let lengths = values(fields, CONTENT_LENGTH.as_str());
        let length: Option<u64> = lengths.first().and_then(|value| str::from_utf8(value).ok()?.parse().ok());
        let codings = if is_http_11 { values(fields, TRANSFER_ENCODING.as_str()) } else { Vec::new() };
        let is_coded =
            |name: &str| matches!(codings.as_slice(), [only] if only.eq_ignore_ascii_case(name.as_bytes()));
        let body = match length {
            _ if has_no_body(status) => Body::None,
            _ if is_coded("chunked") => Body::Chunks,
            _ if !codings.is_empty() && !is_coded("identity") => Body::Coded,
            Some(length) => Body::Length(length),
            None => Body::Connection,
        };
        // Behind an interim answer the final one comes, or another protocol.
        let is_over = !status.is_informational() && !matches!(body, Body::Connection | Body::Coded);
        let is_clear = length.is_none() || codings.is_empty();
        Self { body, is_safe: is_over && is_clear && is_http_11 }
    }
}

/// The values of all fields of a name.
fn values<'a>(fields: &[Field<'a>], name: &str) -> Vec<&'a [u8]> {
    let named = fields.iter().filter(|field| field.0.eq_ignore_ascii_case(name));
    named.map(|field| field.1.trim_ascii()).collect()
}

fn has_no_body(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing(status: u16, version: Version, lines: &[(&str, &str)]) -> Framing {
        let fields: Vec<Field<'_>> = lines.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        Framing::of(StatusCode::from_u16(status).expect("a status"), version, &fields)
    }

    #[test]
    fn a_body_ends_where_rfc_9112_says() {
        const LENGTH: (&str, &str) = ("content-length", "7");
        const CHUNKS: (&str, &str) = ("Transfer-Encoding", " Chunked ");
        const CODED: (&str, &str) = ("transfer-encoding", "gzip, chunked");
        const PLAIN: (&str, &str) = ("transfer-encoding", "identity");
        let body = |status, lines: &[_]| framing(status, Version::HTTP_11, lines).body;
        assert_eq!(body(200, &[LENGTH]), Body::Length(7));
        assert_eq!(body(200, &[CHUNKS]), Body::Chunks);
        assert_eq!(body(200, &[LENGTH, CHUNKS]), Body::Chunks);
        assert_eq!(body(500, &[]), Body::Connection);
        assert_eq!(body(200, &[PLAIN]), Body::Connection);
        assert_eq!(body(200, &[PLAIN, LENGTH]), Body::Length(7));
        for lines in [[CODED, LENGTH], [CHUNKS, CHUNKS], [PLAIN, CHUNKS], [PLAIN, PLAIN]] {
            assert_eq!(body(200, &lines), Body::Coded, "{lines:?}");
        }
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
        assert!(!is_safe(200, Version::HTTP_11, &[length, ("transfer-encoding", "identity")]));
        assert!(!is_safe(200, Version::HTTP_11, &[("transfer-encoding", "gzip")]));
        assert!(!is_safe(200, Version::HTTP_10, &[length]));
    }
}
