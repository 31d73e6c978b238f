//! One stdio stream: a connection to the host and an endpoint in the guest.
//!
//! ```text
//!   stdin     host --> connection --> pipe --> process     end of file closes the pipe
//!   output    process --> pipe --> connection --> host     end of file half-closes the connection
//!   terminal  both, on the controlling side
//! ```
//!
//! Descriptors are watched edge-triggered, so [`Relay::advance`] goes on until
//! it would wait, or says that it has [`Progress::More`] to do.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{Shutdown, shutdown};
use nix::unistd::read;
use vmrun_flow::{End, Flow, Pumped};

use super::Endpoint;

/// Buffers that one stream may move before the others have their turn.
const TURNS: usize = 16;

/// What came of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// An event must come first.
    Waiting,
    /// Call again soon.
    More,
    /// The stream is over.
    Over,
}

/// A stream that is attached at both ends.
#[derive(Debug)]
pub(crate) struct Relay {
    connection: OwnedFd,
    guest: OwnedFd,
    /// Host to guest.
    inward: Option<Flow>,
    /// Guest to host.
    outward: Option<Flow>,
    /// The output is complete; the host closes its side next.
    lingers: bool,
}

impl Relay {
    /// Joins the two; `first` is what the host sent right behind its hello.
    pub(crate) fn new(connection: OwnedFd, first: Vec<u8>, endpoint: Endpoint) -> Self {
        let (guest, inward, outward) = match endpoint {
            Endpoint::Stdin(pipe) => (pipe, Some(Flow::new(first)), None),
            Endpoint::Output(pipe) => (pipe, None, Some(Flow::new(Vec::new()))),
            Endpoint::Terminal(side) => (side, Some(Flow::new(first)), Some(Flow::new(Vec::new()))),
        };
        Self { connection, guest, inward, outward, lingers: false }
    }

    /// The descriptors to watch.
    pub(crate) fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.connection.as_fd(), self.guest.as_fd()]
    }

    /// One of the descriptors has failed or was hung up: `fd` is which.
    pub(crate) fn hung_up(&mut self, fd: i32) {
        // The reader of a stdin pipe, or the host of an output stream, is gone.
        if fd == self.guest.as_raw_fd() && self.outward.is_none() {
            self.inward.iter_mut().for_each(Flow::abandon);
        }
        if fd == self.connection.as_raw_fd() && self.inward.is_none() {
            self.outward.iter_mut().for_each(Flow::abandon);
        }
    }

    /// Moves what can be moved now.
    pub(crate) fn advance(&mut self) -> Progress {
        if self.lingers {
            return self.await_close();
        }
        let inward =
            self.inward.as_mut().map(|flow| flow.pump(self.connection.as_fd(), self.guest.as_fd(), TURNS));
        let outward =
            self.outward.as_mut().map(|flow| flow.pump(self.guest.as_fd(), self.connection.as_fd(), TURNS));
        match (inward, outward) {
            // The program has closed its end, or all of its input has been written.
            (Some(Pumped::Over(_)), None) => Progress::Over,
            (_, Some(Pumped::Over(End::Complete))) => self.finish_output(),
            // The host does not want the rest: closing the guest's end tells the program.
            (_, Some(Pumped::Over(End::SinkGone))) => Progress::Over,
            (Some(Pumped::More), _) | (_, Some(Pumped::More)) => Progress::More,
            _ => Progress::Waiting,
        }
    }

    /// Half-closes the connection and waits for the host to close its side: a
    /// close with input unread would reset the connection and lose output.
    fn finish_output(&mut self) -> Progress {
        if shutdown(self.connection.as_raw_fd(), Shutdown::Write).is_err() {
            return Progress::Over;
        }
        self.lingers = true;
        self.await_close()
    }

    fn await_close(&mut self) -> Progress {
        let mut discarded = [0; 4096];
        loop {
            match read(&self.connection, &mut discarded) {
                Ok(0) => return Progress::Over,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Progress::Waiting,
                Err(_) => return Progress::Over,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn read_available(from: &mut UnixStream) -> Vec<u8> {
        let mut bytes = vec![0; 100];
        let length = from.read(&mut bytes).unwrap_or(0);
        bytes.truncate(length);
        bytes
    }

    #[test]
    fn terminal_that_is_held_outlives_its_users_and_ends_complete_when_let_go() {
        let terminal = nix::pty::openpty(None, None).unwrap();
        let (source, slave) = (terminal.master, terminal.slave);
        crate::stdio::set_nonblocking(&source).unwrap();
        let peer = || crate::sys::terminal_peer(source.as_fd()).unwrap();
        let (sink, mut consumer) = UnixStream::pair().unwrap();
        let held = peer();
        let mut flow = Flow::new(Vec::new());
        let mut says = |user: std::os::fd::OwnedFd, text: &[u8]| {
            nix::unistd::write(&user, text).unwrap();
            drop(user);
            flow.pump(source.as_fd(), sink.as_fd(), 8)
        };
        assert_eq!(says(slave, b"first "), Pumped::Waiting);
        assert_eq!(says(peer(), b"again "), Pumped::Waiting);
        assert_eq!(says(held, b"last"), Pumped::Over(End::Complete));
        assert_eq!(read_available(&mut consumer), b"first again last");
    }
}
