//! The bearer token that opens everything that changes state.

use std::{fs, path::Path};

use actix_web::{HttpRequest, HttpResponse, http::header::AUTHORIZATION};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::exit::Failed;

/// The token, if one is configured.
#[derive(Clone)]
pub(super) struct Token(Option<SecretString>);

impl Token {
    /// Reads the token from the first line of a file.
    pub(super) fn read(path: Option<&Path>) -> Result<Self, Failed> {
        let Some(path) = path else { return Ok(Self(None)) };
        let text = fs::read_to_string(path)
            .map_err(|error| Failed::usage(format!("admin.token_file {}: {error}", path.display())))?;
        let token = text.lines().next().unwrap_or_default().trim().to_owned();
        if token.is_empty() {
            return Err(Failed::usage(format!("admin.token_file {}: it holds no token", path.display())));
        }
        Ok(Self(Some(token.into())))
    }

    /// The answer to a request that may not change state: 403 if no token is configured, 401 if the
    /// request has another one or none. `None` lets it pass.
    pub(super) fn refuse(&self, request: &HttpRequest) -> Option<HttpResponse> {
        let Some(token) = &self.0 else {
            return Some(HttpResponse::Forbidden().body("set admin.token_file to use this\n"));
        };
        let given =
            request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(bearer);
        // Digests are compared, so that the time taken says nothing of the token.
        let digest = |text: &str| Sha256::digest(text.as_bytes());
        match given {
            Some(given) if digest(given) == digest(token.expose_secret()) => None,
            _ => Some(
                HttpResponse::Unauthorized()
                    .insert_header(("www-authenticate", "Bearer"))
                    .body("a valid bearer token is needed\n"),
            ),
        }
    }
}

/// The token in the value of `Authorization`. The scheme may be written in any case (RFC 9110 §11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once([' ', '\t'])?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_token_is_read_in_any_case_and_spacing() {
        let values = [
            ("Bearer t", Some("t")),
            ("bearer t", Some("t")),
            ("BEARER   t", Some("t")),
            ("bEaReR\tt ", Some("t")),
            ("Bearer t u", Some("t u")),
            ("Basic t", None),
            ("Bearert", None),
            ("Bearer", None),
            ("", None),
        ];
        for (value, token) in values {
            assert_eq!(bearer(value), token, "{value:?}");
        }
    }
}
