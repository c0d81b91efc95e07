//! The floor: outhook's libraries doing outhook's work without actors or features.
//!
//! The main thread owns the broker and the database, and runs two loops beside each other: `store` takes the
//! deliveries that have arrived, stores them in one statement and acknowledges them at once; `finish` takes
//! the calls that have ended, and settles them in one transaction. Between the two, [`POSTERS`] arbiters make
//! the calls. A batch is whatever came up while the one before it was being committed.
//!
//! No retry, no order, no fairness, no timers: what is left is what these libraries cost.

mod body;
mod sql;

use std::{collections::HashMap, env, sync::Arc, time::Duration};

use actix_rt::{Arbiter, System};
use anyhow::{Context, Result, anyhow, bail};
use awc::{Client, http::Uri};
use futures_util::{StreamExt, future, stream};
use lapin::{
    Connection, ConnectionProperties, Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use sea_orm::DatabaseConnection;
use tokio::sync::mpsc;

/// Threads that POST.
const POSTERS: usize = 2;
/// Calls in flight on one of them.
const CALLS_IN_FLIGHT: usize = 64;
/// Events that wait for one of them, and completions that wait for the database.
const WAITING: usize = 4096;
/// Deliveries that the broker hands out ahead of acknowledgements, and so the largest batch stored at once.
const PREFETCH: u16 = 1000;
/// Calls settled in one transaction.
const BATCH_ROWS: usize = 1000;
/// One deadline for a whole call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// What tells events apart: the bot's id and the message's.
type Key = (i64, i64);

/// A delivery on its way.
struct Event {
    key: Key,
    payload: Vec<u8>,
}

/// A bot with its one service.
struct Bot {
    service_id: i64,
    url: Uri,
    token: String,
    email: String,
    full_name: String,
}

type Bots = HashMap<i64, Bot>;

/// A call that has ended; status 0 when there was no usable answer.
struct Done {
    key: Key,
    service_id: i64,
    status: i16,
}

fn main() -> Result<()> {
    env_logger::init();
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [broker_url, queue, database_url] = arguments.as_slice() else {
        bail!("usage: floor BROKER_URL QUEUE DATABASE_URL");
    };
    // awc builds a TLS connector even if every URL is plain HTTP.
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow!("a crypto provider is already installed"))?;
    System::new().block_on(run(broker_url, queue, database_url))
}

async fn run(broker_url: &str, queue: &str, database_url: &str) -> Result<()> {
    let database = sql::connect(database_url).await?;
    sql::create_tables(&database).await?;
    let bots = Arc::new(sql::load_bots(&database).await?);

    let (done, ended) = mpsc::channel(WAITING);
    let arbiters: Vec<Arbiter> = (0..POSTERS).map(|_| Arbiter::new()).collect();
    let posters = arbiters.iter().map(|arbiter| start_poster(arbiter, &bots, &done)).collect();
    drop(done);

    let broker = Connection::connect(broker_url, ConnectionProperties::default()).await?;
    let deliveries = consume(&broker, queue).await?;
    future::try_join(store(&database, deliveries, posters), finish(&database, ended)).await?;
    Ok(())
}

async fn consume(broker: &Connection, queue: &str) -> Result<Consumer> {
    let channel = broker.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    Ok(channel.basic_consume(queue.into(), "floor".into(), options, FieldTable::default()).await?)
}

/// Stores what has arrived, acknowledges it, and hands it to the posters.
async fn store(
    database: &DatabaseConnection,
    deliveries: Consumer,
    posters: Vec<mpsc::Sender<Event>>,
) -> Result<()> {
    let mut batches = deliveries.ready_chunks(PREFETCH.into());
    while let Some(batch) = batches.next().await {
        let mut events = Vec::with_capacity(batch.len());
        let mut last = None;
        for delivery in batch {
            let Delivery { data: payload, acker, .. } = delivery?;
            events.push(Event { key: body::key(&payload)?, payload });
            last = Some(acker);
        }
        let fresh = sql::store(database, events).await?;
        if let Some(acker) = last {
            acker.ack(BasicAckOptions { multiple: true }).await?;
        }
        for (event, poster) in fresh.into_iter().zip(posters.iter().cycle()) {
            poster.send(event).await.context("a poster has died")?;
        }
    }
    bail!("the broker has ended the consumer")
}

/// Settles the calls that have ended.
async fn finish(database: &DatabaseConnection, mut ended: mpsc::Receiver<Done>) -> Result<()> {
    let mut batch = Vec::with_capacity(BATCH_ROWS);
    while ended.recv_many(&mut batch, BATCH_ROWS).await > 0 {
        sql::finish(database, &batch).await?;
        batch.clear();
    }
    bail!("every poster has died")
}

fn start_poster(arbiter: &Arbiter, bots: &Arc<Bots>, done: &mpsc::Sender<Done>) -> mpsc::Sender<Event> {
    let (sender, events) = mpsc::channel(WAITING);
    let (bots, done) = (Arc::clone(bots), done.clone());
    arbiter.spawn_fn(move || {
        actix_rt::spawn(post_all(bots, events, done));
    });
    sender
}

async fn post_all(bots: Arc<Bots>, mut events: mpsc::Receiver<Event>, done: mpsc::Sender<Done>) {
    let client = Client::builder().timeout(CALL_TIMEOUT).finish();
    let (client, bots, done) = (&client, &*bots, &done);
    stream::poll_fn(move |context| events.poll_recv(context))
        .for_each_concurrent(CALLS_IN_FLIGHT, |event| async move {
            // This fails only when `finish` has, and then the process is ending.
            let _ = done.send(post(client, bots, &event).await).await;
        })
        .await;
}

async fn post(client: &Client, bots: &Bots, event: &Event) -> Done {
    let Some(bot) = bots.get(&event.key.0) else {
        log::error!("event {:?} is for an unknown bot", event.key);
        return Done { key: event.key, service_id: 0, status: 0 };
    };
    let status = call(client, bot, &event.payload).await.unwrap_or_else(|reason| {
        log::error!("the call for event {:?} failed: {reason}", event.key);
        0
    });
    Done { key: event.key, service_id: bot.service_id, status }
}

/// Makes the call and reads the whole answer, which has to be JSON.
async fn call(client: &Client, bot: &Bot, payload: &[u8]) -> Result<i16, String> {
    let body = body::outgoing(bot, payload).map_err(|error| error.to_string())?;
    let request = client.post(bot.url.clone()).content_type("application/json");
    let mut response = request.send_body(body).await.map_err(|error| error.to_string())?;
    let answer = response.body().await.map_err(|error| error.to_string())?;
    body::check_answer(&answer).map_err(|error| error.to_string())?;
    i16::try_from(response.status().as_u16()).map_err(|error| error.to_string())
}
