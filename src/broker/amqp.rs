//! RabbitMQ, through lapin.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::LocalBoxFuture, stream::LocalBoxStream};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, Error, ErrorKind,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use tokio::sync::{mpsc, watch};

use super::{Broker, BrokerError, BrokerEvent, Delivery, Session};
use crate::{
    config::connection_url::ConnectionUrl,
    fail_points::{self, Step},
};

/// The first wait before another connection; it doubles.
const RECONNECT_DELAY: Duration = Duration::from_millis(100);
/// The longest wait before another connection.
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(1);
/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the broker may take to say who consumes.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection that has lasted so long was a good one.
const STEADY: Duration = Duration::from_secs(5);
/// How often the queue and, while nothing is consumed, the connection are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
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
    /// Whether this daemon is the one of its database that takes deliveries.
    takes: watch::Receiver<bool>,
    /// It let this process in before, so that a refusal is no fault of the configuration.
    is_known: bool,
}

/// A connection on which nothing is consumed yet.
struct Idle {
    connection: Connection,
    channel: Channel,
}

struct AmqpSession {
    connection: Connection,
    channel: Channel,
    consumer_tag: String,
}

impl Amqp {
    /// A queue, of which at most `prefetch` deliveries are taken and not yet acknowledged.
    pub(crate) fn new(
        url: ConnectionUrl,
        queue: String,
        prefetch: u16,
        takes: watch::Receiver<bool>,
        is_known: bool,
    ) -> Self {
        Self { url, queue, prefetch, takes, is_known }
    }

    async fn connect(&self) -> Result<Idle, Error> {
        let (connection, channel) = open_channel(&self.url).await?;
        channel.basic_qos(self.prefetch, BasicQosOptions::default()).await?;
        declare(&channel, &self.queue).await?;
        Ok(Idle { connection, channel })
    }

    async fn begin(&self, idle: Idle) -> Result<(AmqpSession, Consumer), Error> {
        let Idle { connection, channel } = idle;
        // The queue may have been deleted since.
        declare(&channel, &self.queue).await?;
        let tag = format!("{}_outhook_{}", self.queue, std::process::id());
        let options = BasicConsumeOptions::default();
        let consumer = channel
            .basic_consume(self.queue.as_str().into(), tag.as_str().into(), options, FieldTable::default())
            .await?;
        Ok((AmqpSession { connection, channel, consumer_tag: tag }, consumer))
    }

