//! The admin server: health, metrics and the intake of events over HTTP.

mod auth;
mod events;
mod health;
mod metrics;

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use actix_web::{App, HttpServer, dev::ServerHandle, web};

use crate::{
    actors::queue::QueueActor, config, exit::Failed, health::Health, mailbox::Mailbox, store::Store,
};

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
                .route("/health/live", web::get().to(health::live))
                .route("/health/ready", web::get().to(health::ready))
                .route("/metrics", web::get().to(metrics::render))
                .route("/v1/events", web::post().to(events::post))
        })
        .workers(1)
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
            stored_per_bot: queue.stored_per_bot,
        });
    }

    /// Stops serving.
    pub(crate) async fn stop(self) {
        self.handle.stop(false).await;
    }
}
