//! `check-url` says what the daemon would do, and dials nothing.

use serde_json::{Value, json};

use crate::egress::Doorbell;
use crate::support::Config;
use crate::support::dns::{Dns, Says};

fn config(dns: &Dns) -> Config {
    Config::sqlite()
        .set("egress.allow", r#"["127.0.0.0/8", "bot.test:8080"]"#)
        .set("egress.resolver", &dns.setting())
        .text("http.connect_timeout", "4s")
}

fn decided(address: &str, is_allowed: bool, rule: &str) -> Value {
    json!({ "address": address, "is_allowed": is_allowed, "is_tried": is_allowed, "rule": rule })
}

#[tokio::test(flavor = "multi_thread")]
async fn each_address_is_shown_with_its_rule_and_then_the_verdict() {
    let (dns, doorbell) = (Dns::start().await, Doorbell::install().await);
    dns.says("both.test", Says::now(&["127.0.0.1", "10.0.0.1", "1.1.1.1", "fd00::1"]));
    let url = format!("HTTP://Both.TEST:{}/hook", doorbell.port);

    let output = config(&dns).cli(&["check-url", &url, "--json"]).await.success();

    let at = |ip: &str| format!("{ip}:{}", doorbell.port);
    let expected = [
        decided(&at("127.0.0.1"), true, "allowed by 127.0.0.0/8 in egress.allow"),
        decided(&at("10.0.0.1"), false, "a private address"),
        decided(&at("1.1.1.1"), true, "a public address"),
        decided(&at("[fd00::1]"), false, "a unique local address"),
        json!({ "url": format!("http://both.test:{}/hook", doorbell.port), "verdict": "allowed" }),
    ];
    assert_eq!(output.records(), expected);
    assert_eq!(doorbell.rings(), 0, "somebody was dialled");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verdict_is_the_reason_of_a_call_and_the_status_of_the_command() {
    let dns = Dns::start().await;
    dns.says("bot.test", Says::now(&["10.0.0.1"]));
    dns.says("silent.test", Says::Silence);
    let config = config(&dns);
    for (url, verdict, status) in [
        ("http://2130706433/", "allowed", 0),
        ("http://localhost/", "allowed", 0),
        ("https://1.1.1.1/", "allowed", 0),
        ("http://bot.test:8080/", "allowed", 0),
        ("http://bot.test/", "blocked", 64),
        ("http://[::1]/", "blocked", 64),
        ("http://0xa9fea9fe/", "blocked", 64),
        ("http://missing.test/", "dns", 69),
        ("http://silent.test/", "dns", 69),
        ("ftp://bot.test/", "bad_url", 64),
        ("http://user@bot.test/", "bad_url", 64),
        ("http://[fe80::1%25eth0]/", "bad_url", 64),
        ("bot.test", "bad_url", 64),
    ] {
        let output = config.cli(&["check-url", url, "--json"]).await;
        let last = output.records().pop().unwrap();
        assert_eq!((last["verdict"].as_str(), output.status), (Some(verdict), status), "{url}: {output:?}");
        let told = config.cli(&["check-url", url]).await;
        assert_eq!(told.status, status, "{url}");
        assert!(told.stdout.contains(&format!("verdict  {verdict}")), "{url}: {}", told.stdout);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_reads_the_steps_in_their_order() {
    let dns = Dns::start().await;
    dns.says("bot.test", Says::now(&["10.0.0.1"]));
    let output = config(&dns).cli(&["check-url", "http://BOT.test:8080/a b"]).await.success();
    let lines: Vec<&str> = output.stdout.lines().map(str::trim_end).collect();
    assert_eq!(
        lines[..4],
        [
            "url      http://bot.test:8080/a%20b",
            "scheme   http",
            "port     8080: any is allowed",
            "host     bot.test: allowed by bot.test:8080 in egress.allow, whatever its addresses are",
        ]
    );
    assert!(lines[5].contains("10.0.0.1:8080") && lines[5].contains("allowed by the host"), "{lines:?}");
    assert_eq!(lines.last(), Some(&"verdict  allowed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_cannot_be_used_is_refused_with_what_is_wrong() {
    for (url, verdict) in [
        ("", "verdict  bad_url: the URL must begin with http:// or https://"),
        ("8.8.8.8", "verdict  bad_url: the URL must begin with http:// or https://"),
        (
            "http://8.8.8.8:0/",
            "verdict  bad_url: the URL's port must be from 1 to 65535: nothing can be reached at port 0",
        ),
    ] {
        let output = Config::sqlite().cli(&["check-url", url]).await;
        assert_eq!((output.stdout.trim_end(), output.status), (verdict, 64), "{url:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_address_that_no_call_would_try_is_told() {
    let dns = Dns::start().await;
    let nine: Vec<String> = (1..=9).map(|number| format!("127.0.0.{number}")).collect();
    let mut many: Vec<&str> = nine.iter().map(String::as_str).collect();
    dns.says("eight.test", Says::now(&many[..8]));
    many.insert(0, "10.0.0.1");
    dns.says("nine.test", Says::now(&many));
    let config = config(&dns);

    let output = config.cli(&["check-url", "http://nine.test/", "--json"]).await.success();
    let is_tried = |record: &Value| record["is_tried"].as_bool();
    let tried: Vec<bool> = output.records().iter().filter_map(is_tried).collect();
    assert_eq!(tried, [&[false][..], &[true; 8][..], &[false][..]].concat(), "{output:?}");
    assert_eq!(output.records()[9]["is_allowed"], true, "{output:?}");

    let told = config.cli(&["check-url", "http://nine.test/"]).await.success().stdout;
    let not_tried = told.lines().filter(|line| line.contains("allowed, not tried")).collect::<Vec<_>>();
    assert!(matches!(not_tried[..], [line] if line.contains("127.0.0.9:80")), "{told}");
    assert!(told.contains("tried    only the first 8 of the allowed addresses"), "{told}");
    let told = config.cli(&["check-url", "http://eight.test/"]).await.success().stdout;
    assert!(!told.contains("tried"), "{told}");
}
