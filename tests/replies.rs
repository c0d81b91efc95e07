//! `reply.to`: replies are posted through Zulip's REST API as their bots, in order, again after a failure
//! that may pass, and by whoever comes next if the daemon ends before.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::support::*;

/// Where the log tells of single events.
const EVENT_LOG: &str = "zerver.worker.outgoing_webhooks";

/// Posts replies to the Zulip at this endpoint.
pub(super) fn replying_to(zulip: &Endpoint, config: Config) -> Config {
    config
        .text("reply.to", "zulip")
        .text("reply.site", &zulip.url(""))
        .text("zulip.external_host", "chat.example.org")
        .set("zulip.realm_hosts", r#"{ acme = "chat.acme.example" }"#)
}

/// Zulip's answer to a post that it took.
pub(super) fn taken() -> Answer {
    Answer::Json(json!({ "result": "success", "msg": "", "id": 1 }))
}

/// Zulip's answer to a post that it did not take.
fn refused(status: u16, code: &str) -> Answer {
    refused_until(status, code, None)
}

pub(super) fn refused_until(status: u16, code: &str, retry_after: Option<u64>) -> Answer {
    let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    headers.extend(retry_after.map(|seconds| ("retry-after".to_owned(), seconds.to_string())));
    let body = json!({ "result": "error", "msg": "not this time", "code": code }).to_string();
    Answer::Http { status, headers, body: body.into_bytes() }
}

/// An endpoint of bots that say nothing but what they were told.
async fn parrot() -> Endpoint {
    Endpoint::start(|request, _| Answer::Json(json!({ "content": request.json()["data"] }))).await
}

pub(super) fn said(post: &Request) -> String {
    form_field(post, "content").unwrap()
}

fn all_said(posts: &[Request]) -> Vec<String> {
    posts.iter().map(said).collect()
}

/// The row of a reply in the outbox.
async fn outbox_row(scene: &Scene, content: &str) -> Value {
    let sql = "SELECT content, state, attempts, detail FROM outhook_reply";
    let rows = scene.db.rows(sql).await;
    Value::Object(rows.into_iter().find(|row| row["content"] == content).unwrap())
}

const PENDING: i64 = 0;
const POSTED: i64 = 1;
const GIVEN_UP: i64 = 2;

async fn authorization(scene: &Scene, bot: i64) -> String {
    let sql = format!("SELECT delivery_email, api_key FROM zerver_userprofile WHERE id = {bot}");
    let row = &scene.db.rows(&sql).await[0];
    let (email, key) = (row["delivery_email"].as_str().unwrap(), row["api_key"].as_str().unwrap());
    format!("Basic {}", STANDARD.encode(format!("{email}:{key}")))
}

/// The form of a post but for its type, which must be one of these.
fn form_of_type(post: &Request, types: [&str; 2]) -> BTreeMap<String, String> {
    let mut form: BTreeMap<String, String> = post.form().into_iter().collect();
    assert_eq!(form.len(), post.form().len(), "a field is there twice");
    let kind = form.remove("type").unwrap();
    assert!(types.contains(&kind.as_str()), "{kind}");
    form
}

fn fields(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

const CHANNEL: [&str; 2] = ["stream", "channel"];
const DIRECT: [&str; 2] = ["private", "direct"];
const CLIENT: (&str, &str) = ("client", "OutgoingWebhookResponse");

async fn a_reply_is_posted_as_its_bot(storage: Storage) {
    let zulip = Endpoint::start(|_, _| taken()).await;
    let parrot = parrot().await;
    let scene = Scene::start(Inlet::Stored, replying_to(&zulip, storage.config().await)).await;
    let mut bots = vec![];
    for name in ["root", "own-host", "subdomain"] {
        bots.push(scene.bot_at(name, &parrot.url("/hook")).await);
    }
    let [root, own_host, subdomain] = bots[..] else { unreachable!() };
    scene.db.exec("INSERT INTO zerver_realm (id, string_id) VALUES (2, 'acme'), (3, 'beta')").await;
    for (realm, bot) in [(2, own_host), (3, subdomain)] {
        scene.db.exec(&format!("UPDATE zerver_userprofile SET realm_id = {realm} WHERE id = {bot}")).await;
    }
    // A bot signs in with this address, whatever others are shown.
    let sql = format!("UPDATE zerver_userprofile SET delivery_email = 'signs@in.example' WHERE id = {root}");
    scene.db.exec(&sql).await;

    let events = [
        channel_event(root, 1, 7, "Kitchen & Café", "soup & salad, 100 % ☕"),
        channel_event(root, 2, 7, "", "no topic"),
        direct_event(root, 3, 31, "a direct message"),
        channel_event(own_host, 4, 8, "Kitchen", "own host"),
        channel_event(subdomain, 5, 9, "Kitchen", "subdomain"),
    ];
    scene.send(&events).await;
    scene.posted(5).await;
    let posts = zulip.requests();
    assert_eq!(posts.len(), 5);
    let post = |content: &str| posts.iter().find(|post| said(post) == content).unwrap();
    for post in &posts {
        assert_eq!((post.method.as_str(), post.path.as_str()), ("POST", "/api/v1/messages"));
        assert_eq!(post.header("content-type"), Some("application/x-www-form-urlencoded"));
    }
    for (content, bot, host) in [
        ("soup & salad, 100 % ☕", root, "chat.example.org"),
        ("a direct message", root, "chat.example.org"),
        ("own host", own_host, "chat.acme.example"),
        ("subdomain", subdomain, "beta.chat.example.org"),
    ] {
        assert_eq!(post(content).header("host"), Some(host));
        let expected = authorization(&scene, bot).await;
        assert_eq!(post(content).header("authorization"), Some(expected.as_str()), "{content}");
    }
    let content = "soup & salad, 100 % ☕";
    let expected = fields(&[("to", "7"), ("topic", "Kitchen & Café"), ("content", content), CLIENT]);
    assert_eq!(form_of_type(post(content), CHANNEL), expected);
    let expected = fields(&[("to", "7"), ("topic", ""), ("content", "no topic"), CLIENT]);
    assert_eq!(form_of_type(post("no topic"), CHANNEL), expected);

    let mut form = form_of_type(post("a direct message"), DIRECT);
    let to: BTreeSet<i64> = serde_json::from_str(&form.remove("to").unwrap()).unwrap();
    // The bot itself may be among them.
    assert!(to == BTreeSet::from([31]) || to == BTreeSet::from([root, 31]), "{to:?}");
    assert_eq!(form, fields(&[("content", "a direct message"), CLIENT]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_is_posted_as_its_bot_to_where_the_message_came_from_on_sqlite() {
    a_reply_is_posted_as_its_bot(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_is_posted_as_its_bot_to_where_the_message_came_from_on_postgresql() {
    a_reply_is_posted_as_its_bot(Storage::Postgres).await;
}

/// What an event must be like for its reply to go to channel 7, and where else it may not go.
#[tokio::test(flavor = "multi_thread")]
async fn a_reply_goes_exactly_where_its_event_says_or_nowhere() {
    let zulip = Endpoint::start(|_, _| taken()).await;
    let parrot = parrot().await;
    let scene = Scene::start(Inlet::Stored, replying_to(&zulip, Config::sqlite())).await;
    let bot = scene.bot_at("exact", &parrot.url("/")).await;
    let people = r#"[{"id":31},{"id":58}]"#;
    let direct = format!(r#""type":"direct","stream_id":7,"subject":"x","display_recipient":{people}"#);
    let read: [(&str, &str, &str); 5] = [
        (r#""stream_id":7,"subject":"t \ud83d""#, "7", "t \u{fffd}"),
        (r#""type":"channel","stream_id":7,"subject":"old","topic":"\udc4dnew""#, "7", "\u{fffd}new"),
        (r#""type":"stream","stream_id":7,"subject":"""#, "7", ""),
        (r#""stream_id":7,"subject":"a\u0000b""#, "7", "a\0b"),
        (&direct, "[31,58]", ""),
    ];
    let unread = [
        (r#""stream_id":7"#, "`message.subject` must be text; it is missing"),
        (r#""stream_id":7,"topic":8,"subject":"x""#, "`message.topic` must be text; it is a number"),
        (r#""stream_id":7.0,"subject":"x""#, "`message.stream_id` must be an integer"),
        (r#""stream_id":"7","subject":"x""#, "`message.stream_id` must be an integer; it is text"),
        (
            r#""type":"private","stream_id":7,"subject":"x","display_recipient":"x""#,
            "an array of people; it is text",
        ),
        (
            r#""display_recipient":[{"id":31},{"id":"58"}]"#,
            "`message.display_recipient[].id` must be an integer",
        ),
        (r#""recipient_id":7"#, "the event names neither a channel"),
    ];
    let places = read.iter().map(|(place, ..)| *place).chain(unread.iter().map(|(place, _)| *place));
    let event = |(id, place)| {
        format!(r#"{{"message":{{"id":{id},"content":"{id}",{place}}},"user_profile_id":{bot}}}"#)
    };
    let events: Vec<String> = (1..).zip(places).map(event).collect();
    setup::send_lines(&scene.config, &events).await;
    scene.finished(events.len()).await;
    scene.wait_for_rows("replies are settled", events.len(), "outhook_reply WHERE state <> 0").await;

    let mut posts = zulip.requests();
    posts.sort_by_key(|post| said(post).parse::<usize>().unwrap());
    assert_eq!(posts.len(), read.len(), "{posts:#?}");
    for (post, (place, to, topic)) in posts.iter().zip(read) {
        assert_eq!(form_field(post, "to").as_deref(), Some(to), "{place}");
        assert_eq!(form_field(post, "topic").unwrap_or_default(), topic, "{place}");
    }
    for (number, (place, reason)) in (read.len() + 1..).zip(unread) {
        let row = outbox_row(&scene, &number.to_string()).await;
        assert_eq!(row["state"], GIVEN_UP, "{place}: {row}");
        assert!(row["detail"].as_str().unwrap().contains(reason), "{place}: {row}");
    }
    let requests = parrot.requests();
    let topic = |request: &Request| request.json()["message"]["subject"].clone();
    assert!(requests.iter().any(|request| topic(request) == "t \u{fffd}"), "every endpoint can read it");
}

#[tokio::test(flavor = "multi_thread")]
async fn widget_content_is_posted_with_its_reply() {
    const WIDGET: &str = r#"{"widget_type":"zform","extra_data":{"type":"choices","heading":"Soup?"}}"#;
    let zulip = Endpoint::start(|_, _| taken()).await;
    let endpoint = Endpoint::json(json!({ "content": "choose", "widget_content": WIDGET })).await;
    let scene = Scene::start(Inlet::Stored, replying_to(&zulip, Config::sqlite())).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    scene.send(&[channel_event(bot, 1, 7, "Kitchen", "soup?")]).await;
    scene.posted(1).await;
    let widget = ("widget_content", WIDGET);
    let expected = fields(&[("to", "7"), ("topic", "Kitchen"), ("content", "choose"), widget, CLIENT]);
    assert_eq!(form_of_type(&zulip.requests()[0], CHANNEL), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_reply_is_cut_as_zulip_cuts_it() {
    let zulip = Endpoint::start(|_, _| taken()).await;
    let endpoint = Endpoint::json(json!({ "content": "🍲".repeat(10_001) })).await;
    let scene = Scene::start(Inlet::Stored, replying_to(&zulip, Config::sqlite())).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    scene.send(&[channel_event(bot, 1, 7, "Kitchen", "soup?")]).await;
    scene.posted(1).await;
    let cut = "🍲".repeat(9_980) + "\n[message truncated]";
    assert!(said(&zulip.requests()[0]) == cut && setup::outbox(&scene.db).await[0].content == cut);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_bot_says_of_a_failure_is_posted_too() {
    let zulip = Endpoint::start(|_, _| taken()).await;
    let endpoint = Endpoint::start(|_, _| Answer::status(404)).await;
    let scene = Scene::start(Inlet::Stored, replying_to(&zulip, Config::sqlite())).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    scene.send(&[channel_event(bot, 1, 7, "Kitchen", "soup?")]).await;
    scene.posted(1).await;
    let posts = zulip.requests();
    assert_eq!(posts.len(), 1);
    let mut form = form_of_type(&posts[0], CHANNEL);
    let line = form.remove("content").unwrap();
    assert!(line.contains("404") && line.lines().count() == 1, "{line}");
    assert_eq!(form, fields(&[("to", "7"), ("topic", "Kitchen"), CLIENT]));
    assert_eq!(posts[0].header("authorization"), Some(authorization(&scene, bot).await.as_str()));
}

/// A number that looks random, and is always the same for a reply.
fn dice(post: &Request) -> u64 {
    let mut hasher = DefaultHasher::new();
    said(post).hash(&mut hasher);
    hasher.finish()
}

/// How long the Zulip of the test about order takes over a post.
fn latency(post: &Request) -> Duration {
    Duration::from_millis(dice(post) % 15)
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_of_a_conversation_are_posted_one_at_a_time_and_in_order() {
    const MESSAGES: i64 = 90;
    let failed = Mutex::new(HashSet::new());
    let zulip = Endpoint::start(move |post, _| {
        let is_to_fail = (dice(post) / 15).is_multiple_of(10) && failed.lock().unwrap().insert(said(post));
        let answer = if is_to_fail { refused(503, "BUSY") } else { taken() };
        Answer::Late(latency(post), Box::new(answer))
    })
    .await;
    let parrot = parrot().await;
    let config = replying_to(&zulip, Storage::Postgres.config().await);
    let scene = Scene::start(Inlet::RabbitMq, config).await;
    let bots = [
        scene.bot_at("soup", &parrot.url("/hook")).await,
        scene.bot_at("salad", &parrot.url("/hook")).await,
        scene.bot_at("bread", &parrot.url("/hook")).await,
    ];
    // Three bots, each in three conversations; what is said is the message and its conversation.
    let event = |message: i64| {
        let bot = bots[usize::try_from(message % 3).unwrap()];
        let stream = message / 3 % 3;
        channel_event(bot, message, stream, "Kitchen", &format!("{message} {bot} {stream}"))
    };
    let count = usize::try_from(MESSAGES).unwrap();
    scene.send(&(1..=MESSAGES).map(event).collect::<Vec<_>>()).await;
    scene.posted(count).await;

    let mut conversations: BTreeMap<String, Vec<Request>> = BTreeMap::new();
    for post in zulip.requests() {
        let conversation = said(&post).split_once(' ').unwrap().1.to_owned();
        conversations.entry(conversation).or_default().push(post);
    }
    assert_eq!(conversations.len(), 9);
    let mut posted = 0;
    for posts in conversations.values() {
        for pair in posts.windows(2) {
            assert!(pair[0].at + latency(&pair[0]) <= pair[1].at, "{:?}", all_said(posts));
        }
        let mut messages: Vec<i64> =
            posts.iter().map(|post| said(post).split(' ').next().unwrap().parse().unwrap()).collect();
        messages.dedup();
        assert!(messages.is_sorted(), "{messages:?}");
        posted += messages.len();
    }
    assert_eq!(posted, count);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_is_waited_out_while_other_bots_go_on() {
    const PAUSE: Duration = Duration::from_secs(5);
    let zulip = Endpoint::start(|post, number| {
        if number == 0 && said(post) == "first" {
            return refused_until(429, "RATE_LIMIT_HIT", Some(PAUSE.as_secs()));
        }
        taken()
    })
    .await;
    let parrot = parrot().await;
    let scene = Scene::start(Inlet::Stored, replying_to(&zulip, Config::sqlite())).await;
    let limited = scene.bot_at("soup", &parrot.url("/hook")).await;
    let other = scene.bot_at("salad", &parrot.url("/hook")).await;
    scene.send(&[channel_event(limited, 1, 7, "Kitchen", "first")]).await;
    zulip.wait_for(1).await;
    let events = [
        channel_event(limited, 2, 7, "Kitchen", "behind it"),
        channel_event(other, 3, 7, "Kitchen", "of another bot"),
    ];
    scene.send(&events).await;
    let posts = zulip.wait_for(2).await;
    assert_eq!(all_said(&posts), ["first", "of another bot"]);
    scene.posted(3).await;

    let posts = zulip.requests();
    assert_eq!(all_said(&posts), ["first", "of another bot", "first", "behind it"]);
    // Moments are told in whole milliseconds.
    assert!(posts[2].at - posts[0].at >= PAUSE - Duration::from_millis(2));
    assert_eq!(outbox_row(&scene, "first").await["attempts"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_failed_at_the_server_is_tried_again() {
    let failed = Mutex::new(HashSet::new());
    let zulip = Endpoint::start(move |post, _| match said(post).parse::<u16>() {
        Ok(status) if failed.lock().unwrap().insert(status) => refused(status, "BUSY"),
        _ => taken(),
    })
    .await;
    let parrot = parrot().await;
    let scene = Scene::start(Inlet::Stored, replying_to(&zulip, Config::sqlite())).await;
    let bot = scene.bot_at("soup", &parrot.url("/hook")).await;
    let mut events = vec![];
    for (conversation, status) in (1..).zip([500, 502, 503, 504]) {
        events.push(channel_event(bot, 2 * conversation, conversation, "Kitchen", &format!("{status}")));
        let next = format!("after {status}");
        events.push(channel_event(bot, 2 * conversation + 1, conversation, "Kitchen", &next));
    }
    scene.send(&events).await;
    scene.posted(8).await;
    let said = all_said(&zulip.requests());
    assert_eq!(said.len(), 12);
    for status in [500, 502, 503, 504] {
        let conversation: Vec<&String> =
            said.iter().filter(|said| said.ends_with(&status.to_string())).collect();
        assert_eq!(conversation, [&format!("{status}"), &format!("{status}"), &format!("after {status}")]);
        assert_eq!(outbox_row(&scene, &status.to_string()).await["attempts"], 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_is_refused_is_given_up_and_the_next_one_made() {
    let zulip = Endpoint::start(|post, _| match said(post).as_str() {
        "to an archived channel" => refused(400, "STREAM_DOES_NOT_EXIST"),
        _ => taken(),
    })
    .await;
    let parrot = parrot().await;
    let mut scene = Scene::start(Inlet::Stored, replying_to(&zulip, Config::sqlite())).await;
    let bot = scene.bot_at("soup", &parrot.url("/hook")).await;
    let events = [
        channel_event(bot, 1, 7, "Kitchen", "to an archived channel"),
        channel_event(bot, 2, 7, "Kitchen", "the next one"),
    ];
    scene.send(&events).await;
    scene.posted(1).await;
    let row = outbox_row(&scene, "to an archived channel").await;
    assert_eq!((&row["state"], &row["attempts"]), (&json!(GIVEN_UP), &json!(1)));
    assert!(row["detail"].as_str().unwrap().contains("STREAM_DOES_NOT_EXIST"), "{row}");
    assert_eq!(outbox_row(&scene, "the next one").await["state"], POSTED);
    // The call itself has succeeded; only its reply has nowhere to go.
    assert!(scene.ledger().await.iter().all(|call| call["state"] == "succeeded"));

    assert_eq!(scene.drain().await, 0);
    assert_eq!(all_said(&zulip.requests()), ["to an archived channel", "the next one"]);
    let parts = ["WARN", EVENT_LOG, "STREAM_DOES_NOT_EXIST"];
    let is_warning = |line: &String| parts.iter().all(|part| line.contains(part));
    assert_eq!(scene.outhook.log().iter().filter(|line| is_warning(line)).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_replies_are_posted_at_a_time_than_allowed() {
    const LIMIT: usize = 2;
    const ANSWER: Duration = Duration::from_millis(20);
    let gate = Gate::new();
    let held = gate.clone();
    let zulip = Endpoint::start(move |_, _| {
        Answer::Gated(held.clone(), Box::new(Answer::Late(ANSWER, Box::new(taken()))))
    })
    .await;
    let parrot = parrot().await;
    let config = replying_to(&zulip, Config::sqlite()).set("reply.in_flight", "2");
    let scene = Scene::start(Inlet::Stored, config).await;
    let mut events = vec![];
    for name in ["soup", "salad", "bread"] {
        let bot = scene.bot_at(name, &parrot.url("/hook")).await;
        events.extend((1..=4).map(|message| channel_event(bot, message, message, "Kitchen", name)));
    }
    scene.send(&events).await;
    scene.finished(events.len()).await;
    zulip.wait_for(LIMIT).await;
    assert_eq!((zulip.requests().len(), zulip.in_flight()), (LIMIT, LIMIT));
    for ended in 1..=LIMIT {
        gate.let_through(1);
        zulip.wait_for(LIMIT + ended).await;
    }
    gate.open();
    scene.posted(events.len()).await;
    let posts = zulip.requests();
    assert_eq!(posts.len(), events.len());
    assert!(peak_overlap(&posts, ANSWER) <= LIMIT, "{}", peak_overlap(&posts, ANSWER));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_outlet_nothing_is_put_in_the_outbox() {
    let parrot = parrot().await;
    let bad = Endpoint::start(|_, _| Answer::status(404)).await;
    let mut scene = Scene::start(Inlet::Stored, Config::sqlite().text("reply.to", "none")).await;
    let bot = scene.bot_at("soup", &parrot.url("/hook")).await;
    scene.service(bot, "bad", &bad.url("/hook"), &[]).await;
    scene.send(&[channel_event(bot, 1, 7, "Kitchen", "soup?"), direct_event(bot, 2, 31, "salad?")]).await;
    scene.finished(2).await;
    assert_eq!(scene.drain().await, 0);
    assert_eq!(scene.db.count("SELECT count(*) FROM outhook_reply").await, 0);
    assert_eq!((parrot.requests().len(), bad.requests().len()), (2, 2));
}

/// Ends the daemon while replies wait for Zulip, some tried before and some not.
async fn pending_replies_are_posted_once(storage: Storage, is_killed: bool) {
    let (is_open, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(vec![])));
    let (open, taken_in) = (Arc::clone(&is_open), Arc::clone(&accepted));
    let zulip = Endpoint::start(move |post, _| {
        if !open.load(Ordering::SeqCst) {
            return refused_until(503, "BUSY", Some(1));
        }
        taken_in.lock().unwrap().push(said(post));
        taken()
    })
    .await;
    let parrot = parrot().await;
    let mut scene = Scene::start(Inlet::Stored, replying_to(&zulip, storage.config().await)).await;
    let mut events = vec![];
    for name in ["soup", "salad"] {
        let bot = scene.bot_at(name, &parrot.url("/hook")).await;
        // Two conversations of each bot.
        events.extend((1..=6).map(|message| {
            channel_event(bot, message, message % 2, "Kitchen", &format!("{name} {message}"))
        }));
    }
    scene.send(&events).await;
    scene.finished(events.len()).await;
    // Each bot's first post was refused, and this is known.
    let tried = "SELECT count(DISTINCT bot_id) FROM outhook_reply WHERE attempts > 0 AND detail IS NOT NULL";
    eventually("both bots' first posts", PATIENCE, || async {
        (scene.db.count(tried).await == 2).then_some(())
    })
    .await;
    if is_killed {
        scene.outhook.kill().await;
    } else {
        assert_eq!(scene.drain().await, 0);
    }
    let pending = format!("SELECT count(*) FROM outhook_reply WHERE state = {PENDING}");
    assert_eq!(scene.db.count(&pending).await, 12);
    assert!(scene.db.count(&format!("{pending} AND attempts = 0")).await > 0);

    is_open.store(true, Ordering::SeqCst);
    scene.start_again().await;
    scene.posted(events.len()).await;
    assert_eq!(scene.drain().await, 0);
    let accepted = accepted.lock().unwrap().clone();
    for bot in ["soup", "salad"] {
        for conversation in 0..2 {
            let is_in = |number: &i64| number % 2 == conversation;
            let numbers =
                accepted.iter().filter_map(|said| said.strip_prefix(bot)?.trim().parse::<i64>().ok());
            let expected: Vec<i64> = (1..=6).filter(is_in).collect();
            assert_eq!(numbers.filter(is_in).collect::<Vec<i64>>(), expected, "{bot}: {accepted:?}");
        }
    }
    assert_eq!(accepted.len(), events.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pending_at_a_drain_is_posted_once_by_the_next_start_on_sqlite() {
    pending_replies_are_posted_once(Storage::Sqlite, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pending_at_a_drain_is_posted_once_by_the_next_start_on_postgresql() {
    pending_replies_are_posted_once(Storage::Postgres, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pending_at_a_hard_stop_is_posted_once_by_the_next_start_on_sqlite() {
    pending_replies_are_posted_once(Storage::Sqlite, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pending_at_a_hard_stop_is_posted_once_by_the_next_start_on_postgresql() {
    pending_replies_are_posted_once(Storage::Postgres, true).await;
}
