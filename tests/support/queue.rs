//! A queue as Zulip declares it, seen from the publisher's side.

use std::time::Duration;

use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
    QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, Consumer, ErrorKind};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::rabbitmq::connect;
use super::{PATIENCE, eventually};

const PERSISTENT: u8 = 2;

/// How long a broker that is up takes to confirm what it is given, at most.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(2);

/// A queue on a broker, with a connection of its own that is opened again when it broke.
pub struct Queue {
    /// The address of the broker.
    pub url: String,
    /// The queue's name.
    pub name: String,
    connection: Mutex<Option<Connection>>,
}

impl Queue {
    /// The queue `name` at the broker `url`; nothing is declared.
    pub fn new(url: &str, name: &str) -> Self {
        Self { url: url.into(), name: name.into(), connection: Mutex::new(None) }
    }

    /// Declares it durable and without arguments.
    pub async fn declare(&self) {
        declare(&self.channel().await, &self.name, QueueDeclareOptions::durable()).await.unwrap();
    }

    /// Publishes one persistent message, and waits until the broker has confirmed it.
    pub async fn publish(&self, body: &[u8]) {
        self.publish_all(&[body.to_vec()]).await;
    }

    /// Publishes persistent messages, and waits until the broker has confirmed them all.
    pub async fn publish_all(&self, bodies: &[Vec<u8>]) {
        let is_confirmed = self.publish_on(&self.channel().await, bodies).await.unwrap();
        assert!(is_confirmed, "the broker refused a message");
    }

    /// Publishes persistent messages to a broker that may be away; `false` leaves open which have arrived.
    pub async fn try_publish_all(&self, bodies: &[Vec<u8>]) -> bool {
        let publish = async {
            let channel = self.try_channel().await?;
            self.publish_on(&channel, bodies).await
        };
        matches!(timeout(PUBLISH_TIMEOUT, publish).await, Ok(Ok(true)))
    }

    /// Consumes from it for as long as what is returned lives, and acknowledges nothing.
    pub async fn consume(&self) -> (Channel, Consumer) {
        let channel = self.channel().await;
        declare(&channel, &self.name, QueueDeclareOptions::durable()).await.unwrap();
        let (queue, tag) = (self.name.as_str().into(), "another".into());
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(queue, tag, options, FieldTable::default()).await.unwrap();
        (channel, consumer)
    }

    /// How many messages wait in it; none if it does not exist.
    pub async fn depth(&self) -> u32 {
        self.state().await.map_or(0, |queue| queue.message_count())
    }

    /// How many consumers it has; none if it does not exist.
    pub async fn consumers(&self) -> u32 {
        self.state().await.map_or(0, |queue| queue.consumer_count())
    }

    /// Deletes it, with what is in it.
    pub async fn delete(&self) {
        let channel = self.channel().await;
        channel.queue_delete(self.name.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    }

    /// Empties it of what no consumer holds.
    pub async fn purge(&self) {
        let channel = self.channel().await;
        channel.queue_purge(self.name.as_str().into(), QueuePurgeOptions::default()).await.unwrap();
    }

    /// A fresh channel, for what has no function here.
    pub async fn channel(&self) -> Channel {
        let attempt = || async { self.try_channel().await.ok() };
        eventually("a channel of RabbitMQ", PATIENCE, attempt).await
    }

    async fn try_channel(&self) -> lapin::Result<Channel> {
        let mut connection = self.connection.lock().await;
        if let Some(open) = connection.as_ref()
            && let Ok(channel) = open.create_channel().await
        {
            return Ok(channel);
        }
        let fresh = connect(&self.url).await?;
        connection.insert(fresh).create_channel().await
    }

    /// Whether the broker has confirmed them all.
    async fn publish_on(&self, channel: &Channel, bodies: &[Vec<u8>]) -> lapin::Result<bool> {
        declare(channel, &self.name, QueueDeclareOptions::durable()).await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let mut confirmations = vec![];
        for body in bodies {
            confirmations.push(publish(channel, &self.name, body).await?);
        }
        let mut is_confirmed = true;
        for confirmation in confirmations {
            is_confirmed &= confirmation.await?.is_ack();
        }
        Ok(is_confirmed)
    }

    async fn state(&self) -> Option<lapin::Queue> {
        let channel = self.channel().await;
        match declare(&channel, &self.name, QueueDeclareOptions::default().passive()).await {
            Ok(queue) => Some(queue),
            Err(error) if is_not_found(&error) => None,
            Err(error) => panic!("looking at queue {}: {error}", self.name),
        }
    }
}

async fn declare(channel: &Channel, name: &str, options: QueueDeclareOptions) -> lapin::Result<lapin::Queue> {
    channel.queue_declare(name.into(), options, FieldTable::default()).await
}

async fn publish(channel: &Channel, queue: &str, body: &[u8]) -> lapin::Result<lapin::PublisherConfirm> {
    let options = BasicPublishOptions::default();
    let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    channel.basic_publish("".into(), queue.into(), options, body, properties).await
}

fn is_not_found(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(told) if told.get_id() == 404)
}
