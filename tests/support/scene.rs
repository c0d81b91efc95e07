//! A scene: the daemon running on a queue and a database, with the bots that a test gives it.

use std::time::{Duration, Instant};

use sea_orm::{ConnectionTrait as _, Database, DatabaseTransaction, TransactionTrait as _};
use serde_json::{Value, json};

use super::{
    Answer, Config, Db, Endpoint, Gate, Outhook, PATIENCE, Postgres, Queue, Rabbit, Request, within,
};

/// Much work takes longer than any single step of it.
pub(super) const LONG_PATIENCE: Duration = PATIENCE.saturating_mul(3);

/// Where events are put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inlet {
    /// Into the database, with `outhook send`.
    Stored,
    /// On a queue of RabbitMQ, as Zulip does.
    RabbitMq,
}

/// Where outhook keeps its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// A file.
    Sqlite,
    /// A database of a server.
    Postgres,
}

impl Storage {
    /// A configuration with a fresh database of this kind.
    pub async fn config(self) -> Config {
        match self {
            Self::Sqlite => Config::sqlite(),
            Self::Postgres => Config::postgres(&Postgres::shared().await.database().await),
        }
    }
}

/// A running daemon and what it works on.
pub struct Scene {
    /// The daemon.
    pub outhook: Outhook,
    /// Its database.
    pub db: Db,
    /// Its queue, unless that is the database.
    pub queue: Option<Queue>,
    /// Its configuration.
    pub config: Config,
}

impl Scene {
    /// Starts the daemon with this configuration, its queue apart, and waits until it is ready.
    pub async fn start(inlet: Inlet, config: Config) -> Self {
        match inlet {
            Inlet::Stored => Self::run(config, None).await,
            Inlet::RabbitMq => Self::on_queue(Rabbit::shared().await.queue().await, config).await,
        }
    }

    /// Starts the daemon with this configuration on a queue that the test has made.
    pub async fn on_queue(queue: Queue, config: Config) -> Self {
        let config = config.queue(&queue.url, &queue.name);
        Self::run(config, Some(queue)).await
    }

    async fn run(config: Config, queue: Option<Queue>) -> Self {
        let outhook = Outhook::start(&config).await;
        let db = Db::of(&config).await;
        Self { outhook, db, queue, config }
    }

    /// Stops the daemon in good order, and returns its exit code.
    pub async fn drain(&mut self) -> i32 {
        self.outhook.terminate().await;
        self.outhook.wait().await.code().unwrap_or(-1)
    }

    /// Starts the daemon again after it has ended.
    pub async fn start_again(&mut self) {
        self.outhook = Outhook::start(&self.config).await;
    }

    /// Creates a bot without services, and returns its id.
    pub async fn bot(&self, name: &str) -> i64 {
        let email = format!("{name}@bots.example.org");
        self.add(&["bots", "add", "--email", &email, "--name", name]).await
    }

    /// Creates a service, and returns its id.
    pub async fn service(&self, bot: i64, name: &str, url: &str, options: &[&str]) -> i64 {
        let bot = bot.to_string();
        let mut arguments = vec!["services", "add", "--bot", &bot, "--name", name, "--url", url];
        arguments.extend(options);
        self.add(&arguments).await
    }

    /// Creates a bot with one service of the generic format.
    pub async fn bot_at(&self, name: &str, url: &str) -> i64 {
        let bot = self.bot(name).await;
        self.service(bot, "main", url, &[]).await;
        bot
    }

    /// Puts events on the queue, in this order.
    pub async fn send(&self, events: &[Value]) {
        let bodies: Vec<Vec<u8>> = events.iter().map(|event| event.to_string().into_bytes()).collect();
        match &self.queue {
            Some(queue) => queue.publish_all(&bodies).await,
            None => {
                let lines = bodies.join(&b'\n');
                self.config.cli_with_input(&["send", "--file", "-"], &lines).await.success();
            }
        }
    }

    /// Waits until `n` events are finished.
    pub async fn finished(&self, n: usize) {
        self.wait_for_rows("events are finished", n, "outhook_event WHERE state = 1").await;
    }

