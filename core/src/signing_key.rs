//! The key of a service's signatures.

use std::borrow::Cow;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use thiserror::Error;

/// How a secret of Standard Webhooks begins; base64 follows
/// (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).
const PREFIX: &str = "whsec_";

/// Receiving libraries decode the standard alphabet, and differ in whether they ask for padding and for unused
/// bits that are 0; where they decode the same text, they get the same bytes.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Why a token is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyFault {
    /// There is none.
    #[error("the service's token is empty, so its requests can't be signed: give the service a token")]
    Empty,
    /// It begins as a secret of Standard Webhooks and goes on otherwise.
    #[error(
        "the service's token begins with whsec_, but no valid base64 follows: \
         give the service a token of whsec_ and base64, or one that begins otherwise"
    )]
    NotBase64,
}

/// The key that a service's requests are signed with: the decoded bytes of a token that begins with `whsec_`,
/// which is what every library of Standard Webhooks makes of it; else the token's UTF-8 bytes.
///
/// # Errors
/// [`KeyFault`] if nothing may be signed with this token.
pub fn signing_key(token: &str) -> Result<Cow<'_, [u8]>, KeyFault> {
    match encoded(token) {
        None if token.is_empty() => Err(KeyFault::Empty),
        None => Ok(Cow::Borrowed(token.as_bytes())),
        Some(encoded) => match BASE64.decode(encoded) {
            Ok(key) if !key.is_empty() => Ok(Cow::Owned(key)),
            _ => Err(KeyFault::NotBase64),
        },
    }
}

/// The base64 of a token that is a secret of Standard Webhooks.
pub(crate) fn encoded(token: &str) -> Option<&str> {
    token.strip_prefix(PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_standard_webhooks_is_decoded_and_any_other_is_taken_as_it_is() {
        for (token, key) in [
            ("token", b"token".as_slice()),
            ("dG9rZW4=", b"dG9rZW4="),
            ("tøken", "tøken".as_bytes()),
            ("WHSEC_dG9rZW4=", b"WHSEC_dG9rZW4="),
            (" whsec_dG9rZW4=", b" whsec_dG9rZW4="),
            ("whsec_dG9rZW4=", b"token"),
            ("whsec_dG9rZW4", b"token"),
            ("whsec_dG9rZW5=", b"token"),
            ("whsec_+/+/", b"\xfb\xff\xbf"),
        ] {
            assert_eq!(signing_key(token).as_deref(), Ok(key), "{token}");
        }
    }

    #[test]
    fn a_token_that_is_no_key_is_told_apart() {
        assert_eq!(signing_key(""), Err(KeyFault::Empty));
        for token in [
            "whsec_",
            "whsec_=",
            "whsec_a",
            "whsec_not base64",
            "whsec_-_-_",
            "whsec_dG9rZW4=\n",
            "whsec_dG9rZW4==",
            "whsec_dG9r=ZW4",
            "whsec_whsec_dG9rZW4=",
        ] {
            assert_eq!(signing_key(token), Err(KeyFault::NotBase64), "{token}");
        }
    }
}
