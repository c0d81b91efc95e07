//! SIGHUP: what can change while the daemon runs does, the rest is named, and nothing is half done.

use serde_json::Value;

use super::support::*;

fn event(message: i64) -> Value {
    channel_event(1, message, 7, &format!("topic {message}"), "soup?")
}

/// Has the daemon read its configuration again, and returns what it says of it.
async fn reload(outhook: &Outhook) -> Vec<String> {
    let before = outhook.log().len();
    outhook.signal("HUP").await;
    let told = async || {
        let lines = outhook.log().split_off(before);
        lines.iter().any(|line| line.contains("] reloaded: ")).then_some(lines)
    };
    eventually("a line about the reload", PATIENCE, told).await
}

fn has(lines: &[String], level: &str, parts: &[&str]) -> bool {
    lines.iter().any(|line| line.contains(level) && parts.iter().all(|part| line.contains(part)))
}

/// The calls of a message that have ended, by the ledger: state and reason.
async fn call(config: &Config, message: i64) -> (String, String) {
    let ended = async || {
        let calls = setup::deliveries(config).await;
        let call = calls.into_iter().find(|call| {
            call["message_id"] == message && matches!(call["state"].as_str(), Some("succeeded" | "failed"))
        })?;
        let text = |key: &str| call[key].as_str().unwrap_or_default().to_owned();
        Some((text("state"), text("reason")))
    };
    eventually(&format!("the call of message {message} to end"), PATIENCE, ended).await
}

