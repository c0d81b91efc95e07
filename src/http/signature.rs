//! The signature of a request, as Standard Webhooks asks.

use outhook_core::signing_key::signing_key;
use standardwebhooks::Webhook;

/// What proves to an endpoint who calls it.
pub(crate) struct Signature {
    /// `webhook-timestamp`, in seconds.
    pub(super) timestamp: i64,
    /// `webhook-signature`.
    pub(super) header: String,
}

impl Signature {
    /// Signs a request.
    ///
    /// # Errors
    /// If the token is no key, or the body is not UTF-8.
    pub(crate) fn new(token: &str, webhook_id: &str, timestamp: i64, body: &[u8]) -> Result<Self, String> {
        let key = signing_key(token).map_err(|fault| fault.to_string())?;
        let signer = Webhook::from_bytes(key.into_owned()).map_err(|error| error.to_string())?;
        let header = signer.sign(webhook_id, timestamp, body).map_err(|error| error.to_string())?;
        Ok(Self { timestamp, header })
    }

    /// What nobody may be shown of it: what a verifier compares, without the version before it, nor the
    /// filler behind it, which not everybody writes.
    pub(crate) fn secret(&self) -> &str {
        self.header.split_once(',').map_or("", |(_, signature)| signature.trim_end_matches('='))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of Standard Webhooks' own libraries.
    #[test]
    fn a_token_of_standard_webhooks_signs_as_its_libraries_do() {
        let token = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let (id, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", br#"{"test": 2432232314}"#);
        let signature = Signature::new(token, id, 1_614_265_330, body).expect("a key");
        assert_eq!(signature.header, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        for token in ["", "whsec_", "whsec_not base64"] {
            let fault = Signature::new(token, id, 0, body).err().unwrap_or_default();
            assert!(fault.starts_with("the service's token "), "{token}: {fault}");
        }
    }

    #[test]
    fn the_secret_of_a_signature_is_what_a_verifier_compares() {
        let signature = Signature::new("token", "msg_1", 1_700_000_000, b"{}").expect("UTF-8");
        assert_eq!(signature.header, format!("v1,{}=", signature.secret()));
        assert_eq!(signature.secret().len(), 43);
    }
}
