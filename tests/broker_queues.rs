//! Queues as others have made them, and users as they were allowed to be.

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};

use super::support::*;

/// The user without all permissions.
const USER: &str = "limited";

/// Declares a queue with these arguments.
async fn declare(queue: &Queue, arguments: &[(&str, AMQPValue)]) {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert((*name).into(), value.clone());
    }
    let options = QueueDeclareOptions::durable();
    queue.channel().await.queue_declare(queue.name.as_str().into(), options, table).await.unwrap();
}

/// Has an event put on the queue by the product, and called.
async fn works(config: Config) {
    let endpoint = Endpoint::start(|request, _| echo(request)).await;
    let (bot, _) = setup::one_bot(&config, &endpoint.url("/hook"), "generic").await;
    config.cli(&["check"]).await.success();
    let _outhook = Outhook::start(&config).await;
    config.cli(&["send", "--bot", &bot.to_string(), "--content", "soup?"]).await.success();
    endpoint.wait_for(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_with_arguments_is_consumed_from() {
    let quorum = ("x-queue-type", AMQPValue::LongString("quorum".into()));
    let ttl = ("x-message-ttl", AMQPValue::LongInt(600_000));
    let limit = ("x-max-length", AMQPValue::LongInt(1_000_000));
    for arguments in [vec![quorum], vec![ttl, limit]] {
        let queue = Rabbit::shared().await.queue().await;
        declare(&queue, &arguments).await;
        works(Config::sqlite().queue(&queue.url, &queue.name)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_permission_is_named_and_only_if_it_is_needed() {
    let rabbit = Rabbit::shared().await;
    let vhost = rabbit.vhost().await;
    let password = secrets::secret("limited");
    rabbit.ctl(&["add_user", USER, &password]).await;
    let url = vhost.url.replace(&format!("guest:{BROKER_PASSWORD}"), &format!("{USER}:{password}"));
    let allow = async |configure: &str, write: &str, read: &str| {
        rabbit.ctl(&["set_permissions", "-p", &vhost.name, USER, configure, write, read]).await;
    };
    let config = || Config::sqlite().queue(&url, "events");

    let refused = config().cli(&["check"]).await;
    assert_eq!(refused.status, 69, "{refused:?}");
    assert!(refused.stdout.contains("it has no permission in this virtual host"), "{refused:?}");
    assert!(refused.stdout.contains(&format!("set_permissions -p '{}' '{USER}'", vhost.name)), "{refused:?}");

    allow("^$", ".*", ".*").await;
    let refused = config().cli(&["check"]).await;
    assert_eq!(refused.status, 69, "{refused:?}");
    assert!(refused.stdout.contains("it lacks the configure permission"), "{refused:?}");

    vhost.queue("events").declare().await;
    works(config()).await;

    allow("^$", "^$", ".*").await;
    let refused = config().cli(&["send", "--bot", "1", "--content", "soup?"]).await;
    assert_eq!(refused.status, 69, "{refused:?}");
    assert!(refused.stderr.contains("it lacks the write permission"), "{refused:?}");

    allow("^$", ".*", "^$").await;
    for command in ["check", "run"] {
        let refused = config().cli(&[command]).await;
        assert_eq!(refused.status, 69, "{refused:?}");
        let told = format!("{}{}", refused.stdout, refused.stderr);
        assert!(told.contains("it lacks the read permission"), "{told}");
    }
}

/// A relay on `::1` to the server of a URL, and the URL by which the server is reached through it.
async fn by_ipv6(url: &str) -> Option<(Relay, String)> {
    let (_, server) = url.split_once('@').unwrap();
    let server = server.split('/').next().unwrap();
    let relay = Relay::by_ipv6(server.parse().unwrap()).await?;
    let relayed = url.replace(server, &relay.address().to_string());
    Some((relay, relayed))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_and_a_database_are_reached_by_ipv6() {
    let queue = Rabbit::shared().await.queue().await;
    let database = Postgres::shared().await.database().await;
    let Some((_to_broker, broker)) = by_ipv6(&queue.url).await else { return };
    let Some((_to_database, database)) = by_ipv6(&database).await else { return };
    let config = Config::postgres(&database).queue(&broker, &queue.name);
    config.cli(&["migrate"]).await.success();
    works(config).await;
}