async fn daemon(config: &Config, endpoint: &Endpoint) -> Outhook {
    let outhook = Outhook::start(config).await;
    setup::insert_bot_at(&Db::of(config).await, 1, &endpoint.url("/hook")).await;
    outhook
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_calls_obey_the_new_limits_and_those_in_flight_the_old() {
    let gate = Gate::new();
    let endpoint = gated_endpoint(&gate).await;
    let config = Config::sqlite().text("http.timeout", "1m").set("retry.max_retries", "5");
    let outhook = daemon(&config, &endpoint).await;
    setup::send(&config, &[event(1)]).await;
    endpoint.wait_for(1).await;

    let config = config.text("http.timeout", "100ms").set("retry.max_retries", "0");
    let lines = reload(&outhook).await;
    assert!(has(&lines, "INFO ", &["http.timeout 1m -> 100ms", "retry.max_retries 5 -> 0"]), "{lines:?}");
    setup::send(&config, &[event(2)]).await;
    assert_eq!(call(&config, 2).await, ("failed".into(), "timeout".into()));
    gate.open();
    assert_eq!(call(&config, 1).await.0, "succeeded");
    assert_eq!(endpoint.count(), 2);

    let config = config.text("http.timeout", "10s").set("http.max_response_bytes", "3");
    reload(&outhook).await;
    setup::send(&config, &[event(3)]).await;
    assert_eq!(call(&config, 3).await, ("failed".into(), "too_large".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_no_longer_allowed_is_not_called_over_a_connection_that_is_kept() {
    let endpoint = Endpoint::start(|request, _| echo(request)).await;
    let config = Config::sqlite();
    let outhook = daemon(&config, &endpoint).await;
    setup::send(&config, &[event(1)]).await;
    assert_eq!(call(&config, 1).await.0, "succeeded");

    let config = config.set("egress.allow", r#"["10.0.0.0/8"]"#);
    let lines = reload(&outhook).await;
    let change = r#"egress.allow ["127.0.0.0/8", "::1/128"] -> ["10.0.0.0/8"]"#;
    assert!(has(&lines, "INFO ", &[change]), "{lines:?}");
    setup::send(&config, &[event(2)]).await;
    assert_eq!(call(&config, 2).await, ("failed".into(), "blocked".into()));
    assert_eq!(endpoint.count(), 1);

    let config = config.set("egress.allow", r#"["127.0.0.1"]"#);
    reload(&outhook).await;
    setup::send(&config, &[event(3)]).await;
    assert_eq!(call(&config, 3).await.0, "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_may_have_more_calls_in_flight() {
    let gate = Gate::new();
    let endpoint = gated_endpoint(&gate).await;
    let config = Config::sqlite().set("actors.calls_per_bot", "1").set("actors.rate_per_bot", "1");
    let outhook = daemon(&config, &endpoint).await;
    setup::send(&config, &[event(1)]).await;
    endpoint.wait_for(1).await;
    let config = config.set("actors.calls_per_bot", "4").set("actors.rate_per_bot", "0");
    let lines = reload(&outhook).await;
    assert!(
        has(&lines, "INFO ", &["actors.calls_per_bot 1 -> 4", "actors.rate_per_bot 1 -> 0"]),
        "{lines:?}"
    );
    setup::send(&config, &[event(2), event(3), event(4)]).await;
    eventually("four calls at once", PATIENCE, async || (endpoint.in_flight() == 4).then_some(())).await;
    gate.open();
    setup::all_finished(&Db::of(&config).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_breaker_and_the_filter_of_the_log_are_reloaded() {
    let endpoint = Endpoint::start(|_, _| Answer::Close).await;
    let config = Config::sqlite()
        .text("log.filter", "warn")
        .set("retry.max_retries", "0")
        .set("breaker.failures", "1000")
        .text("breaker.open", "1m");
    let outhook = daemon(&config, &endpoint).await;
    setup::send(&config, &[event(1)]).await;
    call(&config, 1).await;
    assert!(!outhook.log().iter().any(|line| line.contains("INFO ")), "{:?}", outhook.log());

    let config = config.text("log.filter", "info,outhook=debug").set("breaker.failures", "1");
    let lines = reload(&outhook).await;
    let filter = r#"log.filter "warn" -> "info,outhook=debug""#;
    assert!(has(&lines, "INFO ", &[filter, "breaker.failures 1000 -> 1"]), "{lines:?}");
    setup::send(&config, &[event(2)]).await;
    outhook.wait_for_log("not called for a while").await;
    outhook.wait_for_log("DEBUG").await;

    let config = config.text("log.filter", "error");
    let before = outhook.log().len();
    outhook.signal("HUP").await;
    outhook.wait_for_log(r#"log.filter "info,outhook=debug" -> "error""#).await;
    setup::send(&config, &[event(3)]).await;
    let mut outhook = outhook;
    outhook.terminate().await;
    assert_eq!(outhook.wait().await.code(), Some(0));
    assert!(!outhook.log()[before..].iter().any(|line| line.contains("drained")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_restart_is_named_until_it_is_restarted_and_passwords_are_not() {
    let proxy = |password: &str| format!("http://user:{}@127.0.0.1:9", secrets::secret(password));
    let config = Config::sqlite().text("egress.proxy", &proxy("one"));
    let mut outhook = Outhook::start(&config).await;
    let config = config
        .set("queue.prefetch", "7")
        .set("actors.event_pool", "3")
        .text("admin.listen", "127.0.0.1:1")
        .text("egress.proxy", &proxy("two"));
    let lines = reload(&outhook).await;
    assert!(has(&lines, "INFO ", &["egress.proxy", "***", "another password"]), "{lines:?}");
    let parts = ["restart", "queue.prefetch 1000 -> 7", "actors.event_pool 0 -> 3", "admin.listen"];
    for _ in 0..2 {
        let named = async || {
            outhook.log().iter().rev().any(|line| parts.iter().all(|part| line.contains(part))).then_some(())
        };
        eventually("the keys that need a restart", PATIENCE, named).await;
        let lines = reload(&outhook).await;
        assert!(has(&lines, "INFO ", &["no setting has changed"]), "{lines:?}");
    }
    assert_eq!(outhook.get("/health/live").await.0, 200);
    drop(config);
    outhook.terminate().await;
    assert_eq!(outhook.wait().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_with_faults_changes_nothing() {
    let endpoint = Endpoint::start(|request, _| echo(request)).await;
    let config = Config::sqlite().set("http.max_response_bytes", "1000");
    let outhook = daemon(&config, &endpoint).await;

    // Sent by a command, which reads the file too, before that is wrong.
    let (mut wrong, right) = (String::new(), std::fs::read_to_string(config.path()).unwrap());
    wrong += &right.replace("max_response_bytes = 1000", "max_response_bytes = 1\ntiemout = 1");
    wrong += "[drain]\ndeadline = 'soon'\n";
    std::fs::write(config.path(), wrong).unwrap();
    outhook.signal("HUP").await;
    for part in ["drain.deadline = \"soon\"", "http.tiemout: unknown key"] {
        let line = outhook.wait_for_log(part).await;
        assert!(line.contains("WARN ") && line.contains("not reloaded: "), "{line}");
    }
    let no_authority = right.replace("[egress]", "[egress]\nca_file = '/nonexistent/ca.pem'");
    std::fs::write(
        config.path(),
        no_authority.replace("max_response_bytes = 1000", "max_response_bytes = 1"),
    )
    .unwrap();
    outhook.signal("HUP").await;
    outhook.wait_for_log("/nonexistent/ca.pem").await;
    std::fs::remove_file(config.path()).unwrap();
    outhook.signal("HUP").await;
    outhook.wait_for_log("not reloaded: cannot read").await;

    std::fs::write(config.path(), right).unwrap();
    setup::send(&config, &[event(1)]).await;
    assert_eq!(call(&config, 1).await.0, "succeeded", "the response is longer than a byte");
    assert!(has(&reload(&outhook).await, "INFO ", &["no setting has changed"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_wins_over_a_file_that_is_reloaded() {
    let config = Config::sqlite().environment("OUTHOOK__RETRY__MAX_RETRIES", "2");
    let outhook = Outhook::start(&config).await;
    let config = config.set("retry.max_retries", "9").set("breaker.failures", "9");
    let lines = reload(&outhook).await;
    assert!(has(&lines, "INFO ", &["] reloaded: breaker.failures 20 -> 9"]), "{lines:?}");
    assert!(!lines.concat().contains("max_retries"), "{lines:?}");
    drop(config);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_while_it_starts_or_drains_ends_nothing() {
    let broker = format!("amqp://127.0.0.1:{}", free_port());
    let config = Config::sqlite().queue(&broker, "q");
    let mut outhook = Outhook::run(&config);
    outhook.misses("broker").await;
    reload(&outhook).await;
    assert_eq!(outhook.get("/health/live").await.0, 200);
    outhook.terminate().await;
    assert_eq!(outhook.wait().await.code(), Some(0));

    let gate = Gate::new();
    let endpoint = gated_endpoint(&gate).await;
    let config = Config::sqlite();
    let mut outhook = daemon(&config, &endpoint).await;
    setup::send(&config, &[event(1)]).await;
    endpoint.wait_for(1).await;
    outhook.terminate().await;
    outhook.wait_for_log("draining").await;
    reload(&outhook).await;
    gate.open();
    assert_eq!(outhook.wait().await.code(), Some(0));
    assert_eq!(call(&config, 1).await.0, "succeeded");
}
