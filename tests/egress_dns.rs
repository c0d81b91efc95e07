//! Whatever DNS says, and however it changes its mind, only what is allowed is dialled.
//!
//! 127.0.0.1 stands for outside, where calls may go, and 127.0.0.2 for inside, where nobody may knock.

use std::net::Ipv4Addr;

use serde_json::json;

use crate::egress::{Called, Doorbell, call};
use crate::support::dns::{Dns, Says, ips};
use crate::support::{
    Answer, Config, Db, Endpoint, Outhook, PATIENCE, Ruling, Smokescreen, channel_event, eventually, setup,
};

const INSIDE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// An endpoint outside, a doorbell inside on the same port, and who tells the way.
struct Street {
    outside: Endpoint,
    inside: Doorbell,
    dns: Dns,
}

impl Street {
    /// Every call makes a connection of its own, and so looks the name up.
    async fn new() -> Self {
        let outside = Endpoint::start(|_, _| {
            Answer::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}".to_vec())
        })
        .await;
        let inside = Doorbell::at(INSIDE, outside.address().port()).await;
        Self { outside, inside, dns: Dns::start().await }
    }

    fn config(&self) -> Config {
        Config::sqlite()
            .set("egress.allow", r#"["127.0.0.1/32"]"#)
            .set("egress.resolver", &self.dns.setting())
            .set("retry.max_retries", "0")
    }

    fn url(&self, host: &str) -> String {
        format!("http://{host}:{}/", self.outside.address().port())
    }

    /// Calls a URL with each of these hosts, for a bot of its own.
    async fn call(&self, config: &Config, hosts: &[&str]) -> Vec<Called> {
        call(config, &hosts.iter().map(|host| self.url(host)).collect::<Vec<String>>()).await
    }
}

/// Sends a bot's next event, and returns how its call ended: its state and its reason.
async fn next(config: &Config, db: &Db, message: i64) -> (String, Option<String>) {
    setup::send(config, &[channel_event(1, message, 7, "soup", "Hi!")]).await;
    setup::all_finished(db).await;
    let deliveries = setup::deliveries(config).await;
    let last = deliveries.iter().find(|delivery| delivery["message_id"] == message).unwrap();
    (last["state"].as_str().unwrap().to_owned(), last["reason"].as_str().map(str::to_owned))
}

fn succeeded() -> (String, Option<String>) {
    ("succeeded".to_owned(), None)
}

