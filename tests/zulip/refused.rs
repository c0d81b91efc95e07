//! Replies that Zulip refuses, and what an operator is told of them.

use std::sync::{Arc, Mutex};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::replies::{replying_to, said, taken};
use crate::support::{
    Answer, Config, Endpoint, Inlet, PATIENCE, Request, Scene, channel_event, echo, eventually,
    secrets::secret,
};

fn unauthorized(text: &str) -> Answer {
    let body = json!({ "result": "error", "msg": text, "code": "UNAUTHORIZED" }).to_string();
    Answer::Http { status: 401, headers: vec![], body: body.into_bytes() }
}

fn key_of(post: &Request) -> String {
    let encoded = post.header("authorization").unwrap().strip_prefix("Basic ").unwrap();
    let pair = String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap();
    pair.split_once(':').unwrap().1.to_owned()
}

async fn given_up(scene: &Scene, number: usize) -> Vec<Value> {
    let sql = "SELECT content, attempts, detail FROM outhook_reply WHERE state = 2 ORDER BY id";
    let rows = || async { Some(scene.db.rows(sql).await).filter(|rows| rows.len() == number) };
    let rows = eventually("replies to be given up", PATIENCE, rows).await;
    rows.into_iter().map(Value::Object).collect()
}

/// The bot is remembered for 5 s.
#[tokio::test(flavor = "multi_thread")]
async fn a_regenerated_key_loses_no_reply() {
    let endpoint = Endpoint::start(|request, _| echo(request)).await;
    let valid: Arc<Mutex<Option<String>>> = Arc::default();
    let known = Arc::clone(&valid);
    let zulip = Endpoint::start(move |post, _| match known.lock().unwrap().as_deref() {
        Some(key) if key != key_of(post) => unauthorized("Invalid API key"),
        _ => taken(),
    })
    .await;
    let scene = Scene::start(Inlet::Stored, replying_to(&zulip, Config::sqlite())).await;
    let bot = scene.bot_at("soup", &endpoint.url("/")).await;
    scene.send(&[channel_event(bot, 1, 7, "Kitchen", "before")]).await;
    scene.posted(1).await;

    let key = secret("new");
    *valid.lock().unwrap() = Some(key.clone());
    scene.db.exec(&format!("UPDATE zerver_userprofile SET api_key = '{key}' WHERE id = {bot}")).await;
    scene.send(&[channel_event(bot, 2, 7, "Kitchen", "after")]).await;
    scene.posted(2).await;
    let posts = zulip.requests();
    assert!(key_of(&posts[0]) != key && key_of(posts.last().unwrap()) == key);
    assert_eq!(scene.db.count("SELECT max(attempts) FROM outhook_reply").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_401_gives_the_reply_up() {
    let endpoint = Endpoint::start(|request, _| echo(request)).await;
    let zulip = Endpoint::start(|_, _| unauthorized("Invalid API key")).await;
    let scene = Scene::start(Inlet::Stored, replying_to(&zulip, Config::sqlite())).await;
    let bot = scene.bot_at("soup", &endpoint.url("/")).await;
    scene.send(&[channel_event(bot, 1, 7, "Kitchen", "soup?")]).await;
    let rows = given_up(&scene, 1).await;
    assert!(rows[0]["detail"].as_str().unwrap().contains("Invalid API key"), "{rows:?}");
    assert_eq!(zulip.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_what_to_set() {
    let located = |to: &str| Answer::Http {
        status: 301,
        headers: vec![("location".to_owned(), to.to_owned())],
        body: vec![],
    };
    let endpoint = Endpoint::start(|request, _| echo(request)).await;
    let zulip = Endpoint::start(move |post, _| match said(post).as_str() {
        "re: host" => Answer::status(400),
        "re: subdomain" => unauthorized("Account is not associated with this subdomain"),
        "re: https" => located("https://chat.example.org/api/v1/messages"),
        "re: nginx" => Answer::Http { status: 404, headers: vec![], body: b"<html>".to_vec() },
        _ => taken(),
    })
    .await;
    let scene = Scene::start(Inlet::Stored, replying_to(&zulip, Config::sqlite())).await;
    let bot = scene.bot_at("soup", &endpoint.url("/")).await;
    let table = [
        ("host", "zulip.external_host"),
        ("subdomain", "zulip.realm_hosts"),
        ("https", "https://chat.example.org: set reply.site"),
        ("nginx", "reply.site"),
    ];
    let events: Vec<Value> =
        (1..).zip(table).map(|(message, (what, _))| channel_event(bot, message, 7, "t", what)).collect();
    scene.send(&events).await;
    let rows = given_up(&scene, table.len()).await;
    for (row, (what, part)) in rows.iter().zip(table) {
        assert_eq!(row["content"], format!("re: {what}"));
        assert!(row["detail"].as_str().unwrap().contains(part), "{row}");
    }
}
