//! The chunked transfer coding (RFC 9112 §7.1), taken off.

use thiserror::Error;

/// A chunked body of which a part has arrived.
#[derive(Debug)]
pub(super) struct Chunks {
    part: Part,
    /// The byte before the next one, as far as line breaks go.
    previous: u8,
    /// Whether every line has ended as it must.
    is_clean: bool,
}

/// What comes next.
#[derive(Debug)]
enum Part {
    /// A size, as far as it has arrived.
    Size(Option<u64>),
    /// Behind a size: extensions, which say nothing to us.
    Extension(u64),
    /// So many bytes of a chunk are missing.
    Data(u64),
    /// The line break behind a chunk.
    DataEnd,
    /// Behind the last chunk, in a trailer line that is empty so far or not. The body is whole.
    Trailers { is_empty_line: bool },
    /// Behind the last line break.
    Over,
}

/// Why chunks can't be told apart.
#[derive(Debug, Error)]
pub(super) enum ChunkFault {
    #[error("the size of a chunk is not a number")]
    NoSize,
    #[error("the size of a chunk is beyond all limits")]
    Size,
    #[error("a chunk is longer than it says")]
    End,
}

impl Chunks {
    pub(super) fn new() -> Self {
        Self { part: Part::Size(None), previous: 0, is_clean: true }
    }

    /// Takes what has arrived, appends what of it belongs to the body, and returns what comes behind the end.
    pub(super) fn take<'a>(
        &mut self,
        mut bytes: &'a [u8],
        body: &mut Vec<u8>,
    ) -> Result<&'a [u8], ChunkFault> {
        while let Some((first, rest)) = bytes.split_first() {
            bytes = match &mut self.part {
                Part::Over => return Ok(bytes),
                Part::Data(missing) => {
                    let count = usize::try_from(*missing).unwrap_or(usize::MAX).min(bytes.len());
                    body.extend_from_slice(&bytes[..count]);
                    *missing -= count as u64;
                    if *missing == 0 {
                        self.part = Part::DataEnd;
                    }
                    &bytes[count..]
                }
                _ => {
                    self.is_clean &= (self.previous == b'\r') == (*first == b'\n');
                    self.previous = *first;
                    self.part.step(*first)?;
                    rest
                }
            };
        }
        Ok(bytes)
    }

    /// Whether the last chunk has arrived. What may follow it is decoration.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.part, Part::Trailers { .. } | Part::Over)
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.part, Part::Over)
    }

    /// Whether lines end as they must (RFC 9112 §7.1): else the two sides may not mean the same by what follows.
    pub(super) fn is_clean(&self) -> bool {
        self.is_clean
    }
}

impl Part {
    /// Takes a byte that belongs to no chunk's data. A lone LF ends a line here as in the header section.
    fn step(&mut self, byte: u8) -> Result<(), ChunkFault> {
        match (&mut *self, byte) {
            (Self::Size(Some(size)) | Self::Extension(size), b'\n') => {
                *self = if *size == 0 { Self::Trailers { is_empty_line: true } } else { Self::Data(*size) };
            }
            (Self::Size(size), _) => match (char::from(byte).to_digit(16), *size) {
                (Some(digit), size) => *self = Self::Size(Some(with_digit(size.unwrap_or(0), digit)?)),
                (None, Some(size)) if matches!(byte, b'\r' | b' ' | b'\t' | b';') => {
                    *self = Self::Extension(size);
                }
                (None, None) if matches!(byte, b' ' | b'\t') => {}
                _ => return Err(ChunkFault::NoSize),
            },
            (Self::DataEnd, b'\n') => *self = Self::Size(None),
            (Self::DataEnd, b'\r') => {}
            (Self::DataEnd, _) => return Err(ChunkFault::End),
            (Self::Trailers { is_empty_line: true }, b'\n') => *self = Self::Over,
            (Self::Trailers { is_empty_line }, b'\n') => *is_empty_line = true,
            (Self::Trailers { is_empty_line }, _) => *is_empty_line &= byte == b'\r',
            (Self::Extension(_) | Self::Data(_) | Self::Over, _) => {}
        }
        Ok(())
    }
}

fn with_digit(size: u64, digit: u32) -> Result<u64, ChunkFault> {
    size.checked_mul(16).map(|size| size + u64::from(digit)).ok_or(ChunkFault::Size)
}