fn blocked() -> (String, Option<String>) {
    ("failed".to_owned(), Some("blocked".to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_addresses_that_dns_gives_only_the_allowed_are_dialled() {
    let street = Street::new().await;
    let dns = &street.dns;
    dns.says("outside.test", Says::now(&["127.0.0.1"]));
    dns.says("both.test", Says::now(&["127.0.0.2", "127.0.0.1", "::1", "10.0.0.1"]));
    let twelfth: Vec<String> = (1..12).map(|number| format!("10.0.0.{number}")).collect();
    let twelfth: Vec<&str> = twelfth.iter().map(String::as_str).chain(["127.0.0.1"]).collect();
    dns.says("twelfth.test", Says::now(&twelfth));
    dns.says("alias-out.test", Says::Alias("outside.test", ips(&["127.0.0.1"])));
    dns.says("large.test", Says::MoreThanFits(ips(&["127.0.0.2", "127.0.0.1"])));
    dns.says("inside.test", Says::now(&["127.0.0.2"]));
    dns.says("alias-in.test", Says::Alias("inside.test", ips(&["127.0.0.2"])));
    dns.says("mapped.test", Says::now(&["::ffff:127.0.0.2"]));
    dns.says("nat64.test", Says::now(&["64:ff9b::7f00:1", "::127.0.0.1", "2002:7f00:1::"]));
    dns.says("metadata.test", Says::now(&["169.254.169.254", "fd00:ec2::254", "10.0.0.1"]));
    let allowed =
        ["outside.test", "OUTSIDE.test.", "both.test", "twelfth.test", "alias-out.test", "large.test"];
    let forbidden = ["inside.test", "alias-in.test", "mapped.test", "nat64.test", "metadata.test"];

    let calls = street.call(&street.config(), &[&allowed[..], &forbidden[..]].concat()).await;

    let (called, not_called) = calls.split_at(allowed.len());
    for (host, called) in allowed.iter().zip(called) {
        assert_eq!(called.seen(), ("succeeded", None, 1), "{host}: {:?}", called.delivery);
    }
    for (host, called) in forbidden.iter().zip(not_called) {
        assert_eq!(called.seen(), ("failed", Some("blocked"), 1), "{host}: {:?}", called.delivery);
        let detail = called.delivery["detail"].as_str().unwrap();
        assert!(detail.contains("which egress.allow does not open"), "{host}: {detail}");
    }
    assert_eq!(street.outside.requests().len(), allowed.len());
    assert_eq!(street.inside.rings(), 0, "somebody was inside");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_moves_inside_between_two_look_ups_is_not_followed() {
    let street = Street::new().await;
    let config = street.config();
    let db = setup::tables(&config).await;
    setup::insert_bot(&db, 1).await;
    setup::insert_service(&db, 1, &street.url("rebind.test"), 1, setup::TOKEN).await;
    let _outhook = Outhook::start(&config).await;

    street.dns.says("rebind.test", Says::now(&["127.0.0.1"]));
    assert_eq!(next(&config, &db, 1).await, succeeded());
    street.dns.says("rebind.test", Says::now(&["127.0.0.2"]));
    assert_eq!(next(&config, &db, 2).await, blocked());
    street.dns.says("rebind.test", Says::now(&["127.0.0.2", "127.0.0.1"]));
    assert_eq!(next(&config, &db, 3).await, succeeded());

    assert_eq!(street.outside.requests().len(), 2);
    assert_eq!(street.inside.rings(), 0, "somebody was inside");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_remembered_for_as_long_as_it_says() {
    let street = Street::new().await;
    let config = street.config();
    let db = setup::tables(&config).await;
    setup::insert_bot(&db, 1).await;
    setup::insert_service(&db, 1, &street.url("kept.test"), 1, setup::TOKEN).await;
    let _outhook = Outhook::start(&config).await;

    // With addresses of one kind only it would be asked for again after 10 s.
    street.dns.says("kept.test", Says::for_a_minute(&["127.0.0.1", "::1"]));
    assert_eq!(next(&config, &db, 1).await, succeeded());
    let asked = street.dns.asked("kept.test");
    street.dns.says("kept.test", Says::now(&["127.0.0.2"]));
    assert_eq!(next(&config, &db, 2).await, succeeded());
    assert_eq!(street.dns.asked("kept.test"), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_not_found_is_tried_again_and_says_why() {
    let street = Street::new().await;
    street.dns.says("broken.test", Says::Failure);
    street.dns.says("silent.test", Says::Silence);
    street.dns.says("empty.test", Says::now(&[]));
    let reasons = [
        ("missing.test", "there is no such name"),
        ("broken.test", "the name server failed: Server Failure"),
        ("silent.test", "no name server answered in time"),
        ("empty.test", "the name has no address"),
    ];
    let config = street.config().set("retry.max_retries", "1").text("http.connect_timeout", "4s");

    let calls = street.call(&config, &reasons.map(|(host, _)| host)).await;

    for ((host, reason), called) in reasons.iter().zip(&calls) {
        assert_eq!(called.seen(), ("failed", Some("dns"), 2), "{host}: {:?}", called.delivery);
        let detail = called.delivery["detail"].as_str().unwrap();
        let expected = format!("the name {host} can't be resolved: {reason}");
        assert!(detail.contains(&expected), "{host}: {detail}");
    }
    assert!(street.dns.asked("missing.test") >= 2);
}

/// Else anybody who may set a bot's URL could ask which names there are inside.
#[tokio::test(flavor = "multi_thread")]
async fn the_conversation_is_not_told_a_blocked_address_from_an_unknown_name() {
    let street = Street::new().await;
    street.dns.says("inside.test", Says::now(&["127.0.0.2"]));
    let config = street.config().set("retry.max_retries", "1");

    let calls = street.call(&config, &["inside.test", "missing.test"]).await;

    let seen: Vec<_> = calls.iter().map(Called::seen).collect();
    assert_eq!(seen, [("failed", Some("blocked"), 1), ("failed", Some("dns"), 2)], "operators are told");
    let told: Vec<&str> = calls.iter().map(Called::told).collect();
    assert_eq!(told[0], told[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_server_that_never_answers_delays_nobody_else() {
    let street = Street::new().await;
    let config = street.config().set("actors.event_pool", "1").text("http.connect_timeout", "10s");
    let db = setup::tables(&config).await;
    let hung: Vec<String> = (1..=100).map(|number| format!("silent{number}.test")).collect();
    let mut events = vec![];
    for (bot, name) in (1..).zip(&hung) {
        street.dns.says(name, Says::Silence);
        setup::insert_bot(&db, bot).await;
        setup::insert_service(&db, bot, &street.url(name), 1, setup::TOKEN).await;
        events.push(channel_event(bot, bot, 7, "soup", "Hi!"));
    }
    street.dns.says("good.test", Says::now(&["127.0.0.1"]));
    setup::insert_bot(&db, 1000).await;
    setup::insert_service(&db, 1000, &street.url("good.test"), 1, setup::TOKEN).await;
    let _outhook = Outhook::start(&config).await;
    setup::send(&config, &events).await;
    street.dns.wait_for(&hung).await;

    setup::send(&config, &[channel_event(1000, 1000, 7, "soup", "Hi!")]).await;
    let good = || async {
        let deliveries = setup::deliveries(&config).await;
        deliveries.into_iter().find(|delivery| delivery["bot_id"] == 1000 && delivery["state"] == "succeeded")
    };
    let good = eventually("the call whose name is found", PATIENCE, good).await;

    let duration_ms = good["duration_ms"].as_u64().unwrap();
    assert!(duration_ms < 2500, "{duration_ms} ms: the call waited for the others, which look up for 5 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_host_is_called_wherever_it_is_and_on_its_port_only() {
    let (street, other) = (Street::new().await, Endpoint::json(json!({})).await);
    for name in ["bot.test", "a.bot.test", "other.test"] {
        street.dns.says(name, Says::now(&["127.0.0.1"]));
    }
    let port = street.outside.address().port();
    let allowed = street.config().set("egress.allow", &format!("[\"Bot.test:{port}\"]"));
    let elsewhere = format!("http://bot.test:{}/", other.address().port());
    let hosts = ["bot.test", "BOT.TEST.", "a.bot.test", "other.test", "127.0.0.1"];
    let mut urls: Vec<String> = hosts.iter().map(|host| street.url(host)).collect();
    urls.push(elsewhere);

    let calls = call(&allowed, &urls).await;

    for (url, called) in urls.iter().zip(&calls) {
        let expected = match url.to_lowercase().starts_with("http://bot.test") && *url != urls[5] {
            true => ("succeeded", None, 1),
            false => ("failed", Some("blocked"), 1),
        };
        assert_eq!(called.seen(), expected, "{url}: {:?}", called.delivery);
    }
    assert_eq!((street.outside.requests().len(), other.requests().len()), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxys_own_name_is_looked_up_as_those_of_bots_and_may_be_anywhere() {
    let street = Street::new().await;
    let outside = street.outside.address();
    let proxy = Smokescreen::start(move |_, _| Ruling::To(outside)).await;
    street.dns.says("proxy.test", Says::now(&["127.0.0.1"]));
    let url = proxy.url().replace("127.0.0.1", "proxy.test");
    let config = street.config().set("egress.allow", "[]").text("egress.proxy", &url);

    let calls = street.call(&config, &["bot.test"]).await;

    assert_eq!(calls[0].seen(), ("succeeded", None, 1), "{:?}", calls[0].delivery);
    assert_eq!(street.dns.asked("bot.test"), 0, "the proxy looks bots up");
    let asked = street.dns.asked("proxy.test");
    config.cli(&["check"]).await.success();
    assert!(0 < asked && asked < street.dns.asked("proxy.test"), "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxys_name_that_is_not_found_is_the_fault_of_the_proxy_and_not_of_the_bot() {
    let street = Street::new().await;
    let config = street.config().text("egress.proxy", "http://proxy.test:4750");
    let why = "(egress.proxy) can't be reached: the name proxy.test can't be resolved: there is no such name";

    let calls = call(&config, &["http://bot.test/", "https://bot.test/"].map(str::to_owned)).await;

    for called in calls {
        assert_eq!(called.seen(), ("failed", Some("proxy"), 1), "{:?}", called.delivery);
        assert!(called.delivery["detail"].as_str().unwrap().contains(why), "{:?}", called.delivery);
    }
    let checked = config.cli(&["check"]).await;
    assert!(checked.status == 69 && checked.stdout.contains(why), "{checked:#?}");
}
