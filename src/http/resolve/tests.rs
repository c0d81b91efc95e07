use std::{fs, io};

use tempfile::TempDir;

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
    let (enfile, emfile, unreachable, refused) = (23, 24, 101, 111);
    assert_eq!([enfile, emfile].map(told), [LookupError::NoFiles, LookupError::NoFiles]);
    assert!(matches!(told(unreachable), LookupError::Local(_)));
    assert!(matches!(told(refused), LookupError::Failed(_)));
}

#[tokio::test]
async fn what_dns_cannot_hold_is_no_name() {
    let resolver = System::new().resolver();
    for host in ["a..b", &"a".repeat(64), "a b"] {
        assert_eq!(resolver.addresses(host).await, Err(LookupError::NotAName), "{host}");
    }
}
