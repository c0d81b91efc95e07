//! Name servers, and what they have said.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use hickory_resolver::{
    Resolver,
    config::{
        ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
    },
    net::NetError,
    proto::rr::Name,
};
use tokio::time::timeout;

use super::{
    LookupError,
    answers::{self, Answer, Answers},
    sockets::Sockets,
};

/// Name servers that are asked beside each other, each with a socket for either kind of address.
const SERVERS_BESIDE: usize = 2;
/// What a thread remembers of names at most: some thousand of them with a few addresses, or a few dozen of
/// which each has as many as fit into an answer of 64 KiB.
const REMEMBERED_BYTES_MAX: u64 = 4 << 20;

/// Name servers, and what they have said.
pub(super) struct Servers {
    asked: Resolver<Sockets>,
    answers: Answers,
}

impl Servers {
    /// Those of an operator.
    pub(super) fn listed(servers: &[SocketAddr], connect_timeout: Duration) -> Option<Self> {
        let config = ResolverConfig::from_name_servers(servers.iter().map(name_server).collect());
        Self::new(config, ResolverOpts::default(), connect_timeout)
    }

    /// Two rounds over the servers, each of a quarter of the time for connecting, so that one kind of address
    /// is found in time although the other is never answered. `None` if nothing can be asked so.
    pub(super) fn new(
        config: ResolverConfig,
        mut options: ResolverOpts,
        connect_timeout: Duration,
    ) -> Option<Self> {
        options.timeout = connect_timeout / 4;
        options.attempts = 1;
        options.num_concurrent_reqs = SERVERS_BESIDE;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = ResolveHosts::Never;
        // It would remember whole messages, and so many of them, however large they are.
        options.cache_size = 0;
        let builder = Resolver::builder_with_config(config, Sockets::default());
        match builder.with_options(options).build() {
            Ok(asked) => Some(Self { asked, answers: Answers::new(REMEMBERED_BYTES_MAX) }),
            Err(error) => {
                log::warn!("no host can be looked up: {error}");
                None
            }
        }
    }

    /// The addresses of a name, if they are known or found within this time. However many there are, all are
    /// returned: the first that may be dialled can be the last.
    pub(super) async fn addresses(&self, name: Name, patience: Duration) -> Answer {
        if let Some(answer) = self.answers.fresh(&name, Instant::now()) {
            return answer;
        }
        let found = timeout(patience, self.asked.lookup_ip(name.clone())).await;
        let now = Instant::now();
        let (answer, valid) = answers::read(found.unwrap_or(Err(NetError::Timeout)), now);
        if let Err(
            LookupError::Silence | LookupError::Failed(_) | LookupError::NoFiles | LookupError::Local(_),
        ) = answer
        {
            return self.answers.valid(&name, now).unwrap_or(answer);
        }
        self.answers.put(name, &answer, valid, now);
        answer
    }
}

fn name_server(server: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = server.port();
        connection
    });
    NameServerConfig::new(server.ip(), true, connections.into())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use tokio::net::UdpSocket;

    use super::*;

    /// Servers of which the only one never answers; it is there as long as its socket.
    async fn silent() -> (UdpSocket, Servers) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let server = socket.local_addr().expect("an address");
        (socket, Servers::listed(&[server], Duration::from_secs(5)).expect("servers"))
    }

    #[tokio::test]
    async fn what_is_still_valid_is_used_where_nobody_answers() {
        let (_socket, servers) = silent().await;
        let name = Name::from_ascii("bot.example").expect("a name");
        let addresses = || servers.addresses(name.clone(), Duration::from_millis(50));
        assert_eq!(addresses().await, Err(LookupError::Silence));

        let half_a_minute = Duration::from_secs(30);
        let earlier = Instant::now().checked_sub(half_a_minute).expect("a machine that runs for 30 s");
        let known: Answer = Ok(vec![IpAddr::from([10, 0, 0, 1])]);
        servers.answers.put(name.clone(), &known, half_a_minute * 10, earlier);
        assert_eq!(servers.answers.fresh(&name, Instant::now()), None, "it is asked for again");
        assert_eq!(addresses().await, known);
        servers.answers.put(name.clone(), &known, half_a_minute, earlier);
        assert_eq!(addresses().await, Err(LookupError::Silence));
    }
}
