//! Unix sockets of the host that are mounted into a container: the agent listens in their place, and each connection of a
//! program's is carried to one that the host makes.
//!
//! ```text
//!   program ─connect─▶ door ─SocketCall─▶ host ─connect─▶ who listens there
//!   program ◀── pair ──────── vsock ─────▶ host ◀────────▶
//! ```
//!
//! The host connects, and nobody else: the guest names sockets by their numbers among those that the bundle mounts. While as many
//! connections are there as may be, the doors are not watched, and programs wait in their queues. When the container has ended,
//! what its programs said last still goes out; then the host is told by the end of its connection.

mod door;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use vmrun_flow::{Pair, Pairs, Side, WATCHED};
use vmrun_proto::{HostSocket, MAX_SOCKET_CONNECTIONS, SocketCall, SocketRefusal};

use crate::connection::{Connection, ConnectionError};
use crate::log;
use door::Door;

/// Events that are taken at once.
const BATCH: usize = 32;

/// What an event belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seat {
    Host,
    Door(usize),
    Pair(u64, Side),
}

/// The sockets of one container.
#[derive(Debug)]
pub(crate) struct HostSockets {
    epoll: Epoll,
    doors: Vec<Door>,
    /// Whether the doors are watched.
    listening: bool,
    /// A connection could not be taken, and none has ended since.
    starved: bool,
    /// Who connects.
    host: Option<Connection>,
    /// Connections for which the host is to make one.
    waiting: BTreeMap<u64, OwnedFd>,
    /// Connections that are carried; the host's end is the far one.
    pairs: Pairs,
    last_id: u64,
    /// Nobody is left who would connect.
    ending: bool,
}

/// Where the stand-in for a socket is: its place in `directory`.
pub(crate) fn place(directory: &Path, number: usize) -> PathBuf {
    directory.join(number.to_string())
}

