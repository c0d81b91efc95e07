//! What the tests share: a real broker, a real database, endpoints on real sockets, and the product itself.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "helpers of one test binary: nothing sees them from outside, and a test fails by panicking"
)]

mod attempt;
mod config;
mod connections;
mod database;
mod dice;
pub mod dns;
mod endpoint;
mod events;
pub mod http;
mod load;
mod outhook;
mod ports;
mod postgres;
mod process;
mod queue;
mod rabbitmq;
mod relay;
mod scene;
pub mod secrets;
mod server_process;
pub mod setup;
mod smokescreen;
mod tinyproxy;
mod tls;

pub use self::attempt::{Attempt, Call};
pub use self::config::{CliOutput, Config};
pub use self::connections::Ending;
pub use self::database::Db;
pub use self::dice::Dice;
pub use self::endpoint::{Answer, Endpoint, Gate, Request};
pub use self::events::{channel_event, direct_event};
pub use self::load::{Load, RESUMES_WITHIN, Writer, endures, stays_calm};
pub use self::outhook::Outhook;
pub use self::ports::{RefusedPort, free_port};
pub use self::postgres::Postgres;
pub use self::queue::Queue;
pub use self::rabbitmq::{BROKER_PASSWORD, Rabbit, Vhost};
pub use self::relay::Relay;
pub use self::scene::*;
pub use self::smokescreen::{Ruling, Smokescreen};
pub use self::tinyproxy::Tinyproxy;
pub use self::tls::{Authority, Hello, Identity, Manners, TlsFront, Validity};

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long a test waits for anything before it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at a condition.
const INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `probe` finds something, and fails the test with `what` past the deadline.
pub async fn eventually<T, F, Fut>(what: &str, deadline: Duration, probe: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    within(deadline, probe).await.unwrap_or_else(|| panic!("waited {deadline:?} in vain for {what}"))
}

/// Waits until `probe` finds something; `None` past the deadline.
pub async fn within<T, F, Fut>(deadline: Duration, mut probe: F) -> Option<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let found = async {
        loop {
            if let Some(value) = probe().await {
                return value;
            }
            tokio::time::sleep(INTERVAL).await;
        }
    };
    tokio::time::timeout(deadline, found).await.ok()
}

/// Waits until a number that only grows has reached `goal`; fails the test with `what` if it stands still.
pub async fn reaches<F, Fut>(what: &str, goal: usize, number: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = usize>,
{
    let mut reached = number().await;
    while reached < goal {
        let before = reached;
        let more = || async { Some(number().await).filter(|now| *now > before) };
        reached = eventually(&format!("more than {before} of {goal} {what}"), PATIENCE, more).await;
    }
}

/// A name nobody else uses, fit for queues, virtual hosts and databases.
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}_{}_{count}", std::process::id())
}
