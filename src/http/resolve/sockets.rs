//! The sockets that look-ups are sent from: those of tokio, kept to the share of the open files that calls
//! may have.

use std::{io, net::SocketAddr, pin::Pin, time::Duration};

use hickory_resolver::net::runtime::{RuntimeProvider, TokioRuntimeProvider};

use crate::http::files;

type Opening<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

/// Opens sockets to ask name servers with.
#[derive(Clone, Default)]
pub(super) struct Sockets(TokioRuntimeProvider);

impl RuntimeProvider for Sockets {
    type Handle = <TokioRuntimeProvider as RuntimeProvider>::Handle;
    type Timer = <TokioRuntimeProvider as RuntimeProvider>::Timer;
    type Udp = <TokioRuntimeProvider as RuntimeProvider>::Udp;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> Self::Handle {
        self.0.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        from: Option<SocketAddr>,
        patience: Option<Duration>,
    ) -> Opening<Self::Tcp> {
        let connected = self.0.connect_tcp(server, from, patience);
        Box::pin(async move {
            let stream = connected.await?;
            files::admit(&stream.0)?;
            Ok(stream)
        })
    }

    fn bind_udp(&self, from: SocketAddr, server: SocketAddr) -> Opening<Self::Udp> {
        let bound = self.0.bind_udp(from, server);
        Box::pin(async move {
            let socket = bound.await?;
            files::admit(&socket)?;
            Ok(socket)
        })
    }
}
