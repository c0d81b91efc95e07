//! What of an endpoint's answer may be kept for the operator to see.

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use url::form_urlencoded;

use crate::signing_key::{encoded, signing_key};

/// The most bytes of an answer that are kept.
pub const EXCERPT_BYTES_MAX: usize = 1024;

/// The most characters of a sentence that quotes others.
pub const SENTENCE_CHARS_MAX: usize = 500;

const HIDDEN: &[u8] = b"[hidden]";

/// A shorter part of a secret in base64 may stand there by chance.
const BASE64_BYTES_MIN: usize = 8;

/// How a signature of Standard Webhooks begins, also within a URL or a form.
const SIGNATURES: [&[u8]; 3] = [b"v1,", b"v1%2C", b"v1%2c"];

/// An HMAC-SHA256 in base64 has 43 characters and a filler.
const SIGNATURE_BYTES_MIN: usize = 43;
/// With each of them escaped. What is longer is hidden up to there: whoever looks at every byte of an answer
/// must not look at all others each time.
const SIGNATURE_BYTES_MAX: usize = 3 * (SIGNATURE_BYTES_MIN + 1);

/// How much of an answer is looked at: more than can be kept, however much of it is hidden.
const LOOKED_AT_BYTES_MAX: usize = 8 * EXCERPT_BYTES_MAX;

/// The first bytes of `body`, at most [`EXCERPT_BYTES_MAX`] and out of its first 8 KiB, with every occurrence
/// of a secret, and every signature, replaced: first replaced, then cut, so none survives in halves.
///
/// A secret is also known in the forms in which an endpoint may give it back: as part of a JSON text, of a
/// URL or a form, and in base64; a token that begins with `whsec_` also as the key that it stands for. A
/// signature is known by its version before it, and alone by its length and
/// filler.
pub fn excerpt(body: &[u8], secrets: &[&str]) -> Vec<u8> {
    let mut kept = hide(body, secrets, LOOKED_AT_BYTES_MAX, EXCERPT_BYTES_MAX);
    kept.truncate(EXCERPT_BYTES_MAX);
    kept
}

/// The whole of a text, its secrets and signatures replaced as in [`excerpt`].
pub fn without_secrets(text: &[u8], secrets: &[&str]) -> Vec<u8> {
    hide(text, secrets, usize::MAX, usize::MAX)
}

/// What is kept of the first bytes of a text until there is enough of it.
fn hide(text: &[u8], secrets: &[&str], looked_at_max: usize, enough: usize) -> Vec<u8> {
    let forms = Forms::of(secrets);
    let mut kept = Vec::with_capacity(text.len().min(enough).saturating_add(HIDDEN.len()));
    let mut hidden_to = 0;
    for (at, byte) in text.iter().enumerate().take(looked_at_max) {
        if kept.len() >= enough {
            break;
        }
        let was_hidden = at < hidden_to;
        hidden_to = hidden_to.max(at + forms.secret_bytes(text, at));
        if at >= hidden_to {
            kept.push(*byte);
        } else if !was_hidden {
            kept.extend_from_slice(HIDDEN);
        }
    }
    kept
}

/// A sentence that quotes what others have written: on one line, its beginning only, every secret hidden as
/// in [`excerpt`].
pub fn sentence(text: &str, secrets: &[&str]) -> String {
    let kept = excerpt(text.as_bytes(), secrets);
    let beginning: String = String::from_utf8_lossy(&kept).chars().take(SENTENCE_CHARS_MAX).collect();
    on_one_line(&beginning)
}

/// A text that others have written, with nothing in it that makes lines or steers a terminal.
pub fn on_one_line(text: &str) -> String {
    let is_blanked = |c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER;
    let line: String = text.chars().map(|c| if is_blanked(c) { ' ' } else { c }).collect();
    line.trim().to_owned()
}

/// Whether the beginning of a text, as much as is looked at for [`excerpt`], holds one of these secrets in
/// any form.
pub fn tells(text: &str, secrets: &[&str]) -> bool {
    let (forms, bytes) = (Forms::of(secrets), text.as_bytes());
    (0..bytes.len().min(LOOKED_AT_BYTES_MAX)).any(|at| forms.known_bytes(&bytes[at..]) > 0)
}

/// All forms of some secrets.
struct Forms {
    forms: Vec<Vec<u8>>,
    /// Whether one of them begins with a byte: most bytes of a text begin none.
    begins: [bool; 256],
}

impl Forms {
    fn of(secrets: &[&str]) -> Self {
        let forms: Vec<Vec<u8>> = secrets.iter().flat_map(|secret| forms(secret)).collect();
        let mut begins = [false; 256];
        for first in forms.iter().filter_map(|form| form.first()) {
            begins[usize::from(*first)] = true;
        }
        Self { forms, begins }
    }

