//! The main job: each event is POSTed once to every service of its bot, what they answer becomes a reply, and
//! the message is marked processed together with the outcome of its last call.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use lapin::options::BasicGetOptions;
use serde_json::{Value, json};

use super::support::*;

/// Where the log tells of single events.
const EVENT_LOG: &str = "zerver.worker.outgoing_webhooks";
/// How old what outhook knows of a bot may be.
const CACHED: Duration = Duration::from_secs(5);

const READ: i64 = 1;
const MENTIONED: i64 = 8;
const HISTORICAL: i64 = 1024;
const PRIVATE: i64 = 2048;

#[derive(Debug, Clone, Copy)]
enum Interface {
    Generic,
    Slack,
}

impl Interface {
    fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Slack => "slack",
        }
    }

    /// What a bot was told.
    fn said(self, request: &Request) -> String {
        match self {
            Self::Generic => request.json()["data"].as_str().unwrap().to_owned(),
            Self::Slack => form_field(request, "text").unwrap(),
        }
    }

    fn answer(self, request: &Request) -> Answer {
        let reply = format!("re: {}", self.said(request));
        Answer::Json(match self {
            Self::Generic => json!({ "content": reply }),
            Self::Slack => json!({ "text": reply }),
        })
    }
}

/// A bot of a test, with one service.
struct Called {
    id: i64,
    name: &'static str,
}

impl Called {
    fn token(&self) -> String {
        format!("{}-of-{}", setup::TOKEN, self.name)
    }

    /// Messages in several conversations; Slack's format knows channels only.
    fn events(&self, interface: Interface) -> Vec<Value> {
        let first = self.id * 1_000;
        let event = |n: i64| {
            let (message, content) = (first + n, format!("message {}", first + n));
            match (n % 3, interface) {
                (0, Interface::Generic) => direct_event(self.id, message, 31, &content),
                (turn, _) => channel_event(self.id, message, 7 + turn, "Kitchen", &content),
            }
        };
        (0..12).map(event).collect()
    }
}

fn message_id(event: &Value) -> i64 {
    event["message"]["id"].as_i64().unwrap()
}

fn content(event: &Value) -> String {
    event["message"]["content"].as_str().unwrap().to_owned()
}

/// The flags of all messages, by account and message.
async fn all_flags(scene: &Scene) -> BTreeMap<(i64, i64), i64> {
    let rows = scene.db.rows("SELECT user_profile_id, message_id, flags FROM zerver_usermessage").await;
    let number = |value: &Value| value.as_i64().unwrap();
    let entry = |row: &serde_json::Map<String, Value>| {
        ((number(&row["user_profile_id"]), number(&row["message_id"])), number(&row["flags"]))
    };
    rows.iter().map(entry).collect()
}

/// Gives every other message to its bot and to a person, and some besides that are no events.
async fn give_messages(scene: &Scene, events: &[Value], bots: &[Called]) {
    for event in events.iter().filter(|event| message_id(event) % 2 == 0) {
        let (bot, message) = (event["user_profile_id"].as_i64().unwrap(), message_id(event));
        scene.give_message(bot, message, MENTIONED | PRIVATE).await;
        scene.give_message(4_711, message, HISTORICAL).await;
    }
    let (first, last) = (&bots[0], &bots[bots.len() - 1]);
    scene.give_message(first.id, 77, MENTIONED).await;
    scene.give_message(last.id, first.id * 1_000, MENTIONED).await;
}

/// What is to become of them.
fn read_by_their_bots(flags: &BTreeMap<(i64, i64), i64>, events: &[Value]) -> BTreeMap<(i64, i64), i64> {
    let is_event = |account: i64, message: i64| {
        events.iter().any(|event| event["user_profile_id"] == account && message_id(event) == message)
    };
    let expected = |(&(account, message), &flags): (&(i64, i64), &i64)| {
        ((account, message), if is_event(account, message) { flags | READ } else { flags })
    };
    flags.iter().map(expected).collect()
}

