//! What waiting would not mend ends the start with 69 and a sentence that says what to do; a right that vanishes
//! later is named for as long as it is missing.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::support::*;

/// The daemon does not start, and says this.
async fn is_refused(config: &Config, parts: &[&str]) {
    let mut outhook = Outhook::run(config);
    let code = outhook.wait().await.code();
    let log = outhook.log().join("\n");
    assert_eq!(code, Some(69), "{log}");
    for part in parts {
        assert!(log.contains(part), "{part:?} is not said: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_hosts_in_the_url_are_refused() {
    for url in [
        "postgres://outhook:secret@one.example.org,two.example.org/outhook",
        "postgres://outhook:secret@one.example.org:5432,two.example.org:5433/outhook",
        "postgres:///outhook?host=one.example.org,two.example.org",
    ] {
        is_refused(&Config::postgres(url), &["database.url names several hosts"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_refused_where_tls_is_demanded() {
    let url = Postgres::shared().await.database().await;
    for mode in ["require", "verify-ca", "verify-full"] {
        is_refused(&Config::postgres(&format!("{url}?sslmode={mode}")), &["sslmode=disable"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_tls_that_is_missing_is_named() {
    let url = Postgres::shared().await.database().await;
    let config = Config::postgres(&format!("{url}?sslrootcert=/nowhere/ca.pem"));
    is_refused(&config, &["sslrootcert", "/nowhere/ca.pem"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_verified_and_the_parameter_named() {
    let postgres = Postgres::private().await;
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    postgres.serve_tls(&ours.sign(&["localhost"], Validity::Now)).await;
    let folders = [Config::sqlite(), Config::sqlite()];
    let [ours, theirs] = [ours.write(folders[0].folder()), theirs.write(folders[1].folder())];
    let url = postgres.database().await;
    let at = |host: &str, authority: &Path| {
        let url = url.replace("127.0.0.1", host);
        Config::postgres(&format!("{url}?sslmode=verify-full&sslrootcert={}", authority.display()))
    };
    is_refused(&at("localhost", &theirs), &["sslrootcert=FILE"]).await;
    is_refused(&at("127.0.0.1", &ours), &["sslrootcert=FILE"]).await;
    Outhook::start(&at("localhost", &ours)).await;
}

/// A pooler that refuses a start-up parameter which it does not know, as PgBouncer does.
async fn pooler() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut message = vec![0; 4096];
                let mut length = client.read(&mut message).await?;
                if length == 8 {
                    client.write_all(b"N").await?;
                    length = client.read(&mut message).await?;
                }
                let text = String::from_utf8_lossy(&message[..length]).into_owned();
                let known =
                    ["user", "database", "DateStyle", "client_encoding", "TimeZone", "application_name"];
                let mut parts = text[8.min(text.len())..].split('\0');
                let mut unknown = "nothing".to_owned();
                while let (Some(key), Some(_)) = (parts.next().filter(|key| !key.is_empty()), parts.next()) {
                    if !known.contains(&key) {
                        unknown = key.to_owned();
                    }
                }
                let fields = format!("SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: {unknown}\0\0");
                let length = u32::try_from(fields.len() + 4).unwrap();
                client.write_all(&[&b"E"[..], &length.to_be_bytes(), fields.as_bytes()].concat()).await
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_up_parameter_that_a_pooler_refuses_is_named() {
    let url = format!("postgres://outhook:secret@{}/outhook", pooler().await);
    // Of its own accord, outhook sends none that poolers do not know.
    is_refused(&Config::postgres(&url), &["unsupported startup parameter: nothing"]).await;
    let config = Config::postgres(&format!("{url}?options[geqo]=off"));
    is_refused(&config, &["unsupported startup parameter: options", "ignore_startup_parameters"]).await;
}

/// A database with tables, and a role that may do what outhook does but for these statements.
async fn forbidden(statements: &[&str]) -> (Config, Db, String) {
    let postgres = Postgres::shared().await;
    let url = postgres.database().await;
    Config::postgres(&url).cli(&["migrate"]).await.success();
    let (db, role) = (Db::connect(&url).await, unique("lesser"));
    db.exec(&format!("CREATE ROLE {role} LOGIN")).await;
    db.exec(&format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")).await;
    db.exec(&format!("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}")).await;
    for statement in statements {
        db.exec(&statement.replace("ROLE", &role)).await;
    }
    (Config::postgres(&Postgres::reached(&url, &role, postgres.address())), db, role)
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_rights_end_the_start_with_their_grants() {
    for (statements, grant) in [
        (
            &["REVOKE UPDATE ON zerver_usermessage FROM ROLE"][..],
            "GRANT UPDATE (flags) ON public.zerver_usermessage",
        ),
        (
            &[
                "REVOKE SELECT ON zerver_service FROM ROLE",
                "GRANT SELECT (id, name, user_profile_id, base_url, interface) ON zerver_service TO ROLE",
            ],
            "GRANT SELECT (token) ON public.zerver_service",
        ),
        (&["REVOKE INSERT ON outhook_event FROM ROLE"], "GRANT INSERT ON public.outhook_event"),
        (&["REVOKE UPDATE ON outhook_gate FROM ROLE"], "GRANT UPDATE ON public.outhook_gate"),
        (&["REVOKE ALL ON outhook_daemon FROM ROLE"], "GRANT DELETE ON public.outhook_daemon"),
        (
            &["REVOKE ALL ON ALL TABLES IN SCHEMA public FROM ROLE"],
            "GRANT SELECT ON public.outhook_migration",
        ),
        (
            &["REVOKE USAGE ON SCHEMA public FROM ROLE", "REVOKE USAGE ON SCHEMA public FROM PUBLIC"],
            "GRANT USAGE ON SCHEMA public",
        ),
    ] {
        let (config, _, role) = forbidden(statements).await;
        is_refused(&config, &[&format!("{grant} TO {role};")]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_that_may_not_be_used_ends_the_start_with_its_grant() {
    let (config, db, role) = forbidden(&[]).await;
    db.exec("CREATE SEQUENCE counter OWNED BY outhook_event.message_id").await;
    is_refused(&config, &[&format!("GRANT USAGE ON SEQUENCE public.counter TO {role};")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_to_create_tables_is_named_when_there_are_some_to_create() {
    let postgres = Postgres::shared().await;
    let (url, role) = (postgres.database().await, unique("lesser"));
    Db::connect(&url).await.exec(&format!("CREATE ROLE {role} LOGIN")).await;
    let config = Config::postgres(&Postgres::reached(&url, &role, postgres.address()));
    is_refused(&config, &[&format!("GRANT USAGE, CREATE ON SCHEMA public TO {role};")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_delete_only_the_history_stays() {
    let (config, db, role) = forbidden(&["REVOKE DELETE ON outhook_event FROM ROLE"]).await;
    let endpoint = Endpoint::start(|request, _| echo(request)).await;
    setup::insert_bot_at(&db, 1, &endpoint.url("/hook")).await;
    let outhook = Outhook::start(&config.set("history.keep", "\"1m\"")).await;
    db.exec(
        "INSERT INTO outhook_event (bot_id, message_id, replay, conversation, state, taken_at, finished_at)
         VALUES (1, 1, 0, 1, 1, 1, 1)",
    )
    .await;
    outhook.wait_for_log(&format!("GRANT DELETE ON public.outhook_event TO {role};")).await;
    outhook.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_vanishes_is_named_until_it_is_back() {
    let (config, db, role) = forbidden(&[]).await;
    let endpoint = Endpoint::start(|request, _| echo(request)).await;
    for bot in 1..=3 {
        setup::insert_bot_at(&db, bot, &endpoint.url("/hook")).await;
    }
    let queue = Rabbit::shared().await.queue().await;
    let config = config.queue(&queue.url, &queue.name);
    let outhook = Outhook::start(&config).await;
    db.exec(&format!("REVOKE SELECT ON zerver_service FROM {role}")).await;
    let event = |n: i64| channel_event(n, n, 1, "Kitchen", "soup?").to_string().into_bytes();
    queue.publish_all(&[event(1), event(2), event(3)]).await;
    outhook.misses("database").await;
    outhook.stays_unready().await;
    let (_, body) = outhook.get("/health/ready").await;
    assert!(body.contains("ON public.zerver_service TO"), "{body}");
    assert_eq!(endpoint.count(), 0);
    db.exec(&format!("GRANT SELECT ON zerver_service TO {role}")).await;
    endpoint.wait_for(3).await;
    outhook.ready().await;
}