    /// How many bytes of a secret or a signature begin there.
    fn secret_bytes(&self, text: &[u8], at: usize) -> usize {
        let rest = &text[at..];
        self.known_bytes(rest).max(signature_bytes(rest)).max(bare_signature_bytes(text, at))
    }

    /// How many bytes of a secret `text` begins with.
    fn known_bytes(&self, text: &[u8]) -> usize {
        if !text.first().is_some_and(|first| self.begins[usize::from(*first)]) {
            return 0;
        }
        self.forms.iter().filter(|form| text.starts_with(form)).map(Vec::len).max().unwrap_or(0)
    }
}

fn signature_bytes(text: &[u8]) -> usize {
    let Some(start) = SIGNATURES.iter().find(|start| text.starts_with(start)) else { return 0 };
    // With what JSON and percent-encoding make of base64.
    let is_part = |byte: &&u8| is_base64(byte) || b"=\\%".contains(byte);
    match text[start.len()..].iter().take(SIGNATURE_BYTES_MAX).take_while(is_part).count() {
        length @ SIGNATURE_BYTES_MIN.. => start.len() + length,
        _ => 0,
    }
}

/// How many bytes of a signature without its version begin there: so many of base64, none more before them,
/// and a filler.
fn bare_signature_bytes(text: &[u8], at: usize) -> usize {
    if at > 0 && is_base64(&text[at - 1]) {
        return 0;
    }
    let rest = &text[at..];
    let length = rest.iter().take(SIGNATURE_BYTES_MIN + 1).take_while(|byte| is_base64(byte)).count();
    let is_filled = rest.get(length) == Some(&b'=') && rest.get(length + 1) != Some(&b'=');
    if length == SIGNATURE_BYTES_MIN && is_filled { length + 1 } else { 0 }
}

fn is_base64(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/".contains(byte)
}

/// A secret as it is, and as it may be written by somebody who was sent it.
fn forms(secret: &str) -> Vec<Vec<u8>> {
    let mut forms = text_forms(secret);
    if let (Some(base64), Ok(key)) = (encoded(secret), signing_key(secret)) {
        let base64 = base64.trim_end_matches('=');
        forms.extend(text_forms(base64));
        forms.push(url_safe(base64).into());
        forms.extend(key_forms(&key));
    }
    forms.retain(|form| !form.is_empty());
    forms.sort_unstable();
    forms.dedup();
    forms
}

/// A key as bytes, as text, in hexadecimal and in base64.
fn key_forms(key: &[u8]) -> Vec<Vec<u8>> {
    let latin_1: String = key.iter().copied().map(char::from).collect();
    let hexadecimal: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let escaped: String = form_urlencoded::byte_serialize(key).collect();
    let mut forms = text_forms(std::str::from_utf8(key).unwrap_or(&latin_1));
    forms.extend([key.to_owned(), hexadecimal.to_uppercase().into(), hexadecimal.into(), escaped.into()]);
    for inside in (0..3).map(|before| base64_inside(key, before)) {
        forms.extend([url_safe(&inside).into(), inside.into()]);
    }
    forms
}

/// Base64 in the alphabet for URLs (RFC 4648, section 5).
fn url_safe(base64: &str) -> String {
    base64.replace('+', "-").replace('/', "_")
}

/// A text as it is, and as it may be written into another.
fn text_forms(secret: &str) -> Vec<Vec<u8>> {
    let json = json_inside(secret);
    let slashed = json.replace('/', "\\/");
    let form: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let url = form.replace('+', "%20");
    let lower_case = |unit: u16| format!("\\u{unit:04x}");
    let upper_case = |unit: u16| format!("\\u{unit:04X}");
    let mut forms = vec![
        secret.to_owned(),
        escaped(&slashed, is_beyond_ascii, lower_case),
        escaped(&json, is_beyond_ascii, lower_case),
        escaped(&json, is_beyond_ascii, upper_case),
        // As .NET does.
        escaped(&json.replace("\\\"", "\\u0022"), is_for_html, upper_case),
        lower_case_escapes(&form),
        lower_case_escapes(&url),
        json_inside(&json),
        slashed,
        json,
        form,
        url,
    ];
    forms.extend((0..3).map(|before| base64_inside(secret.as_bytes(), before)));
    forms.into_iter().map(String::into_bytes).collect()
}

