//! `egress.proxy`: every call to a bot goes through it and none around it, and what it says itself is told
//! from what bots say.

mod faults;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::setup::{self, Said};
use crate::support::{
    Answer, Authority, Config, Db, Endpoint, Outhook, PATIENCE, Request, Ruling, Smokescreen, Tinyproxy,
    TlsFront, Validity, channel_event, eventually, free_port,
};

const WHO: &str =
    "HTTP/1.1 407 Who are you\r\nProxy-Authenticate: Basic realm=\"x\"\r\ncontent-length: 0\r\n\r\n";
const NO_PROXY: &str = "SSH-2.0-OpenSSH_9.2\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn http_is_sent_to_the_proxy_and_https_through_a_tunnel_and_nothing_is_resolved_or_dialled() {
    let doorbell = Doorbell::install();
    let authority = Authority::new("Ours");
    let endpoint = Endpoint::json(json!({})).await;
    let tls = TlsFront::start(&authority.sign(&["bot.invalid"], Validity::Now), endpoint.address()).await;
    let (plain, secure) = (endpoint.address(), tls.address());
    let to = move |request: &Request, _: usize| {
        Ruling::To(if request.method == "CONNECT" { secure } else { plain })
    };
    let proxy = Smokescreen::start(to).await;
    let config = through(&proxy.url(), Config::sqlite()).trusting(&authority);
    let near = format!("http://127.0.0.1:{}/near", doorbell.port);

    let urls =
        ["http://bot.invalid/hook?a=b", "https://bot.invalid/hook?a=b", near.as_str()].map(str::to_owned);
    for (url, call) in urls.iter().zip(call(&config, &urls).await) {
        assert_eq!(call.seen(), ("succeeded", None, 1), "{url}: {:?}", call.delivery);
    }

    assert!(doorbell.is_silent(), "somebody was dialled");
    let mut asked = proxy.requests();
    asked.sort_by(|one, other| one.path.cmp(&other.path));
    let targets: Vec<(&str, &str)> =
        asked.iter().map(|request| (request.method.as_str(), request.path.as_str())).collect();
    assert_eq!(
        targets,
        [("CONNECT", "bot.invalid:443"), ("POST", near.as_str()), ("POST", urls[0].as_str())]
    );
    assert!(
        asked.iter().all(|request| request.header("x-smokescreen-role") == Some("webhook")),
        "{asked:#?}"
    );
    assert_eq!(asked[0].headers.len(), 2, "nothing else is told to the proxy: {asked:#?}");
    assert_eq!(asked[2].header("host"), Some("bot.invalid"));
    assert_eq!(tls.hellos()[0].sni.as_deref(), Some("bot.invalid"));
    let called = endpoint.requests();
    assert_eq!(called.len(), 3, "{called:#?}");
    for request in called.iter().filter(|request| request.path != "/near") {
        assert_eq!((request.path.as_str(), request.header("host")), ("/hook?a=b", Some("bot.invalid")));
        assert_eq!(request.header("x-smokescreen-role"), None);
        assert!(request.header("webhook-signature").is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_of_a_proxy_has_its_own_outcome_over_http_and_https() {
    let proxy = Smokescreen::start(|request, _| match status_in(&request.path) {
        429 => Ruling::Refuse(429, "not this time", "Retry-After: 1\r\n"),
        status => Ruling::Refuse(status, "not this time", ""),
    })
    .await;
    let config = through(&proxy.url(), Config::sqlite()).set("retry.max_retries", "1");
    let table = [
        (407, "blocked", 1, "the proxy does not let the endpoint be called"),
        (502, "refused", 2, "the proxy could not connect to the endpoint"),
        (504, "timeout", 2, "the proxy could not connect to the endpoint in time"),
        (429, "proxy", 2, "the proxy failed"),
        (500, "proxy", 2, "the proxy failed"),
    ];
    let urls: Vec<String> = table
        .iter()
        .flat_map(|(s, ..)| ["http", "https"].map(|scheme| format!("{scheme}://s{s}.invalid/")))
        .collect();
    let calls = call(&config, &urls).await;
    for ((url, call), (status, reason, attempts, why)) in
        urls.iter().zip(&calls).zip(table.iter().flat_map(|row| [row, row]))
    {
        assert_eq!(call.seen(), ("failed", Some(*reason), *attempts), "{url}: {:?}", call.delivery);
        let detail = call.detail();
        assert!(detail.starts_with(&format!("{why}: status {status} not this time")), "{url}: {detail}");
        assert!(call.is_told(), "{url}: {:?}", call.said);
    }
    let asked = proxy.requests();
    for target in ["http://s429.invalid/", "s429.invalid:443"] {
        let at: Vec<_> =
            asked.iter().filter(|request| request.path == target).map(|request| request.at).collect();
        // Without Retry-After the second attempt comes after 75 ms at most; the product counts milliseconds.
        assert!(at[1] - at[0] >= Duration::from_millis(950), "{target}: {:?}", at[1] - at[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_smokescreens_header_is_the_proxys_only_where_it_can_be_nobody_elses() {
    const FORBIDDEN: &str = "HTTP/1.1 403 Filtered\r\ncontent-length: 0\r\n\r\n";
    let proxy = Smokescreen::start(|request, _| match status_in(&request.path) {
        403 => Ruling::Raw(FORBIDDEN),
        407 => Ruling::Raw(WHO),
        _ => Ruling::Raw(NO_PROXY),
    })
    .await;
    let config = through(&proxy.url(), Config::sqlite()).set("retry.max_retries", "0");
    let wants = "wants a user name and password";
    let table = [
        ("http://s403.invalid/", "status", "the endpoint answered with status 403"),
        ("https://s403.invalid/", "blocked", "status 403 Filtered"),
        ("http://s407.invalid/", "proxy", wants),
        ("https://s407.invalid/", "proxy", wants),
        ("https://s000.invalid/", "proxy", "does not answer CONNECT in HTTP/1"),
    ];
    let urls = table.map(|(url, ..)| url.to_owned());
    for (call, (url, reason, why)) in call(&config, &urls).await.iter().zip(table) {
        assert_eq!(call.seen(), ("failed", Some(reason), 1), "{url}: {:?}", call.delivery);
        assert!(call.detail().contains(why), "{url}: {}", call.detail());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn smokescreens_header_means_nothing_where_there_is_no_proxy() {
    let marked = |status| Answer::Http {
        status,
        headers: vec![
            ("X-Smokescreen-Error".to_owned(), "forged".to_owned()),
            ("Proxy-Authenticate".to_owned(), "Basic".to_owned()),
        ],
        body: vec![],
    };
    let good = Endpoint::start(move |_, _| marked(200)).await;
    let bad = Endpoint::start(move |_, _| marked(407)).await;
    let calls = call(&Config::sqlite(), &[good.url("/"), bad.url("/")]).await;
    assert_eq!(calls[0].seen(), ("succeeded", None, 1), "{:?}", calls[0].delivery);
    assert_eq!(calls[1].seen(), ("failed", Some("status"), 1), "{:?}", calls[1].delivery);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_down_is_waited_for() {
    let endpoint = Endpoint::json(json!({})).await;
    let port = free_port();
    let config =
        through(&format!("http://127.0.0.1:{port}"), Config::sqlite()).set("retry.max_retries", "100");
    let checked = config.cli(&["check"]).await;
    assert_eq!(checked.status, 69, "{checked:#?}");
    assert!(checked.stdout.contains("(egress.proxy) can't be reached"), "{checked:#?}");

    let urls = ["http://bot.invalid/", "https://bot.invalid/"].map(str::to_owned);
    let (db, _outhook) = sent(&config, &urls).await;
    let waits = || async {
        let deliveries = setup::deliveries(&config).await;
        let waits = |call: &Value| call["reason"] == "proxy" && detail_of(call).contains("(egress.proxy)");
        (deliveries.len() == 2 && deliveries.iter().all(waits)).then_some(())
    };
    eventually("both calls to have failed at the proxy", PATIENCE, waits).await;

    let address = endpoint.address();
    let _proxy = Smokescreen::start_on(port, move |request, _| match request.method.as_str() {
        "CONNECT" => Ruling::Refuse(407, "no", ""),
        _ => Ruling::To(address),
    })
    .await;
    setup::all_finished(&db).await;
    let calls = outcomes(&config, &db, 2).await;
    assert_eq!(calls[0].delivery["state"], "succeeded", "{:?}", calls[0].delivery);
    assert_eq!(calls[1].delivery["reason"], "blocked", "{:?}", calls[1].delivery);
    assert_eq!(config.cli(&["check"]).await.success().status, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_are_posted_around_the_proxy() {
    let bot = Endpoint::json(json!({ "content": "soup" })).await;
    let zulip = Endpoint::json(json!({ "result": "success", "msg": "", "id": 1 })).await;
    let address = bot.address();
    let proxy = Smokescreen::start(move |_, _| Ruling::To(address)).await;
    let config = through(&proxy.url(), Config::sqlite())
        .text("reply.to", "zulip")
        .text("reply.site", &zulip.url(""))
        .text("zulip.external_host", "chat.example.org");
    setup::tables(&config).await;
    let (id, _) = setup::one_bot(&config, "http://bot.invalid/", "generic").await;
    let _outhook = Outhook::start(&config).await;
    setup::send(&config, &[channel_event(id, 1001, 7, "soup", "Hi!")]).await;
    let posts = zulip.wait_for(1).await;
    assert_eq!((posts[0].path.as_str(), posts[0].header("x-smokescreen-role")), ("/api/v1/messages", None));
    let asked = proxy.requests();
    assert!(matches!(&asked[..], [call] if call.path == "http://bot.invalid/"), "{asked:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_proxy_passes_http_and_https_and_refuses_a_tunnel() {
    let authority = Authority::new("Ours");
    let endpoint = Endpoint::json(json!({})).await;
    let identity = authority.sign(&["localhost"], Validity::Now);
    let allowed = TlsFront::start(&identity, endpoint.address()).await;
    let forbidden = TlsFront::start(&identity, endpoint.address()).await;
    let tinyproxy = Tinyproxy::start(&format!("ConnectPort {}", allowed.address().port())).await;
    let config = through(&tinyproxy.url(""), Config::sqlite()).trusting(&authority);
    let urls = [endpoint.url("/plain"), allowed.url("localhost", "/tls"), forbidden.url("localhost", "/tls")];

    let calls = call(&config, &urls).await;

    let log = tinyproxy.log();
    assert_eq!(calls[0].seen(), ("succeeded", None, 1), "{:?}\n{log}", calls[0].delivery);
    assert_eq!(calls[1].seen(), ("succeeded", None, 1), "{:?}\n{log}", calls[1].delivery);
    assert_eq!(calls[2].seen(), ("failed", Some("blocked"), 1), "{:?}\n{log}", calls[2].delivery);
    assert!(calls[2].is_told(), "{:?}", calls[2].said);
    assert!(forbidden.hellos().is_empty());
    let requests = endpoint.requests();
    assert_eq!(requests.len(), 2, "{requests:#?}");
    let plain = requests.iter().find(|request| request.path == "/plain").unwrap();
    assert!(plain.header("via").is_some_and(|via| via.contains("tinyproxy")), "{plain:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_proxy_is_told_the_user_and_password_and_the_lack_of_them_is_explained() {
    let authority = Authority::new("Ours");
    let endpoint = Endpoint::json(json!({})).await;
    let tls = TlsFront::start(&authority.sign(&["localhost"], Validity::Now), endpoint.address()).await;
    let tinyproxy = Tinyproxy::start("BasicAuth outhook secret").await;
    let urls = [endpoint.url("/"), tls.url("localhost", "/")];
    for (user_info, expected) in
        [("outhook:s%65cret@", ("succeeded", None, 1)), ("", ("failed", Some("proxy"), 1))]
    {
        let config = through(&tinyproxy.url(user_info), Config::sqlite()).set("retry.max_retries", "0");
        let config = config.trusting(&authority);
        for (url, call) in urls.iter().zip(call(&config, &urls).await) {
            assert_eq!(call.seen(), expected, "{url} as {user_info:?}: {:?}", call.delivery);
            let is_explained = call.detail().contains("wants a user name and password");
            assert_eq!(is_explained, expected.1.is_some(), "{url}: {:?}", call.delivery);
        }
    }
    assert!(endpoint.requests().iter().all(|request| request.header("proxy-authorization").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_asks_the_proxy_for_nobody_and_tells_the_want_of_credentials_from_other_refusals() {
    let proxy = Smokescreen::start(|_, number| match number {
        0 => Ruling::Raw(WHO),
        1 => Ruling::Raw(NO_PROXY),
        2 => Ruling::Refuse(407, "denied", ""),
        _ => Ruling::Refuse(502, "no such host", ""),
    })
    .await;
    let config = through(&proxy.url(), Config::sqlite());
    let takes = "which answers and asks for no other credentials";
    for (status, says) in [
        (69, "wants a user name and password, or others"),
        (69, "does not answer CONNECT in HTTP/1"),
        (0, takes),
        (0, takes),
    ] {
        let checked = config.cli(&["check"]).await;
        assert_eq!(checked.status, status, "{checked:#?}");
        assert!(checked.stdout.contains(says), "{says}: {checked:#?}");
    }
    let asked = proxy.requests();
    assert_eq!(asked.len(), 4);
    let is_for_nobody =
        |request: &Request| request.method == "CONNECT" && request.path == "check.outhook.invalid:443";
    assert!(asked.iter().all(is_for_nobody), "{asked:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_out_whether_a_real_proxy_takes_the_user_and_password() {
    // It refuses what `check` asks for by its port, so that it looks nothing up.
    let tinyproxy = Tinyproxy::start("BasicAuth outhook secret\nConnectPort 1").await;
    for (user_info, status) in [("outhook:secret@", 0), ("outhook:wrong@", 69), ("", 69)] {
        let checked = through(&tinyproxy.url(user_info), Config::sqlite()).cli(&["check"]).await;
        assert_eq!(checked.status, status, "{user_info:?}: {checked:#?}\n{}", tinyproxy.log());
        let is_explained = checked.stdout.contains("wants a user name and password");
        assert_eq!(is_explained, status != 0, "{user_info:?}: {checked:#?}");
    }
}

/// A port of the machine at which nobody may ring.
struct Doorbell {
    listener: TcpListener,
    port: u16,
}

impl Doorbell {
    fn install() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        Self { listener, port }
    }

    /// Whether nobody has ever connected: the system keeps those who have for `accept`.
    fn is_silent(&self) -> bool {
        matches!(self.listener.accept(), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }
}

/// The number in a host such as `s407.invalid`.
fn status_in(target: &str) -> u16 {
    let digits: String = target.chars().filter(char::is_ascii_digit).take(3).collect();
    digits.parse().unwrap()
}

/// Calls bots through this proxy, with no network allowed beyond the public Internet.
fn through(proxy: &str, config: Config) -> Config {
    config.set("egress.allow", "[]").text("egress.proxy", proxy)
}

/// What came of a call.
struct Called {
    delivery: Value,
    said: Vec<Said>,
}

impl Called {
    /// State, reason and attempts.
    fn seen(&self) -> (&str, Option<&str>, u64) {
        let text = |key: &str| self.delivery[key].as_str();
        (text("state").unwrap(), text("reason"), self.delivery["attempts"].as_u64().unwrap())
    }

    fn detail(&self) -> &str {
        detail_of(&self.delivery)
    }

    fn is_told(&self) -> bool {
        matches!(self.said.as_slice(), [line] if line.is_told())
    }
}

fn detail_of(delivery: &Value) -> &str {
    delivery["detail"].as_str().unwrap_or_default()
}

/// Starts the daemon, and sends an event to a bot of its own for each URL.
async fn sent(config: &Config, urls: &[String]) -> (Db, Outhook) {
    let db = setup::tables(config).await;
    let mut events = vec![];
    for (bot, url) in (1..).zip(urls) {
        setup::insert_bot(&db, bot).await;
        setup::insert_service(&db, bot, url, 1, setup::TOKEN).await;
        events.push(channel_event(bot, 1000 + bot, 7, "soup", "Hi!"));
    }
    let outhook = Outhook::start(config).await;
    setup::send(config, &events).await;
    (db, outhook)
}

/// Calls each URL, and returns what came of it, in the same order.
async fn call(config: &Config, urls: &[String]) -> Vec<Called> {
    let (db, _outhook) = sent(config, urls).await;
    setup::all_finished(&db).await;
    outcomes(config, &db, urls.len()).await
}

async fn outcomes(config: &Config, db: &Db, bots: usize) -> Vec<Called> {
    let (deliveries, said) = (setup::deliveries(config).await, setup::outbox(db).await);
    let of_bot = |bot: i64| Called {
        delivery: deliveries.iter().find(|delivery| delivery["bot_id"] == bot).unwrap().clone(),
        said: said.iter().filter(|line| line.bot == bot).cloned().collect(),
    };
    (1..).take(bots).map(of_bot).collect()
}
