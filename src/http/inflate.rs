//! Decompression that stops at a size, so that a small answer can't become a large one in memory.

use std::io::{self, Read};

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

/// Why a body could not be decompressed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum InflateError {
    /// It is larger than allowed.
    TooLarge,
    /// It is damaged.
    Damaged(String),
    /// Its encoding was not asked for.
    Unknown,
}

/// The encodings that are asked for, as in `Accept-Encoding`.
pub(super) const ENCODINGS: &str = "gzip, deflate";

/// A body as it was before it was encoded, at most `bytes_max` long.
pub(super) fn inflate(body: Vec<u8>, encoding: &str, bytes_max: usize) -> Result<Vec<u8>, InflateError> {
    match encoding.trim().to_ascii_lowercase().as_str() {
        _ if body.is_empty() => Ok(body),
        "" | "identity" => Ok(body),
        "gzip" | "x-gzip" => read(MultiGzDecoder::new(body.as_slice()), bytes_max),
        // Both forms are in use under this name; the one that begins with zlib's header is the right one.
        "deflate" if body.first().is_some_and(|first| first & 0x0f == 8) => {
            read(ZlibDecoder::new(body.as_slice()), bytes_max)
        }
        "deflate" => read(DeflateDecoder::new(body.as_slice()), bytes_max),
        _ => Err(InflateError::Unknown),
    }
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
        assert!(matches!(inflate(body, "br", 1000), Err(InflateError::Unknown)));
        assert_eq!(inflate(Vec::new(), "gzip", 0), Ok(Vec::new()));
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
