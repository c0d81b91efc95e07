//! No call reaches an address that the operator has not allowed, whatever the URL's spelling or a redirect
//! do. What becomes of every other spelling is in the core's own table (`core/src/egress/spellings.rs`).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::setup::{self, Said};
use crate::support::{Answer, Config, Endpoint, Outhook, channel_event};

/// Ways to write 127.0.0.1.
static LOOPBACK: [&str; 20] = [
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "2130706433",
    "0177.0.0.1",
    "017700000001",
    "0x7f.0.0.1",
    "0x7F000001",
    "%31%32%37.0.0.1",
    "１２７.0.0.1",
    "127。0。0。1",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:7f00:0001]",
    "localhost",
    "LocalHost",
    "%6c%6f%63alhost",
    "①②⑦.⓪.⓪.①",
    "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
];

/// Other addresses of the machine itself.
static ITSELF: [&str; 10] = [
    "127.0.0.2",
    "127.255.255.254",
    "0",
    "0.0.0.0",
    "[::]",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[::ffff:0:127.0.0.1]",
];

/// Private, link-local and metadata addresses, and others that are not on the public Internet.
static NOT_PUBLIC: [&str; 15] = [
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "2852039166",
    "0xa9.0xfe.0xa9.0xfe",
    "[::ffff:169.254.169.254]",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:7f00:1::]",
    "[ff02::1]",
    "224.0.0.1",
    "255.255.255.255",
];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_the_public_internet_is_dialled_by_default() {
    let doorbell = Doorbell::install().await;
    let hosts = LOOPBACK.iter().chain(&ITSELF).chain(&NOT_PUBLIC);
    let mut urls: Vec<String> = hosts.map(|host| format!("http://{host}:{}/", doorbell.port)).collect();
    urls.push(format!("https://127.0.0.1:{}/", doorbell.port));

    let calls = call(&Config::sqlite().set("egress.allow", "[]"), &urls).await;

    for (url, called) in urls.iter().zip(&calls) {
        assert_eq!(called.seen(), ("failed", Some("blocked"), 1), "{url}: {:?}", called.delivery);
        assert!(called.is_told(), "{url}: {:?}", called.said);
    }
    assert_eq!(doorbell.rings(), 0, "somebody was dialled");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_network_is_dialled_in_every_spelling_and_no_other() {
    let endpoint = Endpoint::json(json!({})).await;
    let port = endpoint.address().port();
    let url = |host: &&str| format!("http://{host}:{port}/hook");
    let (allowed, forbidden): (Vec<String>, Vec<String>) =
        (LOOPBACK.iter().map(url).collect(), ITSELF.iter().chain(&NOT_PUBLIC).map(url).collect());
    let urls = [allowed.clone(), forbidden].concat();

    let calls = call(&Config::sqlite().set("egress.allow", r#"["127.0.0.1/32"]"#), &urls).await;

    for (url, called) in urls.iter().zip(&calls) {
        let expected =
            if allowed.contains(url) { ("succeeded", None, 1) } else { ("failed", Some("blocked"), 1) };
        assert_eq!(called.seen(), expected, "{url}: {:?}", called.delivery);
    }
    assert_eq!(endpoint.requests().len(), allowed.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed_wherever_it_leads() {
    let elsewhere = Endpoint::json(json!({ "content": "nobody may come here" })).await;
    let (absolute, without_scheme) = (elsewhere.url("/"), format!("//{}/", elsewhere.address()));
    let mut endpoints = vec![];
    for location in [absolute.as_str(), without_scheme.as_str(), "/again", "http://169.254.169.254/latest/"] {
        for status in [301, 302, 303, 307, 308] {
            endpoints.push(redirecting(status, location).await);
        }
    }
    let urls: Vec<String> = endpoints.iter().map(|endpoint| endpoint.url("/")).collect();

    let calls = call(&Config::sqlite(), &urls).await;

    for (endpoint, called) in endpoints.iter().zip(&calls) {
        assert_eq!(called.seen(), ("failed", Some("status"), 1), "{:?}", called.delivery);
        assert!(called.is_told(), "{:?}", called.said);
        assert_eq!(endpoint.requests().len(), 1, "{:#?}", endpoint.requests());
    }
    assert!(elsewhere.requests().is_empty(), "{:#?}", elsewhere.requests());
}

/// A port of the machine that counts who comes, over IPv4 and, where there is any, IPv6.
pub(crate) struct Doorbell {
    pub(crate) port: u16,
    rings: Arc<AtomicUsize>,
}

impl Doorbell {
    pub(crate) async fn install() -> Self {
        Self::at(Ipv4Addr::LOCALHOST, 0).await
    }

    /// At this address and port; 0 = any that is free.
    pub(crate) async fn at(address: Ipv4Addr, port: u16) -> Self {
        let listener = TcpListener::bind((address, port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let rings = Arc::new(AtomicUsize::new(0));
        let v6 = TcpListener::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await;
        for listener in [Some(listener), v6.ok()].into_iter().flatten() {
            tokio::spawn(count(listener, Arc::clone(&rings)));
        }
        Self { port, rings }
    }

    pub(crate) fn rings(&self) -> usize {
        self.rings.load(Ordering::SeqCst)
    }
}

async fn count(listener: TcpListener, rings: Arc<AtomicUsize>) {
    while listener.accept().await.is_ok() {
        rings.fetch_add(1, Ordering::SeqCst);
    }
}

/// What came of a call.
pub(crate) struct Called {
    pub(crate) delivery: Value,
    said: Vec<Said>,
}

impl Called {
    /// State, reason and attempts.
    pub(crate) fn seen(&self) -> (&str, Option<&str>, u64) {
        let text = |key: &str| self.delivery[key].as_str();
        (text("state").unwrap(), text("reason"), self.delivery["attempts"].as_u64().unwrap())
    }

    /// The one line that the bot said.
    pub(crate) fn told(&self) -> &str {
        assert!(self.is_told(), "{:?}", self.said);
        &self.said[0].content
    }

    fn is_told(&self) -> bool {
        matches!(self.said.as_slice(), [line] if line.is_told())
    }
}

/// Calls each URL for a bot of its own, and returns what came of it, in the same order.
pub(crate) async fn call(config: &Config, urls: &[String]) -> Vec<Called> {
    let db = setup::tables(config).await;
    let mut events = vec![];
    for (bot, url) in (1..).zip(urls) {
        setup::insert_bot_at(&db, bot, url).await;
        events.push(channel_event(bot, 1000 + bot, 7, "soup", "Hi!"));
    }
    let _outhook = Outhook::start(config).await;
    setup::send(config, &events).await;
    setup::all_finished(&db).await;

    let (deliveries, said) = (setup::deliveries(config).await, setup::outbox(&db).await);
    let of_bot = |bot: i64| Called {
        delivery: deliveries.iter().find(|delivery| delivery["bot_id"] == bot).unwrap().clone(),
        said: said.iter().filter(|line| line.bot == bot).cloned().collect(),
    };
    (1..).zip(urls).map(|(bot, _)| of_bot(bot)).collect()
}

async fn redirecting(status: u16, location: &str) -> Endpoint {
    let headers = vec![("location".to_owned(), location.to_owned())];
    Endpoint::start(move |_, _| Answer::Http { status, headers: headers.clone(), body: vec![] }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_host_is_dialled_by_that_name_only() {
    let endpoint = Endpoint::json(json!({})).await;
    let config = Config::sqlite().set("egress.allow", r#"["localhost"]"#);
    let port = endpoint.address().port();
    let mut bots = vec![];
    for host in ["localhost", "LOCALHOST", "127.0.0.1", "localhost.localdomain"] {
        let email = format!("{host}@x.org");
        let added = config.cli(&["bots", "add", "--email", &email, "--name", host, "--json"]).await.success();
        let bot = added.records()[0]["id"].as_i64().unwrap();
        let (id, url) = (bot.to_string(), format!("http://{host}:{port}/"));
        config.cli(&["services", "add", "--bot", &id, "--name", "s", "--url", &url]).await.success();
        bots.push(bot);
    }
    let _outhook = Outhook::start(&config).await;
    let events: Vec<String> =
        bots.iter().map(|bot| channel_event(*bot, 1, 1, "t", "x").to_string()).collect();
    config.cli_with_input(&["send", "--file", "-"], events.join("\n").as_bytes()).await.success();
    let called = endpoint.wait_for(2).await;
    assert!(called.iter().all(|request| request.header("host").unwrap().starts_with("localhost:")));
    let blocked = || async {
        let failed = config.cli(&["deliveries", "--failed", "--json"]).await.success().records();
        failed.iter().any(|call| call["reason"] == "blocked").then_some(())
    };
    crate::support::eventually("the address itself is blocked", crate::support::PATIENCE, blocked).await;
    assert_eq!(endpoint.requests().len(), 2);
}
