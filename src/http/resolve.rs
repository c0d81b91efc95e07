//! The addresses of a host.
//!
//! Look-ups wait for name servers without threads: `getaddrinfo` holds a thread of a pool until it knows, so a
//! few names whose servers never answer would hold up all others. Each thread has a resolver of its own,
//! because sockets belong to the runtime of their thread.

use std::{
    cell::RefCell,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use hickory_resolver::{
    Hosts,
    config::{
        ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
    },
    net::{DnsError, NetError},
    proto::{
        op::Query,
        rr::{Name, RecordType},
    },
    system_conf::parse_resolv_conf,
};
use thiserror::Error;
use tokio::time::timeout;

use self::{
    answers::{Answer, Answers},
    sockets::Sockets,
};
use super::files;
use crate::config::egress::NameServers;

mod answers;
mod sockets;

/// Name servers that are asked beside each other, each with a socket for either kind of address.
const SERVERS_BESIDE: usize = 2;
/// What a thread remembers of names at most: some thousand of them with a few addresses, or a few dozen of which each
/// has as many as fit into an answer of 64 KiB.
const REMEMBERED_BYTES_MAX: u64 = 4 << 20;
/// How often the system's files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Looks host names up. Cheap to clone; a clone is the same resolver.
#[derive(Clone)]
pub(crate) struct Resolver(Rc<Inner>);

struct Inner {
    /// `None` with name servers of one's own: then the system is not asked.
    files: Option<SystemFiles>,
    known: RefCell<Known>,
    connect_timeout: Duration,
}

/// What is known of whom to ask, and since when.
struct Known {
    sources: Rc<Sources>,
    looked_at: Instant,
    changed_at: Stamps,
}

/// Who is asked.
#[derive(Default)]
struct Sources {
    hosts: Hosts,
    /// `None` if the system names no server.
    servers: Option<Servers>,
}

/// Name servers, and what they have said.
struct Servers {
    asked: hickory_resolver::Resolver<Sockets>,
    answers: Answers,
}

/// Why a name has no addresses for us.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum LookupError {
    /// DNS can't hold such a name.
    #[error("it is not a name that DNS can hold")]
    NotAName,
    /// The name does not exist.
    #[error("there is no such name")]
    NoSuchName,
    /// The name exists and has neither IPv4 nor IPv6 addresses.
    #[error("the name has no address")]
    NoAddress,
    /// No name server answered.
    #[error("no name server answered in time")]
    Silence,
    /// A name server answered, but not with an answer, or could not be reached.
    #[error("the name server failed: {0}")]
    Failed(String),
    /// No socket could be opened to ask with.
    #[error("no file is left for a question to a name server")]
    NoFiles,
    /// There is nobody to ask.
    #[error("/etc/resolv.conf names no server: mend it, or set egress.resolver")]
    NoServer,
}

impl Resolver {
    /// A resolver of the current thread, whose look-ups leave some of `connect_timeout` for connecting.
    pub(crate) fn new(servers: &NameServers, connect_timeout: Duration) -> Self {
        match servers {
            NameServers::System => Self::system(SystemFiles::default(), connect_timeout),
            NameServers::Listed(servers) => {
                let config = ResolverConfig::from_name_servers(servers.iter().map(name_server).collect());
                let servers = build(config, ResolverOpts::default(), connect_timeout);
                let sources = Sources { hosts: Hosts::default(), servers };
                Self::with(None, Stamps::default(), sources, connect_timeout)
            }
        }
    }

    fn system(files: SystemFiles, connect_timeout: Duration) -> Self {
        // The stamps first: a change while the files are read must be noticed later.
        let changed_at = files.changed_at();
        let (changed_at, sources) = match files.read(connect_timeout) {
            Ok(sources) => (changed_at, sources),
            // The next look finds them changed.
            Err(_) => Default::default(),
        };
        Self::with(Some(files), changed_at, sources, connect_timeout)
    }

