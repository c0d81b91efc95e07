//! A proxy that breaks off, or never comes to an end.

use std::time::Duration;

use crate::support::{Config, Ruling, Smokescreen};

use super::{call, through};

const CONSENT: &str = "HTTP/1.1 200 Connection established\r\n\r\n";
const HALF: &str = "HTTP/1.1 200 Connection est";

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_resets_a_tunnel_has_failed_and_behind_its_consent_tls_has() {
    let proxy = Smokescreen::start(|request, _| {
        Ruling::Reset(match request.path.trim_start_matches("http://") {
            path if path.starts_with("consent") => CONSENT,
            path if path.starts_with("half") => HALF,
            _ => "",
        })
    })
    .await;
    let config = through(&proxy.url(), Config::sqlite()).set("retry.max_retries", "0");
    let broke = "(egress.proxy) broke the connection off";
    let table = [
        ("https://mute.invalid/", "proxy", broke),
        ("https://half.invalid/", "proxy", broke),
        ("https://consent.invalid/", "tls", "the connection broke while TLS was being agreed on"),
        // The proxy has said nothing by which it could be told from the endpoint.
        ("http://mute.invalid/", "reset", ""),
        ("http://half.invalid/", "reset", ""),
    ];
    let urls = table.map(|(url, ..)| url.to_owned());

    for (called, (url, reason, why)) in call(&config, &urls).await.iter().zip(table) {
        assert_eq!(called.seen(), ("failed", Some(reason), 1), "{url}: {:?}", called.delivery);
        assert!(called.detail().contains(why), "{url}: {}", called.detail());
        assert!(called.is_told(), "{url}: {:?}", called.said);
    }
    assert_eq!(proxy.requests().len(), table.len(), "nothing was asked for twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_that_does_not_come_about_in_time_is_given_up_and_tried_again() {
    let proxy = Smokescreen::start(|request, _| match request.path.as_str() {
        "consent.invalid:443" => Ruling::Stay(CONSENT),
        "half.invalid:443" => Ruling::Stay(HALF),
        "drip.invalid:443" => Ruling::Drip("HTTP/1.1 200 OK\r\nx: ", "x", Duration::from_millis(10)),
        _ => Ruling::Stay(""),
    })
    .await;
    let config = through(&proxy.url(), Config::sqlite())
        .set("retry.max_retries", "1")
        // More than a busy machine needs to reach the proxy, which would be another fault.
        .text("http.connect_timeout", "3s")
        .text("http.timeout", "1m");
    let late = "the proxy has not connected to the endpoint within http.connect_timeout";
    let table = [
        ("https://mute.invalid/", late),
        ("https://half.invalid/", late),
        ("https://drip.invalid/", late),
        ("https://consent.invalid/", "TLS was not agreed on within http.connect_timeout"),
    ];
    let urls = table.map(|(url, _)| url.to_owned());

    for (called, (url, why)) in call(&config, &urls).await.iter().zip(table) {
        assert_eq!(called.seen(), ("failed", Some("timeout"), 2), "{url}: {:?}", called.delivery);
        assert!(called.detail().contains(why), "{url}: {}", called.detail());
        assert!(called.is_told(), "{url}: {:?}", called.said);
    }

    let checked = config.cli(&["check"]).await;
    assert_eq!(checked.status, 69, "{checked:#?}");
    let why = "(egress.proxy) has not answered within http.connect_timeout";
    assert!(checked.stdout.contains(why), "{checked:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_does_not_answer_an_http_request_is_given_up_at_the_deadline_of_the_call() {
    let proxy = Smokescreen::start(|_, _| Ruling::Stay("")).await;
    let config =
        through(&proxy.url(), Config::sqlite()).set("retry.max_retries", "0").text("http.timeout", "500ms");

    let calls = call(&config, &["http://bot.invalid/".to_owned()]).await;

    assert_eq!(calls[0].seen(), ("failed", Some("timeout"), 1), "{:?}", calls[0].delivery);
    assert!(calls[0].detail().contains("(http.timeout)"), "{}", calls[0].detail());
}
