use std::os::unix::net::UnixListener;
use std::thread::{self, JoinHandle};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{Mode, OFlags, open};

use super::*;

/// An exchange at work, with one socket of the host's.
struct Working {
    agent: UnixStream,
    heard: FrameReader,
    _stop: UnixStream,
    thread: JoinHandle<Result<(), FrameError>>,
    /// Nobody listens there any more.
    _directory: tempfile::TempDir,
}

/// An exchange, the agent's side of it, and what stops it.
fn idle(sockets: Vec<OwnedFd>) -> (Exchange, UnixStream, UnixStream) {
    let ((agent, agents), (stop, stopped)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
    // There is no guest.
    let vsock = open("/dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    (Exchange::new("web", agents, stopped, vsock, sockets).unwrap(), agent, stop)
}

impl Working {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let socket = open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let (exchange, agent, stop) = idle(vec![socket]);
        let thread = thread::spawn(|| exchange.work());
        Self { agent, heard: FrameReader::default(), _stop: stop, thread, _directory: directory }
    }

    fn call(&mut self, id: u64, socket: u32) {
        self.agent.write_all(&encode(&SocketCall { id, socket }).unwrap()).unwrap();
    }

    fn next_refusal(&mut self) -> SocketRefusal {
        loop {
            if let Some(refusal) = self.heard.next_frame().unwrap() {
                return refusal;
            }
            let mut bytes = [0; 256];
            let length = self.agent.read(&mut bytes).unwrap();
            assert_ne!(length, 0, "the exchange has ended");
            self.heard.push(&bytes[..length]);
        }
    }
}

#[test]
fn seats_of_pairs_are_told_apart() {
    for (id, side) in [(1, Side::Near), (1, Side::Far), (7, Side::Near)] {
        assert_eq!(pair(seat(id, side)), (id, side));
    }
}

#[test]
fn call_that_nobody_takes_is_refused_as_is_one_to_what_is_not_mounted() {
    let mut working = Working::new();
    for (id, socket) in [(5, 0), (6, 1), (7, u32::MAX)] {
        working.call(id, socket);
        assert_eq!(working.next_refusal(), SocketRefusal { id });
    }
    drop(working.agent);
    assert!(working.thread.join().unwrap().is_ok());
}

#[test]
fn guest_that_takes_no_refusals_is_not_heard_until_it_does() {
    let (mut exchange, mut agent, _stop) = idle(Vec::new());
    agent.set_nonblocking(true).unwrap();
    let calls = encode(&SocketCall { id: 1, socket: 9 }).unwrap().repeat(100);
    let has_more = |exchange: &Exchange| {
        let mut fds = [PollFd::new(exchange.epoll.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() > 0
    };
    // As often as it hears, it is told more.
    let (mut told, mut most) = (0, 0);
    loop {
        told += agent.write(&calls).unwrap_or(0);
        if !has_more(&exchange) {
            break;
        }
        exchange.events().unwrap();
        exchange.flush().unwrap();
        most = most.max(exchange.unsent.len());
        assert!(told < 64 << 20, "it hears without end");
    }
    assert!((MAX_UNSENT_BYTES..2 * MAX_UNSENT_BYTES).contains(&most), "{most} bytes wait for the guest");
    // One who takes them is heard again.
    while agent.read(&mut [0; 4096]).is_ok() {}
    exchange.flush().unwrap();
    assert!(exchange.unsent.len() < MAX_UNSENT_BYTES && has_more(&exchange));
}

#[test]
fn words_that_are_no_call_end_it() {
    let mut working = Working::new();
    working.agent.write_all(&encode(&"call").unwrap()).unwrap();
    assert!(working.thread.join().unwrap().is_err());
}
