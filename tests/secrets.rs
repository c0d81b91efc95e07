//! Tokens, API keys, passwords and signatures are shown nowhere. The harness looks for them in everything
//! that any test has the product show (`support/secrets.rs`); here they are tempted out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use url::form_urlencoded;

use super::replies::{replying_to, taken};
use super::support::secrets::{self, MARK, find, secret};
use super::support::*;

const GENERIC: i16 = 1;
const SLACK: i16 = 2;

/// A bot each: the path of its endpoint, and its interface.
const BOTS: [(&str, i16); 5] =
    [("/text", GENERIC), ("/json", GENERIC), ("/form", SLACK), ("/again", GENERIC), ("/garbage", GENERIC)];

/// Says everything that it was sent.
fn tell_all(request: &Request) -> Answer {
    let body = String::from_utf8_lossy(&request.body);
    let token = form_field(request, "token").or_else(|| request.json()["token"].as_str().map(str::to_owned));
    let head: Vec<String> =
        request.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    let text = format!("{}\n{}\n{body}", token.clone().unwrap(), head.concat());
    let (status, body) = match request.path.split(['/', '?']).nth(1).unwrap() {
        "text" | "form" => (400, text),
        "json" => (404, json!({ "token": token, "head": request.headers, "body": body }).to_string()),
        "again" => (503, text),
        _ => (200, text),
    };
    Answer::Http { status, headers: vec![], body: body.into_bytes() }
}

