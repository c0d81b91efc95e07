//! RabbitMQ, through lapin.

use std::{rc::Rc, time::Duration};

use futures_util::{StreamExt, future::LocalBoxFuture, stream::LocalBoxStream};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, Error, ErrorKind,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use tokio::sync::mpsc;

use super::{Broker, BrokerError, BrokerEvent, Delivery, Session};
use crate::config::connection_url::ConnectionUrl;

/// The first wait before another connection; it doubles.
const RECONNECT_DELAY: Duration = Duration::from_millis(100);
/// The longest wait before another connection.
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(3);
/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the broker may take to confirm what was published.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);

/// `delivery_mode` of a message that survives a restart of the broker.
const PERSISTENT: u8 = 2;

/// A queue of RabbitMQ.
#[derive(Clone)]
pub(crate) struct Amqp {
    url: ConnectionUrl,
    queue: String,
    prefetch: u16,
}

struct AmqpSession {
    connection: Connection,
    channel: Channel,
    consumer_tag: String,
}

impl Amqp {
    /// A queue, of which at most `prefetch` deliveries are taken and not yet acknowledged.
    pub(crate) fn new(url: ConnectionUrl, queue: String, prefetch: u16) -> Self {
        Self { url, queue, prefetch }
    }

    async fn connect(&self) -> Result<(AmqpSession, Consumer), Error> {
        let (connection, channel) = open_channel(&self.url).await?;
        channel.basic_qos(self.prefetch, BasicQosOptions::default()).await?;
        declare(&channel, &self.queue).await?;
        let tag = format!("{}_outhook_{}", self.queue, std::process::id());
        let options = BasicConsumeOptions::default();
        let consumer = channel
            .basic_consume(self.queue.as_str().into(), tag.as_str().into(), options, FieldTable::default())
            .await?;
        Ok((AmqpSession { connection, channel, consumer_tag: tag }, consumer))
    }

    /// Makes one connection after the other, until nobody listens.
    async fn run(self, events: mpsc::UnboundedSender<BrokerEvent>) {
        let mut delay = RECONNECT_DELAY;
        let mut has_connected = false;
        while !events.is_closed() {
            match tokio::time::timeout(CONNECT_TIMEOUT, self.connect()).await {
                Ok(Ok((session, consumer))) => {
                    (delay, has_connected) = (RECONNECT_DELAY, true);
                    consume(session, consumer, &events).await;
                }
                Ok(Err(error)) if !has_connected && is_denial(&error) => {
                    let _ = events.send(BrokerEvent::Denied(error.into()));
                    return;
                }
                Ok(Err(error)) => drop(events.send(BrokerEvent::Lost(error.into()))),
                Err(_) => {
                    let error = BrokerError(format!("no connection within {CONNECT_TIMEOUT:?}"));
                    let _ = events.send(BrokerEvent::Lost(error));
                }
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(RECONNECT_DELAY_MAX);
        }
    }
}

/// Hands on what the consumer yields, until it ends: the connection broke, or the queue was deleted and
/// the consumer cancelled with it.
async fn consume(session: AmqpSession, mut consumer: Consumer, events: &mpsc::UnboundedSender<BrokerEvent>) {
    let session = Rc::new(session);
    if events.send(BrokerEvent::Connected(Rc::clone(&session) as Rc<dyn Session>)).is_err() {
        return;
    }
    let mut reason = BrokerError("the broker cancelled the consumer: was the queue deleted?".into());
    loop {
        let next = tokio::select! {
            next = consumer.next() => next,
            () = events.closed() => None,
        };
        match next {
            Some(Ok(delivery)) => {
                let delivery = Delivery {
                    tag: delivery.delivery_tag,
                    redelivered: delivery.redelivered,
                    body: delivery.data,
                };
                if events.send(BrokerEvent::Delivered(delivery)).is_err() {
                    return;
                }
            }
            Some(Err(error)) => reason = error.into(),
            None => break,
        }
    }
    let _ = events.send(BrokerEvent::Lost(reason));
    session.close().await;
}

impl Broker for Amqp {
    fn events(&self) -> LocalBoxStream<'static, BrokerEvent> {
        // Unbounded, because the broker sends at most `prefetch` before it is answered.
        let (sender, receiver) = mpsc::unbounded_channel();
        actix::spawn(self.clone().run(sender));
        futures_util::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|event| (event, receiver))
        })
        .boxed_local()
    }
}

