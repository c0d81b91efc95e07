//! `check-url` says what the daemon would do, and dials nothing.

use serde_json::{Value, json};

use crate::egress::Doorbell;
use crate::support::dns::{Dns, Says};
use crate::support::{Config, Outhook, Ruling, Smokescreen};

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
async fn behind_a_proxy_the_verdict_says_that_the_proxy_decides_and_nothing_is_looked_up_or_asked() {
    let proxy = Smokescreen::start(|_, _| Ruling::Refuse(407, "denied", "")).await;
    let config = Config::sqlite()
        .set("egress.allow", "[]")
        .set("egress.ports", "[80]")
        .text("egress.proxy", &proxy.url().replace("http://", "http://user:hunter2@"));
    for url in ["http://169.254.169.254/", "http://missing.test/"] {
        let output = config.cli(&["check-url", url, "--json"]).await.success();
        let expected = json!({ "url": url, "verdict": "allowed", "decided_by": "proxy" });
        assert_eq!(output.records(), [expected]);

        let told = config.cli(&["check-url", url]).await.success().stdout;
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.last(), Some(&"verdict  allowed, unless the proxy refuses"));
        let decides = "looks the host up, and decides about its addresses";
        assert!(lines[3].starts_with("proxy    http://") && lines[3].ends_with(decides), "{told}");
        assert!(!told.contains("hunter2"), "{told}");
    }

    let output = config.cli(&["check-url", "http://missing.test:81/", "--json"]).await;
    let refused = &output.records()[0];
    assert_eq!((&refused["verdict"], output.status), (&json!("bad_url"), 64), "{output:?}");
    assert!(refused.get("decided_by").is_none(), "{output:?}");
    assert!(proxy.requests().is_empty(), "the proxy was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_allowed_beside_a_proxy_is_told_to_have_no_effect() {
    const SENTENCE: &str = "egress.allow has no effect beside egress.proxy";
    let proxy = Smokescreen::start(|_, _| Ruling::Refuse(502, "no such host", "")).await;
    for (allow, is_told) in [("[]", false), (r#"["10.0.0.0/8"]"#, true), (r#"["bot.test:8080"]"#, true)] {
        let config = Config::sqlite().set("egress.allow", allow).text("egress.proxy", &proxy.url());
        let checked = config.cli(&["check"]).await.success().stdout;
        assert_eq!(checked.contains(SENTENCE), is_told, "{allow}: {checked}");
        assert_eq!(checked.contains("warn   calls to bots: "), is_told, "{allow}: {checked}");

        let mut outhook = Outhook::start(&config).await;
        outhook.terminate().await;
        assert!(outhook.wait().await.success());
        let warnings: Vec<String> =
            outhook.log().into_iter().filter(|line| line.contains(SENTENCE)).collect();
        assert_eq!(warnings.len(), usize::from(is_told), "{allow}: {warnings:?}");
        assert!(warnings.iter().all(|line| line.contains("WARN")), "{warnings:?}");
    }
    let config = Config::sqlite().set("egress.allow", r#"["10.0.0.0/8"]"#);
    let checked = config.cli(&["check"]).await.success().stdout;
    assert!(!checked.contains(SENTENCE), "{checked}");
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
