//! The launcher's end of the socket pair to the monitor.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use vmrun_proto::{FrameError, FrameReader};
use vmrun_spec::{LauncherMessage, MonitorMessage};

#[derive(Debug)]
pub(crate) struct Channel {
    stream: UnixStream,
    reader: FrameReader,
}

/// What a readable channel yields.
#[derive(Debug)]
pub(crate) enum Heard {
    Messages(Vec<MonitorMessage>),
    /// The monitor closed it: it has ended or is about to.
    End,
}

impl Channel {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, reader: FrameReader::default() }
    }

    pub(crate) fn send(&self, message: LauncherMessage) -> Result<(), FrameError> {
        vmrun_proto::write_frame(&self.stream, &message)
    }

    /// Reads what is there; blocks when nothing is.
    pub(crate) fn receive(&mut self) -> Result<Heard, FrameError> {
        let mut buffer = [0; 4096];
        let count = match self.stream.read(&mut buffer) {
            Ok(0) => return Ok(Heard::End),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => 0,
            // A killed monitor with our message still unread resets the connection.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(Heard::End),
            Err(error) => return Err(error.into()),
        };
        self.reader.push(buffer.get(..count).unwrap_or_default());
        let mut messages = Vec::new();
        while let Some(message) = self.reader.next_frame()? {
            messages.push(message);
        }
        Ok(Heard::Messages(messages))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
