use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use actix_web::{App, HttpResponse, HttpServer, web};
use outhook_core::event::Header;
use tokio::sync::Notify;

use super::*;
use crate::store::{NewBot, NewService};

const PATIENCE: Duration = Duration::from_secs(20);

/// A daemon on a database of its own, with one bot whose endpoint waits until it is told to answer.
struct Scene {
    daemon: Daemon,
    bot: i64,
    calls: Arc<AtomicUsize>,
    gate: Arc<Notify>,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().expect("a folder");
        let (calls, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let url = endpoint(Arc::clone(&calls), Arc::clone(&gate));
        let toml = format!(
            "[database]\nurl = \"sqlite://{}\"\n[egress]\nallow = [\"127.0.0.1/32\"]\n\
             [admin]\nlisten = \"\"\n[actors]\nevent_pool = 1\n",
            folder.path().join("db").display()
        );
        let source = ::config::Config::builder()
            .add_source(::config::File::from_str(&toml, ::config::FileFormat::Toml))
            .build()
            .expect("TOML");
        let config = Config::read(source).expect("valid");
        let live = live(&config).expect("settings");
        let daemon = Daemon::start(config, live).await.expect("it starts");
        let new = NewBot {
            email: "b@x.org".into(),
            name: "B".into(),
            owner_email: None,
            api_keys: ["k".into(), "o".into()],
        };
        let bot = daemon.store().add_bot(new).await.expect("a bot");
        let service = NewService { bot, name: "s".into(), url, interface: 1, token: "t".into() };
        daemon.store().add_service(service).await.expect("a service");
        Self { daemon, bot, calls, gate, _folder: folder }
    }

    async fn submit(&self, message: i64) {
        let payload =
            format!(r#"{{"message":{{"id":{message},"content":"x"}},"user_profile_id":{}}}"#, self.bot)
                .into_bytes();
        let header = Header::read(&payload).expect("an event");
        let event = NewEvent { header, replay: 0, payload };
        self.daemon.submit(vec![event]).await.expect("stored");
    }

    async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        let wait = async {
            while !is_so().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "waited in vain for {what}");
    }

    async fn until_calls(&self, calls: usize) {
        self.until(&format!("{calls} calls"), async || self.calls.load(SeqCst) >= calls).await;
    }

    async fn until_finished(&self, events: i64) {
        self.until(&format!("{events} finished events"), async || {
            // Whoever was not yet at the gate gets through now.
            self.gate.notify_waiters();
            let bots = self.daemon.store().summarise_bots().await.expect("a summary");
            bots.iter().map(|bot| bot.finished).sum::<i64>() == events
        })
        .await;
    }
}

fn endpoint(calls: Arc<AtomicUsize>, gate: Arc<Notify>) -> String {
    let server = HttpServer::new(move || {
        let (calls, gate) = (Arc::clone(&calls), Arc::clone(&gate));
        App::new().default_service(web::to(move || {
            let (calls, gate) = (Arc::clone(&calls), Arc::clone(&gate));
            async move {
                calls.fetch_add(1, SeqCst);
                gate.notified().await;
                HttpResponse::Ok().finish()
            }
        }))
    })
    .workers(1)
    .disable_signals()
    .bind(("127.0.0.1", 0))
    .expect("a port");
    let url = format!("http://{}/", server.addrs()[0]);
    actix::spawn(server.run());
    url
}

#[actix::test]
async fn a_new_event_actor_takes_over_what_its_predecessor_held() {
    let scene = Scene::new().await;
    scene.submit(1).await;
    scene.until_calls(1).await;
    scene.daemon.actors.events[0].send(Stop);
    scene.until_calls(2).await;
    scene.until_finished(1).await;
    assert_eq!(scene.calls.load(SeqCst), 2);
    assert_eq!(scene.daemon.drain().await, Exit::Success);
}

#[actix::test]
async fn a_new_flag_actor_or_queue_actor_is_followed_by_new_event_actors() {
    let scene = Scene::new().await;
    scene.submit(1).await;
    scene.until_calls(1).await;
    scene.daemon.actors.flag.send(Stop);
    scene.until_calls(2).await;
    scene.daemon.actors.queue.send(Stop);
    scene.until_calls(3).await;
    scene.submit(2).await;
    scene.until_finished(2).await;
    assert_eq!(scene.daemon.drain().await, Exit::Success);
}
