//! Takes the agent's calls, connects for them, and carries what is said on each connection.
//!
//! The guest is not trusted. What it can have here is bounded: connections, calls that wait, refusals that it does not take.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use vmrun_flow::{Pair, Pairs, Side, WATCHED};
use vmrun_proto::{
    FrameError, FrameReader, Hello, MAX_SOCKET_CONNECTIONS, SocketCall, SocketRefusal, encode,
};

use super::source::{Attempt, attempt, name_of};
use crate::agent_client::open_connections;
use crate::step;

/// Refusals that wait for the guest; while there are more it is not heard.
const MAX_UNSENT_BYTES: usize = 64 << 10;

const READ_BYTES: usize = 4 << 10;

/// Events that are taken at once.
const BATCH: usize = 64;

/// Between two attempts: nothing tells when a queue has room again.
const RETRY: Duration = Duration::from_millis(10);

const STOP: u64 = 0;
const AGENT: u64 = 1;
/// Of the first connection.
const FIRST_PAIR: u64 = 2;

/// The thread's own.
#[derive(Debug)]
pub(super) struct Exchange {
    container: String,
    /// None when it has closed its side.
    agent: Option<UnixStream>,
    stopped: UnixStream,
    /// The machine's socket, by which connections to the guest are made.
    vsock: OwnedFd,
    sockets: Vec<OwnedFd>,
    epoll: Epoll,
    reader: FrameReader,
    unsent: Vec<u8>,
    /// Calls to those who have no room in their queues.
    queue: VecDeque<SocketCall>,
    /// When those were tried last.
    tried: Instant,
    /// The guest's end is the far one.
    pairs: Pairs,
    last_pair: u64,
}

/// Whether to go on.
enum Then {
    GoOn,
    End,
}

impl Exchange {
    /// Connects to `sockets` for those who call over `agent`, until that has ended or `stopped` has; to the guest by
    /// `vsock`, a descriptor that only names the machine's socket.
    pub(super) fn new(
        container: &str,
        agent: UnixStream,
        stopped: UnixStream,
        vsock: OwnedFd,
        sockets: Vec<OwnedFd>,
    ) -> io::Result<Self> {
        agent.set_nonblocking(true)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&stopped, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        epoll.add(&agent, EpollEvent::new(EpollFlags::EPOLLIN, AGENT))?;
        Ok(Self {
            container: container.to_owned(),
            agent: Some(agent),
            stopped,
            vsock,
            sockets,
            epoll,
            reader: FrameReader::default(),
            unsent: Vec::new(),
            queue: VecDeque::new(),
            tried: Instant::now(),
            pairs: Pairs::default(),
            last_pair: 0,
        })
    }

    /// Until nothing is left to carry for an agent that has ended, or it is told to stop.
    pub(super) fn work(mut self) -> Result<(), FrameError> {
        loop {
            if let Then::End = self.events()? {
                return Ok(());
            }
            self.try_again()?;
            self.pairs.advance();
            self.flush()?;
            if self.agent.is_none() && self.pairs.is_empty() {
                return Ok(());
            }
        }
    }

    fn patience(&self) -> EpollTimeout {
        match (self.pairs.is_busy(), self.queue.is_empty()) {
            (true, _) => EpollTimeout::ZERO,
            (false, false) => EpollTimeout::try_from(RETRY).unwrap_or(EpollTimeout::ZERO),
            (false, true) => EpollTimeout::NONE,
        }
    }

