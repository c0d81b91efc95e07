//! A queue as Zulip declares it, seen from the publisher's side.

use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ErrorKind};
use tokio::sync::Mutex;

use super::rabbitmq::connect;
use super::{PATIENCE, eventually};

const PERSISTENT: u8 = 2;

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
        self.publish_bodies([body]).await;
    }

    /// Publishes persistent messages, and waits until the broker has confirmed them all.
    pub async fn publish_all(&self, bodies: &[Vec<u8>]) {
        self.publish_bodies(bodies.iter().map(Vec::as_slice)).await;
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
        let mut connection = self.connection.lock().await;
        if let Some(open) = connection.as_ref()
            && let Ok(channel) = open.create_channel().await
        {
            return channel;
        }
        let attempt = || async { connect(&self.url).await.ok() };
        let fresh = eventually("a connection to RabbitMQ", PATIENCE, attempt).await;
        connection.insert(fresh).create_channel().await.unwrap()
    }

    async fn publish_bodies<'a>(&self, bodies: impl IntoIterator<Item = &'a [u8]>) {
        let channel = self.channel().await;
        declare(&channel, &self.name, QueueDeclareOptions::durable()).await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let mut confirmations = vec![];
        for body in bodies {
            confirmations.push(publish(&channel, &self.name, body).await);
        }
        for confirmation in confirmations {
            assert!(confirmation.await.unwrap().is_ack(), "the broker refused a message");
        }
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

async fn publish(channel: &Channel, queue: &str, body: &[u8]) -> lapin::PublisherConfirm {
    let options = BasicPublishOptions::default();
    let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    channel.basic_publish("".into(), queue.into(), options, body, properties).await.unwrap()
}

fn is_not_found(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(told) if told.get_id() == 404)
}
