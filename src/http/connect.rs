//! The connector of one endpoint: straight or through the proxy, with TLS over it for https.
//!
//! TLS is made here and not by awc, whose connector takes no IPv6 address for a server's name and does not
//! tell the phases of a failure apart. So awc is asked for http whatever the URL's scheme is.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_rt::net::{ActixStream, Ready};
use actix_tls::connect::{ConnectError, ConnectInfo, Connection};
use actix_web::{dev::Service, http::Uri};
use futures_util::future::LocalBoxFuture;
use rustls::ClientConfig;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, timeout_at},
};
use tokio_rustls::client::TlsStream;
use url::{Position, Url};

use super::{
    dial::{DialError, Dialler},
    interfaces::Interfaces,
    proxy::{Proxy, ProxyFault},
    responses::Responses,
    socket::{Socket, end, is_end},
    tally::Tally,
    tls::{CaFileError, Tls, client_config, client_config_and},
};
use crate::config;

/// How connections are made, whatever the endpoint.
#[derive(Clone)]
pub(crate) struct Route {
    /// The proxy that is dialled instead, if there is one.
    pub(crate) proxy: Option<Arc<Proxy>>,
    /// TLS's configuration.
    pub(crate) tls: Arc<ClientConfig>,
    /// The machine's own addresses, at which no endpoint is called.
    pub(crate) interfaces: Interfaces,
}

impl Route {
    /// The route that is configured.
    ///
    /// # Errors
    /// If the file of trusted certificates can't be used.
    pub(crate) fn new(config: &config::egress::Egress, interfaces: Interfaces) -> Result<Self, CaFileError> {
        Ok(Self {
            interfaces,
            proxy: config.proxy.as_ref().map(|url| Arc::new(Proxy::new(url))),
            tls: config.ca_file.as_deref().map_or_else(|| Ok(client_config()), client_config_and)?,
        })
    }

    /// What nobody may be shown of the way: the credentials for the proxy.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &str> {
        self.proxy.iter().flat_map(|proxy| proxy.secrets())
    }

    /// What awc is asked for. A request for an http URL through a proxy has the whole URL as its target.
    pub(super) fn uri(&self, url: &Url) -> Result<Uri, String> {
        let target = match self.forwarder(url) {
            Some(_) => url.as_str(),
            None => &url[Position::BeforePath..],
        };
        let port = url.port_or_known_default().unwrap_or_default();
        Uri::builder()
            .scheme("http")
            .authority(format!("{}:{port}", url.host_str().unwrap_or_default()))
            .path_and_query(target)
            .build()
            .map_err(|error| format!("the URL can't be requested: {error}"))
    }

    /// The proxy that reads the requests for this URL and passes them on, if there is one. Through a tunnel
    /// it passes what it can't read.
    pub(super) fn forwarder(&self, url: &Url) -> Option<&Proxy> {
        self.proxy.as_deref().filter(|_| url.scheme() == "http")
    }
}

/// Why there is no connection to an endpoint.
#[derive(Debug, Error)]
pub(super) enum ConnectFault {
    /// Nothing was connected to.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// TLS was not agreed on.
    #[error("{0}")]
    Tls(String),
    /// The proxy can't be reached, or has refused.
    #[error(transparent)]
    Proxy(#[from] ProxyFault),
    /// It took longer than `http.connect_timeout`.
    #[error("{0} within http.connect_timeout")]
    Late(&'static str),
}

/// Connects to one endpoint.
#[derive(Clone)]
pub(super) struct EndpointConnector(Rc<Target>);

struct Target {
    host: String,
    port: u16,
    tls: Option<Tls>,
    dialler: Dialler,
    proxy: Option<Arc<Proxy>>,
    timeout: Duration,
    answer_bytes_max: usize,
    connections: Tally,
}

impl EndpointConnector {
    /// A connector to the host of a URL. Connecting, TLS and all, may take so long; on its connections so
    /// many bytes may be read after each request; each of them is counted while it is open.
    pub(super) fn new(
        route: &Route,
        dialler: Dialler,
        url: &Url,
        timeout: Duration,
        answer_bytes_max: usize,
        connections: Tally,
    ) -> Self {
        let is_https = url.scheme() == "https";
        Self(Rc::new(Target {
            host: url.host_str().unwrap_or_default().to_owned(),
            port: url.port_or_known_default().unwrap_or_default(),
            tls: is_https.then(|| Tls::new(Arc::clone(&route.tls), url)),
            dialler,
            proxy: route.proxy.clone(),
            timeout,
            answer_bytes_max,
            connections,
        }))
    }
}

impl Target {
    async fn connect(&self) -> Result<Stream, ConnectFault> {
        let deadline = Instant::now() + self.timeout;
        let stream = match &self.proxy {
            None => timeout_at(deadline, self.dialler.dial(&self.host, self.port))
                .await
                .map_err(|_| ConnectFault::Late("no connection"))??,
            Some(proxy) if self.tls.is_some() => {
                proxy.tunnel(&self.dialler, &self.host, self.port, deadline).await?
            }
            Some(proxy) => proxy.dial(&self.dialler, deadline).await?,
        };
        let socket = Socket::new(stream, self.answer_bytes_max, self.connections.add());
        let Some(tls) = &self.tls else { return Ok(Stream::Plain(socket)) };
        match timeout_at(deadline, tls.handshake(socket)).await {
            Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream))),
            Ok(Err(fault)) => Err(ConnectFault::Tls(fault)),
            Err(_) => Err(ConnectFault::Late("a connection, but TLS was not agreed on")),
        }
    }
}