    /// Waits until `n` replies are posted.
    pub async fn posted(&self, n: usize) {
        self.wait_for_rows("replies are posted", n, "outhook_reply WHERE state = 1").await;
    }

    /// The ledger, as `outhook deliveries` tells it.
    pub async fn ledger(&self) -> Vec<Value> {
        self.config.cli(&["deliveries", "--json"]).await.success().records()
    }

    /// Gives an account a message with these flags, as Zulip does with everyone who receives it.
    pub async fn give_message(&self, account: i64, message: i64, flags: i64) {
        let columns = "(user_profile_id, message_id, flags)";
        let sql = format!("INSERT INTO zerver_usermessage {columns} VALUES ({account}, {message}, {flags})");
        self.db.exec(&sql).await;
    }

    /// The flags of a message that an account has.
    pub async fn flags(&self, account: i64, message: i64) -> i64 {
        let pair = format!("user_profile_id = {account} AND message_id = {message}");
        self.db.count(&format!("SELECT flags FROM zerver_usermessage WHERE {pair}")).await
    }

    /// Somebody else's session, which has done this and not committed it yet.
    pub async fn uncommitted(&self, sql: &str) -> DatabaseTransaction {
        let session = Database::connect(self.config.database()).await.unwrap();
        let transaction = session.begin().await.unwrap();
        transaction.execute_unprepared(sql).await.unwrap();
        transaction
    }

    async fn add(&self, arguments: &[&str]) -> i64 {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        self.config.cli(&arguments).await.success().records()[0]["id"].as_i64().unwrap()
    }

    /// Waits until a table, with a condition or without, has `n` rows.
    pub async fn wait_for_rows(&self, what: &str, n: usize, rows: &str) {
        let (wanted, sql) = (i64::try_from(n).unwrap(), format!("SELECT count(*) FROM {rows}"));
        let enough = || async { (self.db.count(&sql).await >= wanted).then_some(()) };
        if within(LONG_PATIENCE, enough).await.is_none() {
            let found = self.db.count(&sql).await;
            panic!("{found} of {n} {what}");
        }
    }
}

/// A good answer in the generic format that repeats what the bot was told.
pub fn echo(request: &Request) -> Answer {
    let said = request.json()["data"].as_str().unwrap().to_owned();
    Answer::Json(json!({ "content": format!("re: {said}") }))
}

/// Echoes once the gate is open.
pub fn echo_behind(gate: &Gate, request: &Request) -> Answer {
    Answer::Gated(gate.clone(), Box::new(echo(request)))
}

/// An endpoint that echoes once the gate is open.
pub async fn gated_endpoint(gate: &Gate) -> Endpoint {
    let gate = gate.clone();
    Endpoint::start(move |request, _| echo_behind(&gate, request)).await
}

/// An endpoint that echoes at once, but whose `/hung` fails the first attempt, so that its bot is known as
/// failing, and holds all others until the gate is open.
pub async fn partly_hung_endpoint(gate: &Gate) -> Endpoint {
    let gate = gate.clone();
    Endpoint::start(move |request, _| match request.path.as_str() {
        "/hung" if request.header("outhook-attempt") == Some("1") => Answer::Close,
        "/hung" => echo_behind(&gate, request),
        _ => echo(request),
    })
    .await
}

/// The message of a request in the generic format.
pub fn message_of(request: &Request) -> i64 {
    request.json()["message"]["id"].as_i64().unwrap()
}

/// A field of a request that is a form.
pub fn form_field(request: &Request, name: &str) -> Option<String> {
    request.form().into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
}

/// How many of the requests were being answered at once, if each answer took this long at least.
///
/// An endpoint notices the end of an answer only after the client may have sent its next request, so
/// `peak_in_flight` can be one too high for a client that keeps to a limit; this never is.
pub fn peak_overlap(requests: &[Request], answer: Duration) -> usize {
    let open_at =
        |at: Instant| requests.iter().filter(|other| other.at <= at && at < other.at + answer).count();
    requests.iter().map(|request| open_at(request.at)).max().unwrap_or(0)
}