fn assert_carries(request: &Request, interface: Interface, event: &Value, bot: &Called) {
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", format!("/{}", bot.name).as_str()));
    assert_eq!(request.header("outhook-attempt"), Some("1"));
    match interface {
        Interface::Generic => {
            let body = request.json();
            assert_eq!(request.header("content-type"), Some("application/json"));
            assert_eq!(body["message"]["id"], event["message"]["id"]);
            assert_eq!(body["trigger"], event["trigger"]);
            assert_eq!(body["token"], bot.token());
            assert_eq!(body["bot_email"], format!("{}@bots.example.org", bot.name));
            assert_eq!(body["bot_full_name"], bot.name);
        }
        Interface::Slack => {
            let field = |name| form_field(request, name).unwrap();
            assert_eq!(request.header("content-type"), Some("application/x-www-form-urlencoded"));
            assert_eq!(field("token"), bot.token());
            assert_eq!(field("channel_id"), format!("C{}", event["message"]["stream_id"]));
            assert_eq!(field("service_id"), bot.id.to_string());
        }
    }
}

/// One POST for each event, with a `webhook-id` of its own.
fn assert_called_once(requests: &[Request], interface: Interface, events: &[Value], bots: &[Called]) {
    assert_eq!(requests.len(), events.len());
    let ids: BTreeSet<_> = requests.iter().map(|request| request.header("webhook-id").unwrap()).collect();
    assert_eq!(ids.len(), events.len(), "a webhook-id was given twice");
    for event in events {
        let bot = bots.iter().find(|bot| event["user_profile_id"] == bot.id).unwrap();
        let calls: Vec<_> = requests.iter().filter(|call| interface.said(call) == content(event)).collect();
        assert_eq!(calls.len(), 1, "{}", content(event));
        assert_carries(calls[0], interface, event, bot);
    }
}

/// One reply for each event, posted at the first attempt.
async fn assert_replied_once(scene: &Scene, events: &[Value]) {
    let rows = scene.db.rows("SELECT bot_id, content, state, attempts FROM outhook_reply").await;
    let outbox: BTreeSet<String> = rows.iter().map(|row| Value::Object(row.clone()).to_string()).collect();
    let reply = |event: &Value| {
        let (bot, content) = (&event["user_profile_id"], format!("re: {}", content(event)));
        json!({ "bot_id": bot, "content": content, "state": 1, "attempts": 1 }).to_string()
    };
    let expected: BTreeSet<String> = events.iter().map(reply).collect();
    assert_eq!(outbox, expected);
    assert_eq!(rows.len(), events.len());
}

/// The ledger holds one call for each event, which succeeded at once.
fn assert_all_succeeded(ledger: &[Value], events: &[Value]) {
    let mut calls: Vec<(i64, i64)> = vec![];
    for call in ledger {
        assert_eq!((&call["state"], &call["attempts"]), (&json!("succeeded"), &json!(1)), "{call}");
        calls.push((call["bot_id"].as_i64().unwrap(), call["message_id"].as_i64().unwrap()));
    }
    let bot = |event: &Value| event["user_profile_id"].as_i64().unwrap();
    let mut expected: Vec<(i64, i64)> = events.iter().map(|event| (bot(event), message_id(event))).collect();
    calls.sort_unstable();
    expected.sort_unstable();
    assert_eq!(calls, expected);
}

/// With `reply.to = "log"` each reply is a line of the log.
fn assert_logged_once(log: &[String], events: &[Value]) {
    for event in events {
        let reply = json!(format!("re: {}", content(event))).to_string();
        let is_said = |line: &&String| line.contains(EVENT_LOG) && line.contains(&reply);
        let lines: Vec<&String> = log.iter().filter(is_said).collect();
        assert_eq!(lines.len(), 1, "{reply}: {lines:?}");
    }
}

