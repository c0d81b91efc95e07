//! Endpoints that mean harm: each has the outcome that is stated, costs memory and sockets only for as long
//! as its call lasts, and is nobody's trouble but its own bot's.

mod cases;
mod peer;

use std::fs;

use serde_json::{Value, json};

use crate::support::setup::{self, Said};
use crate::support::{
    Answer, Config, Db, Endpoint, Outhook, PATIENCE, channel_event, direct_event, eventually,
};

use self::peer::{FullPort, Peer};

const GOOD_BOT: i64 = 1;
const FIRST_BOT: i64 = 100;
/// Calls of the good bot while hostile endpoints hold on to theirs.
const GOOD_CALLS: i64 = 50;
const CALLS_PER_BOT: usize = 4;
const RESPONSE_BYTES_MAX: usize = 262_144;
/// The daemon may have grown by so much at the end, with everything that it has kept for later.
const GROWTH_MAX: u64 = 64 << 20;

/// What comes of a call.
#[derive(Debug, Clone, Copy)]
enum Comes {
    /// Success, and a reply.
    Reply(&'static str),
    /// Success without a reply.
    Silence,
    /// A failure for good after the only attempt, for one of these reasons.
    Failed(&'static [&'static str]),
}

impl Comes {
    /// What is wrong, if anything is.
    fn fault(self, delivery: &Value, said: &[Said]) -> Option<String> {
        let (state, reason) = (delivery["state"].as_str().unwrap(), delivery["reason"].as_str());
        let contents: Vec<&str> = said.iter().map(|line| line.content.as_str()).collect();
        let is_right = match self {
            Self::Reply(content) => state == "succeeded" && contents == [content],
            Self::Silence => state == "succeeded" && contents.is_empty(),
            Self::Failed(reasons) => {
                let is_told = matches!(said, [line] if line.is_told());
                state == "failed" && reason.is_some_and(|reason| reasons.contains(&reason)) && is_told
            }
        };
        let is_only = delivery["attempts"] == 1;
        (!is_right || !is_only).then(|| format!("{self:?} expected, not {delivery} and {contents:?}"))
    }
}

