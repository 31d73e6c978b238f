//! The launcher's end of the socket pair to the monitor.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
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

    /// Whether there is something to receive before `deadline`.
    pub(crate) fn has_more_by(&self, deadline: Instant) -> io::Result<bool> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = PollTimeout::try_from(left.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)], limit) {
                Ok(0) if !left.is_zero() => {}
                Ok(count) => return Ok(count > 0),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Reads what is there; blocks when nothing is.
    pub(crate) fn receive(&mut self) -> Result<Heard, FrameError> {
        let mut buffer = [0; 4096];
        let count = match self.stream.read(&mut buffer) {
            Ok(0) => return Ok(Heard::End),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            // A killed monitor with our message still unread resets the connection.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Heard::End),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use vmrun_spec::MonitorMessage;

    use super::*;

    #[test]
    fn silence_ends_with_the_deadline_and_a_word_before() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let channel = Channel::new(ours);
        let begun = Instant::now();
        assert!(!channel.has_more_by(begun + Duration::from_millis(20)).unwrap());
        assert!(begun.elapsed() >= Duration::from_millis(20));
        vmrun_proto::write_frame(&theirs, &MonitorMessage::Booted).unwrap();
        assert!(channel.has_more_by(Instant::now() + Duration::from_secs(60)).unwrap());
    }
}