    fn with(
        files: Option<SystemFiles>,
        changed_at: Stamps,
        sources: Sources,
        connect_timeout: Duration,
    ) -> Self {
        let known = Known { sources: Rc::new(sources), looked_at: Instant::now(), changed_at };
        Self(Rc::new(Inner { files, known: RefCell::new(known), connect_timeout }))
    }

    /// The addresses of a host, those of IPv4 first, at least one. `localhost` is loopback, whatever anybody
    /// says (RFC 6761).
    pub(crate) async fn addresses(&self, host: &str) -> Answer {
        let name = Name::from_ascii(host).map_err(|_| LookupError::NotAName)?;
        if name.is_localhost() {
            return Ok(LOOPBACK.to_vec());
        }
        let sources = self.sources();
        let listed = sources.listed(&name);
        if !listed.is_empty() {
            return Ok(listed);
        }
        let servers = sources.servers.as_ref().ok_or(LookupError::NoServer)?;
        servers.addresses(name, self.0.connect_timeout * 4 / 5).await
    }

    /// Whom to ask now. Files that have changed are read again, and what was cached is forgotten; while they can't be
    /// opened because too many are open, what is known of them holds.
    fn sources(&self) -> Rc<Sources> {
        let mut known = self.0.known.borrow_mut();
        if let Some(files) = &self.0.files
            && known.looked_at.elapsed() >= LOOK_INTERVAL
        {
            known.looked_at = Instant::now();
            let changed_at = files.changed_at();
            if changed_at != known.changed_at
                && let Ok(sources) = files.read(self.0.connect_timeout)
            {
                known.changed_at = changed_at;
                known.sources = Rc::new(sources);
            }
        }
        Rc::clone(&known.sources)
    }
}

impl Sources {
    /// The addresses that `/etc/hosts` gives a name. It has the last word, as it has with the system: a name
    /// with one address there is not looked up for its others.
    fn listed(&self, name: &Name) -> Vec<IpAddr> {
        let of_type = |kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
        let found = [RecordType::A, RecordType::AAAA].map(of_type).into_iter().flatten();
        let records = found.flat_map(|lookup| lookup.answers().to_vec());
        records.filter_map(|record| record.data.ip_addr()).collect()
    }
}

impl Servers {
    /// The addresses of a name, if they are known or found within this time. However many there are, all are
    /// returned: the first that may be dialled can be the last.
    async fn addresses(&self, name: Name, patience: Duration) -> Answer {
        if let Some(answer) = self.answers.fresh(&name, Instant::now()) {
            return answer;
        }
        let found = timeout(patience, self.asked.lookup_ip(name.clone())).await;
        let now = Instant::now();
        let (answer, valid) = answers::read(found.unwrap_or(Err(NetError::Timeout)), now);
        if let Err(LookupError::Silence | LookupError::Failed(_) | LookupError::NoFiles) = answer {
            return self.answers.valid(&name, now).unwrap_or(answer);
        }
        self.answers.put(name, &answer, valid, now);
        answer
    }
}

/// Where the system says how names are looked up.
struct SystemFiles {
    resolv_conf: PathBuf,
    hosts: PathBuf,
}

/// When each of them was changed; `None` = it is not there.
type Stamps = [Option<SystemTime>; 2];

impl Default for SystemFiles {
    fn default() -> Self {
        Self { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into() }
    }
}

impl SystemFiles {
    fn changed_at(&self) -> Stamps {
        [&self.resolv_conf, &self.hosts].map(|path| fs::metadata(path).and_then(|file| file.modified()).ok())
    }

    /// # Errors
    /// No file is left to open them with.
    fn read(&self, connect_timeout: Duration) -> io::Result<Sources> {
        let mut hosts = Hosts::default();
        match fs::File::open(&self.hosts).and_then(|file| hosts.read_hosts_conf(file)) {
            Err(error) if files::are_used_up(&error) => return Err(error),
            // Without the file, or with a line that is no text, there are fewer names; DNS has the others.
            Err(error) => log::info!("{}: {error}", self.hosts.display()),
            Ok(()) => {}
        }
        Ok(Sources { hosts, servers: self.servers(connect_timeout)? })
    }