/// A text within a JSON text.
fn json_inside(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// A JSON text with more of it escaped than must be, as many writers do.
fn escaped(json: &str, is_escaped: fn(char) -> bool, escape: fn(u16) -> String) -> String {
    let mut text = String::with_capacity(json.len());
    for letter in json.chars() {
        if is_escaped(letter) {
            text.extend(letter.encode_utf16(&mut [0; 2]).iter().map(|unit| escape(*unit)));
        } else {
            text.push(letter);
        }
    }
    text
}

fn is_beyond_ascii(letter: char) -> bool {
    !letter.is_ascii()
}

/// Whether somebody escapes it who may write into HTML.
fn is_for_html(letter: char) -> bool {
    is_beyond_ascii(letter) || "&'+<>`".contains(letter)
}

fn lower_case_escapes(encoded: &str) -> String {
    let mut parts = encoded.split('%');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (digits, rest) = part.split_at(part.len().min(2));
        text += &format!("%{}{rest}", digits.to_lowercase());
    }
    text
}

/// What of a secret's base64 does not depend on its neighbours, with so many bytes `before` it; nothing if
/// that is too little.
fn base64_inside(secret: &[u8], before: usize) -> String {
    const BITS: usize = 6;
    let bytes = [vec![0; before].as_slice(), secret].concat();
    let encoded = STANDARD_NO_PAD.encode(&bytes);
    let inside = (before * 8).div_ceil(BITS)..bytes.len() * 8 / BITS;
    encoded.get(inside).filter(|inside| inside.len() >= BASE64_BYTES_MIN).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_shows_no_secret_wherever_it_stands() {
        let shown = excerpt(b"token=abc key=k3y abc", &["abc", "k3y", ""]);
        assert_eq!(shown, b"token=[hidden] key=[hidden] [hidden]");
    }

    #[test]
    fn a_secret_on_the_edge_is_not_cut_in_halves() {
        let secret = "s".repeat(32);
        let mut body = vec![b'x'; EXCERPT_BYTES_MAX - 5];
        body.extend_from_slice(secret.as_bytes());
        body.extend_from_slice(&[b'y'; 500]);
        let shown = excerpt(&body, &[&secret]);
        assert_eq!(shown.len(), EXCERPT_BYTES_MAX);
        assert!(!shown.windows(4).any(|window| window == b"ssss"));
    }

    #[test]
    fn a_secret_that_moves_up_behind_another_is_hidden_too() {
        let secret = "s".repeat(32);
        let body = [secret.as_bytes(), &[b'x'; EXCERPT_BYTES_MAX - 20], secret.as_bytes()].concat();
        assert!(!excerpt(&body, &[&secret]).windows(4).any(|window| window == b"ssss"));
    }

    #[test]
    fn a_sentence_that_quotes_others_is_short_on_one_line_and_shows_no_secret() {
        let secret = "s".repeat(32);
        let long = "x".repeat(SENTENCE_CHARS_MAX);
        let quoted = format!("de\tnied\u{1b}[2J\n{secret} {long}{secret}");
        let shown = sentence(&quoted, &[&secret]);
        assert!(shown.starts_with("de nied [2J [hidden] x") && !shown.contains("ss"), "{shown}");
        assert_eq!(shown.chars().count(), SENTENCE_CHARS_MAX);
    }

    #[test]
    fn a_text_tells_a_secret_in_any_form() {
        assert!(tells("a%2Fb", &["a/b"]) && tells("so: a/b", &["a/b"]));
        assert!(!tells("a b", &["a/b", ""]));
    }

    #[test]
    fn a_secret_is_known_in_every_form_in_which_it_may_come_back() {
        let secret = "tø \"k/e+n\\ of some length";
        let json = r#"tø \"k/e+n\\ of some length"#;
        for form in [
            secret,
            json,
            r#"tø \"k\/e+n\\ of some length"#,
            r#"t\u00f8 \"k/e+n\\ of some length"#,
            r#"t\u00f8 \"k\/e+n\\ of some length"#,
            r#"t\u00F8 \"k/e+n\\ of some length"#,
            r#"tø \\\"k/e+n\\\\ of some length"#,
            r#"t\u00F8 \u0022k/e\u002Bn\\ of some length"#,
            "t%C3%B8+%22k%2Fe%2Bn%5C+of+some+length",
            "t%c3%b8%20%22k%2fe%2bn%5c%20of%20some%20length",
        ] {
            assert_eq!(excerpt(form.as_bytes(), &[secret]), HIDDEN, "{form}");
        }
    }

    #[test]
    fn a_secret_is_known_in_base64_alone_or_behind_something() {
        let secret = "k3yOfThirtyTwoLettersAndDigits12";
        for before in ["", "a", "ab", "abc", "bot@example.org:"] {
            let encoded = STANDARD_NO_PAD.encode(format!("{before}{secret}"));
            let shown = excerpt(encoded.as_bytes(), &[secret]);
            let shown = String::from_utf8_lossy(&shown).into_owned();
            assert!(shown.contains("[hidden]") && shown.len() < encoded.len(), "{shown}");
        }
    }

    #[test]
    fn a_key_of_standard_webhooks_is_known_in_all_its_forms() {
        let key = *b"k\xe9y+of/some~length\xff\xfe";
        let base64 = STANDARD_NO_PAD.encode(key);
        let secret = format!("whsec_{base64}");
        for form in [
            secret.as_bytes(),
            base64.as_bytes(),
            base64.replace('+', "-").replace('/', "_").as_bytes(),
            base64.replace('/', "%2F").replace('+', "%2B").as_bytes(),
            &key,
            "k\u{e9}y+of/some~length\u{ff}\u{fe}".as_bytes(),
            br"k\u00e9y+of/some~length\u00ff\u00fe",
            b"6be9792b6f662f736f6d657e6c656e677468fffe",
            b"6BE9792B6F662F736F6D657E6C656E677468FFFE",
            b"k%E9y%2Bof%2Fsome%7Elength%FF%FE",
        ] {
            assert_eq!(excerpt(form, &[&secret]), HIDDEN, "{}", form.escape_ascii());
        }
        let shifted = STANDARD_NO_PAD.encode([b"a:".as_slice(), &key].concat());
        let shown = excerpt(shifted.as_bytes(), &[&secret]);
        assert!(shown.len() < HIDDEN.len() + 6, "{}", shown.escape_ascii());
        assert_eq!(excerpt(b"the word", &["whsec_dGhlIHdvcmQ="]), HIDDEN);
        assert_eq!(excerpt(b"whsec_ and base64", &["whsec_not base64"]), b"whsec_ and base64");
    }

    #[test]
    fn a_signature_is_shown_in_no_form_and_other_words_are() {
        let signature = "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=";
        let escaped = signature.replace('/', "\\/");
        for form in [signature, &escaped, "v1%2CK5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN%2FH%2FpI4%3D"] {
            let text = format!("<{form}>");
            assert_eq!(excerpt(text.as_bytes(), &[]), b"<[hidden]>", "{form}");
        }
        assert_eq!(excerpt(b"v1,2 and v1,", &[]), b"v1,2 and v1,");
    }

    #[test]
    fn a_signature_alone_is_shown_neither_and_longer_and_shorter_words_are() {
        let signature = "K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=";
        for (before, behind) in [("", ""), ("{\"got\":\"", "\"}"), ("key=", "&"), ("a, ", ", b")] {
            let shown = excerpt(format!("{before}{signature}{behind}").as_bytes(), &[]);
            assert_eq!(shown, format!("{before}[hidden]{behind}").as_bytes());
        }
        for other in
            [format!("a{signature}"), signature[1..].into(), signature[..43].into(), format!("{signature}=")]
        {
            assert_eq!(excerpt(other.as_bytes(), &[]), other.as_bytes());
        }
    }

    #[test]
    fn a_text_is_shown_whole_but_for_its_secrets() {
        let long = "x".repeat(2 * LOOKED_AT_BYTES_MAX);
        let text = format!("{long}abc{long}v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=");
        let shown = without_secrets(text.as_bytes(), &["abc"]);
        assert_eq!(shown, format!("{long}[hidden]{long}[hidden]").as_bytes());
    }

    #[test]
    fn no_more_of_an_answer_is_looked_at_than_its_bound_however_much_is_hidden() {
        let secret = "s".repeat(64);
        let hidden = secret.repeat(LOOKED_AT_BYTES_MAX / secret.len());
        assert_eq!(excerpt(format!("{hidden}and more").as_bytes(), &[&secret]), HIDDEN);
        assert_eq!(excerpt(format!("{}!", &hidden[64..]).as_bytes(), &[&secret]), b"[hidden]!");
    }

    #[test]
    fn a_signature_is_looked_for_only_as_far_as_one_may_reach() {
        let text = [b"v1,".as_slice(), &[b'a'; 2 * SIGNATURE_BYTES_MAX]].concat();
        assert_eq!(signature_bytes(&text), b"v1,".len() + SIGNATURE_BYTES_MAX);
    }

    #[test]
    fn secrets_that_overlap_are_hidden_to_the_last_byte() {
        assert_eq!(excerpt(b"-abcd-aaaaa-", &["abc", "bcd", "aa"]), b"-[hidden]-[hidden]-");
    }
}
