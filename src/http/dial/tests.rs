//! What would be dialled: addresses outside loopback are recorded, never dialled.

use std::cell::{Cell, RefCell};

use actix_web::http::Uri;
use futures_util::future::pending;
use outhook_core::egress::Allowed;
use tokio::time::sleep;

use super::*;
use crate::http::resolve::tests::System;

mod together;

/// What an address does when it is dialled.
enum Reaction {
    Refuses,
    /// So long after it was dialled.
    RefusesAfter(Duration),
    Swallows,
    Unreachable,
    /// It is not dialled, because no file is left.
    NoFiles,
    /// With the one connection that there is, so long after it was dialled.
    AnswersAfter(Duration),
}

/// What is kept of that.
#[derive(Default)]
struct Record {
    dialled: RefCell<Vec<SocketAddr>>,
    open: Cell<usize>,
    most_open: Cell<usize>,
    answer: Cell<Option<TcpStream>>,
}

impl Record {
    async fn react(self: Rc<Self>, reaction: Reaction) -> io::Result<TcpStream> {
        match reaction {
            Reaction::Refuses => Err(io::ErrorKind::ConnectionRefused.into()),
            Reaction::RefusesAfter(time) => {
                sleep(time).await;
                Err(io::ErrorKind::ConnectionRefused.into())
            }
            Reaction::Swallows => pending().await,
            Reaction::Unreachable => Err(io::ErrorKind::NetworkUnreachable.into()),
            Reaction::NoFiles => Err(io::Error::from_raw_os_error(24)),
            Reaction::AnswersAfter(time) => {
                sleep(time).await;
                Ok(self.answer.take().expect("one that answers"))
            }
        }
    }
}

/// An attempt, until it is dropped.
struct Open(Rc<Record>);