/// A Zulip that refuses every reply, and quotes who wanted to post it.
fn refuse(request: &Request) -> Answer {
    let msg = format!("what is {}?", request.header("authorization").unwrap_or_default());
    let body = json!({ "result": "error", "msg": msg, "code": "BAD_REQUEST" });
    Answer::Http { status: 400, headers: vec![], body: body.to_string().into_bytes() }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_level_of_traces_nothing_secret_is_told_of_endpoints_that_tell_all() {
    let endpoint = Endpoint::start(|request, _| tell_all(request)).await;
    let zulip = Endpoint::start(|request, _| refuse(request)).await;
    let queue = Rabbit::shared().await.queue().await;
    let config = Storage::Postgres.config().await.queue(&queue.url, &queue.name);
    let config = config
        .text("reply.to", "zulip")
        .text("reply.site", &zulip.url(""))
        .text("zulip.external_host", "chat.example.org")
        .set("retry.max_retries", "1")
        .admin_token(&secret("admin"))
        .environment("RUST_LOG", "trace");
    let db = setup::tables(&config).await;
    let mut events = vec![];
    for (bot, (path, interface)) in (1..).zip(BOTS) {
        setup::insert_bot(&db, bot).await;
        // A URL may hold a secret too.
        let url = endpoint.url(&format!("{path}/{}?key={}", secret("path"), secret("query")));
        setup::insert_service(&db, bot, &url, interface, &secret("\"tøken/\" & so on")).await;
        events.push(channel_event(bot, 9000 + bot, 7, "kitchen", "soup?"));
    }
    let outhook = Outhook::start(&config).await;
    setup::send(&config, &events).await;
    queue.publish(b"not an event").await;
    setup::all_finished(&db).await;
    let posted = || async {
        (db.count("SELECT count(*) FROM outhook_reply WHERE state = 0").await == 0).then_some(())
    };
    eventually("all replies to be refused", PATIENCE, posted).await;

    for request in endpoint.requests() {
        assert!(find(&format!("{:?}", request.headers)).is_some(), "it is signed");
    }
    let calls = db.rows("SELECT excerpt, detail FROM outhook_call").await;
    assert_eq!(calls.len(), BOTS.len());
    assert!(calls.iter().all(|call| call["excerpt"].as_str().unwrap().contains("[hidden]")), "{calls:#?}");
    let replies = db.rows("SELECT detail FROM outhook_reply").await;
    assert_eq!(replies.len(), BOTS.len());
    assert!(
        replies.iter().all(|reply| reply["detail"].as_str().unwrap().contains("[hidden]")),
        "{replies:#?}"
    );
    outhook.wait_for_log("TRACE").await;
    look_around(&outhook, &config).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_does_not_tell_what_it_could_not_read_in_an_answer() {
    // The HTTP library would log these two headers with their values, at the level of debugging.
    let endpoint = Endpoint::start(|request, _| {
        let (name, token) = (request.path.trim_start_matches('/'), request.json()["token"].clone());
        Answer::Raw(format!("HTTP/1.1 200 OK\r\n{name}: {}\r\n\r\n", token.as_str().unwrap()).into())
    })
    .await;
    for filter in ["debug", "trace"] {
        let config = Config::sqlite().set("retry.max_retries", "0").text("log.filter", filter);
        let urls = ["/content-length", "/transfer-encoding"].map(|path| endpoint.url(path));
        let (_, outhook) = life(&config, &urls).await;

        let deliveries = setup::deliveries(&config).await;
        assert_eq!(deliveries.len(), urls.len());
        assert!(deliveries.iter().all(|delivery| delivery["reason"] == "not_http"), "{deliveries:#?}");
        assert!(outhook.log().iter().any(|line| line.contains("DEBUG")), "the filter {filter} holds");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_proxy_says_is_told_without_secrets_of_its_own_or_of_the_bot() {
    // As of a proxy that passes on such a header of an endpoint's.
    let quote = |request: &Request| {
        let token = request.json()["token"].as_str().unwrap().to_owned();
        format!("{token} {}", request.header("webhook-signature").unwrap())
    };
    let password = secret("proxy");
    let sent = format!("Basic {}", STANDARD.encode(format!("user:{password}")));
    let proxy = Smokescreen::start(move |request, _| {
        let words = if request.method == "CONNECT" { sent.clone() } else { quote(request) };
        let head = format!("HTTP/1.1 407 No\r\nX-Smokescreen-Error: {words}\r\ncontent-length: 0\r\n\r\n");
        Ruling::Raw(head.leak())
    })
    .await;
    let url = proxy.url().replace("://", &format!("://user:{password}@"));
    let config = Config::sqlite().set("egress.allow", "[]").text("egress.proxy", &url);
    let config = config.environment("RUST_LOG", "trace");
    let urls = ["http", "https"].map(|scheme| format!("{scheme}://bot.invalid/"));
    let (db, _) = life(&config, &urls).await;

    assert_eq!(proxy.requests().len(), urls.len());
    let deliveries = setup::deliveries(&config).await;
    assert!(deliveries.iter().all(|delivery| delivery["reason"] == "blocked"), "{deliveries:#?}");
    config.cli(&["deliveries"]).await.success();
    secrets::assert_none("the database", &format!("{:?}", db.rows("SELECT detail FROM outhook_call").await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_is_kept_in_none_of_the_forms_in_which_an_endpoint_quotes_what_it_has_verified() {
    let endpoint = Endpoint::start(|request, _| {
        let sent = request.header("webhook-signature").unwrap();
        let signature = sent.split_once(',').unwrap().1;
        let quoted = match &*request.path {
            "/alone" => signature.to_owned(),
            "/unfilled" => signature.trim_end_matches('=').to_owned(),
            "/comma" => format!("v1\\u002c{signature}"),
            "/slashes" => signature.replace('/', "\\/"),
            "/dotnet" => signature.replace('+', "\\u002B"),
            "/url" => form_urlencoded::byte_serialize(signature.as_bytes()).collect(),
            _ => STANDARD.encode(signature),
        };
        let body = format!(r#"{{"error":"bad signature","got":"{quoted}"}}"#);
        Answer::Http { status: 401, headers: vec![], body: body.into_bytes() }
    })
    .await;
    let paths = ["/alone", "/unfilled", "/comma", "/slashes", "/dotnet", "/url", "/base64"];
    let urls = paths.map(|path| endpoint.url(path));
    let (db, _) = life(&Config::sqlite(), &urls).await;

    let calls = db.rows("SELECT excerpt FROM outhook_call").await;
    assert_eq!(calls.len(), urls.len());
    for call in calls {
        let kept = call["excerpt"].as_str().unwrap();
        let got = kept.strip_prefix(r#"{"error":"bad signature","got":""#).unwrap();
        // The filler, the version and the edges of base64 tell nothing.
        assert!(got.contains("[hidden]") && got.len() < 30, "{kept}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decoded_token_is_kept_in_no_form_either() {
    let key = secret("decoded");
    let token = format!("whsec_{}", STANDARD.encode(&key));
    let hexadecimal: String = key.bytes().map(|byte| format!("{byte:02x}")).collect();
    let quoted = format!("{key} {hexadecimal} {} {token}", STANDARD.encode(&key));
    let endpoint = Endpoint::start(move |_, _| Answer::Http {
        status: 401,
        headers: vec![],
        body: quoted.clone().into(),
    })
    .await;
    let config = Config::sqlite();
    let db = setup::tables(&config).await;
    setup::insert_bot(&db, 1).await;
    setup::insert_service(&db, 1, &endpoint.url("/"), GENERIC, &token).await;
    let _outhook = Outhook::start(&config).await;
    setup::send(&config, &[channel_event(1, 1, 7, "t", "x")]).await;
    setup::all_finished(&db).await;

    let kept = db.rows("SELECT excerpt FROM outhook_call").await[0]["excerpt"].to_string();
    secrets::assert_none("the database", &kept);
    assert_eq!(kept.matches("[hidden]").count(), 4, "{kept}");
}

/// Replies with what it was sent, in several forms.
async fn quoting_endpoint() -> Endpoint {
    Endpoint::start(|request, _| {
        let token = request.json()["token"].as_str().unwrap().to_owned();
        let signature = request.header("webhook-signature").unwrap();
        let bare = signature.split_once(',').unwrap().1;
        let forms = [
            token.clone(),
            STANDARD.encode(format!("a:{token}")),
            signature.to_owned(),
            bare.to_owned(),
            bare.trim_end_matches('=').to_owned(),
            form_urlencoded::byte_serialize(bare.as_bytes()).collect(),
            STANDARD.encode(bare),
        ];
        Answer::Json(json!({ "content": forms.join(" ") }))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_quotes_what_its_endpoint_was_sent_is_logged_without_secrets() {
    let endpoint = quoting_endpoint().await;
    let scene = Scene::start(Inlet::Stored, Config::sqlite()).await;
    setup::insert_bot(&scene.db, 1).await;
    setup::insert_service(&scene.db, 1, &endpoint.url("/"), GENERIC, &secret("token")).await;
    scene.send(&[direct_event(1, 1, 31, "soup?")]).await;

    let logged = scene.outhook.wait_for_log("reply of bot 1 to ").await;
    let said = setup::outbox(&scene.db).await[0].content.clone();
    assert!(logged.contains(&format!("\"{said}\"")), "{logged}");
    let words: Vec<&str> = said.split(' ').collect();
    assert_eq!(words.len(), 7, "{said}");
    for word in words {
        // The filler, and the edges of base64, tell nothing.
        assert!(word.contains("[hidden]") && word.len() < 30, "{word} in {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_quotes_what_its_endpoint_was_sent_is_posted_to_zulip_whole() {
    let (endpoint, zulip) = (quoting_endpoint().await, Endpoint::start(|_, _| taken()).await);
    let scene = Scene::start(Inlet::Stored, replying_to(&zulip, Config::sqlite())).await;
    setup::insert_bot(&scene.db, 1).await;
    setup::insert_service(&scene.db, 1, &endpoint.url("/"), GENERIC, &secret("token")).await;
    scene.send(&[direct_event(1, 1, 31, "soup?")]).await;
    scene.posted(1).await;

    let posted = form_field(&zulip.requests()[0], "content").unwrap();
    let signature = endpoint.requests()[0].header("webhook-signature").unwrap().to_owned();
    assert!(posted.contains(&secret("token")) && posted.contains(&signature), "{posted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_behind_a_proxy_that_passes_its_credentials_on_gives_none_of_them_away() {
    for user_info in [format!("user:{}", secret("proxy")), secret("key"), format!("{}:", secret("key"))] {
        // As such a proxy and an endpoint behind it, of which one answers with a failure and one with a
        // reply.
        let proxy = Endpoint::start(|request, _| {
            let sent = request.header("proxy-authorization").unwrap_or_default().to_owned();
            let is_bad = request.path.contains("bad.invalid");
            let body = json!({ "content": format!("sent {sent}") }).to_string().into_bytes();
            Answer::Http { status: if is_bad { 400 } else { 200 }, headers: vec![], body }
        })
        .await;
        let url = proxy.url("").replace("://", &format!("://{user_info}@"));
        let config = Config::sqlite().set("egress.allow", "[]").text("egress.proxy", &url);
        let config = config.environment("RUST_LOG", "trace");
        let scene = Scene::start(Inlet::Stored, config).await;
        for (bot, host) in [(1, "bad"), (2, "good")] {
            setup::insert_bot(&scene.db, bot).await;
            let url = format!("http://{host}.invalid/");
            setup::insert_service(&scene.db, bot, &url, GENERIC, &secret("token")).await;
        }
        scene.send(&[direct_event(1, 1, 31, "soup?"), direct_event(2, 2, 31, "soup?")]).await;
        scene.finished(2).await;

        let logged = scene.outhook.wait_for_log("reply of bot 2 to ").await;
        assert!(logged.contains("\"sent Basic [hidden]\""), "{logged}");
        let calls = scene.db.rows("SELECT excerpt FROM outhook_call WHERE excerpt IS NOT NULL").await;
        assert_eq!(calls.len(), 1);
        assert_eq!(calls[0]["excerpt"], r#"{"content":"sent Basic [hidden]"}"#);
        scene.config.cli(&["check"]).await;
    }
}

/// The whole life of a daemon that calls a bot at each URL once.
async fn life(config: &Config, urls: &[String]) -> (Db, Outhook) {
    let db = setup::tables(config).await;
    let mut events = vec![];
    for (bot, url) in (1..).zip(urls) {
        setup::insert_bot(&db, bot).await;
        setup::insert_service(&db, bot, url, GENERIC, &secret("token")).await;
        events.push(channel_event(bot, 9000 + bot, 7, "kitchen", "soup?"));
    }
    let mut outhook = Outhook::start(config).await;
    setup::send(config, &events).await;
    setup::all_finished(&db).await;
    outhook.terminate().await;
    assert!(outhook.wait().await.success());
    (db, outhook)
}

/// What an operator looks at.
async fn look_around(outhook: &Outhook, config: &Config) {
    let wrong = format!("Bearer {}", secret("wrong"));
    for path in ["/", "/metrics", "/health/live", "/health/ready"] {
        outhook.get(path).await;
    }
    assert_eq!(outhook.post("/v1/events", &[("authorization", wrong.as_str())], b"{}").await.0, 401);
    let letters = || async { Some(setup::dead_letters(config).await).filter(|letters| !letters.is_empty()) };
    let letter = eventually("a dead letter", PATIENCE, letters).await[0]["id"].to_string();
    for command in [
        &["bots", "list"][..],
        &["bots", "list", "--json"],
        &["deliveries"],
        &["deliveries", "--json"],
        &["dead-letters", "list"],
        &["dead-letters", "show", letter.as_str()],
    ] {
        config.cli(command).await.success();
    }
    // This Zulip does not even tell its version.
    assert_eq!(config.cli(&["check"]).await.status, 69);
}

/// What of an answer is looked at for an excerpt, and what an excerpt has at most.
const LOOKED_AT_BYTES: usize = 8 << 10;
const EXCERPT_BYTES: usize = 1 << 10;

/// Of an answer's token on either side of a limit: how many more of it stand before it, how many other bytes
/// between them and it, and what is kept of it.
const EDGES: [(usize, usize, &str); 5] = [
    (15, 0, "[hidden]"),
    (15, TOKEN_BYTES - 1, "[hidden]"),
    (15, TOKEN_BYTES, ""),
    (0, EXCERPT_BYTES - 1, "["),
    (0, EXCERPT_BYTES, ""),
];

/// Sixteen such tokens are all that is looked at, and leave room in an excerpt when they are hidden.
const TOKEN_BYTES: usize = LOOKED_AT_BYTES / 16;

#[tokio::test(flavor = "multi_thread")]
async fn of_a_large_answer_only_the_beginning_is_kept_and_no_part_of_a_token_on_its_edge() {
    const BODY_BYTES: usize = 300 << 10;
    let token = secret(&"x".repeat(TOKEN_BYTES - MARK.len() - 1));
    assert_eq!(token.len(), TOKEN_BYTES);
    let said = token.clone();
    let endpoint = Endpoint::start(move |request, _| {
        let (tokens, plain, _) = EDGES[request.path[1..].parse::<usize>().unwrap()];
        let mut body = format!("{}{}{said}", said.repeat(tokens), ".".repeat(plain));
        body += &".".repeat(BODY_BYTES - TOKEN_BYTES - body.len());
        body += &said;
        Answer::Http { status: 400, headers: vec![], body: body.into_bytes() }
    })
    .await;
    let config = Config::sqlite().set("http.max_response_bytes", &BODY_BYTES.to_string());
    let scene = Scene::start(Inlet::Stored, config).await;
    let mut events = vec![];
    for (bot, edge) in (1..).zip(0..EDGES.len()) {
        setup::insert_bot(&scene.db, bot).await;
        setup::insert_service(&scene.db, bot, &endpoint.url(&format!("/{edge}")), GENERIC, &token).await;
        events.push(direct_event(bot, bot, 31, "soup?"));
    }
    scene.send(&events).await;
    scene.finished(events.len()).await;

    let of_bots =
        "SELECT c.excerpt FROM outhook_call c JOIN outhook_event e ON e.id = c.event_id ORDER BY e.bot_id";
    let calls = scene.db.rows(of_bots).await;
    let kept: Vec<&str> = calls.iter().map(|call| call["excerpt"].as_str().unwrap()).collect();
    let expected = EDGES
        .map(|(tokens, plain, last)| format!("{}{}{last}", "[hidden]".repeat(tokens), ".".repeat(plain)));
    assert_eq!(kept, expected);
    assert!(kept.iter().all(|kept| kept.len() <= EXCERPT_BYTES));
    scene.config.cli(&["deliveries"]).await.success();
    assert_eq!(scene.ledger().await.len(), EDGES.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_are_refused_are_not_told() {
    let database =
        Postgres::shared().await.database().await.replacen("//postgres:", "//nobody_of_this_name:", 1);
    // A misspelt option is one more place for a password.
    let database = Config::postgres(&format!("{database}?passwd={}", secret("option")));
    let queue = Rabbit::shared().await.queue().await;
    let broker = Config::sqlite().queue(&queue.url.replace(BROKER_PASSWORD, &secret("wrong")), &queue.name);
    for config in [database, broker] {
        let config = config.environment("RUST_LOG", "trace");
        let output = config.cli(&["check"]).await;
        assert_eq!(output.status, 69, "{output:#?}");
        let mut outhook = Outhook::run(&config);
        assert_eq!(outhook.wait().await.code(), Some(69));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_is_refused_is_told_without_its_secrets() {
    let password = secret("typed");
    for (key, value) in [
        ("queue.url", format!("amqp://user:{password}@broker:port/")),
        ("queue.url", format!("amqp://user:{password}")),
        ("queue.url", format!("amqp://user:12#{password}@broker")),
        ("database.url", format!("postgres://user:{password}@host:99999/zulip")),
        ("database.url", format!("postgres://host/zulip?passwd={password}#")),
        ("database.url", format!("mysql://user:{password}@host/zulip")),
        ("admin.token", password.clone()),
    ] {
        let variable = format!("OUTHOOK__{}", key.replace('.', "__").to_uppercase());
        for config in [
            Config::sqlite().text(key, &value),
            Config::sqlite().set(key, &format!("\"{value}")),
            Config::sqlite().environment(&variable, &value),
        ] {
            let output = config.cli(&["check"]).await;
            assert_eq!(output.status, 64, "{key} = {value}: {output:#?}");
        }
    }
}

#[test]
fn the_scanner_knows_a_secret_in_every_form() {
    let token = secret("token");
    let encoded = |before: &str| STANDARD.encode(format!("{before}{token} and more"));
    let hexadecimal: String = token.bytes().map(|byte| format!("{byte:02x}")).collect();
    for shown in [
        token.clone(),
        format!("amqp://guest:{token}@broker"),
        json!({ "quoted": json!({ "token": token }).to_string() }).to_string(),
        form_urlencoded::byte_serialize(format!("a & {token}").as_bytes()).collect(),
        format!("{:?}", token.as_bytes()),
        token.as_bytes().escape_ascii().to_string(),
        hexadecimal,
        encoded(""),
        format!("Basic {}", encoded("a")),
        format!("Basic {}", encoded("ab")),
        "key=q8ZfT3mWx7LpR2nVb6KsY1cJd9HgA4eU;".to_owned(),
        "webhook-signature: v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=".to_owned(),
        r#"{"got":"K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN\/H\/pI4="}"#.to_owned(),
        r"v1\u002cK5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=".to_owned(),
    ] {
        assert_eq!(find(&format!("a line\n<{shown}>\nanother")), Some(&*format!("<{shown}>")));
    }
    for harmless in [
        "bot 58 message 9001: lunch succeeded (attempt 1)",
        "msg_58_9001_0_3",
        "amqp://guest:***@127.0.0.1:5672/%2f",
        "token=[hidden] v1,2",
        "/a/path/that/is/longer/than/a/signature/and/has/1/digit=yes",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "9f86d081884c7d659a2feaa0c55ad015",
    ] {
        assert_eq!(find(harmless), None);
    }
}
