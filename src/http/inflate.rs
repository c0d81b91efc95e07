//! Decompression that stops at a size, so that a small response can't become a large one in memory.

use std::io::{self, Read};

use flate2::{
    bufread::GzDecoder,
    read::{DeflateDecoder, ZlibDecoder},
};

/// Why a body could not be decompressed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum InflateError {
    /// It is larger than allowed.
    TooLarge,
    /// It is damaged.
    Damaged(String),
}

/// The codings that are asked for, as in `Accept-Encoding`.
pub(super) const ENCODINGS: &str = "gzip, deflate";

/// What each member begins with (RFC 1952 §2.3.1).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A body as it was before it was coded, at most `bytes_max` long. One of any other coding is left as it is: it
/// is JSON then, or it is not.
pub(super) fn inflate(body: Vec<u8>, encoding: &str, bytes_max: usize) -> Result<Vec<u8>, InflateError> {
    match coding(encoding).as_str() {
        _ if body.is_empty() => Ok(body),
        // Some servers say so of what they did not compress.
        "gzip" | "x-gzip" if body.starts_with(&GZIP_MAGIC) => gunzip(&body, bytes_max),
        // And of this, too.
        "deflate" if looks_like_json(&body) => Ok(body),
        // Both forms are in use under this name; the one that begins with zlib's header is the right one.
        "deflate" if body.first().is_some_and(|first| first & 0x0f == 8) => {
            read(ZlibDecoder::new(body.as_slice()), bytes_max)
        }
        "deflate" => read(DeflateDecoder::new(body.as_slice()), bytes_max),
        _ => Ok(body),
    }
}

/// Whether a body is the text of JSON: what is deflated is no text.
fn looks_like_json(body: &[u8]) -> bool {
    std::str::from_utf8(body).is_ok_and(|text| text.trim_start().starts_with(['{', '[', '"']))
}

/// The coding that a header names beside `identity`, in lower case.
fn coding(encoding: &str) -> String {
    let named = encoding.split(',').map(|name| name.trim().to_ascii_lowercase());
    let named: Vec<String> = named.filter(|name| !name.is_empty() && name != "identity").collect();
    named.join(",")
}

/// The members of a gzip file one behind the other (RFC 1952 §2.2). What is behind a whole member and is none
/// itself is padding.
fn gunzip(mut rest: &[u8], bytes_max: usize) -> Result<Vec<u8>, InflateError> {
    let mut inflated = read(GzDecoder::new(&mut rest), bytes_max)?;
    while rest.starts_with(&GZIP_MAGIC) {
        match read(GzDecoder::new(&mut rest), bytes_max - inflated.len()) {
            Ok(member) => inflated.extend(member),
            Err(InflateError::Damaged(_)) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(inflated)
}

fn read(decoder: impl Read, bytes_max: usize) -> Result<Vec<u8>, InflateError> {
    let mut inflated = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    decoder
        .take(limit)
        .read_to_end(&mut inflated)
        .map_err(|error: io::Error| InflateError::Damaged(error.to_string()))?;
    if inflated.len() > bytes_max { Err(InflateError::TooLarge) } else { Ok(inflated) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write};

    use super::*;

    fn gzip(body: &[u8]) -> Vec<u8> {
        let mut encoder = write::GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(body).expect("memory");
        encoder.finish().expect("memory")
    }

    #[test]
    fn the_limit_holds_for_the_decompressed_size() {
        let body = vec![b'x'; 1000];
        assert_eq!(inflate(gzip(&body), "gzip", 1000), Ok(body.clone()));
        assert_eq!(inflate(gzip(&body), "GZIP", 999), Err(InflateError::TooLarge));
        assert!(matches!(inflate(gzip(&body)[..20].to_vec(), "gzip", 1000), Err(InflateError::Damaged(_))));
        assert_eq!(inflate(Vec::new(), "gzip", 0), Ok(Vec::new()));
        let members = [gzip(&body), gzip(&body)].concat();
        assert_eq!(inflate(members.clone(), "gzip", 1999), Err(InflateError::TooLarge));
        assert_eq!(inflate(members, "gzip", 2000), Ok(vec![b'x'; 2000]));
    }

    #[test]
    fn members_are_joined_and_padding_is_ignored() {
        let (whole, soup) = (gzip(b"soup"), Ok(b"soup".to_vec()));
        assert_eq!(inflate([gzip(b"so"), gzip(b""), gzip(b"up")].concat(), "gzip", 4), soup);
        for padding in
            [&b"\0\0\0"[..], b"\r\n", b"\x1f", b"\x1f\x8b", b"\x1f\x8b and so on", &gzip(b"more")[..12]]
        {
            assert_eq!(inflate([&whole, padding].concat(), "gzip", 100), soup, "{padding:?}");
        }
    }

    #[test]
    fn thousands_of_members_are_held_to_the_limit() {
        let one_byte_each = |count| gzip(b"x").repeat(count);
        assert_eq!(inflate(one_byte_each(3000), "gzip", 3000), Ok(vec![b'x'; 3000]));
        assert_eq!(inflate(one_byte_each(3001), "gzip", 3000), Err(InflateError::TooLarge));
        assert_eq!(inflate(gzip(b"").repeat(3000), "gzip", 0), Ok(Vec::new()));
    }

    #[test]
    fn what_has_no_known_coding_is_left_alone() {
        for encoding in ["", "identity", "br", "soup", "utf-8", "gzip, gzip", "gzip, br"] {
            assert_eq!(inflate(b"{}".to_vec(), encoding, 2), Ok(b"{}".to_vec()), "{encoding}");
        }
        for encoding in ["gzip", "x-gzip", "GZip", " gzip ", "identity, gzip", "gzip,"] {
            assert_eq!(inflate(gzip(b"{}"), encoding, 2), Ok(b"{}".to_vec()), "{encoding}");
            assert_eq!(inflate(b"{}".to_vec(), encoding, 2), Ok(b"{}".to_vec()), "{encoding}");
        }
    }

    #[test]
    fn what_says_that_it_is_coded_and_is_json_is_taken_as_it_is() {
        for coding in ["gzip", "x-gzip", "deflate", "br"] {
            let body = b" {\"content\": \"soup\"}".to_vec();
            assert_eq!(inflate(body.clone(), coding, 100), Ok(body), "{coding}");
        }
    }

    #[test]
    fn both_forms_of_deflate_are_read() {
        let mut zlib = write::ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(b"soup").expect("memory");
        assert_eq!(inflate(zlib.finish().expect("memory"), "deflate", 10), Ok(b"soup".to_vec()));
        let mut raw = write::DeflateEncoder::new(Vec::new(), Compression::fast());
        raw.write_all(b"soup").expect("memory");
        assert_eq!(inflate(raw.finish().expect("memory"), "deflate", 10), Ok(b"soup".to_vec()));
    }
}