impl Open {
    fn new(record: &Rc<Record>) -> Self {
        record.open.set(record.open.get() + 1);
        record.most_open.set(record.most_open.get().max(record.open.get()));
        Self(Rc::clone(record))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

/// A dialler that keeps a record instead of dialling.
struct Recorded {
    dialler: Dialler,
    record: Rc<Record>,
}

impl Recorded {
    fn new(egress: Egress, hosts: &str, reaction: impl Fn(IpAddr) -> Reaction + 'static) -> Self {
        let record = Rc::new(Record::default());
        let interfaces = Interfaces::of(|| [IpAddr::from([93, 184, 215, 14])].into_iter().collect());
        let mut dialler = Dialler::new(Arc::new(egress), System::new().hosts(hosts).resolver(), interfaces);
        let kept = Rc::clone(&record);
        dialler.dial = Rc::new(move |address: SocketAddr| -> Connecting {
            kept.dialled.borrow_mut().push(address);
            let (open, reacts) = (Open::new(&kept), Rc::clone(&kept).react(reaction(address.ip())));
            Box::pin(async move {
                let _open = open;
                reacts.await
            })
        });
        Self { dialler, record }
    }

    fn refusing(egress: Egress, hosts: &str) -> Self {
        Self::new(egress, hosts, |_| Reaction::Refuses)
    }

    /// Why a URL came to nothing; it goes the way of a real call.
    async fn call(&self, url: &str) -> DialError {
        let url = url::Url::parse(url).expect("a URL");
        let port = url.port_or_known_default().expect("a port");
        match self.dialler.dial(url.host_str().expect("a host"), port).await {
            Ok(_) => panic!("{url} was dialled"),
            Err(error) => error,
        }
    }

    /// What was dialled since the last look.
    fn dialled(&self) -> Vec<String> {
        self.record.dialled.take().iter().map(SocketAddr::to_string).collect()
    }
}

fn is_blocked(error: &DialError) -> bool {
    matches!(error, DialError::Blocked(_))
}

fn is_refused(error: &DialError) -> bool {
    matches!(error, DialError::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}

fn allow(networks: &[&str]) -> Egress {
    let allowed = |net: &&str| Allowed { target: net.parse().expect("a network"), port: None };
    Egress { allow: networks.iter().map(allowed).collect(), ..Egress::default() }
}

#[tokio::test]
async fn only_public_addresses_are_dialled_by_default() {
    let recorded = Recorded::refusing(Egress::default(), "");
    for inside in
        ["10.0.0.1", "169.254.169.254", "192.168.0.1", "[::1]", "[fd00:ec2::254]", "[64:ff9b::7f00:1]"]
    {
        let error = recorded.call(&format!("http://{inside}/hook")).await;
        assert!(is_blocked(&error), "{inside}: {error:?}");
        assert!(recorded.dialled().is_empty(), "{inside}");
    }
    for (public, dialled) in [("1.1.1.1", "1.1.1.1:8080"), ("[2606:4700::1111]", "[2606:4700::1111]:8080")] {
        let error = recorded.call(&format!("http://{public}:8080/hook")).await;
        assert!(is_refused(&error), "{public}: {error:?}");
        assert_eq!(recorded.dialled(), [dialled]);
    }
}

#[tokio::test]
async fn of_several_addresses_only_the_allowed_ones_are_dialled() {
    let hosts = "10.0.0.1 both.example\n1.1.1.1 both.example\n::1 both.example\n2606:4700::1111 both.example\n\
                 10.0.0.1 inside.example\nfd00::1 inside.example\n";
    let recorded = Recorded::refusing(Egress::default(), hosts);
    assert!(is_refused(&recorded.call("https://both.example/").await));
    assert_eq!(recorded.dialled(), ["1.1.1.1:443", "[2606:4700::1111]:443"]);

    let error = recorded.call("https://inside.example/").await;
    assert!(is_blocked(&error), "{error:?}");
    assert!(recorded.dialled().is_empty());
    assert_eq!(error.to_string(), "10.0.0.1 is a private address, which egress.allow does not open");
}

#[tokio::test]
async fn the_machine_itself_is_not_dialled_at_a_public_address_either() {
    let hosts = "93.184.215.14 self.example\n93.184.215.14 both.example\n1.1.1.1 both.example\n";
    let recorded = Recorded::refusing(Egress::default(), hosts);
    for url in ["http://self.example/", "http://93.184.215.14/", "http://[::ffff:93.184.215.14]/"] {
        let error = recorded.call(url).await;
        assert!(is_blocked(&error) && error.to_string().contains("is an address of this machine"), "{error}");
    }
    assert!(recorded.dialled().is_empty());
    assert!(is_refused(&recorded.call("http://both.example/").await));
    assert_eq!(recorded.dialled(), ["1.1.1.1:80"]);

    let recorded = Recorded::refusing(allow(&["93.184.215.14/32"]), hosts);
    assert!(is_refused(&recorded.call("http://self.example/").await));
    assert_eq!(recorded.dialled(), ["93.184.215.14:80"]);
}

#[tokio::test]
async fn an_allowed_network_or_host_is_dialled_on_its_port() {
    let hosts = "10.0.0.1 bot.internal\n10.0.0.1 other.internal\n";
    let recorded = Recorded::refusing(allow(&["10.0.0.0/8"]), hosts);
    assert!(is_refused(&recorded.call("http://other.internal/").await));
    assert_eq!(recorded.dialled(), ["10.0.0.1:80"]);

    let host = Allowed { target: "bot.internal".to_owned(), port: Some(8080) };
    let recorded = Recorded::refusing(Egress { hosts: vec![host], ..Egress::default() }, hosts);
    assert!(is_refused(&recorded.call("http://bot.internal:8080/").await));
    assert!(is_refused(&recorded.call("http://bot.internal.:8080/").await));
    assert_eq!(recorded.dialled(), ["10.0.0.1:8080", "10.0.0.1:8080"]);
    for url in ["http://bot.internal/", "http://other.internal:8080/", "http://10.0.0.1:8080/"] {
        assert!(is_blocked(&recorded.call(url).await), "{url}");
    }
    assert!(recorded.dialled().is_empty());
}

#[tokio::test]
async fn a_host_of_the_operators_own_is_dialled_wherever_it_is() {
    let recorded = Recorded::refusing(Egress::default(), "10.0.0.1 proxy.internal\n");
    for (host, dialled) in
        [("proxy.internal", "10.0.0.1:4750"), ("127.0.0.1", "127.0.0.1:4750"), ("::1", "[::1]:4750")]
    {
        let error = recorded.dialler.dial_own(host, 4750).await.expect_err("all is refused");
        assert!(is_refused(&error), "{host}: {error:?}");
        assert_eq!(recorded.dialled(), [dialled]);
    }
}

#[tokio::test]
async fn a_name_without_addresses_says_why() {
    let recorded = Recorded::refusing(Egress::default(), "");
    let error = recorded.call("http://bot.example/").await;
    assert!(error.to_string().starts_with("the name bot.example can't be resolved: "), "{error}");
    assert!(recorded.dialled().is_empty());
}

#[tokio::test]
async fn no_more_addresses_are_tried_than_may_be() {
    let hosts: String = (1..=20).map(|number| format!("1.1.1.{number} many.example\n")).collect();
    let recorded = Recorded::refusing(Egress::default(), &hosts);
    assert!(is_refused(&recorded.call("http://many.example/").await));
    assert_eq!(recorded.dialled().len(), ADDRESSES_MAX);
}

#[tokio::test]
async fn the_first_allowed_addresses_are_tried_however_many_others_stand_before_them() {
    let (inside, outside) = (1..=11, 12..=20);
    let inside = inside.map(|number| format!("10.0.0.{number} many.example\n"));
    let outside = outside.map(|number| format!("1.1.1.{number} many.example\n"));
    let recorded = Recorded::refusing(Egress::default(), &inside.chain(outside).collect::<String>());
    assert!(is_refused(&recorded.call("http://many.example/").await));
    let first_eight: Vec<String> = (12..=19).map(|number| format!("1.1.1.{number}:80")).collect();
    assert_eq!(recorded.dialled(), first_eight);
}

#[tokio::test]
async fn a_refusal_is_told_rather_than_a_network_that_is_away() {
    let hosts = "1.1.1.1 dual.example\n2606:4700::1111 dual.example\n";
    let reaction = |address: IpAddr| match address {
        IpAddr::V4(_) => Reaction::Refuses,
        IpAddr::V6(_) => Reaction::Unreachable,
    };
    let recorded = Recorded::new(Egress::default(), hosts, reaction);
    assert!(is_refused(&recorded.call("http://dual.example/").await));
    assert_eq!(recorded.dialled().len(), 2);
}

#[test]
fn the_host_that_is_dialled_is_the_host_that_was_read() {
    for text in [
        "http://127.1/",
        r"http://bot.example\@127.0.0.1/",
        "http://bot.example?@127.0.0.1/",
        "http:bot.example",
        "http://BÜCHER.example:0080/a b|c\"{}^`",
        "http://[0:0::1]:81/",
        "http://bot_1.example./",
        "http://bot.example/\t\n..//%2e%2e/?q=\\#@x",
    ] {
        let url = Egress::default().endpoint(text).expect(text);
        let uri: Uri = url.as_str().parse().unwrap_or_else(|error| panic!("{url}: {error}"));
        assert_eq!(uri.host(), url.host_str(), "{text}");
        assert_eq!(uri.port_u16(), url.port(), "{text}");
    }
}
