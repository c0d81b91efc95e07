//! TLS: verified always, and a failure is explained.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::rustls::{
    SupportedProtocolVersion,
    version::{TLS12, TLS13},
};

use crate::support::setup;
use crate::support::{
    Answer, Authority, Config, Ending, Endpoint, Identity, Manners, Outhook, TlsFront, Validity,
    channel_event,
};

/// How a call ended, and what its detail says about it.
type Expected = (&'static str, Option<&'static str>, &'static str);

const SUCCEEDED: Expected = ("succeeded", None, "");

#[tokio::test(flavor = "multi_thread")]
async fn only_a_certificate_that_is_valid_for_the_host_is_accepted_and_a_failure_says_why() {
    let (authority, stranger) = (Authority::new("Ours"), Authority::new("Somebody else's"));
    let endpoint = Endpoint::json(json!({})).await;
    let all = ["localhost", "127.0.0.1"];
    let mut fronts = vec![];
    let mut table: Vec<(String, Expected)> = vec![];
    let failed = |why| ("failed", Some("tls"), why);
    for (identity, host, expected) in [
        (authority.sign(&all, Validity::Now), "localhost", SUCCEEDED),
        (authority.sign(&all, Validity::Now), "127.0.0.1", SUCCEEDED),
        (
            authority.sign(&all, Validity::Past),
            "localhost",
            failed("expired: it was valid until 2002-01-01T"),
        ),
        (
            authority.sign(&all, Validity::Future),
            "localhost",
            failed("not valid yet: it will be from 2399-01-01T"),
        ),
        (
            authority.sign(&["bot.example.org", "10.0.0.1"], Validity::Now),
            "localhost",
            failed("is for bot.example.org, 10.0.0.1, not for localhost"),
        ),
        (
            authority.sign(&["localhost"], Validity::Now),
            "127.0.0.1",
            failed("is for localhost, not for 127.0.0.1"),
        ),
        (stranger.sign(&all, Validity::Now), "localhost", failed("by an authority that is not trusted here")),
        (Identity::self_signed(&all, false), "localhost", failed("or only by itself")),
        (Identity::self_signed(&all, true), "localhost", failed("that of an authority")),
    ] {
        let front = TlsFront::start(&identity, endpoint.address()).await;
        table.push((front.url(host, "/"), expected));
        fronts.push(front);
    }

    check(config(&authority), &table).await;

    assert_eq!(endpoint.count(), 2, "{:#?}", endpoint.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_name_is_told_as_sni_and_an_address_is_not() {
    let authority = Authority::new("Ours");
    let endpoint = Endpoint::json(json!({})).await;
    let identity = authority.sign(&["localhost", "127.0.0.1", "::1"], Validity::Now);
    let v4 = TlsFront::start(&identity, endpoint.address()).await;
    let mut urls = vec![v4.url("localhost", "/"), v4.url("127.0.0.1", "/")];
    let v6 = if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok() {
        let manners = Manners { ip: Ipv6Addr::LOCALHOST.into(), ..Manners::default() };
        let front = TlsFront::with(&identity, endpoint.address(), manners).await;
        urls.push(front.url("[::1]", "/"));
        Some(front)
    } else {
        None // this machine has no IPv6
    };
    let table: Vec<(String, Expected)> = urls.iter().map(|url| (url.clone(), SUCCEEDED)).collect();

    check(config(&authority), &table).await;

    let hellos = [v4.hellos(), v6.map(|front| front.hellos()).unwrap_or_default()].concat();
    let names: Vec<&str> = hellos.iter().filter_map(|hello| hello.sni.as_deref()).collect();
    assert_eq!((names.as_slice(), hellos.len()), (["localhost"].as_slice(), urls.len()), "{hellos:?}");
    assert!(hellos.iter().all(|hello| hello.protocols == ["http/1.1"]), "{hellos:?}");
    let mut hosts: Vec<String> =
        endpoint.requests().iter().map(|request| request.header("host").unwrap().to_owned()).collect();
    let host = |url: &String| url["https://".len()..].trim_end_matches('/').to_owned();
    let mut expected: Vec<String> = urls.iter().map(host).collect();
    hosts.sort_unstable();
    expected.sort_unstable();
    assert_eq!(hosts, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_tls_in_use_are_spoken_and_connections_are_kept() {
    let authority = Authority::new("Ours");
    let identity = authority.sign(&["localhost"], Validity::Now);
    let endpoint = Endpoint::json(json!({})).await;
    static OLD: [&SupportedProtocolVersion; 1] = [&TLS12];
    static NEW: [&SupportedProtocolVersion; 1] = [&TLS13];
    let old = Manners { versions: &OLD, ..Manners::default() };
    let new = Manners { versions: &NEW, ..Manners::default() };
    let old = TlsFront::with(&identity, endpoint.address(), old).await;
    let new = TlsFront::with(&identity, endpoint.address(), new).await;
    let config = config(&authority);
    let db = setup::tables(&config).await;
    for (bot, front) in [(1, &old), (2, &new)] {
        setup::insert_bot(&db, bot).await;
        setup::insert_service(&db, bot, &front.url("localhost", "/"), 1, setup::TOKEN).await;
    }
    let _outhook = Outhook::start(&config).await;
    for message in 0..3 {
        let events = [1, 2].map(|bot| channel_event(bot, 10 * message + bot, 7, "soup", "Hi!"));
        setup::send(&config, &events).await;
        setup::all_finished(&db).await;
    }
    assert_eq!(endpoint.count(), 6);
    assert_eq!((old.hellos().len(), new.hellos().len()), (1, 1), "connections");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_speaks_no_tls_or_breaks_it_off_is_told_from_one_that_can_not_be_reached() {
    let plain = Peer::start(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
    // The alert "protocol version", as a server sends it that knows only older versions of TLS.
    let outdated = Peer::start(&[0x15, 3, 1, 0, 2, 2, 70]).await;
    let mute = Peer::start(b"").await;
    let failed = |why| ("failed", Some("tls"), why);
    let table = [
        (plain.url(), failed("does not speak TLS at this port")),
        (outdated.url(), failed("speaks neither TLS 1.2 nor TLS 1.3")),
        (mute.url(), failed("broke while TLS was being agreed on")),
    ];
    check(config(&Authority::new("Ours")), &table).await;
}

/// One that ends connections without TLS's own end, and one that does not.
async fn fronts(identity: &Identity, endpoint: &Endpoint) -> (TlsFront, TlsFront) {
    let rude = Manners { ending: Ending::Bare, ..Manners::default() };
    let rude = TlsFront::with(identity, endpoint.address(), rude).await;
    (rude, TlsFront::start(identity, endpoint.address()).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_cut_short_is_noticed_however_the_connection_ends() {
    let authority = Authority::new("Ours");
    let identity = authority.sign(&["localhost"], Validity::Now);
    let endpoint = Endpoint::start(|request, _| match request.path.as_str() {
        "/length" => Answer::Truncated,
        _ => Answer::Raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n".to_vec()),
    })
    .await;
    let (rude, polite) = fronts(&identity, &endpoint).await;
    let truncated = ("failed", Some("truncated"), "the answer's body");
    let mut table = vec![];
    for front in [&rude, &polite] {
        table.extend(["/length", "/chunks"].map(|path| (front.url("localhost", path), truncated)));
    }
    check(config(&authority), &table).await;
    assert_eq!(endpoint.count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_ends_with_its_connection_is_complete_only_with_the_end_that_tls_has_for_that() {
    let authority = Authority::new("Ours");
    let identity = authority.sign(&["localhost"], Validity::Now);
    let endpoint = Endpoint::start(|request, _| {
        let version = request.path.trim_start_matches('/');
        Answer::Raw(format!("HTTP/{version} 200 OK\r\n\r\n{{}}").into())
    })
    .await;
    let (rude, polite) = fronts(&identity, &endpoint).await;
    let truncated = ("failed", Some("truncated"), "without TLS's own end");
    let mut table = vec![];
    for path in ["/1.0", "/1.1"] {
        table.push((polite.url("localhost", path), SUCCEEDED));
        table.push((rude.url("localhost", path), truncated));
    }
    check(config(&authority), &table).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_authorities_that_can_not_be_used_is_a_fault_of_the_configuration() {
    let config = Config::sqlite();
    let folder = config.folder().to_owned();
    fs::write(folder.join("empty.pem"), "").unwrap();
    fs::write(folder.join("broken.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .unwrap();
    let mut config = config;
    for (file, why) in
        [("missing.pem", "No such file"), ("empty.pem", "none was found"), ("broken.pem", "PEM")]
    {
        config = config.text("egress.ca_file", &folder.join(file).to_string_lossy());
        for command in ["run", "check"] {
            let ended = config.cli(&[command]).await;
            assert_eq!(ended.status, 64, "{command} with {file}: {ended:#?}");
            let told = format!("{}{}", ended.stdout, ended.stderr);
            assert!(told.contains("egress.ca_file") && told.contains(why), "{command} with {file}: {told}");
        }
    }
}

/// Reads the beginning of what a client says, answers it with the same bytes always, and hangs up.
struct Peer(SocketAddr);

impl Peer {
    async fn start(answer: &[u8]) -> Self {
        let (listener, answer) =
            (TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(), answer.to_vec());
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                stream.write_all(&answer).await.ok();
            }
        });
        Self(address)
    }

    fn url(&self) -> String {
        format!("https://{}/", self.0)
    }
}

/// Trusts this authority, and calls only once.
fn config(authority: &Authority) -> Config {
    Config::sqlite().set("retry.max_retries", "0").trusting(authority)
}

/// Calls each URL for a bot of its own, and compares what came of it.
async fn check(config: Config, table: &[(String, Expected)]) {
    let db = setup::tables(&config).await;
    let mut events = vec![];
    for (bot, (url, _)) in (1..).zip(table) {
        setup::insert_bot(&db, bot).await;
        setup::insert_service(&db, bot, url, 1, setup::TOKEN).await;
        events.push(channel_event(bot, 1000 + bot, 7, "soup", "Hi!"));
    }
    let _outhook = Outhook::start(&config).await;
    setup::send(&config, &events).await;
    setup::all_finished(&db).await;
    let deliveries = setup::deliveries(&config).await;
    for (bot, (url, (state, reason, detail))) in (1_i64..).zip(table) {
        let delivery: &Value = deliveries.iter().find(|delivery| delivery["bot_id"] == bot).unwrap();
        assert_eq!(delivery["state"], *state, "{url}: {delivery}");
        assert_eq!(delivery["reason"].as_str(), *reason, "{url}: {delivery}");
        assert!(delivery["detail"].as_str().unwrap_or_default().contains(detail), "{url}: {delivery}");
    }
}