    /// Makes one connection after the other, until nobody listens.
    async fn run(mut self, events: Events) {
        let mut delay = RECONNECT_DELAY;
        while !events.is_closed() {
            let began = Instant::now();
            match self.work(&events).await {
                Ok(()) => {}
                Err(Failure::Denied(error)) if !self.is_known => {
                    let _ = events.send(BrokerEvent::Denied(error));
                    return;
                }
                Err(Failure::Denied(error) | Failure::Away(error)) => {
                    let _ = events.send(BrokerEvent::Lost(error));
                }
            }
            if began.elapsed() > STEADY {
                delay = RECONNECT_DELAY;
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(RECONNECT_DELAY_MAX);
        }
    }

    /// Takes deliveries as long as it is this daemon's turn to, on one connection.
    async fn work(&mut self, events: &Events) -> Result<(), Failure> {
        let idle = within_time(self.connect()).await?;
        let _ = events.send(BrokerEvent::Answers);
        self.wait_for_turn(&idle, events).await.map_err(Failure::Away)?;
        if events.is_closed() {
            return Ok(());
        }
        let (session, consumer) = within_time(self.begin(idle)).await?;
        self.is_known = true;
        self.consume(Rc::new(session), consumer, events).await.map_err(Failure::Away)
    }

    /// Another daemon takes the deliveries; this one is ready to.
    async fn wait_for_turn(&self, idle: &Idle, events: &Events) -> Result<(), BrokerError> {
        let mut takes = self.takes.clone();
        loop {
            tokio::select! {
                turn = takes.wait_for(|takes| *takes) => {
                    if turn.is_ok() {
                        return Ok(());
                    }
                    // The tenure is over, and with it soon this actor.
                    events.closed().await;
                    return Ok(());
                }
                () = events.closed() => return Ok(()),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if !idle.connection.status().connected() {
                return Err(BrokerError("the connection was lost".into()));
            }
        }
    }

    /// Hands on what the consumer yields, until it ends: the connection broke, the queue was deleted and
    /// the consumer cancelled with it, or another daemon takes the deliveries from now on.
    async fn consume(
        &self,
        session: Rc<AmqpSession>,
        mut consumer: Consumer,
        events: &Events,
    ) -> Result<(), BrokerError> {
        let _ = events.send(BrokerEvent::Connected(Rc::clone(&session) as Rc<dyn Session>));
        let mut takes = self.takes.clone();
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut reason = BrokerError("the broker cancelled the consumer: was the queue deleted?".into());
        let mut others = Others::default();
        let ended = loop {
            tokio::select! {
                next = consumer.next() => match next {
                    Some(Ok(delivery)) => drop(events.send(BrokerEvent::Delivered(delivery.into()))),
                    Some(Err(error)) => reason = error.into(),
                    None => break Err(reason),
                },
                _ = takes.wait_for(|takes| !*takes) => {
                    let _ = events.send(BrokerEvent::Released);
                    break Ok(());
                }
                _ = look.tick() => others.look(&session.channel, &self.queue).await,
                () = events.closed() => break Ok(()),
            }
        };
        session.close().await;
        ended
    }
}

type Events = mpsc::UnboundedSender<BrokerEvent>;

/// Why there is no connection.
enum Failure {
    /// The broker does not let us in.
    Denied(BrokerError),
    /// It does not answer.
    Away(BrokerError),
}

async fn within_time<T>(attempt: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    match tokio::time::timeout(CONNECT_TIMEOUT, attempt).await {
        Ok(Ok(made)) => Ok(made),
        Ok(Err(error)) if is_denial(&error) => Err(Failure::Denied(error.into())),
        Ok(Err(error)) => Err(Failure::Away(error.into())),
        Err(_) => Err(Failure::Away(BrokerError(format!("no connection within {CONNECT_TIMEOUT:?}")))),
    }
}

/// Consumers that are not this daemon: RabbitMQ deals the deliveries out among all, so each gets only some,
/// and what the others take is not called by outhook, or by a daemon that knows nothing of this one.
#[derive(Default)]
struct Others(u32);

impl Others {
    async fn look(&mut self, channel: &Channel, queue: &str) {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        // A queue that is gone ends the consumer, which is noticed elsewhere.
        let declare = channel.queue_declare(queue.into(), passive, FieldTable::default());
        // Nor may a broker that does not answer keep deliveries from being taken.
        let Ok(Ok(state)) = tokio::time::timeout(LOOK_TIMEOUT, declare).await else { return };
        let others = state.consumer_count().saturating_sub(1);
        if others > std::mem::replace(&mut self.0, others) {
            log::warn!(
                "another consumer takes deliveries from the queue {queue} ({others} beside this one): is Zulip's own worker \
                 running, or an outhook with a database of its own? Events are split between them, and their order is lost"
            );
        }
    }
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

impl From<lapin::message::Delivery> for Delivery {
    fn from(delivery: lapin::message::Delivery) -> Self {
        Self { tag: delivery.delivery_tag, redelivered: delivery.redelivered, body: delivery.data }
    }
}

impl Session for AmqpSession {
    fn ack_up_to(&self, tag: u64) -> LocalBoxFuture<'_, Result<(), BrokerError>> {
        Box::pin(async move {
            fail_points::before(Step::AckDeliveries);
            self.channel.basic_ack(tag, BasicAckOptions { multiple: true }).await?;
            fail_points::after(Step::AckDeliveries);
            Ok(())
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
