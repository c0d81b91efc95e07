//! Certificates of a test's own, and TLS in front of an endpoint.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tokio::io::{AsyncWriteExt as _, copy, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::{Acceptor, ClientHello};
use tokio_rustls::rustls::{ALL_VERSIONS, ServerConfig, SupportedProtocolVersion};

/// One that signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its key.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// In the past.
    Past,
    /// Now.
    Now,
    /// In the future.
    Future,
}

impl Authority {
    /// A new one.
    pub fn new(name: &str) -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = parameters.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(parameters, key), pem }
    }

    /// Writes its own certificate into a folder, and returns the file.
    pub fn write(&self, folder: &Path) -> PathBuf {
        let file = folder.join("ca.pem");
        std::fs::write(&file, &self.pem).unwrap();
        file
    }

    /// A certificate for these host names and addresses.
    pub fn sign(&self, names: &[&str], validity: Validity) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = parameters(names, validity).signed_by(&key, &self.issuer).unwrap();
        Identity { certificate: certificate.der().clone(), key }
    }
}

impl Identity {
    /// A certificate that no authority has signed; it is one itself if it `is_authority`.
    pub fn self_signed(names: &[&str], is_authority: bool) -> Self {
        let mut parameters = parameters(names, Validity::Now);
        if is_authority {
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        Self { certificate: certificate.der().clone(), key }
    }

    fn server(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let server = ServerConfig::builder_with_protocol_versions(versions).with_no_client_auth();
        let mut server = server.with_single_cert(vec![self.certificate.clone()], key).unwrap();
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(server)
    }
}

fn parameters(names: &[&str], validity: Validity) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = CertificateParams::new(names).unwrap();
    let (from, until) = match validity {
        Validity::Past => (2001, 2002),
        Validity::Now => (2001, 2400),
        Validity::Future => (2399, 2400),
    };
    parameters.not_before = date_time_ymd(from, 1, 1);
    parameters.not_after = date_time_ymd(until, 1, 1);
    parameters
}

/// How a client has introduced itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The server's name that it gave.
    pub sni: Option<String>,
    /// The protocols that it offered to speak over TLS.
    pub protocols: Vec<String>,
}

impl Hello {
    fn read(hello: &ClientHello<'_>) -> Self {
        let protocols = hello.alpn().into_iter().flatten();
        Self {
            sni: hello.server_name().map(str::to_owned),
            protocols: protocols.map(|name| String::from_utf8_lossy(name).into_owned()).collect(),
        }
    }
}

/// How TLS is spoken in front of an endpoint.
#[derive(Clone)]
pub struct Manners {
    /// Where it listens.
    pub ip: IpAddr,
    /// The versions of TLS.
    pub versions: &'static [&'static SupportedProtocolVersion],
    /// Whether it closes connections without the end that TLS has for that.
    pub is_rude: bool,
}

impl Default for Manners {
    fn default() -> Self {
        Self { ip: Ipv4Addr::LOCALHOST.into(), versions: ALL_VERSIONS, is_rude: false }
    }
}

/// Speaks TLS with clients, and passes everything on to an endpoint that does not; ends on drop.
pub struct TlsFront {
    address: SocketAddr,
    hellos: Arc<Mutex<Vec<Hello>>>,
    accepting: JoinHandle<()>,
}

impl TlsFront {
    /// In front of an endpoint, in the usual manner.
    pub async fn start(identity: &Identity, endpoint: SocketAddr) -> Self {
        Self::with(identity, endpoint, Manners::default()).await
    }

    /// In front of an endpoint.
    pub async fn with(identity: &Identity, endpoint: SocketAddr, manners: Manners) -> Self {
        let listener = TcpListener::bind((manners.ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let hellos = Arc::<Mutex<Vec<Hello>>>::default();
        let server = identity.server(manners.versions);
        let record = Arc::clone(&hellos);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (server, record) = (Arc::clone(&server), Arc::clone(&record));
                connections.spawn(async move {
                    pass_on(stream, server, endpoint, manners.is_rude, &record).await;
                });
            }
        });
        Self { address, hellos, accepting }
    }

    /// The URL of a path under a name of this machine; paths begin with a slash.
    pub fn url(&self, host: &str, path: &str) -> String {
        format!("https://{host}:{}{path}", self.address.port())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How each client has introduced itself.
    pub fn hellos(&self) -> Vec<Hello> {
        self.hellos.lock().unwrap().clone()
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass_on(
    stream: TcpStream,
    server: Arc<ServerConfig>,
    endpoint: SocketAddr,
    is_rude: bool,
    hellos: &Mutex<Vec<Hello>>,
) {
    let Ok(start) = LazyConfigAcceptor::new(Acceptor::default(), stream).await else { return };
    hellos.lock().unwrap().push(Hello::read(&start.client_hello()));
    let Ok(client) = start.into_stream(server).await else { return };
    let Ok(endpoint) = TcpStream::connect(endpoint).await else { return };
    let (mut from_client, mut to_client) = split(client);
    let (mut from_endpoint, mut to_endpoint) = endpoint.into_split();
    // Whoever ends first ends it for both.
    tokio::select! {
        _ = copy(&mut from_client, &mut to_endpoint) => {}
        _ = copy(&mut from_endpoint, &mut to_client) => {}
    }
    if !is_rude {
        to_client.shutdown().await.ok();
    }
}
