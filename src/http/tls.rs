//! TLS as a client: always verified, HTTP/1.1 only; and what its errors mean, in words.

use std::{
    fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use outhook_core::excerpt::on_one_line;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, InvalidMessage, RootCertStore,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use url::{Host, Url};

use super::socket::Socket;

/// So many of the names in a wrong certificate are told.
const NAMES_TOLD: usize = 5;
/// A longer text of others is not told.
const QUOTED_CHARS_MAX: usize = 200;

/// Why the certificates of `egress.ca_file` can't be trusted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaFileError {
    /// The file is not there, or may not be read.
    #[error("egress.ca_file {0}: {1}")]
    Unreadable(String, io::Error),
    /// A part of it is no certificate, or it has none.
    #[error("egress.ca_file {0}: it must hold certificates in PEM format: {1}")]
    Unusable(String, String),
}

/// A configuration that trusts the system's certificates.
pub(crate) fn client_config() -> Arc<ClientConfig> {
    config_with(system_roots())
}

/// One that also trusts the certificates in a PEM file (`egress.ca_file`).
pub(super) fn client_config_and(ca_file: &Path) -> Result<Arc<ClientConfig>, CaFileError> {
    let mut roots = system_roots();
    let name = ca_file.display().to_string();
    let pem = fs::read(ca_file).map_err(|error| CaFileError::Unreadable(name.clone(), error))?;
    add_certificates(&mut roots, &pem).map_err(|fault| CaFileError::Unusable(name, fault))?;
    Ok(config_with(roots))
}

fn config_with(roots: RootCertStore) -> Arc<ClientConfig> {
    if roots.is_empty() {
        log::warn!(
            "the system has no trusted certificates, so every https call will fail: install ca-certificates"
        );
    }
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn add_certificates(roots: &mut RootCertStore, pem: &[u8]) -> Result<(), String> {
    let before = roots.len();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.len() == before { Err("none was found".into()) } else { Ok(()) }
}

/// TLS with one endpoint.
#[derive(Clone)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    /// What its certificate must be valid for; a host name is also told as SNI, an address is not.
    name: Result<ServerName<'static>, String>,
}

impl Tls {
    /// For the host of a URL, whose last dot and brackets are no part of the name.
    pub(super) fn new(config: Arc<ClientConfig>, url: &Url) -> Self {
        Self { config, name: server_name(url) }
    }

    /// Agrees on TLS over a fresh connection.
    ///
    /// # Errors
    /// What went wrong, in words for an operator.
    pub(super) async fn handshake(&self, socket: Socket) -> Result<TlsStream<Socket>, String> {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        connector.connect(self.name.clone()?, socket).await.map_err(|error| handshake_fault(&error))
    }
}

fn server_name(url: &Url) -> Result<ServerName<'static>, String> {
    match url.host() {
        Some(Host::Ipv4(address)) => Ok(address.into()),
        Some(Host::Ipv6(address)) => Ok(address.into()),
        Some(Host::Domain(name)) => ServerName::try_from(name.trim_end_matches('.').to_owned())
            .map_err(|_| format!("no certificate can be valid for the name {name}")),
        None => Err("the URL has no host".into()),
    }
}

fn handshake_fault(error: &io::Error) -> String {
    match rustls_error(error) {
        Some(error) => explained(error),
        None => format!("the connection broke while TLS was being agreed on: {error}"),
    }
}

/// The error of TLS behind an error of a connection.
pub(super) fn rustls_error(error: &io::Error) -> Option<&Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = error.get_ref().map(|inner| inner as _);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        cause = error.source();
    }
    None
}

/// An error of TLS in words for an operator.
pub(super) fn explained(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(fault) => certificate_fault(fault),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the endpoint does not speak TLS at this port; is its URL meant to begin with http://?".into()
        }
        Error::PeerIncompatible(fault) => {
            format!(
                "the endpoint speaks no version of TLS that is in use (1.2 or 1.3), or no cipher: {fault:?}"
            )
        }
        Error::NoApplicationProtocol | Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            "the endpoint does not speak HTTP/1.1 over TLS".into()
        }
        Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            "the endpoint speaks neither TLS 1.2 nor TLS 1.3".into()
        }
        Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            "the endpoint has no certificate for this host name".into()
        }
        Error::AlertReceived(alert) => format!("the endpoint ended TLS with the alert {alert:?}"),
        other => quoted(&other.to_string()),
    }
}

