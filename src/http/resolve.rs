//! The addresses of a host.
//!
//! Look-ups wait for name servers without threads: `getaddrinfo` holds a thread of a pool until it knows, so
//! a few names whose servers never answer would hold up all others. Each thread has a resolver of its own,
//! because sockets belong to the runtime of their thread.

mod answers;
mod servers;
mod sockets;
mod system;

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    rc::Rc,
    time::{Duration, Instant},
};

use hickory_resolver::{
    Hosts,
    net::{DnsError, NetError},
    proto::{
        op::Query,
        rr::{Name, RecordType},
    },
};
use outhook_core::outcome::Fault;
use thiserror::Error;

use self::{
    answers::Answer,
    servers::Servers,
    system::{Stamps, SystemFiles},
};
use super::local;
use crate::config::egress::NameServers;

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
    /// This machine has no way to a name server.
    #[error("no name server could be asked: {0}")]
    Local(String),
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
                let servers = Servers::listed(servers, connect_timeout);
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

    /// Whom to ask now. Files that have changed are read again, and what was cached is forgotten; while they
    /// can't be opened because too many are open, what is known of them holds.
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

fn fault(error: NetError) -> LookupError {
    match error {
        error if error.is_nx_domain() => LookupError::NoSuchName,
        error if error.is_no_records_found() => LookupError::NoAddress,
        NetError::Timeout => LookupError::Silence,
        NetError::Io(error) => match local::fault(&error) {
            Some(Fault::NoFiles) => LookupError::NoFiles,
            Some(_) => LookupError::Local(error.to_string()),
            None => LookupError::Failed(error.to_string()),
        },
        NetError::Dns(DnsError::ResponseCode(code)) => LookupError::Failed(code.to_string()),
        other => LookupError::Failed(other.to_string()),
    }
}

#[cfg(test)]
pub(super) mod tests;
