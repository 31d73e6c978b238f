//! The monitor's control socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use crate::control::{ControlReply, ControlRequest};
use crate::store::CONTROL_SOCKET;

/// How long a verb may take to say what it wants; only the store's owner can connect.
const READ_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct ControlServer {
    listener: UnixListener,
}

/// A verb that waits for its answer.
#[derive(Debug)]
pub(crate) struct Caller {
    connection: UnixStream,
}

impl ControlServer {
    /// Listens in the working directory, which is the container's.
    pub(crate) fn bind() -> io::Result<Self> {
        let listener = UnixListener::bind(CONTROL_SOCKET)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener })
    }

    /// The next request; `None` when there is none, or its caller broke off.
    pub(crate) fn accept(&self) -> Option<(ControlRequest, Caller)> {
        let (connection, _) = self.listener.accept().ok()?;
        connection.set_nonblocking(false).ok()?;
        connection.set_read_timeout(Some(READ_LIMIT)).ok()?;
        connection.set_write_timeout(Some(READ_LIMIT)).ok()?;
        let request = vmrun_proto::read_frame(&connection).ok()?;
        Some((request, Caller { connection }))
    }
}

impl Caller {
    pub(crate) fn answer(self, reply: &ControlReply) {
        // A caller that has gone wants no answer.
        let _ = vmrun_proto::write_frame(&self.connection, reply);
    }
}

impl AsFd for ControlServer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}