async fn main_job(inlet: Inlet, storage: Storage, interface: Interface) {
    let endpoint = Endpoint::start(move |request, _| interface.answer(request)).await;
    let mut scene = Scene::start(inlet, storage.config().await).await;
    let mut bots = vec![];
    for name in ["soup", "salad", "bread"] {
        let bot = Called { id: scene.bot(name).await, name };
        let (url, token) = (endpoint.url(&format!("/{name}")), bot.token());
        let options = ["--interface", interface.name(), "--token", &token];
        scene.service(bot.id, "main", &url, &options).await;
        bots.push(bot);
    }
    let events: Vec<Value> = bots.iter().flat_map(|bot| bot.events(interface)).collect();
    give_messages(&scene, &events, &bots).await;
    let flags = all_flags(&scene).await;

    scene.send(&events).await;
    scene.finished(events.len()).await;
    scene.posted(events.len()).await;
    assert_all_succeeded(&scene.ledger().await, &events);
    assert_eq!(scene.drain().await, 0);

    assert_called_once(&endpoint.requests(), interface, &events, &bots);
    assert_replied_once(&scene, &events).await;
    assert_logged_once(&scene.outhook.log(), &events);
    assert_eq!(all_flags(&scene).await, read_by_their_bots(&flags, &events));
    assert_eq!(scene.db.count("SELECT count(*) FROM outhook_event WHERE state <> 1").await, 0);
    assert_eq!(scene.db.count("SELECT count(*) FROM outhook_dead_letter").await, 0);
    if let Some(queue) = &scene.queue {
        // Nobody consumes any more, so what had not been acknowledged would wait here again.
        assert_eq!((queue.depth().await, queue.consumers().await), (0, 0));
    }
}

macro_rules! main_job_with {
    ($($name:ident: $inlet:ident, $storage:ident, $interface:ident;)*) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            main_job(Inlet::$inlet, Storage::$storage, Interface::$interface).await;
        }
    )* };
}

main_job_with! {
    generic_bots_are_served_from_rabbitmq_with_sqlite: RabbitMq, Sqlite, Generic;
    generic_bots_are_served_from_rabbitmq_with_postgresql: RabbitMq, Postgres, Generic;
    generic_bots_are_served_without_a_broker_with_sqlite: Stored, Sqlite, Generic;
    generic_bots_are_served_without_a_broker_with_postgresql: Stored, Postgres, Generic;
    slack_bots_are_served_from_rabbitmq_with_sqlite: RabbitMq, Sqlite, Slack;
    slack_bots_are_served_from_rabbitmq_with_postgresql: RabbitMq, Postgres, Slack;
    slack_bots_are_served_without_a_broker_with_sqlite: Stored, Sqlite, Slack;
    slack_bots_are_served_without_a_broker_with_postgresql: Stored, Postgres, Slack;
}

/// Zulip's tables as far as outhook looks at them, with Zulip's own types, in Zulip's own schema.
const ZULIP: &str = "
CREATE SCHEMA zulip;
SET search_path = zulip;
CREATE TABLE zerver_realm (
    id integer PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY,
    name varchar(40),
    string_id varchar(40) NOT NULL UNIQUE,
    deactivated boolean NOT NULL
);
CREATE TABLE zerver_userprofile (
    id integer PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY,
    realm_id integer NOT NULL REFERENCES zerver_realm DEFERRABLE INITIALLY DEFERRED,
    recipient_id integer,
    delivery_email varchar(254) NOT NULL,
    email varchar(254) NOT NULL,
    full_name varchar(100) NOT NULL,
    is_bot boolean NOT NULL,
    bot_type smallint CHECK (bot_type >= 0),
    bot_owner_id integer REFERENCES zerver_userprofile DEFERRABLE INITIALLY DEFERRED,
    api_key varchar(32) NOT NULL UNIQUE,
    is_active boolean NOT NULL,
    role smallint NOT NULL CHECK (role >= 0),
    rate_limits varchar(100) NOT NULL,
    avatar_source varchar(1) NOT NULL,
    avatar_version smallint NOT NULL CHECK (avatar_version >= 0),
    default_language varchar(50) NOT NULL,
    email_address_visibility smallint NOT NULL CHECK (email_address_visibility >= 0),
    last_reminder timestamptz,
    long_term_idle boolean NOT NULL
);
CREATE TABLE zerver_service (
    id {SERVICE_ID} PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY,
    name varchar(100) NOT NULL,
    base_url text NOT NULL,
    token text NOT NULL,
    interface smallint NOT NULL CHECK (interface >= 0),
    user_profile_id integer NOT NULL REFERENCES zerver_userprofile DEFERRABLE INITIALLY DEFERRED
);
CREATE TABLE zerver_usermessage (
    id bigint PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY,
    flags bigint NOT NULL,
    message_id integer NOT NULL,
    user_profile_id integer NOT NULL REFERENCES zerver_userprofile DEFERRABLE INITIALLY DEFERRED,
    UNIQUE (user_profile_id, message_id)
);
CREATE INDEX zerver_usermessage_mentioned_message_id
    ON zerver_usermessage (user_profile_id, message_id) WHERE flags & 8 <> 0;
