//! `outhook send` beside Zulip.

use serde_json::{Value, json};

use super::database::Zulip;
use crate::support::{Config, channel_event, direct_event, setup};

const BOT: &str = "58";
const CHANNEL: &str = "zerver_stream";

fn sent<'a>(bot: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["send", "--bot", bot, "--content", "soup?"], more].concat()
}

async fn messages(zulip: &Zulip) -> Vec<Value> {
    let rows = zulip.db.rows("SELECT payload FROM zulip.outhook_event ORDER BY id").await;
    let event = |row: &serde_json::Map<String, Value>| -> Value {
        serde_json::from_str(row["payload"].as_str().unwrap()).unwrap()
    };
    rows.iter().map(|row| event(row)["message"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sent_events_name_real_channels_and_people() {
    let zulip = Zulip::start().await;
    let config = zulip.config();
    config.cli(&["migrate"]).await.success();
    for more in [
        &["--stream", "food", "--topic", "t"][..],
        &["--stream", "FOOD", "--topic", "t", "--from", "31"],
        &["--from", "31"],
    ] {
        config.cli(&sent(BOT, more)).await.success();
    }
    let messages = messages(&zulip).await;
    for channel in &messages[..2] {
        assert_eq!((&channel["stream_id"], &channel["display_recipient"]), (&json!(7), &json!("Food")));
    }
    let direct = &messages[2];
    for message in [&messages[1], direct] {
        assert_eq!(message["sender_id"], 31);
        assert_eq!(message["sender_full_name"], "Rosa Lind");
    }
    let mut parties: Vec<i64> = direct["display_recipient"]
        .as_array()
        .unwrap()
        .iter()
        .map(|party| party["id"].as_i64().unwrap())
        .collect();
    parties.sort_unstable();
    assert_eq!(parties, [31, 58]);
    assert_eq!(direct["recipient_id"], 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn invented_bots_channels_and_people_are_refused() {
    let zulip = Zulip::start().await;
    let config = zulip.config();
    config.cli(&["migrate"]).await.success();
    let table: [(&str, &[&str], &str); 11] = [
        (BOT, &["--stream", "nowhere", "--topic", "t"], "nowhere"),
        (BOT, &["--stream", "Old food", "--topic", "t"], "in use"),
        (BOT, &["--stream", "Beta food", "--topic", "t"], "Beta food"),
        (BOT, &["--stream", "Food", "--topic", "t", "--from", "77"], "77"),
        (BOT, &[], "--from"),
        (BOT, &["--direct"], "--from"),
        (BOT, &["--from", "32"], "32"),
        (BOT, &["--from", "33"], "33"),
        (BOT, &["--from", "58"], "a bot"),
        ("77", &["--stream", "Food", "--topic", "t"], "no bot"),
        ("59", &["--from", "31"], "organization is deactivated"),
    ];
    for (bot, more, part) in table {
        assert_refused(&config, &sent(bot, more), b"", part).await;
    }
    let mut strangers = direct_event(58, 5, 31, "soup?");
    strangers["message"]["display_recipient"][1]["id"] = json!(77);
    for (event, part) in [
        (channel_event(58, 1, 99, "t", "soup?"), "99"),
        (channel_event(58, 2, 8, "t", "soup?"), "in use"),
        (channel_event(58, 3, 9, "t", "soup?"), "9"),
        (direct_event(58, 4, 77, "soup?"), "77"),
        (strangers, "77"),
        (channel_event(77, 6, 7, "t", "soup?"), "no bot"),
    ] {
        let line = event.to_string();
        assert_refused(&config, &["send", "--file", "-"], line.as_bytes(), part).await;
    }
    assert_eq!(messages(&zulip).await, Vec::<Value>::new());
    setup::send(&config, &[channel_event(58, 7, 7, "t", "soup?"), direct_event(58, 8, 31, "soup?")]).await;
    assert_eq!(messages(&zulip).await.len(), 2);
}

async fn assert_refused(config: &Config, command: &[&str], input: &[u8], part: &str) {
    let output = config.cli_with_input(command, input).await;
    assert_eq!(output.status, 64, "{command:?}: {output:?}");
    assert!(output.stderr.contains(part), "{command:?}: {}", output.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_that_cannot_be_read_are_refused() {
    let zulip = Zulip::without(CHANNEL).await;
    let config = zulip.config();
    config.cli(&["migrate"]).await.success();
    let event = channel_event(58, 1, 7, "t", "soup?").to_string();
    let named = sent(BOT, &["--stream", "Food", "--topic", "t"]);
    for (command, input) in [(named, ""), (vec!["send", "--file", "-"], event.as_str())] {
        let output = config.cli_with_input(&command, input.as_bytes()).await;
        assert_eq!(output.status, 69, "{output:?}");
        let grant = format!("ON zulip.zerver_stream TO {}", zulip.role());
        assert!(output.stderr.contains(&grant), "{}", output.stderr);
    }
    config.cli(&sent(BOT, &["--from", "31"])).await.success();
    assert_eq!(messages(&zulip).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_is_named_beside_zulip_only() {
    let config = Config::sqlite();
    assert_refused(&config, &sent("1", &["--from", "31"]), b"", "database.tables").await;
}