/// The body's bytes as a chunk; an empty one would be the last.
pub(super) fn write(bytes: &[u8], to: &mut Vec<u8>) {
    if !bytes.is_empty() {
        to.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
        to.extend_from_slice(bytes);
        to.extend_from_slice(b"\r\n");
    }
}

/// The last chunk.
pub(super) const LAST: &[u8] = b"0\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    /// The body of chunks that arrive in pieces of a size, and what becomes of them.
    fn take(text: &str, piece: usize) -> Result<(String, Chunks, String), ChunkFault> {
        let (mut chunks, mut body, mut behind) = (Chunks::new(), Vec::new(), Vec::new());
        for piece in text.as_bytes().chunks(piece) {
            behind.extend_from_slice(chunks.take(piece, &mut body)?);
        }
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((shown(&body), chunks, shown(&behind)))
    }

    #[test]
    fn chunks_are_joined_however_they_arrive() {
        for text in [
            "4\r\nsoup\r\n0\r\n\r\n",
            "1\r\ns\r\n3\r\noup\r\n0\r\n\r\n",
            "004\r\nsoup\r\n000\r\n\r\n",
            "4 \t\r\nsoup\r\n0 \r\n\r\n",
            " 4\r\nsoup\r\n0\r\n\r\n",
            "4;a=b;c=\"d\"\r\nsoup\r\n0;e\r\n\r\n",
            "4 ; a\r\nsoup\r\n0\r\n\r\n",
            "4\nsoup\n0\n\n",
            "4\r\nsoup\r\n0\r\nx: y\r\nz: \r\n\r\n",
        ] {
            for piece in [1, 2, 3, text.len()] {
                let (body, chunks, behind) = take(text, piece).expect("chunks");
                assert_eq!(
                    (body.as_str(), chunks.is_over(), behind.as_str()),
                    ("soup", true, ""),
                    "{text:?}"
                );
            }
        }
        let (_, _, behind) = take("0\r\n\r\nmore", 20).expect("chunks");
        assert_eq!(behind, "more");
        assert_eq!(take("A\r\n0123456789\r\n0\r\n\r\n", 5).expect("chunks").0, "0123456789");
    }

    #[test]
    fn lines_that_end_otherwise_are_not_clean() {
        for (text, is_clean) in [
            ("4\r\nsoup\r\n0\r\n\r\n", true),
            ("4;a\r\nsoup\r\n0\r\nx: y\r\n\r\n", true),
            ("4\nsoup\r\n0\r\n\r\n", false),
            ("4\r\nsoup\n0\r\n\r\n", false),
            ("4\r\nsoup\r\r\n0\r\n\r\n", false),
            ("4;a\rb\r\nsoup\r\n0\r\n\r\n", false),
            ("4\r\nsoup\r\n0\r\n\n", false),
        ] {
            for piece in [1, text.len()] {
                assert_eq!(take(text, piece).expect("chunks").1.is_clean(), is_clean, "{text:?}");
            }
        }
    }

    #[test]
    fn a_body_is_whole_with_its_last_chunk() {
        for (text, is_whole) in [
            ("4\r\nsoup\r\n", false),
            ("4\r\nsoup\r\n0", false),
            ("4\r\nsoup\r\n0\r\n", true),
            ("4\r\nsoup\r\n0\r\nx: y", true),
            ("4\r\nsoup\r\n0\r\nx: y\r\n", true),
        ] {
            let (_, chunks, _) = take(text, 4).expect("chunks");
            assert_eq!((chunks.is_whole(), chunks.is_over()), (is_whole, false), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_chunk_is_an_error() {
        for text in ["zz\r\n", "-2\r\n", "\r\n", ";a\r\n", "0x2\r\n", "2\r\n{}0\r\n", "2\r\nabc\r\n"] {
            assert!(take(text, 4).is_err(), "{text:?}");
        }
        assert!(matches!(take("fffffffffffffffff\r\n", 4), Err(ChunkFault::Size)));
        assert!(take("ffffffffffffffff\r\nx", 4).is_ok());
    }

    #[test]
    fn a_written_chunk_is_read_again() {
        let mut text = Vec::new();
        write(&[b'x'; 26], &mut text);
        write(b"", &mut text);
        text.extend_from_slice(LAST);
        let (body, chunks, _) = take(&String::from_utf8_lossy(&text), 7).expect("chunks");
        assert!(body == "x".repeat(26) && chunks.is_over());
    }
}
