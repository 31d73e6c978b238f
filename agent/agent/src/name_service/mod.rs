//! Name servers at loopback addresses, which the container's configuration names and the host has in the
//! container's network namespace, as Docker's at 127.0.0.11.
//!
//! ```text
//!   program ─▶ 127.0.0.11:53 ─steering─▶ door ─Question─▶ host ─▶ name server
//!           ◀─ packet, client ◀────────────────Answer──────────┘
//! ```
//!
//! It waits for nothing: all its descriptors are behind one, which the agent's loop watches. What is kept
//! is bounded, whatever programs and the host do: whoever asks too much loses its oldest question.

mod askers;
mod client;
mod door;
mod packet;
mod steering;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use vmrun_proto::{Answer, Question, Transport};

use crate::connection::{Connection, ConnectionError};
use crate::{log, network};
use askers::{Asker, Askers};
use client::Client;
use door::Door;
use packet::Replies;

/// Events, and datagrams of one socket, that are taken before others have their turn.
const BATCH: usize = 32;

/// What may wait for a host that does not read.
const MAX_UNSENT_BYTES: usize = 1 << 20;

/// Connections of programs.
const MAX_CLIENTS: usize = 64;

/// A message's header (RFC 1035, §4.1.1): what is shorter asks nothing.
const HEADER_BYTES: usize = 12;

/// What an event belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seat {
    Host,
    Datagrams(usize),
    Listener(usize),
    Client(u64),
}

/// The name servers of one container.
#[derive(Debug)]
pub(crate) struct NameService {
    epoll: Epoll,
    servers: Vec<IpAddr>,
    doors: Vec<Door>,
    replies: Replies,
    /// Leads packets to the doors for as long as it is open.
    _steering: Option<OwnedFd>,
    /// Who knows the answers.
    host: Option<Connection>,
    clients: BTreeMap<u64, Client>,
    last_client: u64,
    askers: Askers,
}

