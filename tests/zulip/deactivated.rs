//! Bots of a deactivated organization.

use super::database::Zulip;
use crate::support::{Endpoint, Inlet, PATIENCE, Scene, channel_event, eventually, setup};

/// A bot of the organization that is deactivated.
const GONE_BOT: i64 = 59;

#[tokio::test(flavor = "multi_thread")]
async fn bots_of_a_deactivated_organization_are_not_called() {
    let endpoint = Endpoint::json(serde_json::json!({})).await;
    let zulip = Zulip::start().await;
    zulip.service(GONE_BOT, &endpoint.url("/")).await;
    let scene = Scene::start(Inlet::RabbitMq, zulip.config()).await;
    scene.send(&[channel_event(GONE_BOT, 1, 7, "Kitchen", "soup?")]).await;

    let letters =
        || async { Some(setup::dead_letters(&scene.config).await).filter(|letters| !letters.is_empty()) };
    let letter = &eventually("a dead letter", PATIENCE, letters).await[0];
    assert_eq!(letter["reason"], "inactive_bot", "{letter}");
    assert!(letter["detail"].as_str().unwrap().contains("organization"), "{letter}");
    assert!(endpoint.requests().is_empty());
}

/// A right that an earlier version did not ask for.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_they_are_called_with_a_warning() {
    let endpoint = Endpoint::json(serde_json::json!({})).await;
    let zulip = Zulip::without("zerver_realm").await;
    let role = zulip.role();
    zulip.db.exec(&format!("GRANT SELECT (id, string_id) ON zulip.zerver_realm TO {role}")).await;
    zulip.service(GONE_BOT, &endpoint.url("/")).await;
    let scene = Scene::start(Inlet::RabbitMq, zulip.config()).await;
    scene.send(&[channel_event(GONE_BOT, 1, 7, "Kitchen", "soup?")]).await;
    endpoint.wait_for(1).await;

    let grant = format!("GRANT SELECT (deactivated) ON zulip.zerver_realm TO {role}");
    let warning = scene.outhook.wait_for_log(&grant).await;
    assert!(warning.contains("WARN"), "{warning}");
}
