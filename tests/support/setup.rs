//! What most tests begin with: tables, bots, services and events; and how they see what came of them.

use std::ops::Range;

use serde_json::Value;

use super::{Config, Db, PATIENCE, eventually, secrets, unique};

/// The token of a service about whose token a test says nothing.
pub const TOKEN: &str = "s3cr3tm4rk-token";

/// What the bot said in a conversation: a row of the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The bot.
    pub bot: i64,
    /// The message that it answers.
    pub message: i64,
    /// The words.
    pub content: String,
    /// `widget_content`.
    pub widget: Option<String>,
}

impl Said {
    /// Whether it tells of a failure, in the product's own words.
    pub fn is_told(&self) -> bool {
        self.content.starts_with("I could not pass this message on: ")
    }
}

/// Makes the tables, and returns a connection of the test's own.
pub async fn tables(config: &Config) -> Db {
    config.cli(&["migrate"]).await.success();
    Db::of(config).await
}

/// Makes a bot with one service by the product's commands, and returns the ids of the two.
pub async fn one_bot(config: &Config, url: &str, interface: &str) -> (i64, i64) {
    let bot = add_bot(config).await;
    (bot, add_service(config, bot, url, interface).await)
}

/// Makes a bot by the product's command, and returns its id.
pub async fn add_bot(config: &Config) -> i64 {
    config.cli(&["migrate"]).await.success();
    let name = unique("bot");
    let email = format!("{name}@example.org");
    created(config, &["bots", "add", "--email", &email, "--name", &name, "--json"]).await
}

/// Makes a service of a bot by the product's command, and returns its id.
pub async fn add_service(config: &Config, bot: i64, url: &str, interface: &str) -> i64 {
    let (bot, name) = (bot.to_string(), unique("service"));
    let target: [&str; 8] = ["--bot", &bot, "--name", &name, "--url", url, "--interface", interface];
    created(config, &[&["services", "add", "--json"][..], &target].concat()).await
}

async fn created(config: &Config, command: &[&str]) -> i64 {
    let records = config.cli(command).await.success().records();
    records[0]["id"].as_i64().unwrap()
}

/// The number of the generic interface.
const GENERIC: i16 = 1;

/// Writes a bot of this id straight into the tables; its names are made of the id.
pub async fn insert_bot(db: &Db, bot: i64) {
    insert_bots(db, bot..bot + 1).await;
}

async fn insert_bots(db: &Db, bots: Range<i64>) {
    let rows = bots.map(|bot| {
        let (email, key) = (format!("bot{bot}@example.org"), secrets::secret(&format!("key-{bot}")));
        format!("({bot}, 1, '{email}', '{email}', 'Bot {bot}', TRUE, 3, '{key}', TRUE)")
    });
    let sql = format!(
        "INSERT INTO zerver_userprofile
            (id, realm_id, delivery_email, email, full_name, is_bot, bot_type, api_key, is_active)
         VALUES {}",
        rows.collect::<Vec<_>>().join(", ")
    );
    db.exec(&sql).await;
}

/// Writes a bot with one service of the generic format straight into the tables.
pub async fn insert_bot_at(db: &Db, bot: i64, url: &str) {
    insert_bots_at(db, bot..bot + 1, url).await;
}

/// Writes bots of these ids straight into the tables, each with one service of the generic format.
pub async fn insert_bots_at(db: &Db, bots: Range<i64>, url: &str) {
    insert_bots(db, bots.clone()).await;
    insert_services(db, bots, url, GENERIC, TOKEN).await;
}

/// Writes a service straight into the tables, also one that the product's command refuses.
pub async fn insert_service(db: &Db, bot: i64, url: &str, interface: i16, token: &str) {
    insert_services(db, bot..bot + 1, url, interface, token).await;
}

async fn insert_services(db: &Db, bots: Range<i64>, url: &str, interface: i16, token: &str) {
    let (url, token) = (literal(url), literal(token));
    let rows = bots.map(|bot| format!("('hook', {bot}, {url}, {token}, {interface})"));
    let sql = format!(
        "INSERT INTO zerver_service (name, user_profile_id, base_url, token, interface) VALUES {}",
        rows.collect::<Vec<_>>().join(", ")
    );
    db.exec(&sql).await;
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Puts events on the queue by the product's command.
pub async fn send(config: &Config, events: &[Value]) {
    let lines: Vec<String> = events.iter().map(Value::to_string).collect();
    send_lines(config, &lines).await;
}

/// Puts events on the queue as they are written, each on a line of its own.
pub async fn send_lines(config: &Config, lines: &[String]) {
    config.cli_with_input(&["send", "--file", "-"], lines.join("\n").as_bytes()).await.success();
}

/// Waits until no stored event is left unfinished.
pub async fn all_finished(db: &Db) {
    let done = || async {
        let unfinished = db.count("SELECT count(*) FROM outhook_event WHERE state = 0").await;
        (unfinished == 0).then_some(())
    };
    eventually("all events to be finished", PATIENCE, done).await;
}

/// The ledger, as the product's command shows it.
pub async fn deliveries(config: &Config) -> Vec<Value> {
    config.cli(&["deliveries", "--limit", "100000", "--json"]).await.success().records()
}

/// The dead letters, as the product's command lists them.
pub async fn dead_letters(config: &Config) -> Vec<Value> {
    config.cli(&["dead-letters", "list", "--json"]).await.success().records()
}

/// The outbox, posted or not, in the order of posting.
pub async fn outbox(db: &Db) -> Vec<Said> {
    let sql = "SELECT r.bot_id, e.message_id, r.content, r.widget
        FROM outhook_reply r JOIN outhook_event e ON e.id = r.event_id ORDER BY r.id";
    let rows = db.rows(sql).await;
    rows.iter()
        .map(|row| Said {
            bot: row["bot_id"].as_i64().unwrap(),
            message: row["message_id"].as_i64().unwrap(),
            content: row["content"].as_str().unwrap().to_owned(),
            widget: row["widget"].as_str().map(str::to_owned),
        })
        .collect()
}
