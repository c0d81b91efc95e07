//! A connection to RabbitMQ for one queue. Every request has a deadline.

use std::{io, time::Duration};

use lapin::{
    Channel, Connection, ConnectionProperties, Consumer, Error, Queue,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions,
    },
    runtime::default_runtime,
    tcp::{AMQPUriTcpExt, AsyncTcpStream, OwnedTLSConfig, TLSConfig},
    types::{AMQPValue, FieldTable},
    uri::{AMQPScheme, AMQPUri},
};

use super::{
    failure::{Failure, Permission, Place, code, is_not_durable},
    socket::Socket,
};
use crate::{broker::BrokerError, config::connection_url::ConnectionUrl};

/// Deadline of a connection: TCP, TLS, login, channel and queue.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Deadline of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Deadline of a look: a broker under load is slow, not gone.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// Deadline of an orderly end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The reply code for a queue that does not exist.
const NOT_FOUND: u16 = 404;
/// The reply code for an argument that is not valid.
const PRECONDITION_FAILED: u16 = 406;

/// See the module.
pub(super) struct Link {
    connection: Connection,
    channel: Channel,
    /// For looks: on the other one an answer would wait behind all deliveries that are on their way.
    looks: Channel,
    place: Place,
    queue: String,
    /// Behind the connection, which says good-bye when it is dropped.
    _socket: Socket,
}

impl Link {
    /// Connects, and declares the queue if it does not exist.
    pub(super) async fn open(url: &ConnectionUrl, queue: &str) -> Result<Self, Failure> {
        let uri = uri(url).map_err(|error| Failure::Away(BrokerError(error)))?;
        let place = Place::new(&uri, queue);
        let open = async {
            let (connection, socket) = connect(uri).await?;
            let channel = with_queue(&connection, connection.create_channel().await?, queue).await?;
            require_durable(&connection, queue).await?;
            let looks = connection.create_channel().await?;
            Ok((connection, channel, looks, socket))
        };
        let (connection, channel, looks, socket) =
            place.answer(Permission::Configure, CONNECT_TIMEOUT, open).await?;
        Ok(Self { connection, channel, looks, place, queue: queue.to_owned(), _socket: socket })
    }

    /// Consumes from the queue, which may have been deleted since the connection was made.
    pub(super) async fn consume(&mut self, tag: &str, prefetch: u16) -> Result<Consumer, Failure> {
        let prepare = async {
            let channel = with_queue(&self.connection, self.channel.clone(), &self.queue).await?;
            channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
            Ok(channel)
        };
        self.channel = self.place.answer(Permission::Configure, REQUEST_TIMEOUT, prepare).await?;
        let options = BasicConsumeOptions::default();
        let (queue, tag) = (self.queue.as_str().into(), tag.into());
        let consume = self.channel.basic_consume(queue, tag, options, FieldTable::default());
        self.place.answer(Permission::Read, REQUEST_TIMEOUT, consume).await
    }

    /// Whether the user may consume, found out without taking a delivery from those who do: RabbitMQ looks at
    /// the permission first, and then refuses a priority that is no number.
    pub(super) async fn try_consuming(&self) -> Result<(), Failure> {
        let mut arguments = FieldTable::default();
        arguments.insert("x-priority".into(), AMQPValue::Boolean(true));
        let consume = async {
            let channel = self.connection.create_channel().await?;
            let options = BasicConsumeOptions::default();
            match channel.basic_consume(self.queue.as_str().into(), "".into(), options, arguments).await {
                Err(error) if code(&error) != Some(PRECONDITION_FAILED) => Err(error),
                Ok(_) | Err(_) => Ok(()),
            }
        };
        self.place.answer(Permission::Read, REQUEST_TIMEOUT, consume).await
    }

    /// How many consumers the queue has; an error if the broker has fallen silent.
    pub(super) async fn consumers(&self) -> Result<u32, BrokerError> {
        let look = look_for(&self.looks, &self.queue);
        Ok(self.place.answer(Permission::Configure, LOOK_TIMEOUT, look).await?.consumer_count())
    }

    /// Acknowledges this delivery and all before it.
    pub(super) async fn ack_up_to(&self, tag: u64) -> Result<(), BrokerError> {
        let acknowledge = self.channel.basic_ack(tag, BasicAckOptions { multiple: true });
        Ok(self.place.answer(Permission::Read, REQUEST_TIMEOUT, acknowledge).await?)
    }

    /// Ends a consumer, if there is one, and the connection.
    pub(super) async fn close(&self, consumer: Option<&str>) {
        if !self.connection.status().connected() {
            return;
        }
        let close = async {
            if let Some(tag) = consumer {
                self.channel.basic_cancel(tag.into(), BasicCancelOptions::default()).await?;
            }
            self.connection.close(200, "outhook is done".into()).await
        };
        if let Err(failure) = self.place.answer(Permission::Read, CLOSE_TIMEOUT, close).await {
            log::debug!("closing the connection to the broker: {}", BrokerError::from(failure));
        }
    }

    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }
}

/// The URL as lapin reads it, which takes an address of IPv6 for a missing host.
fn uri(url: &ConnectionUrl) -> Result<AMQPUri, String> {
    let mut uri: AMQPUri = url.expose().parse()?;
    if let Some(address) = url.ipv6() {
        uri.authority.host = address.to_string();
    }
    Ok(uri)
}

async fn connect(uri: AMQPUri) -> Result<(Connection, Socket), Error> {
    let socket = Socket::default();
    let handle = socket.handle();
    let properties = ConnectionProperties::default().with_connection_name("outhook".into());
    let connection = Connection::connector(
        uri,
        default_runtime()?,
        async move |uri: AMQPUri, runtime| {
            let plain = AMQPUri { scheme: AMQPScheme::AMQP, ..uri.clone() };
            let connect = plain.connect_with_config_async(TLSConfig::default(), &runtime);
            let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect).await.map_err(io::Error::from)??;
            if let AsyncTcpStream::Plain(stream) = &stream {
                handle.hold(stream.get_ref())?;
            }
            match uri.scheme {
                AMQPScheme::AMQP => Ok(stream),
                AMQPScheme::AMQPS => {
                    let config = OwnedTLSConfig::default();
                    Ok(stream.into_tls(&uri.authority.host, config.as_ref()).await?)
                }
            }
        },
        properties,
    )
    .await?;
    Ok((connection, socket))
}

/// A channel on which the queue is known to exist. Whatever its arguments are, and without a permission to
/// declare it: it is declared only if it is missing, which costs the channel.
async fn with_queue(connection: &Connection, channel: Channel, queue: &str) -> Result<Channel, Error> {
    match look_for(&channel, queue).await {
        Ok(_) => return Ok(channel),
        Err(error) if code(&error) == Some(NOT_FOUND) => {}
        Err(error) => return Err(error),
    }
    let channel = connection.create_channel().await?;
    declare(&channel, queue).await?;
    Ok(channel)
}

/// Durable and nothing else, as Zulip declares it.
async fn declare(channel: &Channel, queue: &str) -> Result<Queue, Error> {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), options, FieldTable::default()).await
}

/// Refuses a queue that a restart of the broker empties. A passive declaration says nothing of that; RabbitMQ
/// compares an active one with the queue, its durability before its arguments, which may be any.
async fn require_durable(connection: &Connection, queue: &str) -> Result<(), Error> {
    match declare(&connection.create_channel().await?, queue).await {
        Err(error) if is_not_durable(&error) => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

async fn look_for(channel: &Channel, queue: &str) -> Result<Queue, Error> {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), passive, FieldTable::default()).await
}
