//! RabbitMQ, through lapin.

mod failure;
mod link;
mod publisher;
mod socket;

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::LocalBoxFuture, stream::LocalBoxStream};
use lapin::Consumer;
use tokio::sync::{mpsc, watch};

pub(crate) use self::publisher::Publisher;
use self::{failure::Failure, link::Link};
use super::{Broker, BrokerError, BrokerEvent, Delivery, Session};
use crate::{
    config::connection_url::ConnectionUrl,
    fail_points::{self, Step},
};

/// The first wait before another connection; it doubles.
const RECONNECT_DELAY: Duration = Duration::from_millis(100);
/// The longest wait before another connection.
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(1);
/// A connection that has lasted so long was a good one.
const STEADY: Duration = Duration::from_secs(5);
/// How often the queue is looked at, and whether the broker still answers: heartbeats may be off.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Connects to a queue, declares it if it does not exist, and finds out whether it may be consumed from.
///
/// # Errors
/// If the broker does not answer or refuses.
pub(crate) async fn check_queue(url: &ConnectionUrl, queue: &str) -> Result<(), BrokerError> {
    let link = Link::open(url, queue).await?;
    let tried = link.try_consuming().await;
    link.close(None).await;
    Ok(tried?)
}

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

struct AmqpSession {
    link: Link,
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
        let mut link = Link::open(&self.url, &self.queue).await?;
        let _ = events.send(BrokerEvent::Answers);
        self.wait_for_turn(&link, events).await.map_err(Failure::Away)?;
        if events.is_closed() {
            return Ok(());
        }
        let tag = format!("{}_outhook_{}", self.queue, std::process::id());
        let consumer = link.consume(&tag, self.prefetch).await?;
        self.is_known = true;
        let session = AmqpSession { link, consumer_tag: tag };
        self.consume(Rc::new(session), consumer, events).await.map_err(Failure::Away)
    }

    /// Another daemon takes the deliveries; this one is ready to.
    async fn wait_for_turn(&self, link: &Link, events: &Events) -> Result<(), BrokerError> {
        let mut takes = self.takes.clone();
        tokio::select! {
            turn = takes.wait_for(|takes| *takes) => {
                if turn.is_err() {
                    // The tenure is over, and with it soon this actor.
                    events.closed().await;
                }
                Ok(())
            }
            () = events.closed() => Ok(()),
            lost = look_regularly(link, |_| {}) => Err(lost),
        }
    }

    /// Hands on what the consumer yields, until it ends: the connection broke or fell silent, the queue was
    /// deleted and the consumer cancelled with it, or another daemon takes the deliveries from now on.
    async fn consume(
        &self,
        session: Rc<AmqpSession>,
        mut consumer: Consumer,
        events: &Events,
    ) -> Result<(), BrokerError> {
        let _ = events.send(BrokerEvent::Connected(Rc::clone(&session) as Rc<dyn Session>));
        let mut takes = self.takes.clone();
        let mut others = Others::default();
        let mut looks = std::pin::pin!(look_regularly(&session.link, |consumers| {
            others.are(consumers.saturating_sub(1), &self.queue);
        }));
        let mut reason = BrokerError("the broker cancelled the consumer: was the queue deleted?".into());
        let ended = loop {
            tokio::select! {
                next = consumer.next() => match next {
                    Some(Ok(delivery)) => drop(events.send(BrokerEvent::Delivered(delivery.into()))),
                    Some(Err(error)) => reason = BrokerError(error.to_string()),
                    None => break Err(reason),
                },
                _ = takes.wait_for(|takes| !*takes) => {
                    let _ = events.send(BrokerEvent::Released);
                    break Ok(());
                }
                lost = &mut looks => break Err(lost),
                () = events.closed() => break Ok(()),
            }
        };
        session.close().await;
        ended
    }
}

type Events = mpsc::UnboundedSender<BrokerEvent>;

/// Tells `seen` how many consumers the queue has, until the broker does not say.
async fn look_regularly(link: &Link, mut seen: impl FnMut(u32)) -> BrokerError {
    loop {
        match link.consumers().await {
            Ok(consumers) => seen(consumers),
            Err(error) => return error,
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Consumers that are not this daemon: RabbitMQ deals the deliveries out among all, so each gets only some,
/// and what the others take is not called by outhook, or by a daemon that knows nothing of this one.
#[derive(Default)]
struct Others(u32);

impl Others {
    fn are(&mut self, others: u32, queue: &str) {
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
            self.link.ack_up_to(tag).await?;
            fail_points::after(Step::AckDeliveries);
            Ok(())
        })
    }

    fn close(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(self.link.close(Some(&self.consumer_tag)))
    }
}
