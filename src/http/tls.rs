//! TLS as a client: always verified, HTTP/1.1 only.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

/// A configuration that trusts the system's certificates.
pub(crate) fn client_config() -> Arc<ClientConfig> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (trusted, _) = roots.add_parsable_certificates(found.certs);
    if trusted == 0 {
        log::warn!(
            "the system has no trusted certificates, so every https call will fail: install ca-certificates"
        );
    }
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}
