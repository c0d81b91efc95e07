//! The signature of a request, as Standard Webhooks asks; its key are the UTF-8 bytes of the service's token.

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
    /// If the body is not UTF-8.
    pub(crate) fn new(token: &str, webhook_id: &str, timestamp: i64, body: &[u8]) -> Result<Self, String> {
        let signer = Webhook::from_bytes(token.as_bytes().to_vec()).map_err(|error| error.to_string())?;
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

    #[test]
    fn the_secret_of_a_signature_is_what_a_verifier_compares() {
        let signature = Signature::new("token", "msg_1", 1_700_000_000, b"{}").expect("UTF-8");
        assert_eq!(signature.header, format!("v1,{}=", signature.secret()));
        assert_eq!(signature.secret().len(), 43);
    }
}
