//! The socket under a connection. lapin keeps it, and a thread, until the peer ends it: a silent one never does.

use std::{
    io,
    net::{Shutdown, TcpStream},
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError},
};

/// Shuts the socket down when it is dropped.
#[derive(Default)]
pub(super) struct Socket(Arc<Mutex<State>>);

/// For lapin's thread, to hand over what it connects.
pub(super) struct Handle(Arc<Mutex<State>>);

#[derive(Default)]
enum State {
    #[default]
    Unconnected,
    Connected(TcpStream),
    Dropped,
}

impl Socket {
    pub(super) fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.0))
    }
}

impl Handle {
    /// # Errors
    /// If nobody waits for the connection any more.
    pub(super) fn hold(&self, stream: impl AsFd) -> io::Result<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Dropped) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        *state = State::Connected(stream.as_fd().try_clone_to_owned()?.into());
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Connected(stream) = std::mem::replace(&mut *state, State::Dropped) {
            // It fails if the peer has ended it.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
