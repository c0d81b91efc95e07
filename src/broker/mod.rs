//! A message broker, as the QueueActor sees it: a stream of what happens, and a session to settle
//! deliveries in.

mod amqp;

use std::rc::Rc;

use futures_util::{future::LocalBoxFuture, stream::LocalBoxStream};
use thiserror::Error;

pub(crate) use amqp::{Amqp, Publisher, check_queue};

/// A broker that is connected to, and connected to again, for ever.
pub(crate) trait Broker {
    /// What happens from now on. Dropping the stream closes the connection, which returns every
    /// delivery that was not acknowledged.
    fn events(&self) -> LocalBoxStream<'static, BrokerEvent>;
}

/// One connection to a broker.
pub(crate) trait Session {
    /// Acknowledges this delivery and all before it.
    fn ack_up_to(&self, tag: u64) -> LocalBoxFuture<'_, Result<(), BrokerError>>;

    /// Asks for no more deliveries and closes the connection.
    fn close(&self) -> LocalBoxFuture<'_, ()>;
}

/// What happens at a broker.
pub(crate) enum BrokerEvent {
    /// The broker is there, and another daemon takes the deliveries.
    Answers,
    /// A session has begun. Deliveries that follow belong to it.
    Connected(Rc<dyn Session>),
    /// A delivery.
    Delivered(Delivery),
    /// The session has ended, because another daemon takes the deliveries from now on.
    Released,
    /// The session has ended; another will be tried.
    Lost(BrokerError),
    /// The broker refuses us, which trying again won't change: reported once, at the start.
    Denied(BrokerError),
}

/// A message from the queue, not yet acknowledged.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// By which it is acknowledged, within its session.
    pub(crate) tag: u64,
    /// It may have been delivered before.
    pub(crate) redelivered: bool,
    /// The body.
    pub(crate) body: Vec<u8>,
}

/// What went wrong at a broker.
#[derive(Debug, Clone, Error)]
#[error("{0}")]
pub(crate) struct BrokerError(pub(crate) String);
