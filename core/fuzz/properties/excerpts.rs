//! What is kept of an answer. An input is a secret, a line break, another secret, a line break, and the
//! answer.

use outhook_core::excerpt::{EXCERPT_BYTES_MAX, excerpt};
use serde_json::json;

const HIDDEN: &[u8] = b"[hidden]";

pub fn hold(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |byte| *byte == b'\n');
    let mut secret = || parts.next().and_then(|part| std::str::from_utf8(part).ok()).unwrap_or_default();
    let secrets = [secret(), secret()];
    let body = parts.next().unwrap_or_default();

    let kept = excerpt(body, &secrets);
    shows_none(&kept, &secrets.map(str::to_owned));
    if *kept == body[..body.len().min(EXCERPT_BYTES_MAX)] {
        return;
    }
    // An endpoint that echoes what it was sent does so as JSON, most often.
    let echo = json!({ "echo": String::from_utf8_lossy(body) }).to_string();
    shows_none(&excerpt(echo.as_bytes(), &secrets), &secrets.map(escaped));
}

fn shows_none(kept: &[u8], secrets: &[String]) {
    assert!(kept.len() <= EXCERPT_BYTES_MAX);
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        for piece in pieces(kept) {
            let found = piece.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret:?} is shown in {}", piece.escape_ascii());
        }
    }
}

/// What stands between the marks, which may spell out a secret themselves. The last mark may be cut.
fn pieces(kept: &[u8]) -> Vec<&[u8]> {
    let cut = (1..HIDDEN.len()).rev().find(|length| kept.ends_with(&HIDDEN[..*length]));
    let mut rest = &kept[..kept.len() - cut.unwrap_or(0)];
    let mut pieces = vec![];
    while let Some(at) = rest.windows(HIDDEN.len()).position(|window| window == HIDDEN) {
        pieces.push(&rest[..at]);
        rest = &rest[at + HIDDEN.len()..];
    }
    pieces.push(rest);
    pieces
}

fn escaped(secret: &str) -> String {
    let quoted = json!(secret).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}
