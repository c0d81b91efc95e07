//! `requests.jsonl`: events, each with the request that Zulip's worker sends for it. They have the shapes that were
//! recorded beside a real Zulip, with people and bots of our own.

use std::fs;

use serde::Deserialize;
use serde_json::Value;
use url::form_urlencoded;

use crate::support::{Config, Db, Endpoint, Outhook, Request, setup};

const CASES: &str = include_str!("requests.jsonl");

/// HTTP/1.1 keeps connections alive without a header (RFC 9112 §9.3).
const UNSENT: &str = "connection";

#[derive(Deserialize)]
struct Case {
    what: String,
    event: Value,
    headers: Vec<(String, String)>,
    body: String,
}

struct Bot {
    id: i64,
    realm: i64,
    email: &'static str,
    name: &'static str,
    recipient: i64,
    interface: i16,
    tokens: &'static [&'static str],
}

const GENERIC: i16 = 1;
const SLACK: i16 = 2;

const BOTS: [Bot; 6] = [
    bot(201, 5, "loaf-bot@baker.chat.example.org", "Loaf Bot", 301, GENERIC, &["s3cr3tm4rk-loaf"]),
    bot(202, 5, "form-bot@baker.chat.example.org", "Form Bot", 302, SLACK, &["s3cr3tm4rk-form"]),
    bot(
        203,
        5,
        "pair-bot@baker.chat.example.org",
        "Pair Bot",
        303,
        GENERIC,
        &["s3cr3tm4rk-pair-1", "s3cr3tm4rk-pair-2"],
    ),
    bot(204, 5, "guest-bot@baker.chat.example.org", "Guest Bot", 304, GENERIC, &["s3cr3tm4rk-guest"]),
    bot(205, 5, "stray-bot@baker.chat.example.org", "Stray Bot", 305, GENERIC, &["s3cr3tm4rk-stray"]),
    bot(206, 6, "rooted-bot@chat.example.org", "Rooted Bot", 306, GENERIC, &["s3cr3tm4rk-rooted"]),
];

const fn bot(
    id: i64,
    realm: i64,
    email: &'static str,
    name: &'static str,
    recipient: i64,
    interface: i16,
    tokens: &'static [&'static str],
) -> Bot {
    Bot { id, realm, email, name, recipient, interface, tokens }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_the_one_that_zulip_sends() {
    let cases: Vec<Case> = CASES.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let endpoint = Endpoint::json(serde_json::json!({})).await;
    let config = Config::sqlite();
    let salt = config.folder().join("zulip-secrets.conf");
    fs::write(&salt, "[secrets]\navatar_salt = pepper\n").unwrap();
    let config = config
        .text("zulip.external_host", "chat.example.org")
        .text("zulip.version", "12.0-dev+git")
        .text("zulip.avatar_salt_file", &salt.to_string_lossy());
    let db = setup::tables(&config).await;
    insert(&db, &endpoint).await;
    let _outhook = Outhook::start(&config).await;
    let mut events: Vec<Value> = cases.iter().map(|case| case.event.clone()).collect();
    // A bot with two services has a case for each.
    events.dedup();
    setup::send(&config, &events).await;
    setup::all_finished(&db).await;

    let requests = endpoint.requests();
    assert_eq!(requests.len(), cases.len());
    for case in cases {
        case.assert_sent(&requests);
    }
}

async fn insert(db: &Db, endpoint: &Endpoint) {
    // The organization at the root is another than that of the first migration.
    db.exec("DELETE FROM zerver_realm").await;
    db.exec("INSERT INTO zerver_realm (id, string_id) VALUES (5, 'baker'), (6, '')").await;
    for bot in BOTS {
        setup::insert_bot(db, bot.id).await;
        let profile = format!(
            "UPDATE zerver_userprofile SET realm_id = {}, recipient_id = {}, email = '{}', full_name = '{}'
             WHERE id = {}",
            bot.realm, bot.recipient, bot.email, bot.name, bot.id
        );
        db.exec(&profile).await;
        for token in bot.tokens {
            setup::insert_service(db, bot.id, &endpoint.url("/hook"), bot.interface, token).await;
        }
    }
}

impl Case {
    fn is_form(&self) -> bool {
        self.headers.contains(&("Content-Type".to_owned(), "application/x-www-form-urlencoded".to_owned()))
    }

    /// Exactly one request is this one: the order, types and values of its keys, and its headers. How JSON and forms
    /// are escaped does not count.
    fn assert_sent(&self, requests: &[Request]) {
        let expected = self.read(self.body.as_bytes());
        let sent: Vec<&Request> = requests.iter().filter(|request| self.is_for(request)).collect();
        let [request] = sent[..] else { panic!("{}: {} requests", self.what, sent.len()) };
        assert_eq!(self.read(&request.body), expected, "{}", self.what);
        for (name, value) in &self.headers {
            let name = name.to_lowercase();
            let expected = Some(value.as_str()).filter(|_| name != UNSENT);
            assert_eq!(request.header(&name), expected, "{}: {name}", self.what);
        }
    }

    /// The content type, the token and the message tell which case a request belongs to.
    fn is_for(&self, request: &Request) -> bool {
        let is_form = request.header("content-type") == Some("application/x-www-form-urlencoded");
        if is_form || self.is_form() {
            let text = |body: &[u8]| pairs(body).into_iter().find(|(name, _)| name == "text");
            return is_form && self.is_form() && text(&request.body) == text(self.body.as_bytes());
        }
        let identity = |body: &Value| (body["token"].clone(), body["message"]["id"].clone());
        identity(&request.json()) == identity(&serde_json::from_str(&self.body).unwrap())
    }

    fn read(&self, body: &[u8]) -> String {
        if self.is_form() {
            return format!("{:#?}", pairs(body));
        }
        let json: Value = serde_json::from_slice(body).unwrap();
        serde_json::to_string_pretty(&json).unwrap()
    }
}

fn pairs(body: &[u8]) -> Vec<(String, String)> {
    form_urlencoded::parse(body).into_owned().collect()
}
