//! Publishing, for the commands.

use std::time::Duration;

use lapin::{
    BasicProperties, Confirmation, Error,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};

use super::{failure::Permission, link::Link};
use crate::{broker::BrokerError, config::connection_url::ConnectionUrl};

/// Deadline of publishing a batch: the broker confirms when it has written it.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);

/// `delivery_mode` of a message that survives a restart of the broker.
const PERSISTENT: u8 = 2;

/// Puts messages on a queue, each confirmed by the broker.
pub(crate) struct Publisher {
    link: Link,
    queue: String,
}

impl Publisher {
    /// Connects, and declares the queue as Zulip does if it does not exist.
    ///
    /// # Errors
    /// If the broker does not answer or refuses.
    pub(crate) async fn connect(url: &ConnectionUrl, queue: &str) -> Result<Self, BrokerError> {
        Ok(Self { link: Link::open(url, queue).await?, queue: queue.to_owned() })
    }

    /// Publishes a batch and waits until the broker has confirmed all of it.
    ///
    /// # Errors
    /// If a message was not confirmed in time. Those before it may be on the queue, and what a broker holds
    /// back that is blocked by an alarm gets there when the alarm is over.
    pub(crate) async fn publish(&self, bodies: &[Vec<u8>]) -> Result<(), BrokerError> {
        match tokio::time::timeout(PUBLISH_TIMEOUT, self.publish_all(bodies)).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(BrokerError("the broker did not take a message".into())),
            Ok(Err(error)) => Err(self.link.place().failure(&error, Permission::Write).into()),
            Err(_) => Err(BrokerError(format!(
                "the broker has not confirmed the events within {PUBLISH_TIMEOUT:?}; is it blocked by an alarm? They \
                 may still get onto the queue"
            ))),
        }
    }

    /// Whether the broker took them all.
    async fn publish_all(&self, bodies: &[Vec<u8>]) -> Result<bool, Error> {
        let channel = self.link.channel();
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let mut confirms = Vec::with_capacity(bodies.len());
        for body in bodies {
            let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
            let (queue, options) = (self.queue.as_str().into(), BasicPublishOptions::default());
            confirms.push(channel.basic_publish("".into(), queue, options, body, properties).await?);
        }
        let mut are_taken = true;
        for confirm in confirms {
            are_taken &= matches!(confirm.await?, Confirmation::Ack(None));
        }
        Ok(are_taken)
    }

    /// Ends the connection.
    pub(crate) async fn close(&self) {
        self.link.close(None).await;
    }
}