impl HostSockets {
    /// Listens for each of `sockets` in `directory`, which is made. Nobody is answered before the host is there.
    pub(crate) fn open(sockets: &[HostSocket], directory: &Path) -> io::Result<Self> {
        fs::create_dir(directory)?;
        let doors = (0..sockets.len()).map(|number| Door::open(&place(directory, number)));
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            doors: doors.collect::<io::Result<_>>()?,
            listening: false,
            starved: false,
            host: None,
            waiting: BTreeMap::new(),
            pairs: Pairs::default(),
            last_id: 0,
            ending: false,
        })
    }

    /// From now on this is who connects.
    pub(crate) fn attach(&mut self, host: Connection) {
        let watched = EpollEvent::new(EpollFlags::EPOLLIN, Seat::Host.encode());
        if let Err(errno) = self.epoll.add(host.descriptor(), watched) {
            return log::warn(format_args!("cannot watch what the host says of its sockets: {errno}"));
        }
        self.host = Some(host);
        self.listen();
    }

    /// The host has connected for the call `id`: this is its end, with what came behind its hello.
    pub(crate) fn join(&mut self, id: u64, end: OwnedFd, first: Vec<u8>) {
        // Without a program the host finds its connection closed.
        let Some(program) = self.waiting.remove(&id) else { return };
        let watch = |side, socket: BorrowedFd<'_>| {
            self.epoll.add(socket, EpollEvent::new(WATCHED, Seat::Pair(id, side).encode()))
        };
        if let Err(error) = self.pairs.insert(id, Pair::new(program, end, first), watch) {
            log::warn(format_args!("cannot watch a connection to a socket of the host's: {error}"));
        }
        self.settle();
    }

    /// Does what there is to do now.
    pub(crate) fn turn(&mut self) {
        let mut events = [EpollEvent::empty(); BATCH];
        // An error is one of a signal's: it is tried again.
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        for event in events.iter().take(count) {
            match Seat::decode(event.data()) {
                Seat::Host => self.host_ready(),
                Seat::Door(number) => self.accept(number),
                Seat::Pair(id, side) => self.pairs.ready(id, side, event.events()),
            }
        }
        if self.pairs.advance() {
            self.starved = false;
        }
        self.settle();
    }

    /// Whether [`Self::turn`] has something to do though nothing happens.
    pub(crate) fn is_busy(&self) -> bool {
        self.pairs.is_busy()
    }

    /// Nobody is left in the container: whoever has connected by now is served, and nobody else.
    pub(crate) fn end(&mut self) {
        (0..self.doors.len()).for_each(|number| self.accept(number));
        self.doors.clear();
        self.ending = true;
        self.settle();
    }

    fn accept(&mut self, number: usize) {
        while self.has_room() {
            let Some(door) = self.doors.get(number) else { return };
            match door.accept() {
                Ok(Some(program)) => self.call(number, program),
                Ok(None) => return,
                Err(error) => {
                    log::warn(format_args!("cannot take a connection to a socket of the host's: {error}"));
                    return self.starve();
                }
            }
        }
        self.rest();
    }

    /// A descriptor is what is missing: one that is given back may do. Where there is none to be given back, programs
    /// are refused from now on, in place of waiting for ever.
    fn starve(&mut self) {
        if self.pairs.is_empty() && self.waiting.is_empty() {
            self.doors.clear();
        }
        self.starved = true;
        self.rest();
    }

    /// Asks the host to connect.
    fn call(&mut self, number: usize, program: OwnedFd) {
        let (Some(host), Ok(socket)) = (&mut self.host, u32::try_from(number)) else { return };
        self.last_id += 1;
        let call = SocketCall { id: self.last_id, socket };
        match host.send(&call) {
            Ok(()) => {
                self.waiting.insert(self.last_id, program);
                self.watch_host();
            }
            Err(error) => self.host_gone(&error),
        }
    }

    fn has_room(&self) -> bool {
        self.waiting.len() + self.pairs.len() < MAX_SOCKET_CONNECTIONS
    }

    /// Watches the doors.
    fn listen(&mut self) {
        if std::mem::replace(&mut self.listening, true) {
            return;
        }
        for (number, door) in self.doors.iter().enumerate() {
            let watched = EpollEvent::new(EpollFlags::EPOLLIN, Seat::Door(number).encode());
            if let Err(errno) = self.epoll.add(door, watched) {
                log::warn(format_args!("cannot watch the stand-in for a socket of the host's: {errno}"));
            }
        }
    }

    /// Leaves programs in the doors' queues until a connection has ended.
    fn rest(&mut self) {
        if std::mem::replace(&mut self.listening, false) {
            for door in &self.doors {
                // One that could not be watched is not.
                let _ = self.epoll.delete(door);
            }
        }
    }

    /// After connections have come to an end.
    fn settle(&mut self) {
        if self.ending && self.waiting.is_empty() && self.pairs.is_empty() {
            // Its end tells the host that nothing comes any more.
            self.host = None;
        } else if self.host.is_some() && self.has_room() && !self.starved {
            self.listen();
        }
    }

    fn host_ready(&mut self) {
        if let Err(error) = self.hear() {
            self.host_gone(&error);
        }
        self.watch_host();
    }

    fn hear(&mut self) -> Result<(), ConnectionError> {
        while let Some(host) = &mut self.host {
            host.flush()?;
            if let Some(refusal) = host.next_message::<SocketRefusal>()? {
                self.waiting.remove(&refusal.id);
                self.starved = false;
            } else if !host.receive()? {
                break;
            }
        }
        Ok(())
    }

    fn watch_host(&mut self) {
        let Some(host) = &self.host else { return };
        let mut interest = EpollFlags::EPOLLIN;
        interest.set(EpollFlags::EPOLLOUT, host.unsent_bytes() > 0);
        let mut watched = EpollEvent::new(interest, Seat::Host.encode());
        if let Err(errno) = self.epoll.modify(host.descriptor(), &mut watched) {
            log::warn(format_args!("cannot watch what the host says of its sockets: {errno}"));
        }
    }

    /// Nobody is left who would connect: programs are refused.
    fn host_gone(&mut self, error: &ConnectionError) {
        if !matches!(error, ConnectionError::Closed) {
            log::warn(format_args!("the host connects to no sockets any more: {error}"));
        }
        self.host = None;
        self.doors.clear();
        self.waiting.clear();
    }
}

/// Readable when there is something to do.
impl AsFd for HostSockets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

impl Seat {
    const KINDS: u64 = 4;

    fn encode(self) -> u64 {
        let (kind, id) = match self {
            Self::Host => (0, 0),
            Self::Door(number) => (1, u64::try_from(number).unwrap_or(0)),
            Self::Pair(id, Side::Near) => (2, id),
            Self::Pair(id, Side::Far) => (3, id),
        };
        id * Self::KINDS + kind
    }

    fn decode(data: u64) -> Self {
        let id = data / Self::KINDS;
        match data % Self::KINDS {
            0 => Self::Host,
            // There are few doors.
            1 => Self::Door(usize::try_from(id).unwrap_or(usize::MAX)),
            2 => Self::Pair(id, Side::Near),
            _ => Self::Pair(id, Side::Far),
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