    fn events(&mut self) -> Result<Then, FrameError> {
        let mut events = [EpollEvent::empty(); BATCH];
        let count = match self.epoll.wait(&mut events, self.patience()) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(io::Error::from(errno).into()),
        };
        for event in events.iter().take(count) {
            match event.data() {
                STOP => return Ok(Then::End),
                AGENT => self.hear()?,
                seat => {
                    let (number, side) = pair(seat - FIRST_PAIR);
                    self.pairs.ready(number, side, event.events());
                }
            }
        }
        Ok(Then::GoOn)
    }

    fn hear(&mut self) -> Result<(), FrameError> {
        let Some(agent) = &mut self.agent else { return Ok(()) };
        let mut bytes = [0; READ_BYTES];
        match agent.read(&mut bytes) {
            Ok(0) => return self.agent_gone(),
            Ok(length) => self.reader.push(bytes.get(..length).unwrap_or_default()),
            Err(error) => return self.failed(error),
        }
        while let Some(call) = self.reader.next_frame::<SocketCall>()? {
            self.take(call)?;
        }
        Ok(())
    }

    fn take(&mut self, call: SocketCall) -> Result<(), FrameError> {
        if self.pairs.len() + self.queue.len() >= MAX_SOCKET_CONNECTIONS {
            return self.refuse(call);
        }
        let number = usize::try_from(call.socket).unwrap_or(usize::MAX);
        let Some(socket) = self.sockets.get(number) else { return self.refuse(call) };
        match attempt(socket) {
            Attempt::Connected(connection) => self.join(call, connection),
            Attempt::Full => {
                self.queue.push_back(call);
                Ok(())
            }
            Attempt::Refused(error) => {
                step!("nobody takes a connection to the mounted socket {number}: {error}");
                self.refuse(call)
            }
        }
    }

    /// Those whose queues were full; who comes first is served first.
    fn try_again(&mut self) -> Result<(), FrameError> {
        if self.queue.is_empty() || self.tried.elapsed() < RETRY {
            return Ok(());
        }
        self.tried = Instant::now();
        let mut full = BTreeSet::new();
        for call in std::mem::take(&mut self.queue) {
            let (socket, waited) = (call.socket, self.queue.len());
            // The first of them stands for all that wait there.
            if full.contains(&socket) {
                self.queue.push_back(call);
                continue;
            }
            self.take(call)?;
            if self.queue.len() > waited {
                full.insert(socket);
            }
        }
        Ok(())
    }

    /// Connects to the agent, and carries from one to the other.
    fn join(&mut self, call: SocketCall, connection: OwnedFd) -> Result<(), FrameError> {
        let hello = Hello::Socket { container: self.container.clone(), id: call.id };
        let opened = open_connections(Path::new(&name_of(&self.vsock)), &[hello], &[self.stopped.as_fd()]);
        let guest = match opened.map(|connections| connections.into_iter().next()) {
            Ok(Some(guest)) => UnixStream::from(guest),
            Ok(None) => return self.refuse(call),
            Err(error) => {
                step!("the agent takes no connection: {}", crate::error::chain(&error));
                return self.refuse(call);
            }
        };
        guest.set_nonblocking(true)?;
        self.last_pair += 1;
        let number = self.last_pair;
        let watch = |side, socket: BorrowedFd<'_>| {
            self.epoll.add(socket, EpollEvent::new(WATCHED, FIRST_PAIR + seat(number, side)))
        };
        Ok(self.pairs.insert(number, Pair::new(connection, guest.into(), Vec::new()), watch)?)
    }

    fn refuse(&mut self, call: SocketCall) -> Result<(), FrameError> {
        self.unsent.extend(encode(&SocketRefusal { id: call.id })?);
        Ok(())
    }

    /// Sends what waits for the agent.
    fn flush(&mut self) -> Result<(), FrameError> {
        while let Some(agent) = self.agent.as_mut().filter(|_| !self.unsent.is_empty()) {
            match agent.write(&self.unsent) {
                Ok(0) => return self.agent_gone(),
                Ok(length) => drop(self.unsent.drain(..length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => self.failed(error)?,
            }
        }
        let Some(agent) = &self.agent else { return Ok(()) };
        let mut interest = EpollFlags::empty();
        interest.set(EpollFlags::EPOLLIN, self.unsent.len() < MAX_UNSENT_BYTES);
        interest.set(EpollFlags::EPOLLOUT, !self.unsent.is_empty());
        Ok(self.epoll.modify(agent, &mut EpollEvent::new(interest, AGENT)).map_err(io::Error::from)?)
    }

    /// The end of an agent is nobody's failure.
    fn failed(&mut self, error: io::Error) -> Result<(), FrameError> {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(()),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => self.agent_gone(),
            _ => Err(error.into()),
        }
    }

    /// Nobody calls any more; what is under way goes on to its end.
    fn agent_gone(&mut self) -> Result<(), FrameError> {
        self.agent = None;
        self.queue.clear();
        self.unsent.clear();
        Ok(())
    }
}

/// What events of a side of a pair are known by.
fn seat(pair: u64, side: Side) -> u64 {
    pair * 2 + u64::from(side == Side::Far)
}

fn pair(seat: u64) -> (u64, Side) {
    (seat / 2, if seat.is_multiple_of(2) { Side::Near } else { Side::Far })
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
