//! The endpoints of the benchmark: every bot's webhook, each on a loopback port of its own, in one process.
//!
//! `endpoint COUNT` prints the ports as a JSON list, then answers every POST at once and keeps count.
//! `GET /stats` tells the counts, `POST /reset` starts them again.

use std::{
    collections::HashSet,
    env, io,
    net::{Ipv4Addr, TcpListener},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use actix_rt::System;
use actix_web::{App, HttpResponse, HttpServer, web};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

const ANSWER: &str = r#"{"response_not_required": true}"#;
/// Longer than any client keeps an idle connection, so that it is never this side that closes one.
const KEEP_ALIVE: Duration = Duration::from_secs(300);

#[derive(Deserialize)]
struct Call {
    bot_email: String,
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    id: i64,
}

#[derive(Default)]
struct Seen {
    requests: u64,
    distinct: HashSet<(String, i64)>,
    first: Option<Instant>,
}

#[derive(Serialize)]
struct Stats {
    /// Every POST, readable or not.
    requests: u64,
    /// Different pairs of bot and message.
    distinct: usize,
    /// Since the first POST.
    seconds: Option<f64>,
}

type Shared = web::Data<Mutex<Seen>>;

fn main() -> Result<()> {
    let count: usize = env::args().nth(1).context("usage: endpoint COUNT")?.parse()?;
    let listeners = listen(count)?;
    let ports = listeners.iter().map(port).collect::<io::Result<Vec<u16>>>()?;
    println!("{}", serde_json::to_string(&ports)?);
    Ok(System::new().block_on(serve(listeners))?)
}

fn listen(count: usize) -> io::Result<Vec<TcpListener>> {
    (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect()
}

fn port(listener: &TcpListener) -> io::Result<u16> {
    Ok(listener.local_addr()?.port())
}

async fn serve(listeners: Vec<TcpListener>) -> io::Result<()> {
    let seen = Shared::new(Mutex::default());
    let app = move || {
        App::new()
            .app_data(seen.clone())
            .route("/stats", web::get().to(stats))
            .route("/reset", web::post().to(reset))
            .default_service(web::post().to(answer))
    };
    // Without signal handlers SIGTERM ends the process at once, open connections or not.
    let mut server = HttpServer::new(app).workers(1).keep_alive(KEEP_ALIVE).disable_signals();
    for listener in listeners {
        server = server.listen(listener)?;
    }
    server.run().await
}

async fn answer(seen: Shared, body: web::Bytes) -> HttpResponse {
    let call = serde_json::from_slice::<Call>(&body);
    let mut seen = lock(&seen);
    seen.requests += 1;
    seen.first.get_or_insert_with(Instant::now);
    let Ok(call) = call else {
        return HttpResponse::BadRequest().finish();
    };
    seen.distinct.insert((call.bot_email, call.message.id));
    HttpResponse::Ok().content_type("application/json").body(ANSWER)
}

async fn stats(seen: Shared) -> HttpResponse {
    let seen = lock(&seen);
    let seconds = seen.first.map(|first| first.elapsed().as_secs_f64());
    HttpResponse::Ok().json(Stats { requests: seen.requests, distinct: seen.distinct.len(), seconds })
}

async fn reset(seen: Shared) -> HttpResponse {
    *lock(&seen) = Seen::default();
    HttpResponse::NoContent().finish()
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
