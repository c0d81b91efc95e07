//! The log: nobody has to read it, and no text of others breaks it.

use std::process::Stdio;

use serde_json::json;

use super::support::*;

/// More lines than a pipe and the queue before it hold: two for each.
const EVENTS: i64 = 3000;

fn events(bot: i64) -> Vec<serde_json::Value> {
    (1..=EVENTS)
        .map(|message| channel_event(bot, message, 7, &format!("topic {}", message % 100), "soup?"))
        .collect()
}

/// Sends many events to a daemon whose log goes nowhere, and waits until they are finished and lines were dropped.
async fn works_on(config: &Config, outhook: &Outhook) {
    outhook.ready().await;
    let endpoint = Endpoint::json(json!({ "content": "Tomato." })).await;
    let db = Db::of(config).await;
    setup::insert_bot_at(&db, 1, &endpoint.url("/hook")).await;
    setup::send(config, &events(1)).await;
    let finished = async || {
        usize::try_from(db.count("SELECT count(*) FROM outhook_event WHERE state = 1").await).unwrap()
    };
    reaches("events", EVENTS as usize, finished).await;
    let pending = "SELECT count(*) FROM outhook_reply WHERE state = 0";
    eventually("the outbox to be empty", PATIENCE, async || (db.count(pending).await == 0).then_some(()))
        .await;
    assert_eq!(outhook.get("/health/ready").await.0, 200);
    assert!(outhook.metric("outhook_log_lines_dropped_total").await > 0.0);
    let dropped = outhook.metric("outhook_replies_total{outcome=\"dropped\"").await;
    let posted = outhook.metric("outhook_replies_total{outcome=\"posted\"").await;
    assert!(dropped > 0.0, "{posted} replies were logged");
    assert!((dropped + posted - EVENTS as f64).abs() < 0.5, "{dropped} + {posted}");
    let lost = db.count("SELECT count(*) FROM outhook_reply WHERE state = 2").await;
    assert_eq!(lost, dropped as i64);
}

async fn drains(outhook: &mut Outhook) {
    outhook.terminate().await;
    assert_eq!(outhook.wait().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_stops_nothing() {
    let config = Config::sqlite().text("log.filter", "info");
    let (mut outhook, _stderr) = Outhook::run_unread(&config);
    works_on(&config, &outhook).await;
    drains(&mut outhook).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_read_late_says_how_much_is_missing() {
    let config = Config::sqlite().text("log.filter", "info");
    let (mut outhook, stderr) = Outhook::run_unread(&config);
    works_on(&config, &outhook).await;
    outhook.read(stderr);
    let told = outhook.wait_for_log("log lines were dropped here").await;
    let dropped = outhook.metric("outhook_log_lines_dropped_total").await;
    let (_, count) = told.split_once("] ").unwrap();
    assert!(count.starts_with(&format!("{dropped} log lines")), "{told}: {dropped}");
    drains(&mut outhook).await;
    assert!(outhook.log().iter().any(|line| line.ends_with("] drained")), "it goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_pipe_or_a_full_disk_behind_the_log_stops_nothing() {
    for line in ["exec 2>/dev/full", "true"] {
        let config = Config::sqlite().text("log.filter", "info").shell_first(line);
        let (mut outhook, pipe) = Outhook::run_unread(&config);
        drop(pipe);
        works_on(&config, &outhook).await;
        drains(&mut outhook).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_and_a_failed_start_need_no_reader() {
    // The pipe is full from the beginning, and its reader stays.
    let full = "head -c 65536 /dev/zero >&2; true";
    let config = Config::sqlite().shell_first(full);
    let (mut first, _unread) = Outhook::run_unread(&config);
    first.ready().await;
    let (mut second, _also_unread) = Outhook::run_unread(&config);
    assert_eq!(second.wait().await.code(), Some(69), "another daemon has the file");
    drains(&mut first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_needs_no_reader() {
    let full = "head -c 65536 /dev/zero >&2; true";
    let config = Config::sqlite().shell_first(full).fail_points("EventActor.started=1*panic->off");
    let (mut outhook, _unread) = Outhook::run_unread(&config);
    outhook.ready().await;
    assert!(outhook.metric("outhook_panics_total").await > 0.0);
    drains(&mut outhook).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_text_of_others_makes_or_steers_a_line() {
    let nasty = "a\nb\r\u{1b}[2J\t\u{7f}\u{9b}31m\u{202e}\u{2066}\u{200b}\u{feff}\u{2028}\u{2029}\0z";
    let endpoint = Endpoint::start(move |request, _| match request.path.as_str() {
        "/said" => Answer::Json(json!({ "content": nasty })),
        _ => Answer::Json(json!({ "content": "ü".repeat(3000) })),
    })
    .await;
    let scene = Scene::start(Inlet::Stored, Config::sqlite()).await;
    let said = scene.bot_at("said", &endpoint.url("/said")).await;
    let long = scene.bot_at("long", &endpoint.url("/long")).await;
    scene.send(&[channel_event(said, 1, 7, nasty, "x"), channel_event(long, 2, 7, "t", "x")]).await;
    let line = scene.outhook.wait_for_log(&format!("reply of bot {said} ")).await;
    assert!(line.ends_with('"') && line.contains("[2J") && line.contains("\\u{202e}"), "{line:?}");
    let line = scene.outhook.wait_for_log(&format!("reply of bot {long} ")).await;
    assert!(
        line.ends_with(&format!("\"{}\" (the first 2000 of 3000 characters)", "ü".repeat(2000))),
        "{line}"
    );
    for line in scene.outhook.log() {
        let is_plain =
            |c: char| !c.is_control() && !"\u{202e}\u{2066}\u{200b}\u{feff}\u{2028}\u{2029}".contains(c);
        assert!(line.starts_with('[') && line.chars().all(is_plain), "{line:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_is_taken_as_meant_or_refused() {
    for (filter, status) in [
        ("", 0),
        ("warn", 0),
        ("outhook=debug", 0),
        ("inof", 64),
        ("outhook=dbug", 64),
        ("=debug", 64),
        ("info/x", 64),
    ] {
        let config = Config::sqlite().environment("RUST_LOG", filter);
        let output = config.cli(&["check"]).await;
        assert_eq!(output.status, status, "RUST_LOG={filter}: {output:?}");
        assert_eq!(output.stderr.contains("RUST_LOG = "), status == 64, "{output:?}");
        if !filter.is_empty() {
            let output = Config::sqlite().text("log.filter", filter).cli(&["check"]).await;
            assert_eq!(output.status, status, "log.filter = {filter}: {output:?}");
        }
    }
    let mut refused = Outhook::run(&Config::sqlite().environment("RUST_LOG", "inof"));
    assert_eq!(refused.wait().await.code(), Some(64));
    let unset =
        Outhook::start(&Config::sqlite().text("log.filter", "info").environment("RUST_LOG", "")).await;
    unset.wait_for_log("event actors").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_output_is_closed_ends_quietly() {
    let config = Config::sqlite();
    let db = setup::tables(&config).await;
    setup::insert_bots_at(&db, 1..2001, "http://127.0.0.1:9/hook").await;
    for arguments in [
        &["services", "list"][..],
        &["services", "list", "--json"],
        &["bots", "list"],
        &["deliveries"],
        &["check"],
        &["--help"],
    ] {
        let mut child = config.command().args(arguments).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().await.unwrap();
        assert_eq!(
            (output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()),
            (Some(0), ""),
            "{arguments:?}"
        );
    }
    let output = config.command().arg("check").stdout(Stdio::null()).output().await.unwrap();
    assert_eq!(output.status.code(), Some(0));
}
