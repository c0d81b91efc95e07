//! The header section of a response, read as leniently as other clients read it.
//!
//! A line that says nothing that can be understood is decoration: it is skipped, or mended, and the section is
//! no longer *clean*. Only a status line that is none is an error.

use thiserror::Error;

/// Most bytes of a header section.
pub(super) const BYTES_MAX: usize = 131_072;
/// Most header lines of a response.
const LINES_MAX: usize = 2000;
/// More than a reason can show of a line.
const QUOTED_BYTES_MAX: usize = 4096;

/// What the first line of every response begins with.
const PREFIX: &[u8] = b"HTTP/1.";

/// A header section.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HeaderSection {
    pub(super) version: Version,
    pub(super) status: u16,
    fields: Vec<Field>,
    /// Whether it was read without being mended.
    pub(super) is_clean: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Http10,
    /// Also a later minor version (RFC 9110 §2.5).
    Http11,
}

#[derive(Debug, PartialEq, Eq)]
struct Field {
    /// In lower case.
    name: String,
    value: Vec<u8>,
}

/// Why a header section can't be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum HeaderFault {
    #[error("the response does not begin with an HTTP/1 status line but with \"{0}\"")]
    StatusLine(String),
    #[error("the response's header {name} is \"{value}\", {why}")]
    Header { name: &'static str, value: String, why: &'static str },
    #[error("the response's header section has more than 128 KiB")]
    TooManyBytes,
    #[error("the response's header section has more than 96 lines")]
    TooManyLines,
}

impl HeaderFault {
    pub(super) fn status_line(line: &[u8]) -> Self {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        Self::StatusLine(quoted(line.trim_ascii()))
    }
}

fn quoted(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(QUOTED_BYTES_MAX)]).into_owned()
}

/// Whether bytes may be, or become, the beginning of a header section.
pub(super) fn may_begin(bytes: &[u8]) -> bool {
    bytes.starts_with(PREFIX) || PREFIX.starts_with(bytes)
}

/// Where the header section ends that the bytes begin with, if its end is not within the first `known` of them.
pub(super) fn end(bytes: &[u8], known: usize) -> Option<usize> {
    let from = known.saturating_sub(2);
    let lines = bytes[from..].iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    lines.map(|(at, _)| from + at + 1).find_map(|next| match &bytes[next..] {
        [b'\n', ..] => Some(next + 1),
        [b'\r', b'\n', ..] => Some(next + 2),
        _ => None,
    })
}

impl HeaderSection {
    /// Reads a whole section, its empty line too.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, HeaderFault> {
        let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let first = lines.next().unwrap_or_default();
        let (version, status) = status_line(first).ok_or_else(|| HeaderFault::status_line(first))?;
        // RFC 9112 §2.2: a lone LF may end a line.
        let ends_with_crlf = |line: &[u8]| line.ends_with(b"\r\n");
        let mut section = Self { version, status, fields: Vec::new(), is_clean: ends_with_crlf(first) };
        // The last is the empty line.
        let lines: Vec<&[u8]> = lines.collect();
        if lines.len() > LINES_MAX + 1 {
            return Err(HeaderFault::TooManyLines);
        }
        section.is_clean &= lines.iter().all(|line| ends_with_crlf(line));
        section.take(lines.into_iter().map(without_end).filter(|line| !line.is_empty()));
        Ok(section)
    }

    fn take<'a>(&mut self, lines: impl Iterator<Item = &'a [u8]>) {
        // A skipped line has a place, so that what continues it is skipped too.
        let mut fields: Vec<Option<Field>> = Vec::new();
        for line in lines {
            // RFC 9112 §5.2: what continues a line is joined to it by a space; behind the status line it says
            // nothing (§2.2).
            if matches!(line.first(), Some(b' ' | b'\t')) {
                self.is_clean = false;
                if let Some(Some(Field { value, .. })) = fields.last_mut() {
                    value.push(b' ');
                    value.extend(visible(line));
                }
                continue;
            }
            let read = Field::read(line);
            self.is_clean &= read.as_ref().is_some_and(|(_, is_clean)| *is_clean);
            fields.push(read.map(|(field, _)| field));
        }
        self.fields = fields.into_iter().flatten().collect();
    }

    /// What is wrong with the headers of a name. They are quoted whole: a part of a secret would not be known as
    /// one.
    pub(super) fn fault(&self, name: &'static str, why: &'static str) -> HeaderFault {
        let values: Vec<&[u8]> = self.values(name).collect();
        HeaderFault::Header { name, value: quoted(&values.join(&b", "[..])), why }
    }

    /// The values of all headers of a name, which is in lower case.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.fields.iter().filter(move |field| field.name == name).map(|field| field.value.as_slice())
    }
}

impl Field {
    /// A line as a field, and whether it was written as it should be; `None` if it is none.
    fn read(line: &[u8]) -> Option<(Self, bool)> {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (written, value) = (&line[..colon], &line[colon + 1..]);
        let name = written.trim_ascii_end();
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return None;
        }
        let visible = visible(value);
        let is_clean = name.len() == written.len() && visible == value.trim_ascii();
        Some((Self { name: String::from_utf8_lossy(name).to_ascii_lowercase(), value: visible }, is_clean))
    }
}