impl NameService {
    /// Begins to serve in the network namespace of the process `init`.
    pub(crate) fn open(init: i32, servers: &[IpAddr]) -> Result<Self, String> {
        let failed = |cause: &dyn std::fmt::Display| {
            let shown: Vec<_> = servers.iter().map(ToString::to_string).collect();
            format!(
                "cannot serve at the name servers' addresses {}: {cause}; \
                 a guest kernel other than vmrun's needs CONFIG_BPF_SYSCALL and CONFIG_INET for it",
                shown.join(", ")
            )
        };
        let opened = network::within(init, |namespace| {
            let doors = servers.iter().filter_map(|server| Door::open(*server).transpose());
            let doors = doors.collect::<Result<Vec<_>, _>>()?;
            let steering = steering::attach(&doors, namespace)?;
            let replies = Replies::open(&doors)?;
            Ok((doors, steering, replies))
        });
        let (doors, steering, replies) =
            opened.and_then(|opened| opened).map_err(|error: std::io::Error| failed(&error))?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|errno| failed(&errno))?;
        for (number, door) in doors.iter().enumerate() {
            let watch = |fd: BorrowedFd<'_>, seat: Seat| {
                epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, seat.encode()))
            };
            watch(door.datagrams(), Seat::Datagrams(number)).map_err(|errno| failed(&errno))?;
            watch(door.listener(), Seat::Listener(number)).map_err(|errno| failed(&errno))?;
        }
        Ok(Self {
            epoll,
            servers: servers.to_vec(),
            doors,
            replies,
            _steering: steering,
            host: None,
            clients: BTreeMap::new(),
            last_client: 0,
            askers: Askers::default(),
        })
    }

    /// Whom it is to stand for.
    pub(crate) fn servers(&self) -> &[IpAddr] {
        &self.servers
    }

    /// From now on this is whom questions go to.
    pub(crate) fn attach(&mut self, host: Connection) {
        let watched = EpollEvent::new(EpollFlags::EPOLLIN, Seat::Host.encode());
        if let Err(errno) = self.epoll.add(host.descriptor(), watched) {
            return log::warn(format_args!("cannot watch the host's answers to names: {errno}"));
        }
        self.host = Some(host);
        // What came along with the first message.
        self.host_ready();
    }

    /// Goes on with the connection of the service that was there before.
    pub(crate) fn succeed(&mut self, mut before: Self) {
        self.askers = before.askers;
        self.askers.clear();
        if let Some(host) = before.host.take()
            && before.epoll.delete(host.descriptor()).is_ok()
        {
            self.attach(host);
        }
    }

    /// Does what there is to do now.
    pub(crate) fn turn(&mut self) {
        let mut events = [EpollEvent::empty(); BATCH];
        // An error is one of a signal's: it is tried again.
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        for event in events.iter().take(count) {
            match Seat::decode(event.data()) {
                Seat::Host => self.host_ready(),
                Seat::Datagrams(door) => self.take_datagrams(door),
                Seat::Listener(door) => self.accept(door),
                Seat::Client(id) => self.client_ready(id, event.events()),
            }
        }
    }

    fn take_datagrams(&mut self, number: usize) {
        for _ in 0..BATCH {
            let Some(door) = self.doors.get(number) else { return };
            let Some((message, from)) = door.receive() else { return };
            // One that cannot be passed on is lost, as datagrams are.
            let _ = self.ask(number, Transport::Udp, message, Asker::Datagram { door: number, from });
        }
    }

    fn accept(&mut self, number: usize) {
        for _ in 0..BATCH {
            let Some(door) = self.doors.get(number) else { return };
            let socket = match door.accept() {
                Ok(Some(socket)) => socket,
                Ok(None) => return,
                Err(error) => {
                    log::warn(format_args!("cannot take a connection to a name server: {error}"));
                    // Its descriptor may be what is missing.
                    self.clients.pop_first();
                    return;
                }
            };
            while self.clients.len() >= MAX_CLIENTS {
                self.clients.pop_first();
            }
            self.last_client += 1;
            let client = Client::new(socket, number);
            let watched = EpollEvent::new(client.interest(), Seat::Client(self.last_client).encode());
            if self.epoll.add(client.descriptor(), watched).is_ok() {
                self.clients.insert(self.last_client, client);
            }
        }
    }

    fn client_ready(&mut self, id: u64, events: EpollFlags) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let broken = events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
        if broken || !client.flush() || (events.contains(EpollFlags::EPOLLIN) && !client.receive()) {
            self.clients.remove(&id);
            return;
        }
        self.advance(id);
    }

    /// Asks what the client has asked, as far as it may at a time.
    fn advance(&mut self, id: u64) {
        while let Some(client) = self.clients.get_mut(&id) {
            let Some(message) = client.next_question() else { break };
            let door = client.door();
            if !self.ask(door, Transport::Tcp, message, Asker::Client(id)) {
                self.clients.remove(&id);
            }
        }
        let Some(client) = self.clients.get(&id) else { return };
        let mut watched = EpollEvent::new(client.interest(), Seat::Client(id).encode());
        if client.is_over() || self.epoll.modify(client.descriptor(), &mut watched).is_err() {
            self.clients.remove(&id);
        }
    }

    /// Whether the question is on its way.
    fn ask(&mut self, door: usize, transport: Transport, message: Vec<u8>, asker: Asker) -> bool {
        let (Some(host), Some(door)) = (&mut self.host, self.doors.get(door)) else { return false };
        if message.len() < HEADER_BYTES || host.unsent_bytes() > MAX_UNSENT_BYTES {
            return false;
        }
        let (id, forgotten) = self.askers.add(asker);
        let sent = host.send(&Question { id, server: door.server(), transport, message });
        if let Some(Asker::Client(client)) = forgotten {
            self.clients.remove(&client);
        }
        match sent {
            Ok(()) => self.watch_host(),
            Err(error) => self.host_gone(&error),
        }
        true
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
            if let Some(answer) = host.next_message::<Answer>()? {
                self.deliver(answer);
            } else if !host.receive()? {
                break;
            }
        }
        Ok(())
    }

    fn deliver(&mut self, answer: Answer) {
        let Some(asker) = self.askers.take(answer.id) else { return };
        match (asker, answer.message) {
            (Asker::Datagram { door, from }, Some(message)) => {
                if let Some(door) = self.doors.get(door) {
                    self.replies.send(door.server(), from, &message);
                }
            }
            // A datagram that is not answered is asked again, or given up.
            (Asker::Datagram { .. }, None) => {}
            (Asker::Client(id), Some(message)) => {
                let taken = self.clients.get_mut(&id).map(|client| client.answer(&message));
                if taken == Some(false) {
                    self.clients.remove(&id);
                }
                self.advance(id);
            }
            (Asker::Client(id), None) => drop(self.clients.remove(&id)),
        }
    }

    fn watch_host(&mut self) {
        let Some(host) = &self.host else { return };
        let mut interest = EpollFlags::EPOLLIN;
        interest.set(EpollFlags::EPOLLOUT, host.unsent_bytes() > 0);
        let mut watched = EpollEvent::new(interest, Seat::Host.encode());
        if let Err(errno) = self.epoll.modify(host.descriptor(), &mut watched) {
            log::warn(format_args!("cannot watch the host's answers to names: {errno}"));
        }
    }

    /// Nobody is left who would answer.
    fn host_gone(&mut self, error: &ConnectionError) {
        if !matches!(error, ConnectionError::Closed) {
            log::warn(format_args!("the host answers no questions for names any more: {error}"));
        }
        self.host = None;
        self.clients.clear();
        self.askers.clear();
    }
}

/// Readable when there is something to do.
impl AsFd for NameService {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

impl Seat {
    const KINDS: u64 = 4;

    fn encode(self) -> u64 {
        let (kind, id) = match self {
            Self::Host => (0, 0),
            Self::Datagrams(door) => (1, u64::try_from(door).unwrap_or(0)),
            Self::Listener(door) => (2, u64::try_from(door).unwrap_or(0)),
            Self::Client(id) => (3, id),
        };
        id * Self::KINDS + kind
    }

    fn decode(data: u64) -> Self {
        let id = data / Self::KINDS;
        // There are few doors.
        let door = usize::try_from(id).unwrap_or(usize::MAX);
        match data % Self::KINDS {
            0 => Self::Host,
            1 => Self::Datagrams(door),
            2 => Self::Listener(door),
            _ => Self::Client(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_survive_the_kernel() {
        for seat in [Seat::Host, Seat::Datagrams(0), Seat::Datagrams(2), Seat::Listener(1), Seat::Client(9)] {
            assert_eq!(Seat::decode(seat.encode()), seat);
        }
    }
}