    fn servers(&self, connect_timeout: Duration) -> io::Result<Option<Servers>> {
        let text = match fs::read(&self.resolv_conf) {
            Err(error) if files::are_used_up(&error) => return Err(error),
            text => text,
        };
        let servers = match text.map_err(NetError::from).and_then(parse_resolv_conf) {
            Ok((config, options)) => build(config, options, connect_timeout),
            Err(error) => {
                log::warn!(
                    "no host can be looked up until {} names a server, or egress.resolver is set: {error}",
                    self.resolv_conf.display()
                );
                None
            }
        };
        Ok(servers)
    }
}

fn name_server(server: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = server.port();
        connection
    });
    NameServerConfig::new(server.ip(), true, connections.into())
}

/// Two rounds over the servers, each of a quarter of the time for connecting, so that one kind of address is
/// found in time although the other is never answered.
fn build(config: ResolverConfig, mut options: ResolverOpts, connect_timeout: Duration) -> Option<Servers> {
    options.timeout = connect_timeout / 4;
    options.attempts = 1;
    options.num_concurrent_reqs = SERVERS_BESIDE;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Never;
    // It would remember whole messages, and so many of them, however large they are.
    options.cache_size = 0;
    let builder = hickory_resolver::Resolver::builder_with_config(config, Sockets::default());
    match builder.with_options(options).build() {
        Ok(asked) => Some(Servers { asked, answers: Answers::new(REMEMBERED_BYTES_MAX) }),
        Err(error) => {
            log::warn!("no host can be looked up: {error}");
            None
        }
    }
}

