//! What is no event, or is one too many, is set aside whole and told why; it harms nothing else.

use serde_json::{Value, json};

use crate::support::setup;
use crate::support::{
    Answer, Config, Db, Endpoint, Gate, Outhook, PATIENCE, Queue, Rabbit, channel_event, eventually,
};

const EVENT_BYTES_MAX: usize = 2048;
const STORED_PER_BOT: i64 = 5;

const GOOD_BOT: i64 = 1;
const INACTIVE_BOT: i64 = 2;
const PERSON: i64 = 3;
/// Bots of Zulip's other types: generic, for incoming webhooks, embedded.
const OTHER_BOTS: [(i64, i16); 3] = [(4, 1), (5, 2), (6, 4)];
const NOBODY: i64 = 999;

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_delivered_ends_as_a_dead_letter_and_holds_up_nothing() {
    let queue = Rabbit::shared().await.queue().await;
    let endpoint = Endpoint::json(json!({})).await;
    let config = from(&queue).set("queue.max_event_bytes", &EVENT_BYTES_MAX.to_string());
    let db = setup::tables(&config).await;
    insert_accounts(&db, &endpoint.url("/")).await;
    db.exec("INSERT INTO zerver_usermessage (user_profile_id, message_id, flags) VALUES (2, 102, 0)").await;
    let expected: Vec<(Vec<u8>, &str)> = [malformed(), too_large(), without_callable_bot()].concat();

    let mut outhook = Outhook::start(&config).await;
    let mut bodies: Vec<Vec<u8>> = expected.iter().map(|(body, _)| body.clone()).collect();
    bodies.push(event_of_size(EVENT_BYTES_MAX, 201));
    bodies.push(event(GOOD_BOT, 202));
    queue.publish_all(&bodies).await;
    wait_for_stored(&db, bodies.len()).await;
    setup::all_finished(&db).await;
    drain(&mut outhook, &queue).await;

    let mut called: Vec<Value> =
        endpoint.requests().iter().map(|request| request.json()["message"]["id"].clone()).collect();
    called.sort_by_key(Value::as_i64);
    assert_eq!(called, [json!(201), json!(202)], "only the good events are delivered");
    assert_eq!(shown_dead_letters(&config).await, sorted(expected));
    let flagged = db.count("SELECT count(*) FROM zerver_usermessage WHERE flags <> 0").await;
    assert_eq!(flagged, 0, "a dead letter is not processed");
    queue.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_can_be_stored_and_not_read_as_a_whole_fails_and_dials_nobody() {
    let endpoint = Endpoint::json(json!({})).await;
    let config = Config::sqlite();
    let (bot, _) = setup::one_bot(&config, &endpoint.url("/"), "generic").await;
    let db = Db::of(&config).await;
    let _outhook = Outhook::start(&config).await;
    let event = channel_event(bot, 1, 1, "t", "x").to_string();
    let twice = format!(r#"{},"trigger":"mention"}}"#, event.trim_end_matches('}'));
    setup::send_lines(&config, &[twice]).await;
    let failed = "SELECT count(*) FROM outhook_call WHERE state = 2 AND fault = 'unsendable'";
    eventually("its call to fail", PATIENCE, || async { (db.count(failed).await == 1).then_some(()) }).await;
    assert_eq!(endpoint.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_of_a_bot_that_cannot_be_called_names_it_in_the_ledger() {
    let queue = Rabbit::shared().await.queue().await;
    let config = from(&queue);
    let db = setup::tables(&config).await;
    insert_accounts(&db, "http://127.0.0.1:1/").await;
    let mut outhook = Outhook::start(&config).await;

    queue.publish(&event(INACTIVE_BOT, 102)).await;
    wait_for_dead_letters(&db, 1).await;
    drain(&mut outhook, &queue).await;

    let letters = setup::dead_letters(&config).await;
    assert_eq!(letters[0]["bot_id"], json!(INACTIVE_BOT));
    assert_eq!(letters[0]["message_id"], json!(102));
    let deliveries = setup::deliveries(&config).await;
    assert_eq!(deliveries.len(), 1, "{deliveries:?}");
    assert_eq!(deliveries[0]["state"], json!("dead-lettered"));
    queue.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_more_than_a_bot_may_have_stored_is_a_dead_letter() {
    let queue = Rabbit::shared().await.queue().await;
    let gate = Gate::new();
    let endpoint = gated_endpoint(&gate).await;
    let other = Endpoint::json(json!({})).await;
    let config =
        from(&queue).set("queue.stored_per_bot", &STORED_PER_BOT.to_string()).text("http.timeout", "1m");
    let db = setup::tables(&config).await;
    insert_called_bot(&db, 1, &endpoint.url("/")).await;
    insert_called_bot(&db, 2, &other.url("/")).await;
    let mut outhook = Outhook::start(&config).await;

    publish(&queue, 1, 1..=STORED_PER_BOT).await;
    wait_for_unfinished(&db, STORED_PER_BOT).await;
    assert!(setup::dead_letters(&config).await.is_empty(), "as many as the limit are kept");

    let beyond = STORED_PER_BOT + 1;
    publish(&queue, 1, beyond..=beyond).await;
    wait_for_dead_letters(&db, 1).await;
    let expected = vec![(event(1, beyond), "overflow")];
    assert_eq!(shown_dead_letters(&config).await, sorted(expected));

    // An event that is stored already is not one more; the one behind it shows that it was looked at.
    publish(&queue, 1, 1..=1).await;
    publish(&queue, 1, beyond + 1..=beyond + 1).await;
    wait_for_dead_letters(&db, 2).await;
    let expected = vec![(event(1, beyond), "overflow"), (event(1, beyond + 1), "overflow")];
    assert_eq!(shown_dead_letters(&config).await, sorted(expected));

    publish(&queue, 2, 100..=100).await;
    other.wait_for(1).await;

    gate.open();
    setup::all_finished(&db).await;
    publish(&queue, 1, 201..=201).await;
    endpoint.wait_for(usize::try_from(STORED_PER_BOT).unwrap() + 1).await;
    setup::all_finished(&db).await;
    drain(&mut outhook, &queue).await;
    assert_eq!(setup::dead_letters(&config).await.len(), 2, "there is room again");
    queue.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_that_keeps_up_never_overflows() {
    let queue = Rabbit::shared().await.queue().await;
    let endpoint = Endpoint::json(json!({})).await;
    let config = from(&queue).set("queue.stored_per_bot", &STORED_PER_BOT.to_string());
    let db = setup::tables(&config).await;
    insert_called_bot(&db, 1, &endpoint.url("/")).await;
    let mut outhook = Outhook::start(&config).await;

    for round in 1..=6 {
        let first = i64::try_from(round * 10).unwrap();
        publish(&queue, 1, first..first + 3).await;
        wait_for_stored(&db, round * 3).await;
        setup::all_finished(&db).await;
    }

    drain(&mut outhook, &queue).await;
    let letters = setup::dead_letters(&config).await;
    assert!(letters.is_empty(), "{letters:?}");
    assert_eq!(endpoint.requests().len(), 18);
    queue.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_event_is_told_the_same_true_reason_on_every_way_in() {
    const TOKEN: &str = "s3cr3tm4rk-admin";
    let queue = Rabbit::shared().await.queue().await;
    let (from_queue, stored) = (from(&queue), Config::sqlite().admin_token(TOKEN));
    let (receiver, admin) = (Outhook::start(&from_queue).await, Outhook::start(&stored).await);
    let message = r#""message":{"id":1,"content":"x"}"#;
    let refused = [
        (
            format!(r#"{{{message},"user_profile_id":-1}}"#),
            "`user_profile_id` must be an integer that is not negative",
        ),
        (format!(r#"{{{message},{message},"user_profile_id":1}}"#), "the event has `message` more than once"),
        (
            r#"{"message":{"id":1e3,"content":"x"},"user_profile_id":1}"#.to_owned(),
            "`message.id` must be an integer",
        ),
        (format!("\u{feff}{{{message},\"user_profile_id\":1}}"), "it begins with a byte order mark"),
        (format!(r#"{{{message},"user_profile_id":1}} x"#), "trailing characters at line 1 column 56"),
    ];
    for (body, reason) in &refused {
        let sent = stored.cli_with_input(&["send", "--file", "-"], body.as_bytes()).await;
        assert!(sent.status == 64 && sent.stderr.contains(reason), "{body}: {sent:?}");
        let bearer = format!("Bearer {TOKEN}");
        let (status, told) = admin.post("/v1/events", &[("authorization", &bearer)], body.as_bytes()).await;
        assert!(status == 400 && told.contains(reason), "{body}: {status} {told}");
        queue.publish(body.as_bytes()).await;
    }
    wait_for_dead_letters(&Db::of(&from_queue).await, refused.len()).await;
    let letters = setup::dead_letters(&from_queue).await;
    for (body, reason) in &refused {
        let told = letters.iter().filter(|letter| letter["detail"].as_str().unwrap().contains(reason));
        assert_eq!(told.count(), 1, "{body}: {letters:?}");
    }
    for name in ["queue", "stored"] {
        let config = if name == "queue" { &from_queue } else { &stored };
        let sent = config.cli(&["send", "--bot=-1", "--content", "x"]).await;
        assert!(sent.status == 64 && sent.stderr.contains("-1"), "{name}: {sent:?}");
    }
    assert!(Db::of(&stored).await.count("SELECT count(*) FROM outhook_event").await == 0);
    drop(receiver);
    queue.delete().await;
}

/// Deliveries that are not a JSON object with the required fields.
fn malformed() -> Vec<(Vec<u8>, &'static str)> {
    let mut bodies: Vec<Vec<u8>> = [
        // Not JSON.
        "",
        "not JSON",
        r#"{"message":"#,
        "{} {}",
        // JSON, but no object.
        "[]",
        "null",
        "7",
        r#""text""#,
        r#"[{"id":11,"content":"x"},1]"#,
        // The message.
        "{}",
        r#"{"user_profile_id":1}"#,
        r#"{"message":null,"user_profile_id":1}"#,
        r#"{"message":"text","user_profile_id":1}"#,
        r#"{"message":[],"user_profile_id":1}"#,
        r#"{"message":[12,"x",null,null,null,null,null],"user_profile_id":1}"#,
        // Its id.
        r#"{"message":{"content":"x"},"user_profile_id":1}"#,
        r#"{"message":{"id":null,"content":"x"},"user_profile_id":1}"#,
        r#"{"message":{"id":"1","content":"x"},"user_profile_id":1}"#,
        r#"{"message":{"id":1.5,"content":"x"},"user_profile_id":1}"#,
        r#"{"message":{"id":99999999999999999999,"content":"x"},"user_profile_id":1}"#,
        r#"{"message":{"id":1.0,"content":"x"},"user_profile_id":1}"#,
        r#"{"message":{"id":1,"id":1,"content":"x"},"user_profile_id":1}"#,
        // Its content.
        r#"{"message":{"id":1},"user_profile_id":1}"#,
        r#"{"message":{"id":1,"content":null},"user_profile_id":1}"#,
        r#"{"message":{"id":1,"content":7},"user_profile_id":1}"#,
        r#"{"message":{"id":1,"content":["x"]},"user_profile_id":1}"#,
        // The bot.
        r#"{"message":{"id":1,"content":"x"}}"#,
        r#"{"message":{"id":1,"content":"x"},"user_profile_id":null}"#,
        r#"{"message":{"id":1,"content":"x"},"user_profile_id":"1"}"#,
        r#"{"message":{"id":1,"content":"x"},"user_profile_id":1.5}"#,
        r#"{"message":{"id":1,"content":"x"},"user_profile_id":1e0}"#,
        r#"{"message":{"id":1,"content":"x"},"user_profile_id":-1}"#,
        r#"{"message":{"id":1,"content":"x"},"user_profile_id":1,"user_profile_id":1}"#,
        // A byte order mark.
        "\u{feff}{\"message\":{\"id\":1,\"content\":\"x\"},\"user_profile_id\":1}",
    ]
    .map(|body| body.as_bytes().to_vec())
    .into();
    bodies.push(b"{\"message\":{\"id\":1,\"content\":\"\xff\"},\"user_profile_id\":1}".to_vec());
    bodies.push(b"\x00\xfe\xff".to_vec());
    bodies.into_iter().map(|body| (body, "malformed")).collect()
}

fn too_large() -> Vec<(Vec<u8>, &'static str)> {
    vec![(event_of_size(EVENT_BYTES_MAX + 1, 200), "too_large")]
}

fn without_callable_bot() -> Vec<(Vec<u8>, &'static str)> {
    let mut letters = vec![
        (event(NOBODY, 101), "unknown_bot"),
        (event(INACTIVE_BOT, 102), "inactive_bot"),
        (event(PERSON, 103), "not_a_webhook_bot"),
    ];
    letters.extend(OTHER_BOTS.map(|(bot, _)| (event(bot, 100 + bot), "not_a_webhook_bot")));
    letters
}

fn event(bot: i64, message: i64) -> Vec<u8> {
    channel_event(bot, message, 7, "soup", "Hi!").to_string().into()
}

/// An event of the good bot whose body has exactly so many bytes.
fn event_of_size(bytes: usize, message: i64) -> Vec<u8> {
    let with = |content: &str| {
        json!({ "message": { "id": message, "content": content }, "user_profile_id": GOOD_BOT }).to_string()
    };
    let body = with(&"x".repeat(bytes - with("").len()));
    assert_eq!(body.len(), bytes);
    body.into()
}

fn from(queue: &Queue) -> Config {
    Config::sqlite().queue(&queue.url, &queue.name)
}

/// Every account has a service, so that a call that must not be made would be seen.
async fn insert_accounts(db: &Db, url: &str) {
    for bot in [GOOD_BOT, INACTIVE_BOT, PERSON].into_iter().chain(OTHER_BOTS.map(|(bot, _)| bot)) {
        insert_called_bot(db, bot, url).await;
    }
    db.exec(&format!("UPDATE zerver_userprofile SET is_active = FALSE WHERE id = {INACTIVE_BOT}")).await;
    let person = "UPDATE zerver_userprofile SET is_bot = FALSE, bot_type = NULL WHERE id";
    db.exec(&format!("{person} = {PERSON}")).await;
    for (bot, bot_type) in OTHER_BOTS {
        db.exec(&format!("UPDATE zerver_userprofile SET bot_type = {bot_type} WHERE id = {bot}")).await;
    }
}

async fn insert_called_bot(db: &Db, bot: i64, url: &str) {
    setup::insert_bot(db, bot).await;
    setup::insert_service(db, bot, url, 1, setup::TOKEN).await;
}

async fn gated_endpoint(gate: &Gate) -> Endpoint {
    let gate = gate.clone();
    Endpoint::start(move |_, _| Answer::Gated(gate.clone(), Box::new(Answer::Json(json!({}))))).await
}

async fn publish(queue: &Queue, bot: i64, messages: impl Iterator<Item = i64>) {
    let bodies: Vec<Vec<u8>> = messages.map(|message| event(bot, message)).collect();
    queue.publish_all(&bodies).await;
}

async fn wait_for_dead_letters(db: &Db, count: usize) {
    let count = i64::try_from(count).unwrap();
    wait_for_count(db, "SELECT count(*) FROM outhook_dead_letter", count).await;
}

async fn wait_for_unfinished(db: &Db, count: i64) {
    wait_for_count(db, "SELECT count(*) FROM outhook_event WHERE state = 0", count).await;
}

/// Waits until so many deliveries are stored, as events or set aside at once.
async fn wait_for_stored(db: &Db, count: usize) {
    let stored = "SELECT (SELECT count(*) FROM outhook_event)
        + (SELECT count(*) FROM outhook_dead_letter WHERE event_id IS NULL)";
    wait_for_count(db, stored, i64::try_from(count).unwrap()).await;
}

async fn wait_for_count(db: &Db, sql: &str, count: i64) {
    let counted = || async { (db.count(sql).await == count).then_some(()) };
    eventually(&format!("{count} rows of {sql}"), PATIENCE, counted).await;
}

/// Ends the daemon in good order; whatever it has not acknowledged is on the queue again then.
async fn drain(outhook: &mut Outhook, queue: &Queue) {
    outhook.terminate().await;
    assert!(outhook.wait().await.success());
    assert_eq!(queue.depth().await, 0, "every delivery is acknowledged");
}

/// Bodies and reasons of all dead letters, each as `show` prints it.
async fn shown_dead_letters(config: &Config) -> Vec<(String, String)> {
    let mut shown = vec![];
    for letter in setup::dead_letters(config).await {
        let id = letter["id"].to_string();
        let record = config.cli(&["dead-letters", "show", &id, "--json"]).await.success().records();
        let text = |key: &str| record[0][key].as_str().unwrap().to_owned();
        assert_eq!(record[0]["reason"], letter["reason"]);
        assert!(!text("detail").is_empty(), "{record:?}");
        shown.push((text("payload"), text("reason")));
    }
    shown.sort();
    shown
}

/// What `shown_dead_letters` yields for these.
fn sorted(letters: Vec<(Vec<u8>, &str)>) -> Vec<(String, String)> {
    let text = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
    let mut letters: Vec<(String, String)> =
        letters.iter().map(|(body, reason)| (text(body), (*reason).to_owned())).collect();
    letters.sort();
    letters
}
