//! The two formats on the wire: requests as Zulip makes them and more, replies read as Zulip reads them or
//! better.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::setup::{self, Said};
use crate::support::{Answer, Config, Db, Endpoint, Outhook, Request, channel_event};

/// The bot of the examples, and the recipient that stands for it in direct messages.
const BOT: i64 = 58;
const BOT_RECIPIENT: i64 = 63;
const TOKEN: &str = "q8ZfT3mWx7LpR2nVb6KsY1cJd9HgA4eU";

const GENERIC: i16 = 1;
const SLACK: i16 = 2;

/// Gravatar names people by the MD5 of their address, here rosa@example.org.
const GRAVATAR: &str =
    "https://secure.gravatar.com/avatar/649cf11c722437075a9bf95990b0a048?d=identicon&version=1";
/// The first 40 digits of the SHA-256 of `31:1:pepper`: person, version, salt.
const UPLOADED: &str = "/user_avatars/2/dd62f099b399a2b7ca5f24fda1ec07e84fcf6750.png";

/// The most seconds between the clock of an attempt and that of the test.
const CLOCKS_APART_MAX: i64 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_message_is_sent_as_zulip_sends_it() {
    let requests = requests_for(&zulip(), GENERIC, &[channel_example()]).await;

    assert_eq!(requests.len(), 1, "{requests:#?}");
    let request = &requests[0];
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/hook?from=chat"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("user-agent"), Some("ZulipOutgoingWebhook/11.4"));
    // As text, since the order of the keys is Zulip's too.
    assert_eq!(request.json().to_string(), channel_body().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_message_to_the_bot_names_the_recipient_that_stands_for_the_sender() {
    let mut of_others = direct_example();
    of_others["message"]["id"] = json!(9003);
    of_others["message"]["recipient_id"] = json!(BOT_RECIPIENT + 1);
    let requests = requests_for(&zulip(), GENERIC, &[direct_example(), of_others]).await;

    assert_eq!(body_about(&requests, 9002).to_string(), direct_body().to_string());
    let kept = &body_about(&requests, 9003)["message"]["recipient_id"];
    assert_eq!(*kept, json!(BOT_RECIPIENT + 1), "it stands for somebody else");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_are_passed_on_as_they_were_written_and_removed_ones_are_not() {
    let unknown = r#"{"b":1,"a":[1.50,123456789012345678901234567890,"\u00fc"]}"#;
    let event = format!(
        r#"{{"message":{{"id":9004,"content":"x","new":{unknown},"avatar_url":"old","can_access_sender":true,"last":7}},
            "trigger":"something_new","more":1,"user_profile_id":{BOT}}}"#
    );
    let endpoint = Endpoint::json(json!({})).await;
    let config = zulip();
    let db = bot_with(&config, &endpoint.url("/"), GENERIC).await;
    let _outhook = Outhook::start(&config).await;
    setup::send_lines(&config, &[event.replace('\n', "")]).await;
    setup::all_finished(&db).await;

    let requests = endpoint.requests();
    let sent = String::from_utf8(requests[0].body.clone()).unwrap();
    assert!(sent.contains(unknown), "{sent}");
    let body = requests[0].json();
    assert_eq!(keys(&body), ["data", "message", "bot_email", "bot_full_name", "token", "trigger"]);
    assert_eq!(keys(&body["message"]), ["id", "content", "new", "last", "avatar_url", "content_type"]);
    assert_eq!(body["trigger"], json!("something_new"));
    assert_ne!(body["message"]["avatar_url"], json!("old"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uploaded_avatar_has_the_path_that_zulip_gives_it() {
    let mut event = channel_example();
    event["message"]["sender_avatar_source"] = json!("U");

    let config = zulip();
    let salt = config.folder().join("salt");
    fs::write(&salt, "pepper\n").unwrap();
    let config = config.text("zulip.avatar_salt_file", &salt.to_string_lossy());
    let requests = requests_for(&config, GENERIC, std::slice::from_ref(&event)).await;
    assert_eq!(requests[0].json()["message"]["avatar_url"], json!(UPLOADED));

    let requests = requests_for(&zulip(), GENERIC, &[event]).await;
    assert_eq!(requests[0].json()["message"]["avatar_url"], json!(null), "without the salt nobody knows");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_gravatar_a_person_has_the_default_avatar() {
    let config = zulip().set("zulip.gravatar", "false");
    let requests = requests_for(&config, GENERIC, &[channel_example()]).await;

    let expected = "https://chat.example.org/static/images/default-avatar.png?version=1";
    assert_eq!(requests[0].json()["message"]["avatar_url"], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_message_is_sent_to_slacks_format_as_a_form() {
    let requests = requests_for(&zulip(), SLACK, &[channel_example()]).await;

    assert_eq!(requests.len(), 1, "{requests:#?}");
    assert_eq!(requests[0].method, "POST");
    assert_eq!(requests[0].header("content-type"), Some("application/x-www-form-urlencoded"));
    let expected = [
        ("token", TOKEN),
        ("team_id", "T2"),
        ("team_domain", "acme.chat.example.org"),
        ("channel_id", "C7"),
        ("channel_name", "food"),
        ("thread_ts", "1767225600"),
        ("timestamp", "1767225600"),
        ("user_id", "U31"),
        ("user_name", "Rosa Lind"),
        ("text", "@**Lunch Bot** soup?"),
        ("trigger_word", "mention"),
        ("service_id", "58"),
    ];
    assert_eq!(requests[0].form(), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organisation_with_a_host_of_its_own_is_slacks_team_by_it() {
    let config = zulip().set("zulip.realm_hosts", r#"{ acme = "chat.acme.example" }"#);
    let requests = requests_for(&config, SLACK, &[channel_example()]).await;

    let team = requests[0].form().into_iter().find(|(name, _)| name == "team_domain");
    assert_eq!(team, Some(("team_domain".to_owned(), "chat.acme.example".to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_message_is_not_sent_to_slacks_format_and_that_is_told() {
    let endpoint = Endpoint::json(json!({ "text": "nobody asked" })).await;
    let config = zulip();
    let db = bot_with(&config, &endpoint.url("/"), SLACK).await;
    let _outhook = Outhook::start(&config).await;
    let mut renamed = direct_example();
    renamed["message"]["id"] = json!(9003);
    renamed["message"]["type"] = json!("direct");
    setup::send(&config, &[direct_example(), renamed]).await;
    setup::all_finished(&db).await;

    assert!(endpoint.requests().is_empty());
    let deliveries = setup::deliveries(&config).await;
    assert_eq!(deliveries.len(), 2, "{deliveries:?}");
    for delivery in deliveries {
        assert_eq!((&delivery["state"], &delivery["reason"]), (&json!("failed"), &json!("unsupported")));
    }
    let said = setup::outbox(&db).await;
    assert_eq!(said.iter().map(|line| line.message).collect::<Vec<_>>(), [9002, 9003]);
    assert!(said.iter().all(Said::is_told), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_can_be_recognised_and_verified() {
    let tokens = ["first tøken", TOKEN];
    let busy = |number: usize| if number < 2 { Answer::status(503) } else { Answer::Json(json!({})) };
    let endpoints = [Endpoint::start(move |_, number| busy(number)).await, Endpoint::json(json!({})).await];
    let config = Config::sqlite();
    let db = setup::tables(&config).await;
    setup::insert_bot(&db, BOT).await;
    for (endpoint, token) in endpoints.iter().zip(tokens) {
        setup::insert_service(&db, BOT, &endpoint.url("/"), GENERIC, token).await;
    }
    let _outhook = Outhook::start(&config).await;
    setup::send(&config, &[channel_example()]).await;
    setup::all_finished(&db).await;

    let attempts: Vec<Vec<String>> = endpoints
        .iter()
        .map(|endpoint| endpoint.requests().iter().map(|request| only(request, "outhook-attempt")).collect())
        .collect();
    assert_eq!(attempts, [vec!["1", "2", "3"], vec!["1"]]);
    let mut ids: Vec<String> = vec![];
    for (endpoint, token) in endpoints.iter().zip(tokens) {
        for request in endpoint.requests() {
            verify(&request, token);
            assert_eq!(request.json()["token"], json!(token));
            assert!(only(&request, "user-agent").starts_with("outhook/"), "{request:?}");
            ids.push(only(&request, "webhook-id"));
        }
    }
    assert!(ids[0] == ids[1] && ids[0] == ids[2], "the same for all attempts: {ids:?}");
    assert_ne!(ids[0], ids[3], "another for each service");
}

/// Receiving libraries decode such a token.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_standard_webhooks_signs_with_its_decoded_bytes() {
    let key: Vec<u8> = (200..224).collect();
    let token = format!("whsec_{}", STANDARD.encode(&key));
    let endpoint = Endpoint::json(json!({})).await;
    let config = Config::sqlite();
    let bot = setup::add_bot(&config).await.to_string();
    let url = endpoint.url("/");
    let add = ["services", "add", "--bot", &bot, "--name", "s", "--url", &url, "--token", &token];
    config.cli(&add).await.success();
    let _outhook = Outhook::start(&config).await;
    setup::send(&config, &[channel_event(bot.parse().unwrap(), 1, 7, "t", "x")]).await;
    let request = endpoint.wait_for(1).await.remove(0);
    verify_with_key(&request, &key);
    assert_eq!(request.json()["token"], json!(token), "the body carries the text");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_no_key_is_refused_or_fails_the_call_and_dials_nobody() {
    let endpoint = Endpoint::json(json!({})).await;
    let config = Config::sqlite();
    let bot = setup::add_bot(&config).await.to_string();
    let (url, db) = (endpoint.url("/"), Db::of(&config).await);
    let tokens =
        [("", "is empty"), ("whsec_", "whsec_"), ("whsec_not base64", "whsec_"), ("whsec_-_-_", "whsec_")];
    for (token, reason) in tokens {
        let token_argument = format!("--token={token}");
        let add = ["services", "add", "--bot", &bot, "--name", "s", "--url", &url, &token_argument];
        let refused = config.cli(&add).await;
        assert!(refused.status == 64 && refused.stderr.contains(reason), "{token}: {refused:?}");
        setup::insert_service(&db, bot.parse().unwrap(), &url, GENERIC, token).await;
    }
    let _outhook = Outhook::start(&config).await;
    setup::send(&config, &[channel_event(bot.parse().unwrap(), 1, 7, "t", "x")]).await;
    setup::all_finished(&db).await;
    let calls = setup::deliveries(&config).await;
    assert_eq!(calls.len(), tokens.len());
    for call in calls {
        assert_eq!((&call["state"], &call["reason"]), (&json!("failed"), &json!("unsendable")), "{call}");
        assert!(call["detail"].as_str().unwrap().contains("give the service a token"), "{call}");
    }
    assert!(endpoint.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_message_has_another_webhook_id_also_in_slacks_format() {
    let mut second = channel_example();
    second["message"]["id"] = json!(9005);
    let requests = requests_for(&zulip(), SLACK, &[channel_example(), second]).await;

    assert_eq!(requests.len(), 2, "{requests:#?}");
    requests.iter().for_each(|request| verify(request, TOKEN));
    assert_ne!(only(&requests[0], "webhook-id"), only(&requests[1], "webhook-id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generic_answer_is_read_by_zulips_keys_in_zulips_order() {
    let table = [
        (r#"{"content":"soup"}"#, Some("soup")),
        (r#"{"content":"Süppchen 🍲"}"#, Some("Süppchen 🍲")),
        (r#"{"content":"a\u0000b"}"#, Some("a\0b")),
        (r#"{}"#, None),
        (r#"{"something":"else"}"#, None),
        (r#"{"text":"soup"}"#, None),
        // Nothing, and what only looks like something.
        (r#"{"content":null}"#, None),
        (r#"{"content":""}"#, None),
        (r#"{"content":" \r\n\t"}"#, None),
        // What is not text becomes compact JSON.
        (r#"{"content":true}"#, Some("true")),
        (r#"{"content":false}"#, Some("false")),
        (r#"{"content":0}"#, Some("0")),
        (r#"{"content":1.5}"#, Some("1.5")),
        (r#"{"content":[1, "a"]}"#, Some(r#"[1,"a"]"#)),
        (r#"{"content": {"b": 1, "a": [true, null]}}"#, Some(r#"{"b":1,"a":[true,null]}"#)),
        // The old key wins.
        (r#"{"response_string":"salad"}"#, Some("salad")),
        (r#"{"content":"soup","response_string":"salad"}"#, Some("salad")),
        (r#"{"content":"soup","response_string":null}"#, None),
        (r#"{"response_string":{"a": 1}}"#, Some(r#"{"a":1}"#)),
        // Not to answer wins over all.
        (r#"{"content":"soup","response_not_required":true}"#, None),
        (r#"{"content":"soup","response_not_required":"no"}"#, None),
        (r#"{"content":"soup","response_not_required":1}"#, None),
        (r#"{"content":"soup","response_not_required":[0]}"#, None),
        (r#"{"response_string":"salad","response_not_required":{"a":0}}"#, None),
        (r#"{"content":"soup","response_not_required":false}"#, Some("soup")),
        (r#"{"content":"soup","response_not_required":null}"#, Some("soup")),
        (r#"{"content":"soup","response_not_required":""}"#, Some("soup")),
        (r#"{"content":"soup","response_not_required":0}"#, Some("soup")),
        (r#"{"content":"soup","response_not_required":[]}"#, Some("soup")),
        (r#"{"content":"soup","response_not_required":{}}"#, Some("soup")),
    ];
    check_replies(GENERIC, &table).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_widget_goes_with_content_as_a_text_that_holds_json() {
    let zform = r#"{"widget_type": "zform", "extra_data": {}}"#;
    let as_text = json!({ "content": "Which?", "widget_content": zform }).to_string();
    let answers = [
        as_text.as_str(),
        r#"{"content":"Which?","widget_content":{"widget_type": "zform"}}"#,
        r#"{"content":"Which?","widget_content":null}"#,
        r#"{"content":"Which?"}"#,
        r#"{"response_string":"Which?","widget_content":"{}"}"#,
        r#"{"content":null,"widget_content":"{}"}"#,
    ];
    let said = said_to(GENERIC, &answers).await;

    let widgets: Vec<Option<Option<&str>>> =
        said.iter().map(|line| line.as_ref().map(|line| line.widget.as_deref())).collect();
    let compact = r#"{"widget_type":"zform"}"#;
    let expected = [Some(Some(zform)), Some(Some(compact)), Some(None), Some(None), Some(None), None];
    assert_eq!(widgets, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_in_slacks_format_is_read_by_its_text() {
    let table = [
        (r#"{"text":"soup"}"#, Some("soup")),
        (r#"{"text":"soup","username":"somebody","attachments":[]}"#, Some("soup")),
        (r#"{"text":null}"#, None),
        (r#"{"text":" \n"}"#, None),
        (r#"{"text":["a", 1]}"#, Some(r#"["a",1]"#)),
        (r#"{"content":"soup"}"#, None),
        (r#"{"response_string":"salad"}"#, None),
        (r#"{}"#, None),
    ];
    check_replies(SLACK, &table).await;
}

/// The worked example of a message in a channel.
fn channel_example() -> Value {
    json!({
        "message": {
            "id": 9001,
            "sender_id": 31,
            "content": "@**Lunch Bot** soup?",
            "recipient_type_id": 7,
            "recipient_type": 2,
            "recipient_id": 44,
            "timestamp": 1_767_225_600,
            "client": "website",
            "subject": "kitchen",
            "sender_realm_id": 2,
            "topic_links": [],
            "rendered_content": "<p><span class=\"user-mention\" data-user-id=\"58\">@Lunch Bot</span> soup?</p>",
            "is_me_message": false,
            "reactions": [],
            "submessages": [],
            "sender_recipient_id": 61,
            "sender_full_name": "Rosa Lind",
            "sender_email": "user31@chat.example.org",
            "sender_delivery_email": "Rosa@example.org",
            "sender_realm_str": "acme",
            "sender_avatar_source": "G",
            "sender_avatar_version": 1,
            "sender_is_mirror_dummy": false,
            "sender_email_address_visibility": 2,
            "display_recipient": "food",
            "type": "stream",
            "stream_id": 7,
        },
        "trigger": "mention",
        "user_profile_id": BOT,
    })
}

/// What the bot is sent of it.
fn channel_body() -> Value {
    json!({
        "data": "@**Lunch Bot** soup?",
        "message": {
            "id": 9001,
            "sender_id": 31,
            "content": "@**Lunch Bot** soup?",
            "recipient_id": 44,
            "timestamp": 1_767_225_600,
            "client": "website",
            "subject": "kitchen",
            "topic_links": [],
            "rendered_content": "<p><span class=\"user-mention\" data-user-id=\"58\">@Lunch Bot</span> soup?</p>",
            "is_me_message": false,
            "reactions": [],
            "submessages": [],
            "sender_full_name": "Rosa Lind",
            "sender_email": "user31@chat.example.org",
            "sender_realm_str": "acme",
            "display_recipient": "food",
            "type": "stream",
            "stream_id": 7,
            "avatar_url": GRAVATAR,
            "content_type": "text/x-markdown",
        },
        "bot_email": "lunch-bot@acme.chat.example.org",
        "bot_full_name": "Lunch Bot",
        "token": TOKEN,
        "trigger": "mention",
    })
}

/// The worked example of a direct message to the bot.
fn direct_example() -> Value {
    let mut event = channel_example();
    event["message"]["id"] = json!(9002);
    event["trigger"] = json!("direct_message");
    let message = event["message"].as_object_mut().unwrap();
    message.shift_remove("stream_id");
    message.extend([
        ("recipient_type".to_owned(), json!(1)),
        ("recipient_type_id".to_owned(), json!(BOT)),
        ("recipient_id".to_owned(), json!(BOT_RECIPIENT)),
        ("subject".to_owned(), json!("")),
        ("type".to_owned(), json!("private")),
        ("display_recipient".to_owned(), parties()),
    ]);
    event
}

/// What the bot is sent of it.
fn direct_body() -> Value {
    let mut body = channel_body();
    body["trigger"] = json!("direct_message");
    let message = body["message"].as_object_mut().unwrap();
    message.shift_remove("stream_id");
    message.extend([
        ("id".to_owned(), json!(9002)),
        ("recipient_id".to_owned(), json!(61)),
        ("subject".to_owned(), json!("")),
        ("type".to_owned(), json!("private")),
        ("display_recipient".to_owned(), parties()),
    ]);
    body
}

fn parties() -> Value {
    json!([
        {
            "id": BOT,
            "email": "lunch-bot@acme.chat.example.org",
            "full_name": "Lunch Bot",
            "is_mirror_dummy": false,
        },
        {
            "id": 31,
            "email": "user31@chat.example.org",
            "full_name": "Rosa Lind",
            "is_mirror_dummy": false,
        },
    ])
}

/// What is known of the server of the examples.
fn zulip() -> Config {
    Config::sqlite().text("zulip.external_host", "chat.example.org").text("zulip.version", "11.4")
}

/// Makes the bot of the examples and its organisation.
async fn bot_with(config: &Config, url: &str, interface: i16) -> Db {
    let db = setup::tables(config).await;
    db.exec("INSERT INTO zerver_realm (id, string_id) VALUES (2, 'acme')").await;
    setup::insert_bot(&db, BOT).await;
    setup::insert_service(&db, BOT, url, interface, TOKEN).await;
    let profile = format!(
        "UPDATE zerver_userprofile SET realm_id = 2, recipient_id = {BOT_RECIPIENT}, full_name = 'Lunch Bot',
            email = 'lunch-bot@acme.chat.example.org' WHERE id = {BOT}"
    );
    db.exec(&profile).await;
    db
}

/// The requests that the bot of the examples gets for these events.
async fn requests_for(config: &Config, interface: i16, events: &[Value]) -> Vec<Request> {
    let endpoint = Endpoint::json(json!({})).await;
    let db = bot_with(config, &endpoint.url("/hook?from=chat"), interface).await;
    let _outhook = Outhook::start(config).await;
    setup::send(config, events).await;
    setup::all_finished(&db).await;
    endpoint.requests()
}

/// The body of the one request about this message.
fn body_about(requests: &[Request], message: i64) -> Value {
    let mut bodies: Vec<Value> = requests.iter().map(Request::json).collect();
    bodies.retain(|body| body["message"]["id"] == message);
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    bodies.remove(0)
}

fn keys(object: &Value) -> Vec<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

/// The value of a header that must be there once.
fn only(request: &Request, name: &str) -> String {
    let values: Vec<&String> =
        request.headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value).collect();
    assert_eq!(values.len(), 1, "{name}: {request:?}");
    values[0].clone()
}

/// Checks a request as a receiver does that knows the token.
fn verify(request: &Request, token: &str) {
    verify_with_key(request, token.as_bytes());
}

fn verify_with_key(request: &Request, key: &[u8]) {
    let (id, timestamp) = (only(request, "webhook-id"), only(request, "webhook-timestamp"));
    let signed = [format!("{id}.{timestamp}.").as_bytes(), request.body.as_slice()].concat();
    let signature = STANDARD.encode(hmac_sha256(key, &signed));
    assert_eq!(only(request, "webhook-signature"), format!("v1,{signature}"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let sent: i64 = timestamp.parse().unwrap();
    assert!((i64::try_from(now).unwrap() - sent).abs() <= CLOCKS_APART_MAX, "{timestamp}");
}

/// RFC 2104, written down here so that nothing of the product's is believed.
fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 64];
    block[..key.len()].copy_from_slice(key);
    let padded = |with: u8| block.map(|byte| byte ^ with).to_vec();
    let inner = Sha256::digest([padded(0x36), message.to_vec()].concat()).to_vec();
    Sha256::digest([padded(0x5c), inner].concat()).to_vec()
}

async fn check_replies(interface: i16, table: &[(&str, Option<&str>)]) {
    let answers: Vec<&str> = table.iter().map(|(answer, _)| *answer).collect();
    let said = said_to(interface, &answers).await;
    for ((answer, expected), line) in table.iter().zip(&said) {
        let content = line.as_ref().map(|line| line.content.as_str());
        assert_eq!(content, *expected, "{answer}");
    }
}

/// What the bot says to each of these answers, in the same order.
async fn said_to(interface: i16, answers: &[&str]) -> Vec<Option<Said>> {
    let endpoint = Endpoint::start(move |request, _| echo(&command(request, interface))).await;
    let config = zulip();
    let db = bot_with(&config, &endpoint.url("/"), interface).await;
    let _outhook = Outhook::start(&config).await;
    let events: Vec<Value> = (1..)
        .zip(answers)
        .map(|(message, answer)| channel_event(BOT, message, 7, &message.to_string(), answer))
        .collect();
    setup::send(&config, &events).await;
    setup::all_finished(&db).await;

    for delivery in setup::deliveries(&config).await {
        assert_eq!(delivery["state"], json!("succeeded"), "{delivery}");
    }
    let said = setup::outbox(&db).await;
    assert!(!said.iter().any(Said::is_told), "{said:?}");
    (1..)
        .zip(answers)
        .map(|(message, _)| {
            let mut lines = said.iter().filter(|line| line.message == message);
            let line = lines.next().cloned();
            assert_eq!(lines.next(), None, "one reply");
            line
        })
        .collect()
}

/// What the message said: here, what the endpoint is to answer.
fn command(request: &Request, interface: i16) -> String {
    match interface {
        SLACK => request.form().into_iter().find(|(name, _)| name == "text").unwrap().1,
        _ => request.json()["data"].as_str().unwrap().to_owned(),
    }
}

fn echo(body: &str) -> Answer {
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    Answer::Http { status: 200, headers, body: body.into() }
}
