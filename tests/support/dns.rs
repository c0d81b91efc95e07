//! A name server on loopback, which says what a test wants it to say at that moment.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::CNAME;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

use super::{PATIENCE, eventually};

/// What is said of a name. A name of which nothing is said does not exist.
#[derive(Clone)]
pub enum Says {
    /// It has these addresses, for so many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// It is another name for this one, which has these addresses.
    Alias(&'static str, Vec<IpAddr>),
    /// Over UDP that there is more to say than fits; over TCP these addresses.
    MoreThanFits(Vec<IpAddr>),
    /// SERVFAIL.
    Failure,
    /// Nothing, ever.
    Silence,
}

impl Says {
    /// These addresses, which nobody may remember.
    pub fn now(addresses: &[&str]) -> Self {
        Self::Addresses(ips(addresses), 0)
    }

    /// These addresses, for a minute.
    pub fn for_a_minute(addresses: &[&str]) -> Self {
        Self::Addresses(ips(addresses), 60)
    }
}

/// The addresses that these texts are.
pub fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A name server on 127.0.0.1, over UDP and TCP; it ends on drop.
pub struct Dns {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    serving: [JoinHandle<()>; 2],
}

#[derive(Default)]
struct Zone {
    said: HashMap<String, Says>,
    asked: HashMap<String, usize>,
}

impl Dns {
    /// Starts it with nothing to say.
    pub async fn start() -> Self {
        let (udp, tcp) = sockets().await;
        let address = udp.local_addr().unwrap();
        let zone = Arc::default();
        let serving = [
            tokio::spawn(serve_udp(udp, Arc::clone(&zone))),
            tokio::spawn(serve_tcp(tcp, Arc::clone(&zone))),
        ];
        Self { address, zone, serving }
    }

    /// From now on this is said of a name.
    pub fn says(&self, name: &str, says: Says) {
        self.zone.lock().unwrap().said.insert(name.to_owned(), says);
    }

    /// How often it was asked for a name's IPv4 addresses.
    pub fn asked(&self, name: &str) -> usize {
        self.zone.lock().unwrap().asked.get(name).copied().unwrap_or_default()
    }

    /// Waits until it has been asked for all of these names.
    pub async fn wait_for(&self, names: &[String]) {
        let asked = || async { names.iter().all(|name| self.asked(name) > 0).then_some(()) };
        eventually("all names to be looked up", PATIENCE, asked).await;
    }

    /// `egress.resolver`, as the configuration writes it.
    pub fn setting(&self) -> String {
        format!("[\"{}\"]", self.address)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.serving.iter().for_each(JoinHandle::abort);
    }
}

/// One port for both.
async fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}

async fn serve_udp(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let mut buffer = [0; 4096];
    while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
        if let Some(response) = answer(&zone, &buffer[..length], false) {
            socket.send_to(&response, client).await.ok();
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: Arc<Mutex<Zone>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(converse(stream, Arc::clone(&zone)));
    }
}

/// Messages over TCP have their length before them (RFC 1035, section 4.2.2).
async fn converse(mut stream: TcpStream, zone: Arc<Mutex<Zone>>) {
    while let Ok(length) = stream.read_u16().await {
        let mut request = vec![0; length.into()];
        stream.read_exact(&mut request).await.unwrap();
        if let Some(response) = answer(&zone, &request, true) {
            stream.write_u16(response.len().try_into().unwrap()).await.ok();
            stream.write_all(&response).await.ok();
        }
    }
}

/// `None` = silence.
fn answer(zone: &Mutex<Zone>, request: &[u8], is_tcp: bool) -> Option<Vec<u8>> {
    let request = Message::from_vec(request).unwrap();
    let query = request.queries[0].clone();
    let name = query.name().to_ascii().trim_end_matches('.').to_lowercase();
    let said = zone.lock().unwrap().ask(&name, query.query_type());
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.add_query(query.clone());
    match said {
        None => response.metadata.response_code = ResponseCode::NXDomain,
        Some(Says::Silence) => return None,
        Some(Says::Failure) => response.metadata.response_code = ResponseCode::ServFail,
        Some(Says::MoreThanFits(_)) if !is_tcp => response.metadata.truncation = true,
        Some(Says::MoreThanFits(ips)) => add(&mut response, query.name(), &query, &ips, 0),
        Some(Says::Addresses(ips, ttl)) => add(&mut response, query.name(), &query, &ips, ttl),
        Some(Says::Alias(target, ips)) => {
            let target = Name::from_ascii(format!("{target}.")).unwrap();
            let alias = RData::CNAME(CNAME(target.clone()));
            response.add_answer(Record::from_rdata(query.name().clone(), 0, alias));
            add(&mut response, &target, &query, &ips, 0);
        }
    }
    Some(response.to_vec().unwrap())
}

/// Adds those addresses that were asked for.
fn add(response: &mut Message, name: &Name, query: &Query, ips: &[IpAddr], ttl: u32) {
    let records = ips.iter().map(|ip| Record::from_rdata(name.clone(), ttl, RData::from(*ip)));
    for record in records.filter(|record| record.record_type() == query.query_type()) {
        response.add_answer(record);
    }
}

impl Zone {
    fn ask(&mut self, name: &str, kind: RecordType) -> Option<Says> {
        if kind == RecordType::A {
            *self.asked.entry(name.to_owned()).or_default() += 1;
        }
        self.said.get(name).cloned()
    }
}
