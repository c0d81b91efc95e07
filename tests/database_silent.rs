//! The database is silent, locked, read-only for a while, or grants few connections: what can go on goes on,
//! readiness names what does not, and work resumes by itself.

use super::support::*;

/// A daemon under load whose every job with the database ends within two seconds.
async fn under_load(url: &str) -> (Scene, Load) {
    let config = Config::postgres(url).set("queue.prefetch", "50").set("database.timeout", "\"2s\"");
    let scene = Scene::start(Inlet::RabbitMq, config).await;
    let load = Load::on(&scene).await;
    (scene, load)
}

/// The URL of a new database, on a way of its own to the server.
async fn by_relay(postgres: &Postgres) -> (String, Relay) {
    let relay = Relay::to(postgres.address()).await;
    let url = Postgres::reached(&postgres.database().await, "postgres", relay.address());
    (url, relay)
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_fall_silent_are_given_up() {
    let (url, relay) = by_relay(Postgres::shared().await).await;
    let (mut scene, load) = under_load(&url).await;
    let writer = load.begin(&scene);
    for _ in 0..2 {
        load.goes_on(&scene).await;
        // The test's own connection goes the same way.
        relay.silence();
        scene.db = Db::of(&scene.config).await;
        load.goes_on(&scene).await;
    }
    load.is_done(&scene, &writer.stop().await).await;
    scene.outhook.ready().await;
    assert_eq!(scene.drain().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_daemon_notices_silent_connections() {
    let (url, relay) = by_relay(Postgres::shared().await).await;
    let (mut scene, load) = under_load(&url).await;
    relay.silence();
    scene.db = Db::of(&scene.config).await;
    let writer = load.begin(&scene);
    load.goes_on(&scene).await;
    load.is_done(&scene, &writer.stop().await).await;
    scene.outhook.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_locked_is_named_and_waited_for() {
    let (scene, load) = under_load(&Postgres::shared().await.database().await).await;
    let writer = load.begin(&scene);
    load.goes_on(&scene).await;
    let theirs = scene.uncommitted("LOCK TABLE zerver_usermessage").await;
    scene.outhook.misses("database").await;
    scene.outhook.stays_unready().await;
    theirs.rollback().await.unwrap();
    load.goes_on(&scene).await;
    load.is_done(&scene, &writer.stop().await).await;
    scene.outhook.ready().await;
    // The driver would log a statement that took a second, with all that it says.
    assert!(!scene.outhook.log().iter().any(|line| line.contains("zerver_usermessage AS")));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_read_only_are_not_used_again() {
    let postgres = Postgres::shared().await;
    let url = postgres.database().await;
    let database = url.rsplit('/').next().unwrap();
    let (scene, load) = under_load(&url).await;
    let writer = load.begin(&scene);
    load.goes_on(&scene).await;
    // As after a failover: every connection that is made now leads to a server that takes no writes.
    postgres.exec(&format!("ALTER DATABASE {database} SET default_transaction_read_only = on")).await;
    let others = "datname = current_database() AND application_name = 'outhook'";
    scene
        .db
        .count(&format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {others}"))
        .await;
    scene.outhook.misses("database").await;
    scene.outhook.stays_unready().await;
    postgres.exec(&format!("ALTER DATABASE {database} RESET default_transaction_read_only")).await;
    load.goes_on(&scene).await;
    load.is_done(&scene, &writer.stop().await).await;
    scene.outhook.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn few_connections_are_enough() {
    let postgres = Postgres::shared().await;
    for granted in [2, 3] {
        let role = unique("few");
        postgres.exec(&format!("CREATE ROLE {role} LOGIN SUPERUSER")).await;
        let url = postgres.database().await;
        // Superusers are not limited, so the role loses that once the database is its own.
        let database = url.rsplit('/').next().unwrap();
        postgres.exec(&format!("ALTER DATABASE {database} OWNER TO {role}")).await;
        postgres.exec(&format!("ALTER ROLE {role} NOSUPERUSER CONNECTION LIMIT {granted}")).await;
        let own = Config::postgres(&Postgres::reached(&url, &role, postgres.address()));
        let endpoint = Endpoint::start(|request, _| echo(request)).await;
        own.cli(&["migrate"]).await.success();
        let db = Db::connect(&url).await;
        for bot in 1..=20 {
            setup::insert_bot_at(&db, bot, &endpoint.url("/hook")).await;
        }
        let queue = Rabbit::shared().await.queue().await;
        let config = own.queue(&queue.url, &queue.name);
        let outhook = Outhook::start(&config).await;
        let bodies = (1..=200).map(|n| channel_event(n % 20 + 1, n, 1, "Kitchen", "soup?"));
        queue.publish_all(&bodies.map(|event| event.to_string().into_bytes()).collect::<Vec<_>>()).await;
        endpoint.wait_for(200).await;
        setup::all_finished(&db).await;
        outhook.ready().await;
        let told = outhook.log().iter().filter(|line| line.contains("database.max_connections")).count();
        assert_eq!(told, 1, "granted {granted}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_normal_stop_tells_of_no_death() {
    let config = Storage::Postgres.config().await;
    for _ in 0..6 {
        let mut outhook = Outhook::start(&config).await;
        outhook.terminate().await;
        assert_eq!(outhook.wait().await.code(), Some(0));
        let log = outhook.log();
        assert!(!log.iter().any(|line| line.contains("declared this one dead")), "{log:#?}");
        assert!(!log.iter().any(|line| line.contains(" WARN ") && line.contains("database")), "{log:#?}");
    }
}
