//! What happens to an answer: every row of the outcome table, each with a bot of its own at one daemon.

mod lenient;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::setup::{self, Said};
use crate::support::{Answer, Config, Endpoint, Outhook, RefusedPort, channel_event};

const ATTEMPTS_MAX: u64 = 3;
const RESPONSE_BYTES_MAX: usize = 4096;

/// Ids of the table's first bot and of its message.
const FIRST_BOT: i64 = 100;
const FIRST_MESSAGE: i64 = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_the_outcome_that_the_table_says() {
    let elsewhere = Endpoint::json(json!({ "content": "nobody may come here" })).await;
    let refused = RefusedPort::new();
    let mut table = Table::default();
    add_successes(&mut table).await;
    add_answers_that_cannot_be_read(&mut table).await;
    add_redirects(&mut table, &elsewhere).await;
    add_statuses_tried_again(&mut table).await;
    add_retry_after(&mut table).await;
    add_final_statuses(&mut table).await;
    add_slow_endpoints(&mut table).await;
    add_heads_whose_bodies_never_come(&mut table).await;
    add_broken_lines(&mut table, &refused).await;
    add_truncated_answers(&mut table).await;
    add_answers_around_the_limit(&mut table).await;
    add_unusable_services(&mut table, &elsewhere);

    table.check(&config()).await;

    assert!(elsewhere.requests().is_empty(), "{:#?}", elsewhere.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_the_egress_rules_forbid_fails_at_once_and_is_told() {
    let endpoint = Endpoint::json(json!({})).await;
    let other = Endpoint::json(json!({})).await;
    let mut table = Table::default();
    table.url("an address that is not allowed", &endpoint.url("/"), Outcome::failed("blocked"));
    table.url("a port that is not allowed", &other.url("/"), Outcome::failed("bad_url"));

    let ports = format!("[{}]", endpoint.address().port());
    table.check(&config().set("egress.allow", "[]").set("egress.ports", &ports)).await;

    assert!(endpoint.requests().is_empty() && other.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_ends_with_its_connection_is_read_to_its_end() {
    let (exact, over) = (RESPONSE_BYTES_MAX, RESPONSE_BYTES_MAX + 1);
    let mut table = Table::default();
    for version in ["HTTP/1.0", "HTTP/1.1"] {
        let answer = move |body: &[u8]| {
            Answer::Raw([format!("{version} 200 OK\r\nconnection: close\r\n\r\n").as_bytes(), body].concat())
        };
        let soup = Outcome::succeeded(Says::reply("soup"));
        table.answer(version, soup, move |_| answer(br#"{"content":"soup"}"#)).await;
        table.answer(version, Outcome::succeeded(Says::Nothing), move |_| answer(b"")).await;
        let fits = Outcome::succeeded(Says::reply(&words_of(exact)));
        table.answer(version, fits, move |_| answer(&of_size(exact))).await;
        table.answer(version, Outcome::failed("too_large"), move |_| answer(&of_size(over))).await;
    }

    table.check(&config()).await;
}

async fn add_successes(table: &mut Table) {
    let soup = || Outcome::succeeded(Says::reply("soup"));
    let silent = || Outcome::succeeded(Says::Nothing);
    table.answer("200 with a reply", soup(), |_| text(200, r#"{"content":"soup"}"#)).await;
    table.answer("201 with a reply", soup(), |_| text(201, r#"{"content":"soup"}"#)).await;
    table.answer("200 with an object that says nothing", silent(), |_| text(200, "{}")).await;
    table.answer("200 with an empty body", silent(), |_| text(200, "")).await;
    table.answer("202 with an empty body", silent(), |_| text(202, "")).await;
    table.answer("204", silent(), |_| Answer::status(204)).await;
    table.answer("200 with an empty JSON string", silent(), |_| text(200, r#""""#)).await;
}

async fn add_answers_that_cannot_be_read(table: &mut Table) {
    for body in ["<html>It works!</html>", "[]", "[{}]", "null", "7", "true", r#""soup""#, r#"{"content":"#] {
        let name = format!("200 with {body}");
        table.answer(&name, Outcome::failed("bad_answer"), move |_| text(200, body)).await;
    }
}

async fn add_redirects(table: &mut Table, elsewhere: &Endpoint) {
    for status in [301, 302, 303, 307, 308] {
        let location = elsewhere.url("/");
        let answer = move |_| with_header(status, "location", &location);
        table.answer(&format!("{status}"), Outcome::failed("status"), answer).await;
    }
}

async fn add_statuses_tried_again(table: &mut Table) {
    for status in [408, 425, 429, 500, 502, 503, 504] {
        let name = format!("{status}, then a reply");
        let answer = move |number: usize| if number == 0 { text(status, "later") } else { reply("soup") };
        table.answer(&name, Outcome::succeeded(Says::reply("soup")).after(2), answer).await;

        let name = format!("{status} for ever");
        let expected = Outcome::failed("status").after(ATTEMPTS_MAX);
        table.answer(&name, expected, move |_| text(status, "never")).await;
    }
}

async fn add_retry_after(table: &mut Table) {
    let second = || Outcome::succeeded(Says::reply("soup")).after(2);
    // Without the header the second attempt comes after 75 ms at most; the product counts milliseconds.
    let nearly_a_second = Duration::from_millis(950);
    let seconds = |number: usize| if number == 0 { retry_after(429, "1") } else { reply("soup") };
    table.answer("Retry-After in seconds", second(), seconds).await.not_before(nearly_a_second);
    let date = |number: usize| if number == 0 { retry_after(503, &in_two_seconds()) } else { reply("soup") };
    table.answer("Retry-After as a date", second(), date).await.not_before(nearly_a_second);
    let nonsense = |number: usize| if number == 0 { retry_after(503, "soon") } else { reply("soup") };
    table.answer("Retry-After that cannot be read", second(), nonsense).await;
    let beyond = |_| retry_after(503, "3600");
    table.answer("Retry-After beyond give_up_after", Outcome::failed("status"), beyond).await;
}

async fn add_final_statuses(table: &mut Table) {
    for status in [400, 401, 403, 404, 405, 410, 422, 501, 505] {
        let name = format!("{status}");
        table.answer(&name, Outcome::failed("status"), move |_| text(status, "no")).await;
    }
}

async fn add_slow_endpoints(table: &mut Table) {
    let timeout = || Outcome::failed("timeout").after(ATTEMPTS_MAX);
    let every = Duration::from_millis(300);
    table.answer("no answer", timeout(), |_| Answer::Hang).await;
    table.answer("a head in drops", timeout(), move |_| Answer::Drip { head: true, every }).await;
    table.answer("a body in drops", timeout(), move |_| Answer::Drip { head: false, every }).await;
}

async fn add_heads_whose_bodies_never_come(table: &mut Table) {
    const LENGTH: &str = "content-length: 1\r\n";
    let failed = || Outcome::failed("status");
    for lines in [LENGTH, "transfer-encoding: chunked\r\n", ""] {
        for status in [403, 410] {
            let name = format!("{status} with {lines:?} and nothing more");
            table.answer(&name, failed(), move |_| head(status, lines)).await;
        }
    }
    table.answer("a 503 and nothing more", failed().after(ATTEMPTS_MAX), |_| head(503, LENGTH)).await;
    for status in [429, 503] {
        let name = format!("{status} with Retry-After beyond give_up_after and nothing more");
        let lines = "retry-after: 3600\r\ncontent-length: 1\r\n";
        table.answer(&name, failed(), move |_| head(status, lines)).await;
    }
    let timeout = Outcome::failed("timeout").after(ATTEMPTS_MAX);
    table.answer("a 200 and nothing more", timeout, |_| head(200, LENGTH)).await;
}

async fn add_broken_lines(table: &mut Table, refused: &RefusedPort) {
    let exhausted = |reason| Outcome::failed(reason).after(ATTEMPTS_MAX);
    table.answer("a reset", exhausted("reset"), |_| Answer::Reset).await;
    table.answer("an end without an answer", exhausted("reset"), |_| Answer::Close).await;
    let once = |number: usize| if number == 0 { Answer::Reset } else { reply("soup") };
    table.answer("a reset, then a reply", Outcome::succeeded(Says::reply("soup")).after(2), once).await;
    table.url("a refused connection", &refused.url("/"), exhausted("refused"));
    table.url("a name that does not exist", "http://no-such-host.invalid/", exhausted("dns"));
    let plain = format!("https://{}/", server_without_tls().await);
    table.url("a server without TLS", &plain, exhausted("tls"));
}

async fn add_truncated_answers(table: &mut Table) {
    let truncated = || Outcome::failed("truncated").after(ATTEMPTS_MAX);
    table.answer("a body cut short", truncated(), |_| Answer::Truncated).await;
    for (name, bytes) in [
        ("a body cut short where it looks whole", "content-length: 100\r\n\r\n{}"),
        ("a body of chunks cut short", "transfer-encoding: chunked\r\n\r\n20\r\n{\"content\""),
    ] {
        let answer = move |_| Answer::Raw(format!("HTTP/1.1 200 OK\r\n{bytes}").into());
        table.answer(name, truncated(), answer).await;
    }
    let once = |number: usize| if number == 0 { Answer::Truncated } else { reply("soup") };
    let expected = Outcome::succeeded(Says::reply("soup")).after(2);
    table.answer("a body cut short, then a reply", expected, once).await;
}

async fn add_answers_around_the_limit(table: &mut Table) {
    let (exact, over) = (RESPONSE_BYTES_MAX, RESPONSE_BYTES_MAX + 1);
    let fits = || Outcome::succeeded(Says::reply(&words_of(exact)));
    let too_large = || Outcome::failed("too_large");
    table.answer("as large as allowed", fits(), move |_| with_body(of_size(exact))).await;
    table.answer("a byte too large", too_large(), move |_| with_body(of_size(over))).await;
    table.answer("chunks as large as allowed", fits(), move |_| in_chunks(&of_size(exact))).await;
    table.answer("chunks a byte too large", too_large(), move |_| in_chunks(&of_size(over))).await;
    table.answer("gzip as large as allowed", fits(), move |_| Answer::gzipped(&of_size(exact))).await;
    table.answer("gzip a byte too large", too_large(), move |_| Answer::gzipped(&of_size(over))).await;
    table.answer("a body without end", too_large(), |_| Answer::EndlessBody).await;
}

fn add_unusable_services(table: &mut Table, elsewhere: &Endpoint) {
    let with_user = elsewhere.url("/").replace("http://", "http://user:password@");
    let shapes = ["", "no URL", "//example.org/", "http://", "ftp://127.0.0.1/", "http://127.0.0.1:0/"];
    for url in shapes.into_iter().chain([with_user.as_str()]) {
        table.url(&format!("the URL {url:?}"), url, Outcome::failed("bad_url"));
    }
    table.url("an unknown interface", &elsewhere.url("/"), Outcome::failed("bad_interface")).interface = 3;
    table.add("no service", None, Outcome::finished());
}

/// Cases of the outcome table.
#[derive(Default)]
struct Table(Vec<Case>);

/// A bot and what is to come of a message for it.
struct Case {
    name: String,
    /// `None`: a bot without services.
    url: Option<String>,
    interface: i16,
    /// Gets as many requests as there are attempts.
    endpoint: Option<Endpoint>,
    /// Between two requests.
    wait_min: Duration,
    /// What the ledger says of it, among other words.
    detail: &'static str,
    expected: Outcome,
}

/// What the ledger and the outbox say of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    state: String,
    reason: Option<String>,
    attempts: u64,
    says: Says,
}

/// What the bot says in the conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Says {
    Nothing,
    Reply(String),
    Failure,
}

impl Outcome {
    fn succeeded(says: Says) -> Self {
        Self { state: "succeeded".into(), reason: None, attempts: 1, says }
    }

    fn failed(reason: &str) -> Self {
        Self { state: "failed".into(), reason: Some(reason.into()), attempts: 1, says: Says::Failure }
    }

    /// Without any call.
    fn finished() -> Self {
        Self { state: "finished".into(), reason: None, attempts: 0, says: Says::Nothing }
    }

    fn after(self, attempts: u64) -> Self {
        Self { attempts, ..self }
    }

    fn seen(delivery: &Value, said: &[Said]) -> Self {
        Self {
            state: delivery["state"].as_str().unwrap_or_default().to_owned(),
            reason: delivery["reason"].as_str().map(str::to_owned),
            attempts: delivery["attempts"].as_u64().unwrap_or(0),
            says: Says::seen(said),
        }
    }
}

impl Says {
    fn reply(content: &str) -> Self {
        Self::Reply(content.to_owned())
    }

    fn seen(said: &[Said]) -> Self {
        match said {
            [] => Self::Nothing,
            [line] if line.is_told() => Self::Failure,
            [line] => Self::reply(&line.content),
            lines => panic!("one answer gave {lines:?}"),
        }
    }
}

impl Case {
    fn not_before(&mut self, wait: Duration) {
        self.wait_min = wait;
    }

    fn because(&mut self, detail: &'static str) {
        self.detail = detail;
    }

    /// What is wrong, if anything is.
    fn fault(&self, seen: &Outcome, delivery: &Value) -> Option<String> {
        let requests = self.endpoint.as_ref().map(Endpoint::requests);
        let wrong_count =
            requests.as_ref().map(Vec::len).filter(|count| *count as u64 != self.expected.attempts);
        let waits: Vec<Duration> =
            requests.iter().flat_map(|all| all.windows(2)).map(|pair| pair[1].at - pair[0].at).collect();
        match () {
            () if *seen != self.expected => {
                Some(format!("{}: expected {:?}, not {seen:?}", self.name, self.expected))
            }
            () if !delivery["detail"].as_str().unwrap_or_default().contains(self.detail) => {
                Some(format!("{}: expected {:?} in {}", self.name, self.detail, delivery["detail"]))
            }
            () if wrong_count.is_some() => Some(format!("{}: {wrong_count:?} requests", self.name)),
            () if waits.iter().any(|wait| *wait < self.wait_min) => {
                Some(format!("{}: tried again after {waits:?}", self.name))
            }
            () => None,
        }
    }
}

impl Table {
    /// A bot whose endpoint gives the answer of a request's number, counted from 0.
    async fn answer<F>(&mut self, name: &str, expected: Outcome, answer: F) -> &mut Case
    where
        F: Fn(usize) -> Answer + Send + Sync + 'static,
    {
        let endpoint = Endpoint::start(move |_, number| answer(number)).await;
        let case = self.add(name, Some(endpoint.url("/")), expected);
        case.endpoint = Some(endpoint);
        case
    }

    /// A bot whose service has this URL.
    fn url(&mut self, name: &str, url: &str, expected: Outcome) -> &mut Case {
        self.add(name, Some(url.to_owned()), expected)
    }

    fn add(&mut self, name: &str, url: Option<String>, expected: Outcome) -> &mut Case {
        self.0.push(Case {
            name: name.to_owned(),
            url,
            interface: 1,
            endpoint: None,
            wait_min: Duration::ZERO,
            detail: "",
            expected,
        });
        self.0.last_mut().unwrap()
    }

    /// The cases with their bots and messages.
    fn numbered(&self) -> impl Iterator<Item = (i64, i64, &Case)> {
        (FIRST_BOT..).zip(FIRST_MESSAGE..).zip(&self.0).map(|((bot, message), case)| (bot, message, case))
    }

    /// Sends each bot one message, and compares what came of them with what was expected.
    async fn check(&self, config: &Config) {
        let db = setup::tables(config).await;
        for (bot, _, case) in self.numbered() {
            setup::insert_bot(&db, bot).await;
            if let Some(url) = &case.url {
                setup::insert_service(&db, bot, url, case.interface, setup::TOKEN).await;
            }
        }
        let mut outhook = Outhook::start(config).await;
        let events: Vec<Value> =
            self.numbered().map(|(bot, message, _)| channel_event(bot, message, 7, "soup", "Hi!")).collect();
        setup::send(config, &events).await;
        setup::all_finished(&db).await;
        outhook.terminate().await;
        assert!(outhook.wait().await.success());

        let finished = db.count("SELECT count(*) FROM outhook_event WHERE state = 1").await;
        assert_eq!(usize::try_from(finished), Ok(self.0.len()), "events that are finished");
        let (deliveries, said) = (setup::deliveries(config).await, setup::outbox(&db).await);
        let faults: Vec<String> = self
            .numbered()
            .filter_map(|(bot, message, case)| {
                let delivery = only_delivery(&deliveries, bot);
                let seen = Outcome::seen(delivery, &said_by(&said, bot));
                let is_silent = seen.says == Says::Failure && !has_warning(&outhook.log(), bot, message);
                let unlogged = is_silent.then(|| format!("{}: no warning in the log", case.name));
                case.fault(&seen, delivery).or(unlogged)
            })
            .collect();
        assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
    }
}

fn only_delivery(deliveries: &[Value], bot: i64) -> &Value {
    let of_bot: Vec<&Value> = deliveries.iter().filter(|delivery| delivery["bot_id"] == bot).collect();
    assert_eq!(of_bot.len(), 1, "{of_bot:?}");
    of_bot[0]
}

fn said_by(said: &[Said], bot: i64) -> Vec<Said> {
    said.iter().filter(|line| line.bot == bot).cloned().collect()
}

fn has_warning(log: &[String], bot: i64, message: i64) -> bool {
    let event = format!("bot {bot} message {message}:");
    let parts = ["WARN", "zerver.worker.outgoing_webhooks", event.as_str()];
    log.iter().any(|line| parts.iter().all(|part| line.contains(part)))
}

fn config() -> Config {
    Config::sqlite()
        .set("retry.max_retries", &(ATTEMPTS_MAX - 1).to_string())
        .text("http.timeout", "2s")
        .set("http.max_response_bytes", &RESPONSE_BYTES_MAX.to_string())
        // A machine without a name server knows soon that a name does not exist.
        .environment("RES_OPTIONS", "timeout:1 attempts:1")
}

fn text(status: u16, body: &str) -> Answer {
    Answer::Http { status, headers: vec![], body: body.into() }
}

fn reply(content: &str) -> Answer {
    Answer::Json(json!({ "content": content }))
}

fn with_body(body: Vec<u8>) -> Answer {
    Answer::Http { status: 200, headers: vec![], body }
}

fn with_header(status: u16, name: &str, value: &str) -> Answer {
    Answer::Http { status, headers: vec![(name.to_owned(), value.to_owned())], body: vec![] }
}

/// A head with these lines, each with its CRLF; the connection stays.
fn head(status: u16, lines: &str) -> Answer {
    Answer::Bytes(format!("HTTP/1.1 {status} Status\r\n{lines}\r\n").into())
}

fn retry_after(status: u16, value: &str) -> Answer {
    with_header(status, "retry-after", value)
}

/// Two seconds from now as an HTTP date, which has whole seconds only: so at least one.
fn in_two_seconds() -> String {
    httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(2))
}

/// An answer of exactly so many bytes.
fn of_size(bytes: usize) -> Vec<u8> {
    let body = json!({ "content": words_of(bytes) }).to_string();
    assert_eq!(body.len(), bytes);
    body.into()
}

/// The reply in an answer of so many bytes.
fn words_of(bytes: usize) -> String {
    "x".repeat(bytes - r#"{"content":""}"#.len())
}

/// 200 with this body in chunks.
fn in_chunks(body: &[u8]) -> Answer {
    let mut chunks = vec![];
    for part in body.chunks(1000) {
        chunks.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        chunks.extend_from_slice(part);
        chunks.extend_from_slice(b"\r\n");
    }
    chunks.extend_from_slice(b"0\r\n\r\n");
    let headers = vec![("transfer-encoding".to_owned(), "chunked".to_owned())];
    Answer::Http { status: 200, headers, body: chunks }
}

/// An HTTP server that takes a TLS handshake for a bad request; it lives as long as the test.
async fn server_without_tls() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if let Ok(1..) = stream.read(&mut vec![0; 0x4000]).await {
                // Whatever goes wrong here is the client's leaving.
                stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await.ok();
                stream.shutdown().await.ok();
            }
        }
    });
    address
}
