//! The commands, as a person or a script uses them.

use super::support::*;

async fn added(config: &Config, arguments: &[&str]) -> i64 {
    config.cli(arguments).await.success().records()[0]["id"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bots_and_services_are_added_listed_and_removed() {
    let config = Config::sqlite();
    let bot = added(
        &config,
        &["bots", "add", "--email", "soup@x.org", "--name", "Soup", "--owner-email", "o@x.org", "--json"],
    )
    .await;
    let id = bot.to_string();
    let url = "http://127.0.0.1:9/hook";
    let generic =
        added(&config, &["services", "add", "--bot", &id, "--name", "g", "--url", url, "--json"]).await;
    let arguments =
        ["services", "add", "--bot", &id, "--name", "s", "--url", url, "--interface", "slack", "--json"];
    added(&config, &arguments).await;

    let bots = config.cli(&["bots", "list", "--json"]).await.success().records();
    assert_eq!((bots[0]["id"].as_i64(), bots[0]["email"].as_str()), (Some(bot), Some("soup@x.org")));
    assert_eq!(bots.len(), 1, "the owner is not a bot");
    let services = config.cli(&["services", "list", "--json"]).await.success().records();
    let interfaces: Vec<&str> = services.iter().map(|row| row["interface"].as_str().unwrap()).collect();
    assert_eq!(interfaces, ["generic", "slack"]);

    config.cli(&["services", "remove", &generic.to_string()]).await.success();
    assert_eq!(config.cli(&["services", "remove", "4711"]).await.status, 64);
    assert_eq!(config.cli(&["services", "list", "--json"]).await.success().records().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_neither_makes_lines_of_its_own_nor_steers_the_terminal() {
    const NAME: &str = "soup\n\u{1b}[2Jsalad";
    let config = Config::sqlite();
    let bot = added(&config, &["bots", "add", "--email", "b@x.org", "--name", NAME, "--json"]).await;
    let bot = bot.to_string();
    let url = "http://127.0.0.1:9/hook";
    added(&config, &["services", "add", "--bot", &bot, "--name", NAME, "--url", url, "--json"]).await;
    for (command, key) in [("bots", "full_name"), ("services", "name")] {
        let told = config.cli(&[command, "list"]).await.success().stdout;
        assert_eq!(told.lines().count(), 2, "{told:?}");
        assert!(told.contains(r"soup\n\u{1b}[2Jsalad"), "{told:?}");
        let records = config.cli(&[command, "list", "--json"]).await.success().records();
        assert_eq!(records[0][key], NAME, "{records:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_usage_ends_with_64_and_one_sentence() {
    let config = Config::sqlite();
    let known = ["bots", "add", "--email", "b@x.org", "--name", "B"];
    config.cli(&known).await.success();
    let url = ["services", "add", "--bot", "1", "--name", "s", "--url"];
    let with_url = |bad| [url.as_slice(), &[bad]].concat();
    for arguments in [
        known.to_vec(),
        with_url("ftp://x.org"),
        with_url("http://u:p@x.org"),
        with_url("nonsense"),
        vec!["services", "add", "--bot", "99", "--name", "s", "--url", "http://x.org"],
        vec!["services", "add", "--bot", "1", "--name", "s", "--url", "http://x.org", "--interface", "xml"],
        vec!["dead-letters", "show", "7"],
        vec!["no-such-command"],
        vec!["send"],
        vec!["send", "--file", "/nonexistent/file"],
        vec!["deliveries", "--since", "yesterday"],
    ] {
        let output = config.cli(&arguments).await;
        assert_eq!(output.status, 64, "{arguments:?}: {}", output.stderr);
        assert!(!output.stderr.trim().is_empty(), "{arguments:?}");
        assert!(!output.stderr.contains("panicked"), "{arguments:?}: {}", output.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_line_of_a_file_is_named_and_those_before_it_are_sent() {
    let config = Config::sqlite();
    let good = channel_event(1, 7, 1, "t", "x").to_string();
    let output =
        config.cli_with_input(&["send", "--file", "-"], format!("{good}\n\n{{}}\n").as_bytes()).await;
    assert_eq!(output.status, 64);
    assert!(output.stderr.contains("line 3"), "{}", output.stderr);
    let again = config.cli_with_input(&["send", "--file", "-"], format!("{good}\n").as_bytes()).await;
    assert!(again.success().stdout.contains("0 events"), "a known event is not a new one");
    assert_eq!(Db::of(&config).await.count("SELECT count(*) FROM outhook_event").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_a_configuration_is_reported_at_once() {
    let config = Config::sqlite()
        .set("queue.prefetch", "0")
        .set("http.timeout", "\"soon\"")
        .set("retry.jitter", "2.0")
        .set("queue.colour", "\"red\"");
    let output = config.cli(&["run"]).await;
    assert_eq!(output.status, 64);
    for part in ["queue.prefetch", "http.timeout", "soon", "retry.jitter", "queue.colour"] {
        assert!(output.stderr.contains(part), "{part}: {}", output.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reports_every_part_and_a_broker_that_refuses_us() {
    let good = Config::sqlite();
    let output = good.cli(&["check"]).await.success();
    for part in ["configuration", "database", "queue", "replies"] {
        assert!(output.stdout.contains(part), "{part}: {}", output.stdout);
    }
    let rabbit = Rabbit::shared().await;
    let wrong = rabbit.queue().await.url.replace(BROKER_PASSWORD, &secrets::secret("wrong"));
    let config = Config::sqlite().queue(&wrong, "q");
    let output = config.cli(&["check"]).await;
    assert_eq!(output.status, 69, "{}{}", output.stdout, output.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_counts_the_files_that_so_many_calls_need_and_says_how_many_calls_they_allow() {
    let limits = [
        ("ulimit -n 199", 64, "fault", "http.max_calls = 100 needs 200"),
        ("ulimit -n 200", 0, "warn ", "only 200 files may be open, so at most 50 calls are made at a time"),
        ("ulimit -n 299", 0, "ok   ", "at most 99 calls are made at a time"),
        ("ulimit -n 300", 0, "ok   ", "300 may be open; http.max_calls = 100 needs at most 300"),
    ];
    for (limit, status, kind, says) in limits {
        let output = Config::sqlite().set("http.max_calls", "100").shell_first(limit).cli(&["check"]).await;
        assert_eq!(output.status, status, "{output:?}");
        assert!(output.stdout.contains(says), "{output:?}");
        assert!(output.stdout.contains(&format!("{kind}  open files: ")), "{output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn send_puts_a_direct_or_a_channel_message_on_the_queue() {
    let config = Config::sqlite();
    let endpoint = Endpoint::json(serde_json::json!({})).await;
    let bot =
        added(&config, &["bots", "add", "--email", "b@x.org", "--name", "B", "--json"]).await.to_string();
    let url = endpoint.url("/hook");
    config.cli(&["services", "add", "--bot", &bot, "--name", "s", "--url", &url]).await.success();
    let _outhook = Outhook::start(&config).await;
    config.cli(&["send", "--bot", &bot, "--content", "soup?"]).await.success();
    let arguments = ["send", "--bot", &bot, "--content", "salad?", "--stream", "food", "--topic", "kitchen"];
    config.cli(&arguments).await.success();
    let mut bodies: Vec<_> = endpoint.wait_for(2).await.iter().map(Request::json).collect();
    bodies.sort_by_key(|body| body["data"].as_str().unwrap().to_owned());
    assert_eq!(bodies[0]["message"]["subject"], "kitchen");
    assert_eq!(bodies[0]["trigger"], "mention");
    assert_eq!(bodies[1]["data"], "soup?");
    assert_eq!(bodies[1]["trigger"], "direct_message");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_of_a_dead_letter_steers_no_terminal_and_is_whole_in_json() {
    let config = Config::sqlite();
    let body = "{\n\t\"name\": \"\u{1b}]0;owned\u{7}\r\u{9b}2J\u{7f}\u{202e}Süppchen\"\n}";
    let hex: String = body.bytes().map(|byte| format!("{byte:02x}")).collect();
    let insert = format!(
        "INSERT INTO outhook_dead_letter (id, reason, detail, payload, created_at)
         VALUES (7, 'malformed', 'it is no event', X'{hex}', 1)"
    );
    setup::tables(&config).await.exec(&insert).await;

    let shown = config.cli(&["dead-letters", "show", "7"]).await.success().stdout;
    let escaped = "{\n\t\"name\": \"\\u{1b}]0;owned\\u{7}\\r\\u{9b}2J\\u{7f}\\u{202e}Süppchen\"\n}\n";
    assert!(shown.ends_with(&format!(")\n{escaped}")), "{shown:?}");
    let record = config.cli(&["dead-letters", "show", "7", "--json"]).await.success();
    assert!(!record.stdout.trim_end().contains(char::is_control), "{:?}", record.stdout);
    assert_eq!(record.records()[0]["payload"], body);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_ends_with_a_table_and_leaves_nothing_behind() {
    let config = Config::sqlite();
    let output = config.cli(&["demo", "--exit"]).await.success();
    for bot in ["good", "slack", "slow", "flaky", "hung"] {
        assert!(output.stdout.contains(bot), "{bot}: {}", output.stdout);
    }
    assert!(output.stdout.contains("mailbox actor=queue"), "{}", output.stdout);
}
