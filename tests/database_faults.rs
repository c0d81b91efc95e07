//! The database is killed, cut off, read-only, locked, full or given odd values, under load: no event is lost
//! or called twice, others go on where they can, and work resumes by itself.

use rlimit::{INFINITY, Resource, prlimit};
use serde_json::{Value, json};

use super::support::*;

/// A daemon that takes events from RabbitMQ, with bots that answer. It may hold so few deliveries which are
/// not stored that the broker soon keeps the rest.
async fn under_load(config: Config) -> (Scene, Load) {
    let scene = Scene::start(Inlet::RabbitMq, config.set("queue.prefetch", "50")).await;
    let load = Load::on(&scene).await;
    (scene, load)
}

/// What must hold while the database is away and people go on writing.
async fn endures_without_database(scene: &Scene, bytes_before: u64) {
    scene.outhook.misses("database").await;
    let queue = scene.queue.as_ref().unwrap();
    eventually("the broker to keep the rest", PATIENCE, || async { (queue.depth().await > 0).then_some(()) })
        .await;
    endures(&scene.outhook, "database", bytes_before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_that_was_killed_or_stopped_is_worked_with_again() {
    let postgres = Postgres::private().await;
    let (mut scene, load) = under_load(Config::postgres(&postgres.database().await)).await;
    let writer = load.begin(&scene);
    load.goes_on(&scene).await;

    let bytes = scene.outhook.memory();
    postgres.kill().await;
    endures_without_database(&scene, bytes).await;
    postgres.start_again().await;
    load.goes_on(&scene).await;

    postgres.stop().await;
    scene.outhook.misses("database").await;
    postgres.start_again().await;
    load.goes_on(&scene).await;

    load.is_done(&scene, &writer.stop().await).await;
    scene.outhook.ready().await;
    assert_eq!(scene.drain().await, 0);
    assert_eq!(scene.queue.as_ref().unwrap().depth().await, 0);
}

/// Cuts every connection of the daemon to its PostgreSQL database, and returns how many there were.
async fn cut_connections(scene: &Scene) -> i64 {
    let of_outhook = "datname = current_database() AND application_name = 'outhook'";
    let cut = format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {of_outhook}");
    scene.db.count(&cut).await
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_cut_again_and_again_cost_no_event_and_no_second_call() {
    let (scene, load) = under_load(Storage::Postgres.config().await).await;
    let writer = load.begin(&scene);
    for _ in 0..5 {
        load.goes_on(&scene).await;
        assert!(cut_connections(&scene).await > 0);
    }
    load.goes_on(&scene).await;
    load.is_done(&scene, &writer.stop().await).await;
    scene.outhook.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_cut_while_nothing_happens_do_not_hold_up_the_next_event() {
    let endpoint = Endpoint::start(|request, _| echo(request)).await;
    let scene = Scene::start(Inlet::RabbitMq, Storage::Postgres.config().await).await;
    // So many bots are looked up at once that every connection of the pool is opened.
    let bots = 201..=220;
    for bot in bots.clone() {
        setup::insert_bot_at(&scene.db, bot, &endpoint.url("/hook")).await;
    }
    let event = |bot: i64| channel_event(bot, bot, 1, "Kitchen", "soup?");
    scene.send(&bots.map(event).collect::<Vec<_>>()).await;
    scene.finished(20).await;
    scene.posted(20).await;

    assert!(cut_connections(&scene).await > 0);
    scene.send(&[channel_event(201, 1, 1, "Kitchen", "salad?")]).await;
    eventually("the next event to be called", RESUMES_WITHIN, || async {
        (endpoint.count() == 21).then_some(())
    })
    .await;
}

/// Each settlement is committed and not answered, and then committed once more.
async fn is_settled_once(storage: Storage) {
    const NOBODY: i64 = 4_711;
    let unanswered = ["1*return"; 20].join("->1*off->");
    let points = format!("unanswered-settle={unanswered};handler.request=1*panic");
    let endpoint = Endpoint::start(|request, _| echo(request)).await;
    let scene = Scene::start(Inlet::Stored, storage.config().await.fail_points(&points)).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    let event = |message: i64| {
        let bot = if message == 1 { NOBODY } else { bot };
        channel_event(bot, message, message, "Kitchen", "soup?")
    };
    scene.send(&(1..=5).map(event).collect::<Vec<_>>()).await;
    eventually("all to be settled twice", PATIENCE, || async {
        let dropped = scene.outhook.metric("outhook_outcomes_dropped_total").await;
        let letters = scene.outhook.metric("outhook_dead_letters_total").await;
        (dropped == 4.0 && letters == 2.0).then_some(())
    })
    .await;

    let mut reasons: Vec<String> = setup::dead_letters(&scene.config)
        .await
        .iter()
        .map(|letter| letter["reason"].as_str().unwrap().to_owned())
        .collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["panicked", "unknown_bot"]);
    let empty = "SELECT count(*) FROM outhook_dead_letter WHERE length(payload) = 0";
    assert_eq!(scene.db.count(empty).await, 0);
    let calls = |state: i64| format!("SELECT count(*) FROM outhook_call WHERE state = {state}");
    assert_eq!((scene.db.count(&calls(1)).await, scene.db.count(&calls(2)).await), (3, 1));
    scene.posted(3).await;
    assert_eq!(scene.db.count("SELECT count(*) FROM outhook_reply").await, 3);
    assert_eq!(endpoint.count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_whose_commit_was_not_answered_is_settled_once_on_sqlite() {
    is_settled_once(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_whose_commit_was_not_answered_is_settled_once_on_postgresql() {
    is_settled_once(Storage::Postgres).await;
}

/// Has all sessions of a database that begin from now on read only, or not; the daemon's begin now.
async fn set_read_only(scene: &Scene, is_read_only: bool) {
    let (_, database) = scene.config.database().rsplit_once('/').unwrap();
    let set = format!("ALTER DATABASE {database} SET default_transaction_read_only = {is_read_only}");
    Postgres::shared().await.exec(&set).await;
    cut_connections(scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_that_is_read_only_for_a_moment_is_waited_for() {
    let (scene, load) = under_load(Storage::Postgres.config().await).await;
    let writer = load.begin(&scene);
    load.goes_on(&scene).await;

    let bytes = scene.outhook.memory();
    set_read_only(&scene, true).await;
    endures_without_database(&scene, bytes).await;
    set_read_only(&scene, false).await;
    load.goes_on(&scene).await;
    load.is_done(&scene, &writer.stop().await).await;
    scene.outhook.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_row_that_is_locked_for_long_holds_up_nothing_else() {
    const MESSAGE: i64 = 1_000_000;
    let (scene, load) = under_load(Storage::Postgres.config().await).await;
    let bot = load.bot();
    scene.give_message(bot, MESSAGE, 0).await;
    let lock = format!("SELECT 1 FROM zerver_usermessage WHERE user_profile_id = {bot} FOR UPDATE");
    let theirs = scene.uncommitted(&lock).await;
    let writer = load.begin(&scene);
    // In a conversation of its own.
    scene.send(&[channel_event(bot, MESSAGE, 1_000, "Kitchen", "soup?")]).await;
    eventually("its event to be put off for two seconds", PATIENCE, || async {
        (scene.outhook.metric("outhook_flags_put_off_total").await >= 10.0).then_some(())
    })
    .await;
    load.goes_on(&scene).await;
    let mut messages = writer.stop().await;
    scene.finished(messages.len()).await;
    let bytes = scene.outhook.memory();
    let unfinished = "SELECT count(*) FROM outhook_event WHERE state = 0";
    assert_eq!(scene.db.count(unfinished).await, 1);
    stays_calm(&scene.outhook, bytes).await;
    assert_eq!(scene.outhook.get("/health/ready").await.0, 200);

    theirs.rollback().await.unwrap();
    eventually("its event to be finished", RESUMES_WITHIN, || async {
        (scene.db.count(unfinished).await == 0).then_some(())
    })
    .await;
    messages.push(MESSAGE);
    load.is_done(&scene, &messages).await;
    assert_eq!(scene.flags(bot, MESSAGE).await, 1, "it is marked read");
}

const NAMES: [&str; 4] = ["nul", "'; -- \"%s\" {}\n\t\u{7f}", "Süppchen 🍲 \u{202e}", "\\x00 \\u0000 $1"];

/// Answers with a NUL where it may be text and where it may be bytes, and at length.
fn odd_answer(request: &Request, long: &str) -> Answer {
    match request.path.as_str() {
        "/nul" => Answer::Json(json!({ "content": "a\0b", "widget_content": "\0" })),
        "/long" => Answer::Json(json!({ "content": long })),
        "/refusal" => Answer::Http { status: 404, headers: vec![], body: b"\0\xffno\0soup".repeat(1_000) },
        _ => Answer::Http { status: 200, headers: vec![], body: b"{\0\0\0}".to_vec() },
    }
}

/// A bot with four odd endpoints of odd names, beside one that is called like any other.
async fn odd_values_are_stored(storage: Storage) {
    let long = "soup ".repeat(12_000);
    let content = long.clone();
    let odd = Endpoint::start(move |request, _| odd_answer(request, &content)).await;
    let good = Endpoint::start(|request, _| echo(request)).await;
    let scene = Scene::start(Inlet::Stored, storage.config().await).await;
    let long_name = "n".repeat(5_000);
    let bot = scene.bot("odd").await;
    let paths = ["/nul", "/long", "/refusal", "/broken"];
    for (name, path) in NAMES.into_iter().zip(paths) {
        scene.service(bot, name, &odd.url(path), &[]).await;
    }
    scene.service(bot, &long_name, &odd.url("/nul"), &[]).await;
    let other = scene.bot_at("good", &good.url("/hook")).await;
    let event = |message: i64| {
        let bot = if message % 2 == 0 { bot } else { other };
        channel_event(bot, message, message, "Kitchen", "soup?")
    };
    scene.send(&(1..=20).map(event).collect::<Vec<Value>>()).await;
    scene.finished(20).await;

    assert_eq!(scene.db.count("SELECT count(*) FROM outhook_dead_letter").await, 0);
    assert_eq!((odd.count(), good.count()), (50, 10));
    let said = setup::outbox(&scene.db).await;
    let times = |content: &str| said.iter().filter(|said| said.content == content).count();
    // Zulip takes 10,000 characters.
    let cut = long[..9_980].to_owned() + "\n[message truncated]";
    assert_eq!((times("a\0b"), times(&cut), times("re: soup?")), (20, 10, 10));
    assert_eq!(said.iter().filter(|said| said.is_told()).count(), 20, "404 and what is no JSON");
    assert_shown(&scene, &long_name).await;
    scene.posted(said.len()).await;
}

/// The ledger shows the services' names as they are, and what was answered is kept byte by byte.
async fn assert_shown(scene: &Scene, long_name: &str) {
    let ledger = scene.ledger().await;
    for name in NAMES.into_iter().chain([long_name]) {
        assert_eq!(ledger.iter().filter(|call| call["service_name"] == name).count(), 10, "{name:?}");
    }
    let excerpts = scene.db.rows("SELECT excerpt FROM outhook_call WHERE status = 404").await;
    assert_eq!(excerpts.len(), 10);
    assert!(excerpts.iter().all(|row| row["excerpt"].as_str().unwrap().starts_with("\0\u{fffd}no\0soup\0")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nul_or_an_over_long_value_in_an_answer_is_no_trouble_on_sqlite() {
    odd_values_are_stored(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nul_or_an_over_long_value_in_an_answer_is_no_trouble_on_postgresql() {
    odd_values_are_stored(Storage::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_sqlite_file_that_another_process_has_locked_is_waited_for() {
    let (scene, load) = under_load(Config::sqlite()).await;
    let writer = load.begin(&scene);
    load.goes_on(&scene).await;

    let bytes = scene.outhook.memory();
    // The lock is kept for longer than the daemon waits for it, since only then it names the database.
    let theirs = scene.uncommitted("DELETE FROM outhook_dead_letter WHERE id < 0").await;
    endures_without_database(&scene, bytes).await;
    theirs.rollback().await.unwrap();
    load.goes_on(&scene).await;
    load.is_done(&scene, &writer.stop().await).await;
    scene.outhook.ready().await;
}

/// Lets the daemon write to files up to this size.
///
/// That is how the disk is full for it alone, at once and without the right to mount one of its own. Writes
/// fail with EFBIG then, which SQLite calls an I/O error; like a full disk, it ends the transaction by
/// itself.
fn limit_files(outhook: &Outhook, bytes: u64) {
    let pid = i32::try_from(outhook.pid()).unwrap();
    let (_, hard) = Resource::FSIZE.get().unwrap();
    prlimit(pid, Resource::FSIZE, Some((bytes.min(hard), hard)), None).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_is_waited_for_and_what_was_committed_is_there() {
    // Without this, the signal that tells of the limit would end the process.
    let (mut scene, load) = under_load(Config::sqlite().shell_first("trap '' XFSZ")).await;
    let writer = load.begin(&scene);
    load.goes_on(&scene).await;

    let bytes = scene.outhook.memory();
    limit_files(&scene.outhook, 0);
    endures_without_database(&scene, bytes).await;
    limit_files(&scene.outhook, INFINITY);
    load.goes_on(&scene).await;
    load.is_done(&scene, &writer.stop().await).await;
    scene.outhook.ready().await;
    // Now nothing is left of it but the file. What was acknowledged is in there, and finished.
    scene.outhook.kill().await;
    let queue = scene.queue.as_ref().unwrap();
    eventually("the broker to notice", PATIENCE, || async { (queue.consumers().await == 0).then_some(()) })
        .await;
    assert_eq!(queue.depth().await, 0);
    setup::all_finished(&scene.db).await;
}