/// A value without the space around it, and with a space for each byte that no value may have (RFC 9110 §5.5).
fn visible(value: &[u8]) -> Vec<u8> {
    let shown = |byte: &u8| if byte.is_ascii_control() && *byte != b'\t' { b' ' } else { *byte };
    let value: Vec<u8> = value.iter().map(shown).collect();
    value.trim_ascii().to_vec()
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The words of a status line may have any space between them (RFC 9112 §4), and no reason needs to follow.
fn status_line(line: &[u8]) -> Option<(Version, u16)> {
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let version = match words.next()?.strip_prefix(PREFIX)? {
        b"0" => Version::Http10,
        [b'1'..=b'9'] => Version::Http11,
        _ => return None,
    };
    let digits = words.next().filter(|word| word.len() == 3 && word.iter().all(u8::is_ascii_digit))?;
    let status = str::from_utf8(digits).ok()?.parse().ok().filter(|status| *status >= 100)?;
    Some((version, status))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> HeaderSection {
        HeaderSection::read(text.as_bytes()).expect("a header section")
    }

    /// The fields of the lines as `name=value`, and whether they are clean.
    fn fields(lines: &str) -> (String, bool) {
        let section = read(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n"));
        let shown = section.fields.iter().map(|field| {
            let value = String::from_utf8_lossy(&field.value).into_owned();
            format!("{}={value};", field.name)
        });
        (shown.collect(), section.is_clean)
    }

    #[test]
    fn status_lines_are_read_leniently() {
        for (line, version, status) in [
            ("HTTP/1.1 200 OK\r\n", Version::Http11, 200),
            ("HTTP/1.0 204\r\n", Version::Http10, 204),
            ("HTTP/1.1 999 \r\n", Version::Http11, 999),
            ("HTTP/1.2 200 OK\r\n", Version::Http11, 200),
            ("HTTP/1.1\t200\tOK\r\n", Version::Http11, 200),
            ("HTTP/1.1  200  Not  so OK\n", Version::Http11, 200),
            ("HTTP/1.1 200 \u{e9}\0\r\n", Version::Http11, 200),
        ] {
            let section = read(&format!("{line}\r\n"));
            assert_eq!((section.version, section.status), (version, status), "{line:?}");
        }
        for line in [
            "HTTP/1.1 2000 OK",
            "HTTP/1.1 20 OK",
            "HTTP/1.1 099 OK",
            "HTTP/1.1 2x0",
            "HTTP/1.1",
            "HTTP/1.11 200",
        ] {
            let fault = HeaderSection::read(format!("{line}\r\nx: y\r\n\r\n").as_bytes());
            assert_eq!(fault, Err(HeaderFault::StatusLine(line.into())), "{line}");
        }
    }

    #[test]
    fn noise_is_mended_or_skipped() {
        for (lines, expected) in [
            ("A: b\r\n", ("a=b;", true)),
            ("a:b\r\nc:\t d \t\r\ne:\r\n", ("a=b;c=d;e=;", true)),
            ("a: \u{e9}:\r\n", ("a=\u{e9}:;", true)),
            ("a: b\n", ("a=b;", false)),
            ("a : b\r\na\t: c\r\n", ("a=b;a=c;", false)),
            ("noise\r\na: b\r\n", ("a=b;", false)),
            ("a: b\r\n: c\r\n", ("a=b;", false)),
            ("a b: c\r\n(a): d\r\n\u{e9}: e\r\na: b\r\n", ("a=b;", false)),
            ("a: b\0c\u{1}d\u{7f}e\rf\r\n", ("a=b c d e f;", false)),
            ("a: b\r\n  c\r\n\td\r\ne: f\r\n", ("a=b c d;e=f;", false)),
            ("a:\r\n b: c\r\n", ("a= b: c;", false)),
            ("a: b\r\n \r\nc: d\r\n", ("a=b ;c=d;", false)),
            (" a: b\r\nc: d\r\n", ("c=d;", false)),
            ("noise\r\n a: b\r\nc: d\r\n", ("c=d;", false)),
            ("a: b\r\nnoise\r\n c\r\nd: e\r\n", ("a=b;d=e;", false)),
        ] {
            let (shown, is_clean) = fields(lines);
            assert_eq!((shown.as_str(), is_clean), expected, "{lines:?}");
        }
    }

    #[test]
    fn lines_are_counted_whatever_they_say() {
        let section = |count: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "noise\r\n".repeat(count));
        assert!(HeaderSection::read(section(LINES_MAX).as_bytes()).is_ok());
        let fault = HeaderSection::read(section(LINES_MAX + 1).as_bytes());
        assert_eq!(fault, Err(HeaderFault::TooManyLines));
    }

    #[test]
    fn the_end_is_found_however_bytes_are_cut() {
        for section in ["a: b\r\n\r\n", "a: b\n\n", "a: b\n\r\n"] {
            let rest = format!("{section}rest\n\n");
            let found = |known| end(rest.as_bytes(), known) == Some(section.len());
            assert!((0..section.len()).all(found), "{section:?}");
            assert_eq!(end(&section.as_bytes()[..section.len() - 1], 0), None);
        }
    }

    #[test]
    fn other_protocols_are_known_by_their_beginning() {
        assert!(["", "HT", "HTTP/1.", "HTTP/1.1 2"].iter().all(|begin| may_begin(begin.as_bytes())));
        let others = ["SSH-2.0", "HTTP/2 200", "http/1.1 200", "{}", "\u{16}\u{3}"];
        assert!(!others.iter().any(|begin| may_begin(begin.as_bytes())));
    }
}
