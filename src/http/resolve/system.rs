//! The files in which the system says how names are looked up.

use std::{
    fs, io,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use hickory_resolver::{Hosts, net::NetError, system_conf::parse_resolv_conf};

use super::{Sources, servers::Servers};
use crate::http::files;

/// Where the system says how names are looked up.
pub(super) struct SystemFiles {
    pub(super) resolv_conf: PathBuf,
    pub(super) hosts: PathBuf,
}

/// When each of them was changed; `None` = it is not there.
pub(super) type Stamps = [Option<SystemTime>; 2];

impl Default for SystemFiles {
    fn default() -> Self {
        Self { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into() }
    }
}

impl SystemFiles {
    pub(super) fn changed_at(&self) -> Stamps {
        [&self.resolv_conf, &self.hosts].map(|path| fs::metadata(path).and_then(|file| file.modified()).ok())
    }

    /// What the files say.
    ///
    /// # Errors
    /// No file is left to open them with.
    pub(super) fn read(&self, connect_timeout: Duration) -> io::Result<Sources> {
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
            Ok((config, options)) => Servers::new(config, options, connect_timeout),
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