fn certificate_fault(fault: &CertificateError) -> String {
    match fault {
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("the endpoint's certificate has expired: it was valid until {}", moment(*not_after))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("the endpoint's certificate is not valid yet: it will be from {} on", moment(*not_before))
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            format!("the endpoint's certificate is for {}, not for {}", names(presented), expected.to_str())
        }
        CertificateError::UnknownIssuer => {
            "the endpoint's certificate is signed by an authority that is not trusted here, or only by itself; \
             egress.ca_file can name an authority"
                .into()
        }
        // The one error of webpki that rustls passes on as it is, and that is easily caused.
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "the endpoint's certificate is that of an authority, which self-signed ones often are; the \
             endpoint needs one that an authority has signed for it"
                .into()
        }
        other => format!("the endpoint's certificate is not accepted: {}", quoted(&other.to_string())),
    }
}

fn moment(time: UnixTime) -> String {
    match UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs())) {
        // Beyond it, humantime panics; certificates have years of four digits.
        Some(moment) if time.as_secs() < 253_402_300_800 => {
            humantime::format_rfc3339_seconds(moment).to_string()
        }
        _ => format!("the second {} after 1970", time.as_secs()),
    }
}

/// A text from outside. One that is too long is not cut: what knows the secrets of a call comes later, and
/// would not know a half of one.
fn quoted(text: &str) -> String {
    match text.chars().count() {
        0..=QUOTED_CHARS_MAX => on_one_line(text),
        length => format!("({length} characters)"),
    }
}

/// The names that a certificate has, which come as `DnsName("bot.example.org")` or so.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| match name.split_once('(').and_then(|(_, name)| name.strip_suffix(')')) {
        Some(name) => quoted(name.trim_matches('"')),
        None => quoted(name),
    };
    let told: Vec<String> = presented.iter().take(NAMES_TOLD).map(bare).collect();
    match presented.len().saturating_sub(NAMES_TOLD) {
        _ if told.is_empty() => "no host at all (it has no subject alternative names)".into(),
        0 => told.join(", "),
        more => format!("{} and {more} more", told.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(url: &str) -> String {
        let url = Url::parse(url).expect("a URL");
        format!("{:?}", server_name(&url).expect("a name"))
    }

    #[test]
    fn the_name_of_an_endpoint_has_neither_brackets_nor_a_last_dot() {
        assert_eq!(name("https://Bot.Example.:8443/x"), r#"DnsName("bot.example")"#);
        assert!(name("https://[::1]:8443/").starts_with("IpAddress("));
        assert!(name("https://127.0.0.1/").starts_with("IpAddress("));
    }

    #[test]
    fn names_of_a_certificate_are_told_bare_and_not_without_end() {
        let presented: Vec<String> = (0..7).map(|n| format!("DnsName(\"{n}.example\")")).collect();
        assert_eq!(names(&presented[..1]), "0.example");
        assert_eq!(names(&presented), "0.example, 1.example, 2.example, 3.example, 4.example and 2 more");
        assert_eq!(names(&["a\nb".to_owned()]), "a b");
        assert_eq!(names(&["a".repeat(QUOTED_CHARS_MAX)]), "a".repeat(QUOTED_CHARS_MAX));
        assert_eq!(names(&["a".repeat(QUOTED_CHARS_MAX + 1)]), "(201 characters)");
        assert!(names(&[]).starts_with("no host at all"));
    }

    #[test]
    fn a_file_without_a_certificate_is_no_file_of_authorities() {
        let fault =
            |pem: &[u8]| add_certificates(&mut RootCertStore::empty(), pem).expect_err("no certificate");
        assert_eq!(fault(b""), "none was found");
        assert_eq!(fault(b"certificate"), "none was found");
        assert!(!fault(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_empty());
        let missing = client_config_and(Path::new("no-such-folder/ca.pem")).expect_err("no file");
        assert!(missing.to_string().starts_with("egress.ca_file no-such-folder/ca.pem: "), "{missing}");
    }
}