";

/// An organisation with a person, a bot of each format, and messages.
const PEOPLE: &str = "
INSERT INTO zulip.zerver_realm VALUES (2, 'Acme', 'acme', false);
INSERT INTO zulip.zerver_userprofile VALUES
    (31, 2, 61, 'rosa@example.org', 'user31@chat.example.org', 'Rosa Lind', false, NULL, NULL, 'key-31',
        true, 400, '', 'G', 1, 'en', 3, NULL, false),
    (58, 2, 44, 'lunch-bot@chat.example.org', 'lunch-bot@chat.example.org', 'Lunch Bot', true, 3, 31,
        'key-58', true, 400, '', 'G', 1, 'en', 1, NULL, false),
    (59, 2, 45, 'news-bot@chat.example.org', 'news-bot@chat.example.org', 'News Bot', true, 3, 31, 'key-59',
        true, 400, '', 'G', 1, 'en', 1, NULL, false);
INSERT INTO zulip.zerver_usermessage (user_profile_id, message_id, flags) VALUES
    (58, 9001, 8), (31, 9001, 0), (59, 9002, 1032), (31, 9002, 2), (58, 9100, 8);
";

/// Everything that outhook must leave as it is: Zulip's tables to the last detail, their rows but for the
/// flags, and no new relation in any other schema.
const NOT_OUTHOOKS: &str = "
SELECT concat_ws(' ', 'column', table_name, column_name, ordinal_position, data_type,
        character_maximum_length, column_default, is_nullable) AS line
    FROM information_schema.columns WHERE table_schema = 'zulip' AND table_name NOT LIKE 'outhook\\_%'
UNION ALL SELECT concat_ws(' ', 'relation', relnamespace::regnamespace, relname, relkind, oid, relfilenode)
    FROM pg_class WHERE relnamespace IN ('zulip'::regnamespace, 'public'::regnamespace)
        AND NOT (relnamespace = 'zulip'::regnamespace AND relname LIKE 'outhook\\_%')
UNION ALL SELECT concat_ws(' ', 'constraint', conname, pg_get_constraintdef(oid))
    FROM pg_constraint WHERE connamespace = 'zulip'::regnamespace AND conname NOT LIKE 'outhook\\_%'
UNION ALL SELECT 'row ' || r::text FROM zulip.zerver_realm r
UNION ALL SELECT 'row ' || u::text FROM zulip.zerver_userprofile u
UNION ALL SELECT 'row ' || s::text FROM zulip.zerver_service s
UNION ALL SELECT concat_ws(' ', 'row', id, message_id, user_profile_id) FROM zulip.zerver_usermessage
ORDER BY 1
";

/// A Zulip's database, and a role that may do no more in it than outhook has to.
struct Zulip {
    /// As its owner sees it.
    db: Db,
    /// As outhook is to see it.
    url: String,
}