impl Service<ConnectInfo<Uri>> for EndpointConnector {
    type Response = Connection<Uri, Responses<Stream>>;
    type Error = ConnectError;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&self, request: ConnectInfo<Uri>) -> Self::Future {
        let target = Rc::clone(&self.0);
        Box::pin(async move {
            let stream = target.connect().await.map_err(|fault| ConnectError::Resolver(Box::new(fault)))?;
            Ok(Connection::new(request.request().clone(), Responses::new(stream)))
        })
    }
}

/// What is said of a connection whose end is not that of TLS.
const CUT_OFF: &str = "the connection was closed without TLS's own end";

/// A connection to an endpoint.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

/// Does the same with either stream.
macro_rules! with {
    ($self:expr, $stream:ident => $does:expr) => {
        match $self {
            Stream::Plain($stream) => $does,
            Stream::Tls($stream) => $does,
        }
    };
}

impl Stream {
    fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let has_room = buffer.remaining() > 0;
        let this = self.get_mut();
        let is_tls = matches!(this, Self::Tls(_));
        let read = ready!(with!(this, stream => Pin::new(stream).poll_read(context, buffer)));
        Poll::Ready(match read {
            // TLS has an end of its own, which must not look as if the answer were complete either.
            Ok(()) if has_room && buffer.filled().len() == before => Err(end()),
            // Without it, anybody on the way may have closed the connection.
            Err(error) if is_tls && is_end(&error) => Err(io::Error::new(error.kind(), CUT_OFF)),
            read => read,
        })
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        with!(self.get_mut(), stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        with!(self.get_mut(), stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        with!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(context))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        with!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(context, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        with!(self, stream => stream.is_write_vectored())
    }
}

impl ActixStream for Stream {
    fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        self.socket().poll_read_ready(context)
    }

    fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        self.socket().poll_write_ready(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::connection_url::ConnectionUrl;

    fn route(proxy: Option<&str>) -> Route {
        let proxy = proxy.map(|url| ConnectionUrl::parse(url, &["http://"]).expect("a URL"));
        let proxy = proxy.map(|url| Arc::new(Proxy::new(&url)));
        Route { proxy, tls: client_config(), interfaces: Interfaces::none() }
    }

    fn target(route: &Route, url: &str) -> String {
        let uri = route.uri(&Url::parse(url).expect("a URL")).expect("a request");
        uri.path_and_query().expect("a target").as_str().to_owned()
    }

    #[test]
    fn only_an_http_url_through_a_proxy_is_the_target_as_a_whole() {
        let (straight, proxied) = (route(None), route(Some("http://proxy:4750")));
        for url in ["http://bot.example/hook?a=b", "https://bot.example/hook?a=b"] {
            assert_eq!(target(&straight, url), "/hook?a=b");
        }
        assert_eq!(target(&proxied, "https://bot.example/hook?a=b"), "/hook?a=b");
        for url in
            ["http://bot.example/", "http://bot.example:8080/hook?a=b?c", "http://[2001:db8::1]:81/%20"]
        {
            assert_eq!(target(&proxied, url), url);
        }
    }
}