/// A hostile endpoint, its bot, and what is to come of the bot's message, whose id is the bot's.
struct Hostile {
    name: &'static str,
    bot: i64,
    comes: Comes,
    url: String,
    _peer: Option<Peer>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_endpoint_harms_only_its_own_bot() {
    let full = FullPort::new().await;
    let table = table(&full).await;
    let good = Endpoint::json(json!({ "content": "soup" })).await;
    let config = config();
    let db = setup::tables(&config).await;
    insert(&db, GOOD_BOT, &good.url("/")).await;
    for hostile in &table {
        insert(&db, hostile.bot, &hostile.url).await;
    }
    let mut outhook = Outhook::start(&config).await;
    setup::send(&config, &[channel_event(GOOD_BOT, 1, 7, "soup", "Hi!")]).await;
    setup::all_finished(&db).await;
    let (memory, sockets) = (outhook.memory(), sockets(&outhook));

    let events: Vec<Value> =
        table.iter().map(Hostile::event).chain((2..=GOOD_CALLS + 1).map(good_event)).collect();
    setup::send(&config, &events).await;
    let is_served = || async { (served(&db).await == GOOD_CALLS + 1).then_some(()) };
    eventually("the good bot's events to be finished", PATIENCE, is_served).await;
    let open = db.count("SELECT count(*) FROM outhook_event WHERE state = 0").await;
    assert!(open > 0, "the good bot was called while hostile endpoints held their calls");
    setup::all_finished(&db).await;

    // The good bot's own connections are kept for its next calls.
    let may_stay = sockets + CALLS_PER_BOT - 1;
    let back = || async { (self::sockets(&outhook) <= may_stay).then_some(()) };
    eventually("the sockets of hostile endpoints to be closed", PATIENCE, back).await;
    let growth = outhook.memory().saturating_sub(memory);
    assert!(growth < GROWTH_MAX, "grown by {growth} bytes");
    outhook.terminate().await;
    assert!(outhook.wait().await.success());
    assert_outcomes(&config, &db, &table).await;
}

async fn table(full: &FullPort) -> Vec<Hostile> {
    let mut table = vec![Hostile {
        name: "never accepts",
        bot: FIRST_BOT,
        comes: Comes::Failed(&["timeout"]),
        url: full.url(),
        _peer: None,
    }];
    for (bot, (name, comes, scheme, behaviour)) in (FIRST_BOT + 1..).zip(cases::all()) {
        let peer = Peer::start(behaviour).await;
        table.push(Hostile { name, bot, comes, url: peer.url(scheme), _peer: Some(peer) });
    }
    table
}

async fn assert_outcomes(config: &Config, db: &Db, table: &[Hostile]) {
    let (deliveries, said) = (setup::deliveries(config).await, setup::outbox(db).await);
    let faults: Vec<String> = table
        .iter()
        .filter_map(|hostile| {
            let delivery = deliveries.iter().find(|delivery| delivery["bot_id"] == hostile.bot).unwrap();
            let said: Vec<Said> = said.iter().filter(|line| line.bot == hostile.bot).cloned().collect();
            let fault = hostile.comes.fault(delivery, &said)?;
            Some(format!("{}: {fault}", hostile.name))
        })
        .collect();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
    let good = deliveries.iter().filter(|delivery| delivery["bot_id"] == GOOD_BOT);
    let states: Vec<&Value> = good.map(|delivery| &delivery["state"]).collect();
    assert!(states.iter().all(|state| **state == "succeeded"), "{states:?}");
}

impl Hostile {
    fn event(&self) -> Value {
        channel_event(self.bot, self.bot, 7, "soup", "Hi!")
    }
}

fn good_event(message: i64) -> Value {
    channel_event(GOOD_BOT, message, 7, &format!("soup {message}"), "Hi!")
}

async fn insert(db: &Db, bot: i64, url: &str) {
    setup::insert_bot(db, bot).await;
    setup::insert_service(db, bot, url, 1, setup::TOKEN).await;
}

/// How many events of the good bot are finished.
async fn served(db: &Db) -> i64 {
    db.count(&format!("SELECT count(*) FROM outhook_event WHERE bot_id = {GOOD_BOT} AND state = 1")).await
}

/// How many sockets the daemon has.
fn sockets(outhook: &Outhook) -> usize {
    let files = fs::read_dir(format!("/proc/{}/fd", outhook.pid())).unwrap();
    files
        .filter_map(|file| fs::read_link(file.unwrap().path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}

fn config() -> Config {
    Config::sqlite()
        .set("retry.max_retries", "0")
        .text("http.timeout", "5s")
        .set("http.max_response_bytes", &RESPONSE_BYTES_MAX.to_string())
        .set("actors.calls_per_bot", &CALLS_PER_BOT.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_does_not_read_a_large_request_is_given_up_at_the_deadline() {
    let peer = Peer::start(peer::says_unasked("")).await;
    let config = config().text("http.timeout", "1s");
    let db = setup::tables(&config).await;
    insert(&db, FIRST_BOT, &peer.url("http")).await;
    let mut outhook = Outhook::start(&config).await;

    // The content is in the event twice, plain and rendered.
    setup::send(&config, &[direct_event(FIRST_BOT, 1, 31, &"x".repeat(500_000))]).await;
    setup::all_finished(&db).await;

    outhook.terminate().await;
    assert!(outhook.wait().await.success());
    let deliveries = setup::deliveries(&config).await;
    assert_eq!((&deliveries[0]["reason"], deliveries.len()), (&json!("timeout"), 1), "{deliveries:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_token_or_url_adds_a_header_or_a_request() {
    const EVIL: &str = "x\r\nevil: yes\r\n\r\nGET /evil HTTP/1.1\r\né\u{1F3C7}";
    let endpoint = Endpoint::json(json!({})).await;
    let config = config();
    let db = setup::tables(&config).await;
    let (plain, evil) = (endpoint.url("/plain"), endpoint.url(&format!("/{EVIL}?{EVIL}#{EVIL}")));
    for (bot, url, interface) in [(100, &plain, 1), (101, &plain, 2), (102, &evil, 1)] {
        setup::insert_bot(&db, bot).await;
        setup::insert_service(&db, bot, url, interface, EVIL).await;
    }
    let names = format!("full_name = '{EVIL}', delivery_email = '{EVIL}' || id");
    db.exec(&format!("UPDATE zerver_userprofile SET {names}")).await;
    db.exec(&format!("UPDATE zerver_service SET name = '{EVIL}'")).await;
    let mut outhook = Outhook::start(&config).await;

    setup::send(&config, &[100, 101, 102].map(|bot| channel_event(bot, bot, 7, EVIL, EVIL))).await;
    setup::all_finished(&db).await;

    outhook.terminate().await;
    assert!(outhook.wait().await.success());
    let requests = endpoint.requests();
    let plain = requests.iter().filter(|request| request.path == "/plain").count();
    assert_eq!(plain, 2, "the names and the token alone change nothing");
    for request in requests {
        let names: Vec<&str> = request.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert!(!names.contains(&"evil"), "{names:?}");
        assert_eq!(request.method, "POST");
        // A URL parser removes line breaks; a URL may also be refused for them.
        let is_known =
            request.path == "/plain" || request.path.starts_with("/xevil:%20yesGET%20/evil%20HTTP");
        assert!(is_known, "{}", request.path);
    }
    assert_eq!(outhook_panics(&outhook.log()), 0);
}

fn outhook_panics(log: &[String]) -> usize {
    log.iter().filter(|line| line.contains("panic at ")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_hundred_thousand_brackets_is_passed_on_as_it_is() {
    let endpoint = Endpoint::start(|_, _| Answer::Json(json!({}))).await;
    let config = config();
    let db = setup::tables(&config).await;
    insert(&db, FIRST_BOT, &endpoint.url("/")).await;
    let mut outhook = Outhook::start(&config).await;

    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let event = channel_event(FIRST_BOT, 1, 7, "soup", "Hi!").to_string();
    let event = event.replacen(r#""reactions":[]"#, &format!(r#""reactions":{deep}"#), 1);
    setup::send_lines(&config, &[event]).await;
    let requests = endpoint.wait_for(1).await;

    assert!(String::from_utf8_lossy(&requests[0].body).contains(&deep));
    setup::all_finished(&db).await;
    outhook.terminate().await;
    assert!(outhook.wait().await.success());
}