fn fault(error: NetError) -> LookupError {
    match error {
        error if error.is_nx_domain() => LookupError::NoSuchName,
        error if error.is_no_records_found() => LookupError::NoAddress,
        NetError::Timeout => LookupError::Silence,
        NetError::Io(error) if files::are_used_up(&error) => LookupError::NoFiles,
        NetError::Dns(DnsError::ResponseCode(code)) => LookupError::Failed(code.to_string()),
        other => LookupError::Failed(other.to_string()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use tempfile::TempDir;
    use tokio::net::UdpSocket;

    use super::*;

    const TIME: Duration = Duration::from_secs(5);

    /// The system's files, in a folder of their own.
    pub(crate) struct System(TempDir);

    impl System {
        pub(crate) fn new() -> Self {
            Self(tempfile::tempdir().expect("a folder"))
        }

        pub(crate) fn hosts(self, text: &str) -> Self {
            fs::write(self.files().hosts, text).expect("a file");
            self
        }

        fn resolv_conf(self, text: &str) -> Self {
            fs::write(self.files().resolv_conf, text).expect("a file");
            self
        }

        pub(crate) fn resolver(&self) -> Resolver {
            Resolver::system(self.files(), TIME)
        }

        fn files(&self) -> SystemFiles {
            let file = |name| self.0.path().join(name);
            SystemFiles { resolv_conf: file("resolv.conf"), hosts: file("hosts") }
        }
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    /// Lets the time pass after which the files are looked at again.
    fn look_again(resolver: &Resolver) {
        let mut known = resolver.0.known.borrow_mut();
        known.looked_at = known.looked_at.checked_sub(LOOK_INTERVAL).expect("a machine that runs for 5 s");
        // Files written within one tick of the file system's clock have the same time.
        known.changed_at = Stamps::default();
    }

    #[tokio::test]
    async fn a_name_in_the_hosts_file_has_the_addresses_there_and_no_other() {
        let system = System::new().hosts("10.0.0.1 bot.internal Alias\nfd00::1 bot.internal # both\n");
        let resolver = system.resolver();
        for host in ["bot.internal", "BOT.internal", "bot.internal."] {
            assert_eq!(resolver.addresses(host).await, Ok(ips(&["10.0.0.1", "fd00::1"])), "{host}");
        }
        assert_eq!(resolver.addresses("alias").await, Ok(ips(&["10.0.0.1"])));
        assert_eq!(resolver.addresses("other.internal").await, Err(LookupError::NoServer));
    }

    #[tokio::test]
    async fn localhost_is_loopback_whatever_the_hosts_file_says() {
        let resolver = System::new().hosts("10.0.0.1 localhost a.localhost\n").resolver();
        for host in ["localhost", "localhost.", "LOCALHOST", "a.localhost"] {
            assert_eq!(resolver.addresses(host).await, Ok(LOOPBACK.to_vec()), "{host}");
        }
    }

    #[tokio::test]
    async fn without_a_server_nothing_is_looked_up_and_nothing_panics() {
        for system in [
            System::new(),
            System::new().resolv_conf(""),
            System::new().resolv_conf("nameserver\nsearch \u{0}\n"),
        ] {
            assert_eq!(system.resolver().addresses("bot.example").await, Err(LookupError::NoServer));
        }
    }

    /// Servers of which the only one never answers; it is there as long as its socket.
    async fn silent() -> (UdpSocket, Servers) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let server = name_server(&socket.local_addr().expect("an address"));
        let config = ResolverConfig::from_name_servers(vec![server]);
        (socket, build(config, ResolverOpts::default(), TIME).expect("servers"))
    }

    #[tokio::test]
    async fn what_is_still_valid_is_used_where_nobody_answers() {
        let (_socket, servers) = silent().await;
        let name = Name::from_ascii("bot.example").expect("a name");
        let addresses = || servers.addresses(name.clone(), Duration::from_millis(50));
        assert_eq!(addresses().await, Err(LookupError::Silence));

        let half_a_minute = Duration::from_secs(30);
        let earlier = Instant::now().checked_sub(half_a_minute).expect("a machine that runs for 30 s");
        let known = Ok(ips(&["10.0.0.1"]));
        servers.answers.put(name.clone(), &known, half_a_minute * 10, earlier);
        assert_eq!(servers.answers.fresh(&name, Instant::now()), None, "it is asked for again");
        assert_eq!(addresses().await, known);
        servers.answers.put(name.clone(), &known, half_a_minute, earlier);
        assert_eq!(addresses().await, Err(LookupError::Silence));
    }

    #[tokio::test]
    async fn files_that_have_changed_are_read_again() {
        let system = System::new().hosts("10.0.0.1 bot.internal\n");
        let resolver = system.resolver();
        assert_eq!(resolver.addresses("bot.internal").await, Ok(ips(&["10.0.0.1"])));

        let system = system.hosts("10.0.0.2 bot.internal\n").resolv_conf("nameserver 127.0.0.1\n");
        assert_eq!(resolver.addresses("bot.internal").await, Ok(ips(&["10.0.0.1"])), "before the time");
        look_again(&resolver);
        assert_eq!(resolver.addresses("bot.internal").await, Ok(ips(&["10.0.0.2"])));
        assert!(resolver.sources().servers.is_some());
        drop(system);
    }

    #[test]
    fn that_no_socket_could_be_opened_is_told_from_a_server_that_failed() {
        let told = |number| fault(NetError::from(io::Error::from_raw_os_error(number)));
        let (enfile, emfile, unreachable) = (23, 24, 101);
        assert_eq!([enfile, emfile].map(told), [LookupError::NoFiles, LookupError::NoFiles]);
        assert!(matches!(told(unreachable), LookupError::Failed(_)));
    }

    #[tokio::test]
    async fn what_dns_cannot_hold_is_no_name() {
        let resolver = System::new().resolver();
        for host in ["a..b", &"a".repeat(64), "a b"] {
            assert_eq!(resolver.addresses(host).await, Err(LookupError::NotAName), "{host}");
        }
    }
}