impl Session for AmqpSession {
    fn ack_up_to(&self, tag: u64) -> LocalBoxFuture<'_, Result<(), BrokerError>> {
        Box::pin(async move {
            self.channel.basic_ack(tag, BasicAckOptions { multiple: true }).await.map_err(BrokerError::from)
        })
    }

    fn close(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(async move {
            if !self.connection.status().connected() {
                return;
            }
            let tag = self.consumer_tag.as_str().into();
            // Errors here mean that the connection is gone already.
            let _ = self.channel.basic_cancel(tag, BasicCancelOptions::default()).await;
            let _ = self.connection.close(200, "outhook is done".into()).await;
        })
    }
}

/// Puts messages on a queue, each confirmed by the broker.
pub(crate) struct Publisher {
    _connection: Connection,
    channel: Channel,
    queue: String,
}

impl Publisher {
    /// Connects, and declares the queue as Zulip does.
    ///
    /// # Errors
    /// If the broker does not answer or refuses.
    pub(crate) async fn connect(url: &ConnectionUrl, queue: &str) -> Result<Self, BrokerError> {
        let connect = async {
            let (connection, channel) = open_channel(url).await?;
            declare(&channel, queue).await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(Self { _connection: connection, channel, queue: queue.to_owned() })
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(connected) => connected.map_err(|error: Error| error.into()),
            Err(_) => Err(BrokerError(format!("no connection within {CONNECT_TIMEOUT:?}"))),
        }
    }

    /// Publishes a batch and waits until the broker has confirmed all of it.
    ///
    /// # Errors
    /// If a message was not confirmed in time. Those before it may be on the queue, and what a broker holds
    /// back that is blocked by an alarm gets there when the alarm is over.
    pub(crate) async fn publish(&self, bodies: &[Vec<u8>]) -> Result<(), BrokerError> {
        match tokio::time::timeout(PUBLISH_TIMEOUT, self.publish_all(bodies)).await {
            Ok(published) => published,
            Err(_) => Err(BrokerError(format!(
                "the broker has not confirmed the events within {PUBLISH_TIMEOUT:?}; is it blocked by an alarm? They \
                 may still get onto the queue"
            ))),
        }
    }

    async fn publish_all(&self, bodies: &[Vec<u8>]) -> Result<(), BrokerError> {
        let mut confirms = Vec::with_capacity(bodies.len());
        for body in bodies {
            let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
            let options = BasicPublishOptions::default();
            let queue = self.queue.as_str().into();
            confirms.push(self.channel.basic_publish("".into(), queue, options, body, properties).await?);
        }
        for confirm in confirms {
            if !matches!(confirm.await?, Confirmation::Ack(None)) {
                return Err(BrokerError("the broker did not take a message".into()));
            }
        }
        Ok(())
    }
}

async fn open_channel(url: &ConnectionUrl) -> Result<(Connection, Channel), Error> {
    let properties = ConnectionProperties::default().with_connection_name("outhook".into());
    let connection = Connection::connect(url.expose(), properties).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

/// Durable and nothing else, as Zulip declares it: any argument would contradict an existing queue.
async fn declare(channel: &Channel, queue: &str) -> Result<(), Error> {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
    Ok(())
}

/// AMQP reply codes that an operator has to do something about: access refused, not found (a virtual
/// host), resource locked, precondition failed (the queue has other arguments), not allowed.
const DENIALS: [u16; 5] = [403, 404, 405, 406, 530];

fn is_denial(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(error) if DENIALS.contains(&error.get_id()))
}

impl From<Error> for BrokerError {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(error) => Self(error.get_message().to_string()),
            _ => Self(error.to_string()),
        }
    }
}
