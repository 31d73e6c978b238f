//! A connection of the host that carries frames.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::write;
use rustix::buffer::spare_capacity;
use serde::Serialize;
use serde::de::DeserializeOwned;
use vmrun_proto::{FrameError, FrameReader, MAX_FRAME_BYTES, encode};

/// Bytes read at once; a request with a large seccomp profile needs a few turns.
const READ_BYTES: usize = 64 << 10;

/// Hard cap on what may wait for a host that does not read: the largest reply and
/// many events. A host this far behind is gone.
const MAX_UNSENT_BYTES: usize = 2 * MAX_FRAME_BYTES;

/// What the first frame said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Nothing yet.
    Unknown,
    /// Requests and replies.
    Control,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("the host closed it")]
    Closed,
    #[error("cannot read: {0}")]
    Read(Errno),
    #[error("cannot write: {0}")]
    Write(Errno),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("the host does not read its messages")]
    Flooded,
}

/// A connection, non-blocking, with what is half received and half sent.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    pub(crate) role: Role,
    received: FrameReader,
    unsent: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd, role: Role) -> Self {
        Self { socket, role, received: FrameReader::default(), unsent: Vec::new() }
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads what has come; false when all of it was read before.
    pub(crate) fn receive(&mut self) -> Result<bool, ConnectionError> {
        // Pages that no byte comes to are not touched.
        let mut bytes = Vec::with_capacity(READ_BYTES);
        match rustix::io::read(&self.socket, spare_capacity(&mut bytes)) {
            Ok(0) => Err(ConnectionError::Closed),
            Ok(_) => {
                self.received.push(&bytes);
                Ok(true)
            }
            Err(rustix::io::Errno::AGAIN) => Ok(false),
            Err(rustix::io::Errno::INTR) => Ok(true),
            Err(error) => Err(ConnectionError::Read(Errno::from_raw(error.raw_os_error()))),
        }
    }

    /// Takes the next whole message out of what has come.
    pub(crate) fn next_message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ConnectionError> {
        Ok(self.received.next_frame()?)
    }

    /// Sends `message`, or keeps what cannot be sent now.
    pub(crate) fn send(&mut self, message: &impl Serialize) -> Result<(), ConnectionError> {
        let frame = encode(message)?;
        if self.unsent.len() + frame.len() > MAX_UNSENT_BYTES {
            return Err(ConnectionError::Flooded);
        }
        self.unsent.extend_from_slice(&frame);
        self.flush()
    }

    /// How much is kept.
    pub(crate) fn unsent_bytes(&self) -> usize {
        self.unsent.len()
    }

    /// Sends what is kept.
    pub(crate) fn flush(&mut self) -> Result<(), ConnectionError> {
        while !self.unsent.is_empty() {
            match write(&self.socket, &self.unsent) {
                Ok(length) => drop(self.unsent.drain(..length)),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(ConnectionError::Write(error)),
            }
        }
        Ok(())
    }

    /// The socket and the bytes behind the last message, to be a stream from now on.
    pub(crate) fn into_stream(self) -> (OwnedFd, Vec<u8>) {
        (self.socket, self.received.into_rest())
    }
}
