//! What of an endpoint's answer may be kept for the operator to see.

/// The most bytes of an answer that are kept.
pub const EXCERPT_BYTES_MAX: usize = 1024;

const HIDDEN: &[u8] = b"[hidden]";

/// The first bytes of `body`, at most [`EXCERPT_BYTES_MAX`], with every occurrence of a secret
/// replaced: first replaced, then cut, so none survives in halves.
pub fn excerpt(body: &[u8], secrets: &[&str]) -> Vec<u8> {
    let mut kept = secrets.iter().fold(body.to_vec(), |text, secret| without(&text, secret.as_bytes()));
    kept.truncate(EXCERPT_BYTES_MAX);
    kept
}

fn without(text: &[u8], secret: &[u8]) -> Vec<u8> {
    if secret.is_empty() {
        return text.to_vec();
    }
    let mut clean = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.windows(secret.len()).position(|window| window == secret) {
        clean.extend_from_slice(&rest[..at]);
        clean.extend_from_slice(HIDDEN);
        rest = &rest[at + secret.len()..];
    }
    clean.extend_from_slice(rest);
    clean
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
}