impl Zulip {
    async fn with_service_ids(sql_type: &str) -> Self {
        let url = Postgres::shared().await.database().await;
        let db = Db::connect(&url).await;
        db.exec(&ZULIP.replace("{SERVICE_ID}", sql_type)).await;
        db.exec(PEOPLE).await;
        let role = unique("outhook_role");
        db.exec(&format!(
            "CREATE ROLE {role} LOGIN;
             ALTER ROLE {role} SET search_path = zulip, public;
             GRANT USAGE, CREATE ON SCHEMA zulip TO {role};
             GRANT SELECT ON ALL TABLES IN SCHEMA zulip TO {role};
             GRANT UPDATE (flags) ON zulip.zerver_usermessage TO {role}"
        ))
        .await;
        Self { db, url: url.replacen("//postgres:", &format!("//{role}:"), 1) }
    }

    async fn service(&self, bot: i64, url: &str, token: &str, interface: i16) {
        let columns = "(name, user_profile_id, base_url, token, interface)";
        let values = format!("('service', {bot}, '{url}', '{token}', {interface})");
        self.db.exec(&format!("INSERT INTO zulip.zerver_service {columns} VALUES {values}")).await;
    }

    async fn not_outhooks(&self) -> Vec<String> {
        let rows = self.db.rows(NOT_OUTHOOKS).await;
        // PostgreSQL names the schema or not, as the search path of the connection happens to be.
        rows.iter().map(|row| row["line"].as_str().unwrap().replace(" zulip.zerver_", " zerver_")).collect()
    }

    /// All flags, in order of messages and accounts.
    async fn flags(&self) -> Vec<i64> {
        let sql = "SELECT flags FROM zulip.zerver_usermessage ORDER BY message_id, user_profile_id";
        self.db.rows(sql).await.iter().map(|row| row["flags"].as_i64().unwrap()).collect()
    }

    async fn tables_of_outhook(&self) -> i64 {
        self.db.count("SELECT count(*) FROM pg_class WHERE relname LIKE 'outhook%'").await
    }
}

