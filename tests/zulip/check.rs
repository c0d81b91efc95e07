//! `outhook check` with Zulip: faults that would lose every reply are found before the start.

use std::fs;

use serde_json::json;

use super::database::Zulip;
use crate::support::{Answer, CliOutput, Config, Endpoint, Request, setup};

/// A Zulip that allows these hosts, and has an organization at each but the second.
async fn zulip(hosts: [&'static str; 3]) -> Endpoint {
    Endpoint::start(move |request, _| settings(request, hosts)).await
}

fn settings(request: &Request, hosts: [&str; 3]) -> Answer {
    assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", "/api/v1/server_settings"));
    let host = request.header("host").unwrap();
    match hosts.iter().position(|known| *known == host) {
        None => Answer::status(400),
        Some(1) => Answer::Json(json!({ "zulip_version": "12.0" })),
        Some(_) => Answer::Json(json!({ "zulip_version": "12.0", "realm_name": "Acme" })),
    }
}

fn replying_to(zulip: &Endpoint, config: Config) -> Config {
    config.text("reply.to", "zulip").text("reply.site", &zulip.url(""))
}

fn line<'a>(output: &'a CliOutput, part: &str) -> &'a str {
    let part = format!("{part}: ");
    output.stdout.lines().find(|line| line.contains(&part)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_of_active_organizations_are_probed() {
    let database = Zulip::start().await;
    let hosts = ["chat.example.org", "none", "beta.chat.example.org"];
    let missing = zulip(hosts).await;
    let output = replying_to(&missing, database.config()).cli(&["check"]).await;
    assert_eq!(output.status, 69, "{output:?}");
    let replies = line(&output, "replies");
    for part in ["fault", "acme.chat.example.org", "zulip.external_host", "zulip.realm_hosts"] {
        assert!(replies.contains(part), "{part}: {replies}");
    }
    let mut asked: Vec<String> =
        missing.requests().iter().map(|request| request.header("host").unwrap().to_owned()).collect();
    asked.sort();
    assert_eq!(asked, ["acme.chat.example.org", "beta.chat.example.org", "chat.example.org"]);

    let other = zulip(["chat.example.org", "chat.acme.example", "none"]).await;
    let config = replying_to(&other, database.config());
    let config = config.set("zulip.realm_hosts", r#"{ acme = "chat.acme.example" }"#);
    let output = config.cli(&["check"]).await;
    assert_eq!(output.status, 69, "{output:?}");
    let replies = line(&output, "replies");
    for part in ["fault", "asked as beta.chat.example.org", "no organization at chat.acme.example"] {
        assert!(replies.contains(part), "every host is told, and so {part}: {replies}");
    }

    let good = zulip(["chat.example.org", "none", "beta.chat.example.org"]).await;
    let config = replying_to(&good, database.config());
    let config = config.set("zulip.realm_hosts", r#"{ acme = "beta.chat.example.org" }"#);
    let output = config.cli(&["check"]).await.success();
    assert!(line(&output, "replies").starts_with("ok"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_32_organizations_are_probed() {
    let zulip = Endpoint::json(json!({ "zulip_version": "12.0", "realm_name": "Acme" })).await;
    let config = replying_to(&zulip, Config::sqlite()).text("zulip.external_host", "chat.example.org");
    let db = setup::tables(&config).await;
    let rows: Vec<String> = (2..100).map(|id| format!("({id}, 'realm{id}')")).collect();
    db.exec(&format!("INSERT INTO zerver_realm (id, string_id) VALUES {}", rows.join(", "))).await;
    let output = config.cli(&["check"]).await.success();
    assert!(line(&output, "replies").contains("32"), "{output:?}");
    assert!(zulip.count() <= 33 && zulip.peak_in_flight() <= 4, "{}", zulip.count());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_site_is_reported_with_its_remedy() {
    let https = "https://chat.example.org/api/v1/server_settings";
    let headers = vec![("location".to_owned(), https.to_owned())];
    let table = [
        (Answer::Http { status: 301, headers, body: vec![] }, "set reply.site to that"),
        (Answer::status(400), "zulip.external_host"),
        (Answer::status(404), "check reply.site"),
        (Answer::status(403), "check reply.site"),
        (Answer::Json(json!({ "other": "JSON" })), "not as a Zulip server"),
    ];
    for (answer, part) in table {
        let answer = std::sync::Mutex::new(Some(answer));
        let site = Endpoint::start(move |_, _| answer.lock().unwrap().take().unwrap_or(Answer::Close)).await;
        let output = replying_to(&site, Config::sqlite()).cli(&["check"]).await;
        assert_eq!(output.status, 69, "{part}: {output:?}");
        assert!(line(&output, "replies").contains(part), "{part}: {output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    fs::write(path("empty"), "").unwrap();
    fs::write(path("secrets"), "[secrets]\nshared_secret = a\n").unwrap();
    for (key, name) in [
        ("admin.token_file", "missing"),
        ("admin.token_file", "empty"),
        ("admin.token_file", "."),
        ("zulip.avatar_salt_file", "missing"),
        ("zulip.avatar_salt_file", "empty"),
        ("zulip.avatar_salt_file", "secrets"),
    ] {
        let output = Config::sqlite().text(key, &path(name)).cli(&["check"]).await;
        assert_eq!(output.status, 64, "{key} {name}: {output:?}");
        let files = line(&output, "files");
        assert!(files.starts_with("fault") && files.contains(key) && files.contains(&path(name)), "{files}");
    }
    let config = Config::sqlite();
    fs::create_dir(config.folder().join("outhook.db.lock")).unwrap();
    let output = config.cli(&["check"]).await;
    let files = line(&output, "files");
    assert_eq!(output.status, 69, "{output:?}");
    assert!(files.contains("outhook.db.lock can't be written"), "{output:?}");

    let output = Config::sqlite().cli(&["check"]).await.success();
    assert!(line(&output, "files").starts_with("ok"), "{output:?}");
}
