//! Certificates of a test's own, and TLS in front of an endpoint.

use std::io;
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

use super::Ending;
use super::connections::{Connections, Entered};

/// One that signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its key.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: KeyPair,
    pem: String,
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
        Identity { certificate: certificate.der().clone(), pem: certificate.pem(), key }
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
        Self { certificate: certificate.der().clone(), pem: certificate.pem(), key }
    }

    /// The certificate in PEM format.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The key in PEM format.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
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
    /// How a connection ends once the client or the endpoint has ended it.
    pub ending: Ending,
}

impl Default for Manners {
    fn default() -> Self {
        Self { ip: Ipv4Addr::LOCALHOST.into(), versions: ALL_VERSIONS, ending: Ending::Orderly }
    }
}

/// Speaks TLS with clients, and passes everything on to an endpoint that does not; ends on drop.
pub struct TlsFront {
    address: SocketAddr,
    hellos: Arc<Mutex<Vec<Hello>>>,
    connections: Arc<Connections>,
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
        let connections = Connections::new();
        let front = Front { server: identity.server(manners.versions), endpoint, ending: manners.ending };
        let (front, record, entrance) = (Arc::new(front), Arc::clone(&hellos), Arc::clone(&connections));
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                // A reset would drop what still waits for the client's acknowledgement of TLS's tickets.
                stream.set_nodelay(true).unwrap();
                let (front, record, mut entered) =
                    (Arc::clone(&front), Arc::clone(&record), entrance.enter());
                connections.spawn(async move {
                    // A client or an endpoint that hangs up is nothing to tell of.
                    front.pass_on(stream, &record, &mut entered).await.ok();
                });
            }
        });
        Self { address, hellos, connections, accepting }
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

    /// Ends all connections in this way, and waits until they are closed.
    pub async fn hang_up(&self, ending: Ending) {
        self.connections.hang_up(ending).await;
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

struct Front {
    server: Arc<ServerConfig>,
    endpoint: SocketAddr,
    ending: Ending,
}

impl Front {
    async fn pass_on(
        &self,
        stream: TcpStream,
        hellos: &Mutex<Vec<Hello>>,
        entered: &mut Entered,
    ) -> io::Result<()> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        hellos.lock().unwrap().push(Hello::read(&start.client_hello()));
        let client = start.into_stream(Arc::clone(&self.server)).await?;
        let endpoint = TcpStream::connect(self.endpoint).await?;
        let (mut from_client, mut to_client) = split(client);
        let (mut from_endpoint, mut to_endpoint) = endpoint.into_split();
        // Whoever ends first ends it for both.
        let ending = tokio::select! {
            _ = copy(&mut from_client, &mut to_endpoint) => self.ending,
            _ = copy(&mut from_endpoint, &mut to_client) => self.ending,
            ending = entered.hung_up() => ending,
        };
        let mut client = from_client.unsplit(to_client);
        match ending {
            Ending::Orderly => client.shutdown().await,
            Ending::Bare => Ok(()),
            Ending::Reset => client.get_ref().0.set_zero_linger(),
        }
    }
}
