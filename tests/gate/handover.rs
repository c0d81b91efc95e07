//! Several daemons: a gate that one of them has closed stays closed when its bot moves to another.

use super::*;

/// The partitions of the daemon that started first, or of the one that started last.
fn of_daemon(which: &str) -> String {
    format!("outhook_partition WHERE owner = (SELECT {which}(id) FROM outhook_daemon)")
}

/// Waits until a daemon owns so many partitions, and returns the id of a bot in one of them.
async fn bot_of(db: &Db, which: &str, partitions: i64) -> i64 {
    let partition = eventually("the daemons to share the bots", PATIENCE, || async {
        let owned = db.count(&format!("SELECT count(*) FROM {}", of_daemon(which))).await;
        if owned != partitions {
            return None;
        }
        Some(db.count(&format!("SELECT min(id) FROM {}", of_daemon(which))).await)
    })
    .await;
    partition + 64
}

async fn stays_closed_when_its_daemon(is_killed: bool) {
    const CLOSED: Duration = Duration::from_secs(2);
    let probed = Gate::new();
    let gate = probed.clone();
    let endpoint = Endpoint::start(move |request, number| match number {
        0 => Answer::status(503),
        _ => Answer::Gated(gate.clone(), Box::new(echo(request))),
    })
    .await;
    let other = Endpoint::json(json!({})).await;
    // A reply would have the second daemon read the gate before the test has changed it.
    let config = config(Storage::Postgres.config().await, 1, "2m")
        .text("database.lease", "3s")
        .text("reply.to", "none");
    let beside = config.sibling();
    let db = setup::tables(&config).await;
    let mut first = Outhook::start(&config).await;
    let second = Outhook::start(&beside).await;
    let (bot, healthy) = (bot_of(&db, "min", 32).await, bot_of(&db, "max", 32).await);
    setup::insert_bot_at(&db, bot, &endpoint.url("/hook")).await;
    setup::insert_bot_at(&db, healthy, &other.url("/hook")).await;
    setup::send(&config, &[event(bot, 1)]).await;
    setup::all_finished(&db).await;
    assert_eq!(first.metric("outhook_gates_closed").await, 1.0);

    if is_killed {
        first.kill().await;
    } else {
        first.terminate().await;
        first.wait().await;
    }
    bot_of(&db, "max", 64).await;
    let began = Instant::now();
    let now = "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)";
    db.exec(&format!("UPDATE outhook_gate SET closed_until = {now} + {}", CLOSED.as_millis())).await;
    setup::send(&config, &events(bot, 2..=9)).await;
    let requests = endpoint.wait_for(2).await;
    assert!(requests[1].at - began >= CLOSED - ROUNDING, "the gate is not closed for the other daemon");
    eventually("all that waits to be due", PATIENCE, || async {
        let due = "SELECT count(*) FROM outhook_event WHERE state = 0 AND due IS NULL";
        (db.count(due).await == 8).then_some(())
    })
    .await;
    // The same actor does this after it has been given all of those.
    setup::send(&config, &[event(healthy, 100)]).await;
    other.wait_for(1).await;
    assert_eq!(endpoint.count(), 2, "there is one probe");
    assert_eq!(second.metric("outhook_gates_closed").await, 1.0);

    probed.open();
    setup::all_finished(&db).await;
    assert_eq!(endpoint.count(), 9);
    assert_eq!(second.metric("outhook_gates_closed").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_stays_closed_when_its_bot_moves_from_a_daemon_that_drains() {
    stays_closed_when_its_daemon(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_stays_closed_when_its_bot_moves_from_a_daemon_that_is_killed() {
    stays_closed_when_its_daemon(true).await;
}
