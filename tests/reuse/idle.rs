//! What happens to a connection while nobody uses it: it ends, over TLS and at a proxy too, or something
//! comes that nobody asked for.

use serde_json::{Value, json};
use tokio_rustls::rustls::{
    SupportedProtocolVersion,
    version::{TLS12, TLS13},
};

use crate::support::setup;
use crate::support::{
    Answer, Authority, Config, Ending, Endpoint, Gate, Manners, Outhook, PATIENCE, Request, Ruling,
    Smokescreen, TlsFront, Validity, eventually,
};

use super::{BOT, bots_at, event, http};

static OLD: [&SupportedProtocolVersion; 1] = [&TLS12];
static NEW: [&SupportedProtocolVersion; 1] = [&TLS13];

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_over_tls_that_ends_while_idle_costs_no_attempt() {
    const ROUNDS: usize = 4;
    let authority = Authority::new("Ours");
    let identity = authority.sign(&["localhost"], Validity::Now);
    let endpoint = Endpoint::json(json!({})).await;
    let mut fronts = vec![];
    for versions in [&OLD, &NEW] {
        for ending in [Ending::Orderly, Ending::Bare, Ending::Reset] {
            let manners = Manners { versions, ..Manners::default() };
            fronts.push((TlsFront::with(&identity, endpoint.address(), manners).await, ending));
        }
    }
    let config = once().trusting(&authority);
    let db = setup::tables(&config).await;
    for (bot, (front, _)) in (BOT..).zip(&fronts) {
        setup::insert_bot_at(&db, bot, &front.url("localhost", "/")).await;
    }
    let outhook = Outhook::start(&config).await;

    for round in 1..=ROUNDS {
        let events: Vec<Value> = (BOT..).zip(&fronts).map(|(bot, _)| event(bot, round)).collect();
        setup::send(&config, &events).await;
        setup::all_finished(&db).await;
        for (front, ending) in &fronts {
            front.hang_up(*ending).await;
        }
    }

    end(outhook).await;
    assert_all_succeeded_at_once(&config, ROUNDS * fronts.len()).await;
    assert_eq!(endpoint.count(), ROUNDS * fronts.len(), "requests");
    for (front, ending) in &fronts {
        assert_eq!(front.hellos().len(), ROUNDS, "connections that ended so: {ending:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_a_proxy_or_through_it_that_ends_while_idle_costs_no_attempt() {
    const ROUNDS: usize = 7;
    let authority = Authority::new("Ours");
    let endpoint = Endpoint::json(json!({})).await;
    let tls = TlsFront::start(&authority.sign(&["bot.invalid"], Validity::Now), endpoint.address()).await;
    let (plain, secure) = (endpoint.address(), tls.address());
    let is_tunnel = |request: &Request| request.method == "CONNECT";
    let to = move |request: &Request, _: usize| Ruling::To(if is_tunnel(request) { secure } else { plain });
    let proxy = Smokescreen::start(to).await;
    let config = once().trusting(&authority).set("egress.allow", "[]").text("egress.proxy", &proxy.url());
    let db = setup::tables(&config).await;
    for (bot, url) in (BOT..).zip(["http://bot.invalid/", "https://bot.invalid/"]) {
        setup::insert_bot_at(&db, bot, url).await;
    }
    let outhook = Outhook::start(&config).await;

    let endings = [Ending::Bare, Ending::Reset, Ending::Orderly];
    for (round, ending) in (1..=ROUNDS).zip(endings.into_iter().cycle()) {
        setup::send(&config, &[event(BOT, round), event(BOT + 1, round)]).await;
        setup::all_finished(&db).await;
        if ending == Ending::Orderly {
            // Only the tunnel ends, as the endpoint at its end wants it.
            tls.hang_up(ending).await;
            proxy.left(1).await;
        } else {
            proxy.hang_up(ending).await;
        }
    }

    end(outhook).await;
    assert_all_succeeded_at_once(&config, 2 * ROUNDS).await;
    assert_eq!(endpoint.count(), 2 * ROUNDS, "requests");
    let tunnels = proxy.requests().into_iter().filter(is_tunnel).count();
    // Those of http outlive every third round.
    assert_eq!((tunnels, proxy.accepted() - tunnels), (ROUNDS, ROUNDS - 2), "connections");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_behind_an_answer_before_the_next_call_is_no_part_of_the_next_answer() {
    const ROUNDS: usize = 4;
    let late = [
        http(r#"{"content":"junk"}"#),
        http(r#"{"content":"junk"}"#).repeat(100),
        b"HTTP/1.1 200 OK\r\nx: ".to_vec(),
        b"HTTP/1.1 103 Early Hints\r\n\r\n".to_vec(),
        b"\r\n".to_vec(),
        b"\0".to_vec(),
    ];
    let (mut endpoints, mut gates) = (vec![], vec![]);
    for more in late {
        let gate = Gate::new();
        gates.push(gate.clone());
        let answer = move |_: &Request, number: usize| {
            let bytes = http(&format!(r#"{{"content":"{number}"}}"#));
            Answer::Unasked { bytes, gate: gate.clone(), more: more.clone() }
        };
        endpoints.push(Endpoint::start(answer).await);
    }
    let config = once();
    let db = bots_at(&config, &endpoints).await;
    let outhook = Outhook::start(&config).await;

    for round in 1..=ROUNDS {
        let events: Vec<Value> = (BOT..).zip(&endpoints).map(|(bot, _)| event(bot, round)).collect();
        setup::send(&config, &events).await;
        setup::all_finished(&db).await;
        gates.iter().for_each(|gate| gate.let_through(1));
        for endpoint in &endpoints {
            let is_said = || async { (endpoint.in_flight() == 0).then_some(()) };
            eventually("the rest to be said", PATIENCE, is_said).await;
        }
    }

    end(outhook).await;
    assert_all_succeeded_at_once(&config, ROUNDS * endpoints.len()).await;
    let said = setup::outbox(&db).await;
    let expected: Vec<String> = (0..ROUNDS).map(|number| number.to_string()).collect();
    for (bot, endpoint) in (BOT..).zip(&endpoints) {
        let own: Vec<&str> =
            said.iter().filter(|line| line.bot == bot).map(|line| line.content.as_str()).collect();
        assert_eq!(own, expected, "bot {bot}");
        assert_eq!((endpoint.count(), endpoint.accepted()), (ROUNDS, ROUNDS), "requests and connections");
    }
}

/// An attempt that is spent is the last.
fn once() -> Config {
    Config::sqlite().set("retry.max_retries", "0")
}

async fn end(mut outhook: Outhook) {
    outhook.terminate().await;
    assert!(outhook.wait().await.success());
}

async fn assert_all_succeeded_at_once(config: &Config, calls: usize) {
    let deliveries = setup::deliveries(config).await;
    let is_well = |delivery: &&Value| delivery["state"] == "succeeded" && delivery["attempts"] == 1;
    let ill: Vec<&Value> = deliveries.iter().filter(|delivery| !is_well(delivery)).collect();
    assert_eq!((ill, deliveries.len()), (vec![], calls));
}
