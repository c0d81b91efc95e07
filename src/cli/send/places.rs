//! With Zulip's tables, an event names bots, channels and people that exist: its reply is posted there.

use std::collections::HashSet;

use outhook_core::{identity::BotId, json::with_surrogates_replaced};
use serde_json::{Map, Value, json};

use crate::{
    config::{
        Config,
        database::{Database, Tables},
    },
    exit::Failed,
    store::{self, Channel, Person, Store, StoreError},
    zulip::Destination,
};

/// More conversations than these are looked up again.
const KNOWN_MAX: usize = 10_000;

/// The channels and people of a Zulip server.
pub(super) struct Places {
    store: Store,
    /// Bots with conversations that were found.
    known: HashSet<(BotId, String)>,
}

impl Places {
    /// Those of the configured Zulip; `None` without Zulip.
    pub(super) async fn of(config: &Config) -> Result<Option<Self>, Failed> {
        let Database { tables, .. } = &config.database;
        if *tables == Tables::Own {
            return Ok(None);
        }
        Ok(Some(Self { store: store::open(&config.database).await?, known: HashSet::new() }))
    }

    pub(super) async fn close(self) {
        self.store.close().await;
    }

    /// A sample event with the channel and the person of Zulip in place of invented ones.
    pub(super) async fn real(
        &self,
        mut event: Value,
        bot: BotId,
        channel: Option<&str>,
        person: Option<i64>,
    ) -> Result<Value, Failed> {
        let realm = self.realm(bot).await?;
        let Some(message) = event.get_mut("message").and_then(Value::as_object_mut) else {
            return Err(Failed::internal("the sample event has no message"));
        };
        if let Some(name) = channel {
            let found = self.store.find_channel_named(realm, name.to_owned()).await;
            let Channel { id, name } = self.existing(found, format!("no channel {name:?}")).await?;
            message.extend(fields(json!({ "stream_id": id, "display_recipient": name })));
        }
        match (person, channel) {
            (Some(person), _) => {
                let is_direct = channel.is_none();
                self.write_as(message, realm, bot, person, is_direct).await?;
            }
            (None, None) => {
                return Err(Failed::usage(
                    "a direct message needs a sender, who gets the reply: give --from and the id of a person, or \
                     --stream and --topic",
                ));
            }
            (None, Some(_)) => {}
        }
        Ok(event)
    }

    /// That the reply to an event would be posted where somebody reads it.
    pub(super) async fn check(&mut self, bot: BotId, payload: &[u8]) -> Result<(), Failed> {
        let destination = Destination::of_event(&with_surrogates_replaced(payload));
        let place = match &destination {
            Destination::Stream { to, .. } => format!("channel {to}"),
            Destination::Direct { to } => format!("{to:?}"),
            Destination::Unknown { .. } => String::new(),
        };
        if self.known.contains(&(bot, place.clone())) {
            return Ok(());
        }
        let realm = self.realm(bot).await?;
        match destination {
            Destination::Stream { to, .. } => {
                let found = self.store.find_channel_by_id(realm, to).await;
                self.existing(found, format!("no channel with the id {to}")).await?;
            }
            Destination::Direct { to } => {
                self.people(realm, to).await?;
            }
            // No reply to it is posted.
            Destination::Unknown { .. } => {}
        }
        if self.known.len() == KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert((bot, place));
        Ok(())
    }

    async fn realm(&self, bot: BotId) -> Result<i64, Failed> {
        let found = self.store.find_realm(bot).await?;
        found.map_err(|reason| Failed::usage(format!("bot {bot}: {reason}")))
    }

    async fn existing(
        &self,
        found: Result<Option<Channel>, StoreError>,
        missing: String,
    ) -> Result<Channel, Failed> {
        match found {
            Ok(Some(channel)) => Ok(channel),
            Ok(None) => Err(Failed::usage(format!("the bot's organization has {missing} that is in use"))),
            Err(error @ StoreError::Denied(_)) => {
                let remedy = self.store.grant_for_channels().await?;
                Err(Failed::unavailable(format!("Zulip's channels can't be looked up: {error}: {remedy}")))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn people(&self, realm: i64, wanted: Vec<i64>) -> Result<Vec<Person>, Failed> {
        let found = self.store.find_people(realm, wanted.clone()).await?;
        let is_found = |id: &i64| found.iter().any(|person| person.id == *id);
        match wanted.iter().find(|id| !is_found(id)) {
            Some(id) => {
                Err(Failed::usage(format!("the bot's organization has no active account with the id {id}")))
            }
            None => Ok(found),
        }
    }

    async fn write_as(
        &self,
        message: &mut Map<String, Value>,
        realm: i64,
        bot: BotId,
        person: i64,
        is_direct: bool,
    ) -> Result<(), Failed> {
        let people = self.people(realm, vec![bot, person]).await?;
        let Some(sender) = people.iter().find(|other| other.id == person).filter(|sender| !sender.is_bot)
        else {
            return Err(Failed::usage(format!("account {person} is a bot: --from takes the id of a person")));
        };
        message.extend(fields(json!({
            "sender_id": sender.id, "sender_full_name": sender.full_name, "sender_email": sender.email,
            "sender_delivery_email": sender.delivery_email, "sender_recipient_id": sender.recipient_id,
        })));
        if is_direct {
            let recipient = people.iter().find(|other| other.id == bot).and_then(|bot| bot.recipient_id);
            let parties: Vec<Value> = people.iter().map(party).collect();
            message.extend(fields(json!({ "recipient_id": recipient, "display_recipient": parties })));
        }
        Ok(())
    }
}

fn party(person: &Person) -> Value {
    let Person { id, email, full_name, .. } = person;
    json!({ "id": id, "email": email, "full_name": full_name, "is_mirror_dummy": false })
}

fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
