//! No secret may be shown: not in a log, not by a command, not by the admin server, not in what is kept of a
//! failure.
//!
//! The secrets of the tests hold a mark, those that the product makes have a shape of their own, and so have
//! signatures. What the product shows goes through [`assert_none`], whatever a test is about.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// A part of every secret that a test hands out. It stays the same in JSON, in URLs, in forms and in host
/// names.
pub const MARK: &str = "s3cr3tm4rk";

/// A random key of the product, or of Zulip, has so many letters and digits.
const KEY_BYTES: usize = 32;

/// An HMAC-SHA256 in base64 has so many characters, and a filler.
const SIGNATURE_BYTES: usize = 43;

/// A secret that is recognised wherever it turns up.
pub fn secret(name: &str) -> String {
    format!("{MARK}-{name}")
}

/// Fails the test if what somebody has shown holds a secret.
pub fn assert_none(who: &str, shown: &str) {
    if let Some(line) = find(shown) {
        panic!("{who} shows a secret:\n{line}");
    }
}

/// The first line with a secret.
pub fn find(shown: &str) -> Option<&str> {
    shown.lines().find(|line| has_mark(line) || has_key(line) || has_signature(line))
}

fn has_mark(line: &str) -> bool {
    static FORMS: LazyLock<Vec<String>> = LazyLock::new(forms);
    FORMS.iter().any(|form| line.contains(form))
}

/// The mark as it is, in base64 wherever in it the mark begins, in hexadecimal, and as Rust shows bytes.
fn forms() -> Vec<String> {
    let hexadecimal = MARK.bytes().map(|byte| format!("{byte:02x}")).collect();
    let numbers: Vec<String> = MARK.bytes().map(|byte| byte.to_string()).collect();
    let mut forms = vec![MARK.to_owned(), hexadecimal, numbers.join(", ")];
    forms.extend((0..3).map(base64_inside));
    forms
}

/// What of the mark's base64 does not depend on its neighbours, with so many bytes before it.
fn base64_inside(before: usize) -> String {
    let bytes = [vec![0; before], MARK.as_bytes().to_vec()].concat();
    let encoded = STANDARD_NO_PAD.encode(&bytes);
    encoded[(before * 8).div_ceil(6)..bytes.len() * 8 / 6].to_owned()
}

fn has_key(line: &str) -> bool {
    let mut words = line.split(|letter: char| !letter.is_ascii_alphanumeric());
    words.any(|word| {
        let has = |is_kind: fn(&u8) -> bool| word.as_bytes().iter().any(is_kind);
        word.len() == KEY_BYTES
            && has(u8::is_ascii_lowercase)
            && has(u8::is_ascii_uppercase)
            && has(u8::is_ascii_digit)
    })
}

/// Behind its version, or before its filler: whoever verifies one takes its parts apart, and some escape its
/// slashes.
fn has_signature(line: &str) -> bool {
    let bytes = line.as_bytes();
    let is_versioned = |(at, start): (usize, &str)| is_signature(bytes[at + start.len()..].iter());
    let is_filled = |(at, _): (usize, &str)| is_signature(bytes[..at].iter().rev());
    line.match_indices("v1,").any(is_versioned) || line.match_indices('=').any(is_filled)
}

/// Whether there is so much of base64, and it does not look like words with slashes between them.
fn is_signature<'a>(bytes: impl Iterator<Item = &'a u8>) -> bool {
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    let letters = bytes.filter(|byte| **byte != b'\\').copied().take_while(is_base64);
    let found: Vec<u8> = letters.take(SIGNATURE_BYTES).collect();
    let kinds = [u8::is_ascii_lowercase, u8::is_ascii_uppercase, u8::is_ascii_digit];
    found.len() == SIGNATURE_BYTES && kinds.iter().all(|is_kind| found.iter().any(is_kind))
}
