//! Halves of surrogate pairs.

use std::borrow::Cow;

/// How many bytes an escape of a UTF-16 unit has: `\uXXXX`.
const ESCAPE_BYTES: usize = 6;

/// JSON in which each escape of a lone surrogate is one of U+FFFD. Writers of UTF-16 emit such halves, and no
/// reader of Unicode text takes them (RFC 8259, section 8.2). Both escapes have the same length, so the place
/// that a parser names is that of the original.
pub fn with_surrogates_replaced(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut replaced = Cow::Borrowed(bytes);
    let mut at = 0;
    while let Some(offset) = bytes[at..].iter().position(|byte| *byte == b'\\') {
        at += offset;
        at += match unit(&bytes[at..]) {
            None => 2,
            Some(0xd800..=0xdbff) if is_low(&bytes[at + ESCAPE_BYTES..]) => 2 * ESCAPE_BYTES,
            Some(0xd800..=0xdfff) => {
                replaced.to_mut()[at..at + ESCAPE_BYTES].copy_from_slice(b"\\ufffd");
                ESCAPE_BYTES
            }
            Some(_) => ESCAPE_BYTES,
        };
        at = at.min(bytes.len());
    }
    replaced
}

fn is_low(bytes: &[u8]) -> bool {
    matches!(unit(bytes), Some(0xdc00..=0xdfff))
}

/// The UTF-16 unit whose escape `bytes` begins with.
fn unit(bytes: &[u8]) -> Option<u16> {
    let digits = bytes.get(..ESCAPE_BYTES)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(unit << 4 | u16::try_from(digit).ok()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(text: &str) -> String {
        String::from_utf8(with_surrogates_replaced(text.as_bytes()).into_owned()).expect("UTF-8")
    }

    #[test]
    fn lone_surrogates_become_replacement_characters() {
        for (written, read) in [
            (r#""\ud83d""#, r#""\ufffd""#),
            (r#""\uDC4D x""#, r#""\ufffd x""#),
            (r#""\udbff\ud83d\udc4d""#, r#""\ufffd\ud83d\udc4d""#),
            (r#""\udc4d\ud83d""#, r#""\ufffd\ufffd""#),
            (r#""\ud83d\n\udc4d""#, r#""\ufffd\n\ufffd""#),
            (r#"{"\ud83d":["\\\ud83d"]}"#, r#"{"\ufffd":["\\\ufffd"]}"#),
        ] {
            assert_eq!(replaced(written), read);
        }
    }

    #[test]
    fn everything_else_is_borrowed() {
        for text in
            [r#""\ud83d\udc4d""#, r#""\\ud83d""#, r#""\u00e9\uffff""#, r#""\ud83""#, r#""\u+d83""#, "\\", ""]
        {
            assert!(matches!(with_surrogates_replaced(text.as_bytes()), Cow::Borrowed(_)), "{text}");
        }
    }
}
