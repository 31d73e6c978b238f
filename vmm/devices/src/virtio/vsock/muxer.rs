//! All connections of the device, and whose packet the guest gets next.
//!
//! Three kinds of event arrive: the listening socket has a client, a stream is
//! ready, the guest sent a packet. Each may leave packets that are due; their
//! owners queue up and take turns, a packet each, so that no connection starves.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::ErrorKind;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;
use vmrun_spec::HostPort;

use super::connection::Connection;
use super::handshake::{Handshake, take_line};
use super::header::{Header, TYPE_STREAM, op};
use super::{HOST_CID, MAX_CONNECTIONS, REQUEST_LIMIT};

/// Names a stream towards the event loop. Never reused.
pub(super) type Token = u32;

/// Host ports of connections that the host opens start here, above those that
/// listeners use.
const FIRST_EPHEMERAL_PORT: u32 = 1 << 30;

/// What the event loop shall do with a stream.
#[derive(Debug)]
pub(super) enum Watch {
    /// Watch the stream with this token from now on.
    Add(Token),
    /// Stop watching it: it is about to be closed.
    Remove(UnixStream),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ports {
    host: u32,
    guest: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Turn {
    /// The guest addressed a connection that does not exist.
    Reset(Ports),
    Connection(Token),
}

/// A stream and what is known of it.
#[derive(Debug)]
enum Stream {
    Handshake(UnixStream),
    Connected(Ports, Box<Connection<UnixStream>>),
}

/// Clients on the host that have not been taken from the listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clients {
    /// There are none.
    Taken,
    Wait,
    /// The process, or the host, has no descriptor for the next one.
    Stuck,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Muxer {
    guest_cid: u64,
    listener: Arc<UnixListener>,
    /// Whom the guest reaches, until it has. It outlives a reset, which brings another muxer.
    host_port: Arc<Mutex<Option<HostPort>>>,
    clients: Clients,
    streams: HashMap<Token, Stream>,
    by_ports: HashMap<Ports, Token>,
    turns: VecDeque<Turn>,
    waiting: HashSet<Token>,
    watches: Vec<Watch>,
    /// When the patience with each client's request ends, first things first.
    deadlines: VecDeque<(Instant, Token)>,
    next_token: Token,
    next_port: u32,
}

impl Muxer {
    /// Accepts from `listener`, and connects the guest to `host_port`.
    pub(super) fn new(
        guest_cid: u32,
        listener: Arc<UnixListener>,
        host_port: Arc<Mutex<Option<HostPort>>>,
    ) -> Self {
        Self {
            guest_cid: u64::from(guest_cid),
            listener,
            host_port,
            clients: Clients::Taken,
            streams: HashMap::new(),
            by_ports: HashMap::new(),
            turns: VecDeque::new(),
            waiting: HashSet::new(),
            watches: Vec::new(),
            deadlines: VecDeque::new(),
            next_token: 0,
            next_port: FIRST_EPHEMERAL_PORT,
        }
    }

    /// Whether there is neither a connection nor anything to say.
    pub(super) fn is_idle(&self) -> bool {
        self.streams.is_empty() && self.turns.is_empty() && !self.clients_wait()
    }

    /// The listening socket.
    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// What changed for the event loop since the last call.
    pub(super) fn take_watches(&mut self) -> Vec<Watch> {
        std::mem::take(&mut self.watches)
    }

    /// The stream of `token`.
    pub(super) fn stream(&self, token: Token) -> Option<&UnixStream> {
        match self.streams.get(&token)? {
            Stream::Handshake(stream) => Some(stream),
            Stream::Connected(_, connection) => Some(connection.stream()),
        }
    }

    /// The listening socket has clients, which [`Self::accept`] shall take.
    pub(super) fn clients_arrived(&mut self) {
        if self.clients == Clients::Taken {
            self.clients = Clients::Wait;
        }
    }

    /// There are clients that [`Self::accept`] has not taken.
    pub(super) fn clients_wait(&self) -> bool {
        self.clients != Clients::Taken
    }

    /// Takes the clients that wait, as many as can be. For the others it is as if the guest were slow:
    /// they are tried again at each event.
    pub(super) fn accept(&mut self, now: Instant) {
        while self.clients_wait() {
            match self.listener.accept() {
                Ok((stream, _)) => self.welcome(stream, now),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => self.clients = Clients::Taken,
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ => {
                        self.clients = Clients::Stuck;
                        return;
                    }
                },
            }
        }
    }

    fn welcome(&mut self, stream: UnixStream, now: Instant) {
        if self.streams.len() < MAX_CONNECTIONS && stream.set_nonblocking(true).is_ok() {
            let token = self.add(Stream::Handshake(stream));
            // They come in the order of their ends, since each gets the same time.
            self.deadlines.push_back((now + REQUEST_LIMIT, token));
            self.handshake(token);
        }
    }

    /// When [`Self::expire`] has something to do, if nothing happens until then.
    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        while let Some(&(deadline, token)) = self.deadlines.front() {
            if self.is_pending(token) {
                return Some(deadline);
            }
            self.deadlines.pop_front();
        }
        None
    }

