//! Endpoints that mean harm: each has the outcome that is stated, costs memory and sockets only for as long
//! as its call lasts, and is nobody's trouble but its own bot's.

mod cases;
mod peer;
mod tls;

use std::fs;

use serde_json::{Value, json};

use crate::support::setup::{self, Said};
use crate::support::{
    Answer, Authority, Config, Db, Ending, Endpoint, Identity, Manners, Outhook, PATIENCE, TlsFront,
    Validity, channel_event, direct_event, eventually,
};

use self::cases::Layer;
use self::peer::{FullPort, Peer};

const GOOD_BOT: i64 = 1;
const FIRST_BOT: i64 = 100;
/// Calls of the good bot while hostile endpoints hold on to theirs.
const GOOD_CALLS: i64 = 50;
const CALLS_PER_BOT: usize = 4;
const RESPONSE_BYTES_MAX: usize = 262_144;
/// Rounds of the cases that end by themselves, behind the first one, of all cases.
const ROUNDS: i64 = 2;
/// The daemon may grow by so much in each round: an eighth of the largest answer for each call, for all that
/// is kept of a call, and for pages of the database.
const GROWTH_MAX: u64 = 4 << 20;
/// So many bytes of a large request are read before the connection is reset.
const PART_OF_REQUEST: usize = 100_000;
/// Between the ids of a bot's messages.
const MESSAGES_PER_ROUND: i64 = 1000;

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
    /// Whether only the deadline ends the call.
    fn takes_all_the_time(self) -> bool {
        matches!(self, Self::Failed(["timeout"]))
    }

    /// What is wrong, if anything is.
    fn fault(self, delivery: &Value, said: &[Said]) -> Option<String> {
        let (state, reason) = (delivery["state"].as_str().unwrap(), delivery["reason"].as_str());
        let contents: Vec<&str> = said.iter().map(|line| line.content.as_str()).collect();
        let is_right = match self {
            Self::Reply(content) => state == "succeeded" && contents == [as_zulip_cuts(content).as_str()],
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

/// A content as Zulip shows it: no longer than 10,000 characters.
fn as_zulip_cuts(content: &str) -> String {
    match content.char_indices().nth(10_000) {
        Some(_) => content.chars().take(9_980).collect::<String>() + "\n[message truncated]",
        None => content.to_owned(),
    }
}

/// A hostile endpoint, its bot, and what is to come of the bot's messages.
struct Hostile {
    name: &'static str,
    bot: i64,
    comes: Comes,
    url: String,
    _peer: Option<Peer>,
    _front: Option<TlsFront>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_endpoint_harms_only_its_own_bot() {
    let (full, authority) = (FullPort::new().await, Authority::new("Ours"));
    let table = table(&full, &authority.sign(&["127.0.0.1"], Validity::Now)).await;
    let good = Endpoint::json(json!({ "content": "soup" })).await;
    let config = returning_memory(config()).trusting(&authority);
    let db = setup::tables(&config).await;
    insert(&db, GOOD_BOT, &good.url("/")).await;
    for hostile in &table {
        insert(&db, hostile.bot, &hostile.url).await;
    }
    let mut outhook = Outhook::start(&config).await;
    setup::send(&config, &[channel_event(GOOD_BOT, 1, 7, "soup", "Hi!")]).await;
    setup::all_finished(&db).await;
    // The good bot's own connections are kept for its next calls.
    let sockets_max = sockets(&outhook) + CALLS_PER_BOT - 1;

    let first = table.iter().map(|hostile| hostile.event(0));
    let events: Vec<Value> = first.chain((2..=GOOD_CALLS + 1).map(good_event)).collect();
    setup::send(&config, &events).await;
    let is_served = || async { (served(&db).await == GOOD_CALLS + 1).then_some(()) };
    eventually("the good bot's events to be finished", PATIENCE, is_served).await;
    let open = db.count("SELECT count(*) FROM outhook_event WHERE state = 0").await;
    assert!(open > 0, "the good bot was called while hostile endpoints held their calls");
    let mut memory = vec![memory_at_rest(&outhook, &db, sockets_max).await];

    let quick: Vec<&Hostile> = table.iter().filter(|hostile| !hostile.comes.takes_all_the_time()).collect();
    for round in 1..=ROUNDS {
        let events: Vec<Value> = quick.iter().map(|hostile| hostile.event(round)).collect();
        setup::send(&config, &events).await;
        memory.push(memory_at_rest(&outhook, &db, sockets_max).await);
    }

    // What leaks does so in each round; what the allocator keeps for the next time it keeps only once.
    let growth = memory.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).min().unwrap();
    assert!(
        growth < GROWTH_MAX,
        "grown by {growth} bytes at least in each round of {}: {memory:?}",
        quick.len()
    );
    outhook.terminate().await;
    assert!(outhook.wait().await.success());
    assert_outcomes(&config, &db, &table).await;
}

async fn table(full: &FullPort, identity: &Identity) -> Vec<Hostile> {
    let mut table = vec![Hostile {
        name: "never accepts",
        bot: FIRST_BOT,
        comes: Comes::Failed(&["timeout"]),
        url: full.url(),
        _peer: None,
        _front: None,
    }];
    for (bot, (name, comes, layer, behaviour)) in (FIRST_BOT + 1..).zip(cases::all()) {
        let peer = Peer::start(behaviour).await;
        let (url, front) = match layer {
            Layer::Http => (peer.url("http"), None),
            Layer::InsteadOfTls => (peer.url("https"), None),
            Layer::Tls(ending) => {
                let front = front(identity, &peer, ending).await;
                (front.url("127.0.0.1", "/"), Some(front))
            }
        };
        table.push(Hostile { name, bot, comes, url, _peer: Some(peer), _front: front });
    }
    table
}

/// TLS in front of a peer.
async fn front(identity: &Identity, peer: &Peer, ending: Ending) -> TlsFront {
    TlsFront::with(identity, peer.address(), Manners { ending, ..Manners::default() }).await
}

/// Has the allocator give back at once what is freed, large blocks at least, so that what is in use can be
/// seen. Only glibc's knows these variables: with another one, memory may look as if it were not given back.
fn returning_memory(config: Config) -> Config {
    config.environment("MALLOC_MMAP_THRESHOLD_", "65536").environment("MALLOC_TRIM_THRESHOLD_", "65536")
}

/// The daemon's memory once all its calls are over and their sockets are closed.
async fn memory_at_rest(outhook: &Outhook, db: &Db, sockets_max: usize) -> u64 {
    setup::all_finished(db).await;
    let are_back = || async { (sockets(outhook) <= sockets_max).then_some(()) };
    eventually("the sockets of hostile endpoints to be closed", PATIENCE, are_back).await;
    outhook.memory()
}

async fn assert_outcomes(config: &Config, db: &Db, table: &[Hostile]) {
    let (deliveries, said) = (setup::deliveries(config).await, setup::outbox(db).await);
    let mut faults = vec![];
    for hostile in table {
        let own: Vec<&Value> =
            deliveries.iter().filter(|delivery| delivery["bot_id"] == hostile.bot).collect();
        let rounds = if hostile.comes.takes_all_the_time() { 1 } else { 1 + ROUNDS };
        assert_eq!(own.len(), usize::try_from(rounds).unwrap(), "{}", hostile.name);
        for delivery in own {
            let is_its = |line: &&Said| line.bot == hostile.bot && delivery["message_id"] == line.message;
            let said: Vec<Said> = said.iter().filter(is_its).cloned().collect();
            let fault = hostile.comes.fault(delivery, &said);
            faults.extend(fault.map(|fault| format!("{}: {fault}", hostile.name)));
        }
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
    let good = deliveries.iter().filter(|delivery| delivery["bot_id"] == GOOD_BOT);
    let states: Vec<&Value> = good.map(|delivery| &delivery["state"]).collect();
    assert!(states.iter().all(|state| **state == "succeeded"), "{states:?}");
}

impl Hostile {
    fn event(&self, round: i64) -> Value {
        channel_event(self.bot, MESSAGES_PER_ROUND * round + self.bot, 7, "soup", "Hi!")
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
        .text("http.timeout", "8s")
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
async fn a_request_that_is_cut_off_by_a_reset_while_it_is_written_is_sent_only_once() {
    // Linux takes a few megabytes of a request that nobody reads; this one can't be written whole.
    let content = "x".repeat(2_000_000);
    let authority = Authority::new("Ours");
    let [plain, behind_tls] = [
        Peer::start(peer::resets_after(PART_OF_REQUEST)).await,
        Peer::start(peer::resets_after(PART_OF_REQUEST)).await,
    ];
    let identity = authority.sign(&["127.0.0.1"], Validity::Now);
    let front = front(&identity, &behind_tls, Ending::Reset).await;
    let config =
        config().trusting(&authority).set("queue.max_event_bytes", "8388608").text("http.timeout", "20s");
    let db = setup::tables(&config).await;
    insert(&db, FIRST_BOT, &plain.url("http")).await;
    insert(&db, FIRST_BOT + 1, &front.url("127.0.0.1", "/")).await;
    let mut outhook = Outhook::start(&config).await;

    let events = [FIRST_BOT, FIRST_BOT + 1].map(|bot| direct_event(bot, bot, 31, &content));
    setup::send(&config, &events).await;
    setup::all_finished(&db).await;

    outhook.terminate().await;
    assert!(outhook.wait().await.success());
    let deliveries = setup::deliveries(&config).await;
    let ends: Vec<(&Value, &Value)> =
        deliveries.iter().map(|delivery| (&delivery["reason"], &delivery["attempts"])).collect();
    assert_eq!(ends, [(&json!("reset"), &json!(1)); 2], "{deliveries:?}");
    assert_eq!((plain.accepted(), behind_tls.accepted()), (1, 1), "connections");
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