async fn works_beside_zulip(service_ids: &str) {
    let generic = Endpoint::start(|request, _| Interface::Generic.answer(request)).await;
    let slack = Endpoint::start(|request, _| Interface::Slack.answer(request)).await;
    let zulip = Zulip::with_service_ids(service_ids).await;
    zulip.service(58, &generic.url("/lunch"), "lunch-token", 1).await;
    zulip.service(59, &slack.url("/news"), "news-token", 2).await;
    let before = zulip.not_outhooks().await;
    assert_eq!(zulip.flags().await, [0, 8, 2, 1032, 8]);

    let config = Config::postgres(&zulip.url).text("database.tables", "zulip");
    let config = config.text("zulip.external_host", "chat.example.org");
    let mut scene = Scene::start(Inlet::RabbitMq, config).await;
    let events = [
        channel_event(58, 9001, 7, "Kitchen", "soup?"),
        channel_event(59, 9002, 7, "Kitchen", "news?"),
        // Mentioned in a channel that it is not subscribed to, the bot has no row for this one.
        channel_event(58, 9003, 8, "Kitchen", "salad?"),
    ];
    scene.send(&events).await;
    scene.finished(3).await;
    scene.posted(3).await;
    assert_eq!(scene.drain().await, 0);

    let (lunch, news) = (generic.requests(), slack.requests());
    assert_eq!((lunch.len(), news.len()), (2, 1));
    for request in &lunch {
        let body = request.json();
        assert_eq!(body["bot_email"], "lunch-bot@chat.example.org");
        assert_eq!((&body["bot_full_name"], &body["token"]), (&json!("Lunch Bot"), &json!("lunch-token")));
    }
    let field = |name| form_field(&news[0], name).unwrap();
    assert_eq!((field("team_id").as_str(), field("team_domain").as_str()), ("T2", "acme.chat.example.org"));
    assert_eq!((field("service_id").as_str(), field("token").as_str()), ("59", "news-token"));
    assert_eq!(zulip.flags().await, [0, 9, 2, 1033, 8]);
    assert!(zulip.tables_of_outhook().await > 0);
    assert_eq!(zulip.not_outhooks().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn outhook_works_beside_zulip_and_changes_nothing_of_it_but_the_flag() {
    works_beside_zulip("bigint").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outhook_works_beside_an_older_zulip_whose_services_have_integer_ids() {
    works_beside_zulip("integer").await;
}

/// Runs a command that must refuse its database in one sentence.
async fn assert_refuses(config: &Config, command: &str) {
    let output = config.cli(&[command]).await;
    assert_eq!(output.status, 64, "{command}: {output:#?}");
    assert_eq!(output.stderr.trim().lines().count(), 1, "{}", output.stderr);
    assert!(output.stderr.contains("zerver_"), "{}", output.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn own_tables_are_refused_in_the_database_of_a_zulip() {
    let zulip = Zulip::with_service_ids("bigint").await;
    let before = zulip.not_outhooks().await;
    let config = Config::postgres(&zulip.url).text("log.filter", "error");
    for command in ["run", "migrate"] {
        assert_refuses(&config, command).await;
    }
    assert_eq!(zulip.not_outhooks().await, before);
    assert_eq!(zulip.tables_of_outhook().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn own_tables_are_refused_where_any_single_table_of_zulip_is() {
    for table in ["userprofile", "realm", "service", "usermessage", "stream"] {
        let url = Postgres::shared().await.database().await;
        Db::connect(&url).await.exec(&format!("CREATE TABLE zerver_{table} (id integer)")).await;
        assert_refuses(&Config::postgres(&url).text("log.filter", "error"), "migrate").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn own_tables_are_used_again_where_outhook_created_them() {
    let config = Storage::Postgres.config().await;
    for _ in 0..2 {
        config.cli(&["migrate"]).await.success();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_service_is_called_at_its_new_url_without_a_restart() {
    let old = Endpoint::json(json!({})).await;
    let new = Endpoint::json(json!({})).await;
    let scene = Scene::start(Inlet::Stored, Storage::Postgres.config().await).await;
    let bot = scene.bot_at("soup", &old.url("/old")).await;
    scene.send(&[channel_event(bot, 1, 7, "Kitchen", "soup?")]).await;
    scene.finished(1).await;

    let url = new.url("/new");
    scene.db.exec(&format!("UPDATE zerver_service SET base_url = '{url}', token = 'new-token'")).await;
    let edited = Instant::now();
    let (mut sent, mut events) = (edited, 1);
    while new.requests().is_empty() {
        assert!(sent - edited <= CACHED, "an event that was sent after {CACHED:?} went to the old URL");
        (sent, events) = (Instant::now(), events + 1);
        scene.send(&[channel_event(bot, events, 7, "Kitchen", "soup?")]).await;
        scene.finished(events.try_into().unwrap()).await;
    }
    let request = &new.requests()[0];
    assert_eq!((request.path.as_str(), &request.json()["token"]), ("/new", &json!("new-token")));
    assert_eq!(old.requests().len() + new.requests().len(), usize::try_from(events).unwrap());
}

/// The states of the calls of one event, by service.
async fn states(scene: &Scene) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    scene.ledger().await.iter().map(|call| (text(&call["service_name"]), text(&call["state"]))).collect()
}

fn named(states: &[(&str, &str)]) -> BTreeMap<String, String> {
    states.iter().map(|(service, state)| ((*service).to_owned(), (*state).to_owned())).collect()
}

async fn three_services(inlet: Inlet, storage: Storage) {
    let gate = Gate::new();
    let held = gate.clone();
    let good = Endpoint::start(|request, _| echo(request)).await;
    let bad = Endpoint::start(|_, _| Answer::status(404)).await;
    let flaky = Endpoint::start(move |request, number| match number {
        0 | 1 => Answer::status(503),
        _ => echo_behind(&held, request),
    })
    .await;
    let mut scene = Scene::start(inlet, storage.config().await).await;
    let bot = scene.bot("soup").await;
    for (name, endpoint) in [("bad", &bad), ("flaky", &flaky), ("good", &good)] {
        scene.service(bot, name, &endpoint.url("/hook"), &[]).await;
    }
    scene.give_message(bot, 1, MENTIONED).await;
    scene.send(&[channel_event(bot, 1, 7, "Kitchen", "soup?")]).await;

    flaky.wait_for(3).await;
    let expected = named(&[("bad", "failed"), ("flaky", "waiting"), ("good", "succeeded")]);
    assert_eq!(states(&scene).await, expected);
    assert_eq!(scene.flags(bot, 1).await, MENTIONED, "flagged before its last call had ended");
    assert_eq!(scene.db.count("SELECT count(*) FROM outhook_event WHERE state = 0").await, 1);

    gate.open();
    scene.finished(1).await;
    assert_eq!(scene.flags(bot, 1).await, MENTIONED | READ);
    let expected = named(&[("bad", "failed"), ("flaky", "succeeded"), ("good", "succeeded")]);
    assert_eq!(states(&scene).await, expected);
    scene.posted(3).await;
    assert_eq!(scene.drain().await, 0);
    assert_eq!([&bad, &flaky, &good].map(|endpoint| endpoint.requests().len()), [1, 3, 1]);
    let attempts = flaky.requests();
    let of_attempts = |name| attempts.iter().map(|call| call.header(name).unwrap()).collect::<Vec<_>>();
    assert_eq!(of_attempts("outhook-attempt"), ["1", "2", "3"]);
    assert!(of_attempts("webhook-id").windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_flagged_only_after_the_last_of_three_services_on_sqlite() {
    three_services(Inlet::Stored, Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_flagged_only_after_the_last_of_three_services_on_postgresql() {
    three_services(Inlet::RabbitMq, Storage::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_flagged_too_when_its_last_call_fails_for_good() {
    let gate = Gate::new();
    let held = gate.clone();
    let good = Endpoint::start(|request, _| echo(request)).await;
    let bad = Endpoint::start(move |_, _| Answer::Gated(held.clone(), Box::new(Answer::status(404)))).await;
    let scene = Scene::start(Inlet::Stored, Config::sqlite()).await;
    let bot = scene.bot_at("soup", &good.url("/hook")).await;
    scene.service(bot, "bad", &bad.url("/hook"), &[]).await;
    scene.give_message(bot, 1, 0).await;
    scene.send(&[channel_event(bot, 1, 7, "Kitchen", "soup?")]).await;

    bad.wait_for(1).await;
    scene.posted(1).await;
    assert_eq!(scene.flags(bot, 1).await, 0, "flagged before its last call had ended");
    gate.open();
    scene.finished(1).await;
    assert_eq!(scene.flags(bot, 1).await, READ);
    scene.posted(2).await;
}

/// Sends events more than once: together, after they were finished, and while the daemon is down.
async fn duplicates_are_called_once(inlet: Inlet, storage: Storage) {
    let endpoint = Endpoint::start(|request, _| echo(request)).await;
    let mut scene = Scene::start(inlet, storage.config().await).await;
    let bot = scene.bot_at("soup", &endpoint.url("/soup")).await;
    let other = scene.bot_at("salad", &endpoint.url("/salad")).await;
    let event = |bot, message| channel_event(bot, message, 7, "Kitchen", "soup?");

    scene.send(&[event(bot, 1), event(bot, 1), event(bot, 2), event(bot, 1)]).await;
    scene.finished(2).await;
    // The same message for another bot is another event.
    scene.send(&[event(bot, 1), event(bot, 2), event(bot, 3), event(other, 1)]).await;
    scene.finished(4).await;
    assert_eq!(scene.drain().await, 0);
    scene.send(&[event(bot, 3), event(other, 1), event(bot, 4)]).await;
    scene.start_again().await;
    scene.finished(5).await;
    assert_eq!(scene.drain().await, 0);

    let call = |request: &Request| (request.path.clone(), message_of(request));
    let mut calls: Vec<(String, i64)> = endpoint.requests().iter().map(call).collect();
    calls.sort_unstable();
    let expected = [("/salad", 1), ("/soup", 1), ("/soup", 2), ("/soup", 3), ("/soup", 4)];
    assert_eq!(calls, expected.map(|(path, message)| (path.to_owned(), message)));
    assert_eq!(scene.db.count("SELECT count(*) FROM outhook_event").await, 5);
    if let Some(queue) = &scene.queue {
        assert_eq!(queue.depth().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_on_the_queue_twice_is_called_once_on_sqlite() {
    duplicates_are_called_once(Inlet::RabbitMq, Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_on_the_queue_twice_is_called_once_on_postgresql() {
    duplicates_are_called_once(Inlet::RabbitMq, Storage::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_sent_twice_without_a_broker_is_called_once() {
    duplicates_are_called_once(Inlet::Stored, Storage::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_somebody_took_and_returned_is_called_once() {
    let endpoint = Endpoint::start(|request, _| echo(request)).await;
    let mut scene = Scene::start(Inlet::RabbitMq, Config::sqlite()).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    assert_eq!(scene.drain().await, 0);
    let event = channel_event(bot, 1, 7, "Kitchen", "soup?");
    scene.send(std::slice::from_ref(&event)).await;
    let queue = scene.queue.as_ref().unwrap();
    let channel = queue.channel().await;
    let taken = channel.basic_get(queue.name.as_str().into(), BasicGetOptions::default()).await.unwrap();
    assert!(taken.is_some());
    // The broker marks it as redelivered from now on.
    channel.close(200, "not acknowledged".into()).await.unwrap();

    scene.start_again().await;
    scene.finished(1).await;
    scene.send(&[event, channel_event(bot, 2, 7, "Kitchen", "soup?")]).await;
    scene.finished(2).await;
    assert_eq!(scene.drain().await, 0);
    assert_eq!(endpoint.requests().iter().map(message_of).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_made_due_again_while_it_is_worked_on_repeats_no_finished_call() {
    let good = Endpoint::json(json!({})).await;
    let bad = Endpoint::start(|_, _| Answer::status(503)).await;
    let config = Storage::Postgres.config().await.set("retry.max_retries", "3");
    let config = config.set("breaker.failures", "1000000");
    let db = setup::tables(&config).await;
    for bot in 1..=5 {
        setup::insert_bot(&db, bot).await;
        setup::insert_service(&db, bot, &good.url("/hook"), 1, setup::TOKEN).await;
        setup::insert_service(&db, bot, &bad.url("/hook"), 1, setup::TOKEN).await;
    }
    let outhook = Outhook::start(&config).await;
    let events: Vec<Value> = (1..=300).map(|n| channel_event(n % 5 + 1, n, n, "t", "x")).collect();
    setup::send(&config, &events).await;
    // What a redelivery does to events that it finds stored and unfinished.
    eventually("all events to be finished", PATIENCE * 2, || async {
        let held = "SELECT id FROM outhook_event WHERE state = 0 AND due IS NULL FOR UPDATE SKIP LOCKED";
        db.exec(&format!("UPDATE outhook_event SET due = 0 WHERE id IN ({held})")).await;
        (db.count("SELECT count(*) FROM outhook_event WHERE state = 0").await == 0).then_some(())
    })
    .await;
    let calls = good.webhook_ids();
    let different: std::collections::HashSet<&String> = calls.iter().collect();
    assert_eq!((different.len(), calls.len()), (300, 300));
    assert_eq!(outhook.metric("outhook_outcomes_dropped_total").await, 0.0);
}