    /// Closes the clients whose request has not been answered in time.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(deadline) = self.next_deadline()
            && deadline <= now
            && let Some((_, token)) = self.deadlines.pop_front()
        {
            self.give_up(token);
        }
    }

    /// Whether the client of this token waits for the guest, or the guest for the client's words.
    fn is_pending(&self, token: Token) -> bool {
        match self.streams.get(&token) {
            Some(Stream::Handshake(_)) => true,
            Some(Stream::Connected(_, connection)) => connection.is_requested(),
            None => false,
        }
    }

    fn give_up(&mut self, token: Token) {
        match self.streams.get_mut(&token) {
            Some(Stream::Handshake(_)) => self.remove(token),
            Some(Stream::Connected(_, connection)) => {
                connection.abandon();
                self.settle(token);
            }
            None => {}
        }
    }

    /// The event loop could not watch this stream: nobody would ever hear of it again.
    pub(super) fn unwatched(&mut self, token: Token) {
        match self.streams.get_mut(&token) {
            Some(Stream::Connected(_, connection)) => {
                connection.reset();
                self.settle(token);
            }
            _ => self.remove(token),
        }
    }

    /// The stream of `token` is ready.
    pub(super) fn host_event(&mut self, token: Token, readable: bool, writable: bool, hangup: bool) {
        match self.streams.get_mut(&token) {
            Some(Stream::Handshake(_)) => self.handshake(token),
            Some(Stream::Connected(_, connection)) => {
                connection.host_event(readable, writable, hangup);
                self.settle(token);
            }
            None => {}
        }
    }

    /// The guest sent a packet.
    pub(super) fn guest_packet(&mut self, header: &Header, data: &[u8]) {
        if header.src_cid != self.guest_cid || header.dst_cid != HOST_CID {
            return; // Nobody else is reachable; there is nobody to answer to either.
        }
        let ports = Ports { host: header.dst_port, guest: header.src_port };
        match self.by_ports.get(&ports).copied() {
            Some(token) if header.op != op::REQUEST && header.type_ == TYPE_STREAM => {
                if let Some(Stream::Connected(_, connection)) = self.streams.get_mut(&token) {
                    connection.guest_packet(header, data);
                    if header.op == op::RESPONSE && !connection.is_draining() {
                        connection.greet(ports.host);
                    }
                }
                self.settle(token);
            }
            None if header.op == op::REQUEST && header.type_ == TYPE_STREAM => {
                match self.take_host_port(ports.host) {
                    Some(stream) => self.connected(ports, Connection::from_guest(stream, header)),
                    None => self.refuse(ports),
                }
            }
            _ if header.op == op::RST => {}
            _ => self.refuse(ports),
        }
    }

    /// The guest sent a header whose data is not there: its connection cannot go on.
    pub(super) fn guest_nonsense(&mut self, header: &Header) {
        let ports = Ports { host: header.dst_port, guest: header.src_port };
        let Some(token) = self.by_ports.get(&ports).copied() else { return };
        if let Some(Stream::Connected(_, connection)) = self.streams.get_mut(&token) {
            connection.reset();
        }
        self.settle(token);
    }

    /// Some packet is due for the guest.
    pub(super) fn has_packet(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Makes the next packet for the guest, with its payload in `room`. Each connection whose turn
    /// it is gets one, so this ends even if one that has nothing after all is due again.
    pub(super) fn next_packet<B: BitmapSlice>(&mut self, room: &VolatileSlice<'_, B>) -> Option<Header> {
        for _ in 0..self.turns.len() {
            let (ports, header) = match self.turns.pop_front()? {
                Turn::Reset(ports) => (ports, Header { op: op::RST, ..Header::default() }),
                Turn::Connection(token) => {
                    self.waiting.remove(&token);
                    let Some(Stream::Connected(ports, connection)) = self.streams.get_mut(&token) else {
                        continue;
                    };
                    let ports = *ports;
                    let header = connection.next_packet(room);
                    self.settle(token);
                    let Some(header) = header else { continue };
                    (ports, header)
                }
            };
            return Some(Header {
                src_cid: HOST_CID,
                dst_cid: self.guest_cid,
                src_port: ports.host,
                dst_port: ports.guest,
                type_: TYPE_STREAM,
                ..header
            });
        }
        None
    }

    fn handshake(&mut self, token: Token) {
        let Some(Stream::Handshake(stream)) = self.streams.get(&token) else { return };
        match take_line(stream) {
            Handshake::Wait => {}
            Handshake::Refuse => self.remove(token),
            Handshake::Connect(guest) => {
                let ports = Ports { host: self.ephemeral_port(guest), guest };
                if let Some(Stream::Handshake(stream)) = self.streams.remove(&token) {
                    let connection = Box::new(Connection::from_host(stream));
                    self.streams.insert(token, Stream::Connected(ports, connection));
                    self.by_ports.insert(ports, token);
                    self.settle(token);
                }
            }
        }
    }

    fn ephemeral_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = self.next_port;
            // u32::MAX is VMADDR_PORT_ANY.
            self.next_port = if host >= u32::MAX - 1 { FIRST_EPHEMERAL_PORT } else { host + 1 };
            // Few ports are taken, one for each connection, so this ends.
            if !self.by_ports.contains_key(&Ports { host, guest }) {
                return host;
            }
        }
    }

    /// The guest's connection to `port` of the host: there is one, for one port.
    fn take_host_port(&self, port: u32) -> Option<UnixStream> {
        let mut offered = self.host_port.lock().unwrap_or_else(PoisonError::into_inner);
        Some(offered.take_if(|offered| offered.port == port)?.stream)
    }

    fn connected(&mut self, ports: Ports, connection: Connection<UnixStream>) {
        let token = self.add(Stream::Connected(ports, Box::new(connection)));
        self.by_ports.insert(ports, token);
        self.settle(token);
    }

    fn add(&mut self, stream: Stream) -> Token {
        let token = self.next_token;
        self.next_token = self.next_token.wrapping_add(1);
        self.streams.insert(token, stream);
        self.watches.push(Watch::Add(token));
        token
    }

    fn refuse(&mut self, ports: Ports) {
        // Each refusal answers one packet of the guest's tx queue; a guest that
        // offers no room for answers loses the oldest ones.
        if self.turns.len() < 2 * MAX_CONNECTIONS {
            self.turns.push_back(Turn::Reset(ports));
        }
    }

    /// After a change: queue the connection up, forget it towards the guest, or close it.
    fn settle(&mut self, token: Token) {
        let Some(Stream::Connected(ports, connection)) = self.streams.get(&token) else { return };
        if connection.is_draining() && self.by_ports.get(ports) == Some(&token) {
            self.by_ports.remove(ports);
        }
        if connection.is_finished() {
            self.remove(token);
        } else if connection.has_packet() && self.waiting.insert(token) {
            self.turns.push_back(Turn::Connection(token));
        }
    }

    fn remove(&mut self, token: Token) {
        if self.waiting.remove(&token) {
            // A guest that takes no packets would otherwise add a turn by each connection it opens.
            self.turns.retain(|turn| *turn != Turn::Connection(token));
        }
        let stream = match self.streams.remove(&token) {
            Some(Stream::Handshake(stream)) => stream,
            Some(Stream::Connected(ports, connection)) => {
                if self.by_ports.get(&ports) == Some(&token) {
                    self.by_ports.remove(&ports);
                }
                connection.into_stream()
            }
            None => return,
        };
        self.watches.push(Watch::Remove(stream));
    }
}

#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(feature = "fuzzing", allow(dead_code, unused_imports))]
#[allow(clippy::unwrap_used, clippy::panic)] // Clippy knows tests by `cfg(test)` alone.
#[path = "muxer_tests.rs"]
mod tests;
#[cfg(feature = "fuzzing")]
pub(crate) use tests::run as fuzz;
