//! The sample bots' endpoints: real HTTP servers on loopback, each with its own temper.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    dev::ServerHandle,
    web::{self, Data},
};
use serde_json::json;

use crate::exit::{Exit, Failed};

/// How long the slow bot thinks.
const THINKING: Duration = Duration::from_millis(150);

/// A sample bot.
pub(super) struct SampleBot {
    /// Its name, which says what it is like.
    pub(super) name: &'static str,
    /// 1 generic, 2 Slack.
    pub(super) interface: i16,
    /// How many events it is sent.
    pub(super) events: u32,
    /// In how many conversations.
    pub(super) topics: u32,
    temper: Temper,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Temper {
    Good,
    Slack,
    Slow,
    Flaky,
    Hung,
}

/// All of them.
static ALL: [SampleBot; 5] = [
    SampleBot { name: "good", interface: 1, events: 80, topics: 8, temper: Temper::Good },
    SampleBot { name: "slack", interface: 2, events: 60, topics: 8, temper: Temper::Slack },
    SampleBot { name: "slow", interface: 1, events: 40, topics: 8, temper: Temper::Slow },
    SampleBot { name: "flaky", interface: 1, events: 40, topics: 8, temper: Temper::Flaky },
    SampleBot { name: "hung", interface: 1, events: 20, topics: 10, temper: Temper::Hung },
];

/// The running servers.
pub(super) struct Endpoints(Vec<(&'static SampleBot, String, ServerHandle)>);

impl Endpoints {
    /// Starts a server for each bot, on a free port.
    pub(super) fn start() -> Result<Self, Failed> {
        let mut running = Vec::new();
        for bot in &ALL {
            let (url, handle) = serve(bot.temper).map_err(|error| Failed::new(Exit::Internal, error))?;
            running.push((bot, url, handle));
        }
        Ok(Self(running))
    }

    /// Each bot with its URL.
    pub(super) fn urls(&self) -> impl Iterator<Item = (&'static SampleBot, String)> + '_ {
        self.0.iter().map(|(bot, url, _)| (*bot, url.clone()))
    }

    /// Stops the servers.
    pub(super) async fn stop(self) {
        for (_, _, handle) in self.0 {
            handle.stop(false).await;
        }
    }
}

fn serve(temper: Temper) -> std::io::Result<(String, ServerHandle)> {
    let seen: Data<Mutex<HashSet<String>>> = Data::default();
    let server = HttpServer::new(move || {
        App::new().app_data(seen.clone()).app_data(Data::new(temper)).default_service(web::to(answer))
    })
    .workers(1)
    .disable_signals()
    .bind(("127.0.0.1", 0))?;
    let url = server.addrs().first().map(|address| format!("http://{address}/webhook")).unwrap_or_default();
    let server = server.run();
    let handle = server.handle();
    actix::spawn(server);
    Ok((url, handle))
}

async fn answer(
    request: HttpRequest,
    temper: Data<Temper>,
    seen: Data<Mutex<HashSet<String>>>,
) -> HttpResponse {
    let soup = json!({ "content": "Tomato soup, as on every day." });
    match **temper {
        Temper::Good => HttpResponse::Ok().json(soup),
        Temper::Slack => HttpResponse::Ok().json(json!({ "text": "Soup, says Slack." })),
        Temper::Slow => {
            tokio::time::sleep(THINKING).await;
            HttpResponse::Ok().json(soup)
        }
        Temper::Flaky if is_new(&request, &seen) => HttpResponse::ServiceUnavailable().finish(),
        Temper::Flaky => HttpResponse::Ok().json(soup),
        Temper::Hung => std::future::pending().await,
    }
}

/// Whether this call is seen for the first time.
fn is_new(request: &HttpRequest, seen: &Mutex<HashSet<String>>) -> bool {
    let id = request.headers().get("webhook-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    seen.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned())
}
