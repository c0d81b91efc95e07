//! The admin server: health, metrics and the intake of events over HTTP.

mod auth;
mod events;
mod health;
mod metrics;

use std::{
    any::Any,
    net::{Shutdown, SocketAddr},
    os::fd::AsFd,
    sync::{Arc, OnceLock},
    time::Duration,
};

use actix_web::{
    App, FromRequest, Handler, HttpResponse, HttpServer, Resource, Responder,
    dev::{Extensions, ServerHandle},
    http::{KeepAlive, header::ALLOW},
    web,
};
use tokio::{net::TcpStream, sync::Semaphore, task::JoinHandle};

use crate::{
    actors::queue::QueueActor, config, exit::Failed, health::Health, mailbox::Mailbox, store::Store,
};

/// Connections at a time. Others wait for one to end, which those that send nothing do soon: so health
/// stays reachable.
const CONNECTIONS_MAX: usize = 64;

/// How long a client may take to send the header section of its request, and to close its connection.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest life of a connection, which has one request: actix-http has no deadline for one whose chunked body
/// does not end.
const CONNECTION_LIFE: Duration = Duration::from_secs(15);

/// Ends a connection at the end of its life; nothing if it has ended before.
struct Lifetime(JoinHandle<()>);

impl Lifetime {
    fn begin(connection: &dyn Any, data: &mut Extensions) {
        let stream = connection
            .downcast_ref::<TcpStream>()
            .and_then(|stream| stream.as_fd().try_clone_to_owned().ok());
        if let Some(stream) = stream.map(std::net::TcpStream::from) {
            data.insert(Self(actix::spawn(async move {
                tokio::time::sleep(CONNECTION_LIFE).await;
                // It may have ended just now.
                let _ = stream.shutdown(Shutdown::Both);
            })));
        }
    }
}

impl Drop for Lifetime {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A running admin server.
pub(crate) struct Server {
    address: SocketAddr,
    handle: ServerHandle,
    intake: Arc<OnceLock<events::Intake>>,
}

/// That the token's file can be used.
///
/// # Errors
/// If it can't be read, or holds no token.
pub(crate) fn check_token(config: &config::admin::Admin) -> Result<(), Failed> {
    auth::Token::read(config.token_file.as_deref()).map(drop)
}

impl Server {
    /// Binds and serves; `None` if `admin.listen` is empty.
    ///
    /// # Errors
    /// If the address is taken, or the token's file can't be read.
    pub(crate) fn start(config: &config::admin::Admin, health: Health) -> Result<Option<Self>, Failed> {
        let Some(address) = config.listen else { return Ok(None) };
        let token = auth::Token::read(config.token_file.as_deref())?;
        let exporter = metrics::install();
        actix::spawn(metrics::keep_small(exporter.clone()));
        let intake = Arc::new(OnceLock::new());
        let shared = web::Data::from(Arc::clone(&intake));
        let server = HttpServer::new(move || {
            App::new()
                .app_data(web::Data::new(health.clone()))
                .app_data(web::Data::new(exporter.clone()))
                .app_data(web::Data::new(token.clone()))
                .app_data(shared.clone())
                .service(page("/health/live", health::live))
                .service(page("/health/ready", health::ready))
                .service(page("/metrics", metrics::render))
                .service(web::resource("/v1/events").post(events::post).default_service(only(POST)))
        })
        .workers(1)
        .on_connect(Lifetime::begin)
        .max_connections(CONNECTIONS_MAX)
        // One request a connection: actix-http bounds the time for the header section of the first only.
        .keep_alive(KeepAlive::Disabled)
        .client_request_timeout(CLIENT_TIMEOUT)
        .client_disconnect_timeout(CLIENT_TIMEOUT)
        .disable_signals()
        .shutdown_timeout(1)
        .bind(address)
        .map_err(|error| Failed::unavailable(format!("admin.listen = {address}: {error}")))?;
        let address = server.addrs().first().copied().unwrap_or(address);
        let server = server.run();
        let handle = server.handle();
        actix::spawn(server);
        log::info!("the admin server listens on http://{address}");
        Ok(Some(Self { address, handle, intake }))
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The database is connected: events may be taken, and what it holds is counted, from now on.
    pub(crate) fn serve_events(
        &self,
        store: Store,
        inbox: Mailbox<QueueActor>,
        queue: &config::queue::Queue,
    ) {
        actix::spawn(metrics::count_paused_services(store.clone()));
        // Set once, at the start.
        let _ = self.intake.set(events::Intake {
            store,
            inbox,
            event_bytes_max: queue.max_event_bytes,
            per_bot: queue.per_bot(),
            permits: Semaphore::new(events::REQUESTS_MAX),
        });
    }

    /// Stops serving.
    pub(crate) async fn stop(self) {
        self.handle.stop(false).await;
    }
}

/// The methods of what is only read, as `Allow` lists them.
const READ: &str = "GET, HEAD";
const POST: &str = "POST";

/// A page, of which HEAD gets what GET gets, without the body.
fn page<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    web::resource(path).get(handler.clone()).head(handler).default_service(only(READ))
}

/// Refuses every other method (RFC 9110 §15.5.6).
fn only(methods: &'static str) -> actix_web::Route {
    web::to(move || async move {
        HttpResponse::MethodNotAllowed()
            .insert_header((ALLOW, methods))
            .body(format!("only {methods} may be used here\n"))
    })
}
