//! The event loop and everything it knows.
//!
//! * `poller`: epoll,
//! * `requests`: what the host asks,
//! * `process`, `lifecycle`: processes from the order to the exit,
//! * `notify`: what programs say of themselves,
//! * `ending`: the last of all,
//! * `write_back`: what programs have written goes to the host,
//! * `name_servers`: the host answers what containers ask for,
//! * `host_sockets`: and connects where they do,
//! * `streams`: stdio connections and their relays,
//! * `reaper`: children that have ended.

mod ending;
mod host_sockets;
mod lifecycle;
mod name_servers;
mod names;
mod notify;
mod poller;
mod process;
mod reaper;
mod requests;
mod streams;
mod write_back;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::time::{ClockId, clock_gettime};
use vmrun_proto::{
    Envelope, ErrorReply, Event, ExitStatus, Hello, Message, ProcessRef, Reply, Share, Stream, VERSION,
};

use self::poller::{Poller, Token};
use self::process::{ContainerEntry, ManagedProcess};
use self::streams::AttachedStream;
use crate::connection::{Connection, ConnectionError, Role};
use crate::container::Cgroup;
use crate::{log, sys};

/// Why the agent cannot serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    #[error("cannot set up the event loop: {0}")]
    SetUp(Errno),
    #[error("cannot wait for events: {0}")]
    Wait(Errno),
}

/// Whom to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReplyTo {
    pub(crate) connection: u64,
    seq: u64,
}

/// The agent.
#[derive(Debug)]
pub(crate) struct Server {
    poller: Poller,
    signals: SignalFd,
    listener: OwnedFd,
    /// Whether the listener is watched: not while there are no descriptors for more.
    listening: bool,
    /// Ids of connections, processes and streams; never used twice.
    last_id: u64,
    connections: BTreeMap<u64, Connection>,
    /// Events that no control connection was there to take.
    undelivered: Vec<Message>,
    containers: BTreeMap<String, ContainerEntry>,
    processes: BTreeMap<u64, ManagedProcess>,
    /// Connections of streams whose process is not there yet.
    waiting_streams: HashMap<Stream, (OwnedFd, Vec<u8>)>,
    streams: BTreeMap<u64, AttachedStream>,
    /// Streams that have more to do without waiting for an event.
    busy_streams: BTreeSet<u64>,
    /// Children that ended while the maker that knows them had not reported yet.
    unclaimed_exits: HashMap<i32, ExitStatus>,
    /// Cgroups to remove as soon as the last process in them is reaped.
    dying_cgroups: Vec<Cgroup>,
    /// What is mounted, by mount point.
    shares: BTreeMap<String, Share>,
    /// Who waits until everything is written back.
    syncing: Option<ReplyTo>,
}

impl Server {
    /// An agent that is reached over `listener` and over the connection `control`.
    pub(crate) fn new(listener: OwnedFd, control: OwnedFd) -> Result<Self, ServerError> {
        let mut children = SigSet::empty();
        children.add(Signal::SIGCHLD);
        children.thread_block().map_err(ServerError::SetUp)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&children, flags).map_err(ServerError::SetUp)?;
        let poller = Poller::new().map_err(ServerError::SetUp)?;
        poller.watch_input(&signals, Token::Signals).map_err(ServerError::SetUp)?;
        poller.watch_input(&listener, Token::Listener).map_err(ServerError::SetUp)?;
        let mut server = Self {
            poller,
            signals,
            listener,
            listening: true,
            last_id: 0,
            connections: BTreeMap::new(),
            undelivered: Vec::new(),
            containers: BTreeMap::new(),
            processes: BTreeMap::new(),
            waiting_streams: HashMap::new(),
            streams: BTreeMap::new(),
            busy_streams: BTreeSet::new(),
            unclaimed_exits: HashMap::new(),
            dying_cgroups: Vec::new(),
            shares: BTreeMap::new(),
            syncing: None,
        };
        server.add_connection(control, Role::Control).map_err(ServerError::SetUp)?;
        Ok(server)
    }

    /// Says that the agent is ready and serves for ever.
    pub(crate) fn run(mut self) -> Result<Infallible, ServerError> {
        self.tell(Event::Ready { version: VERSION, boot_ns: nanoseconds_since_boot() });
        loop {
            let is_busy = !self.busy_streams.is_empty() || self.has_busy_sockets();
            let deadline = if is_busy { Some(Instant::now()) } else { self.next_deadline() };
            for event in self.poller.wait(deadline).map_err(ServerError::Wait)? {
                self.dispatch(event);
            }
            self.advance_busy_streams();
            self.advance_busy_sockets();
            self.expire_deadlines();
            if !self.listening {
                self.accept();
            }
        }
    }

    fn dispatch(&mut self, event: poller::Event) {
        match event.token {
            Token::Signals => self.children_ended(),
            Token::Listener => self.accept(),
            Token::Connection(id) => self.connection_ready(id),
            Token::Report(id) => self.report_ready(id),
            Token::Notify(id) => self.notified(id),
            Token::MemoryEvents(id) => self.memory_events(id),
            Token::Names(id) => self.names_ready(id),
            Token::Sockets(id) => self.sockets_ready(id),
            Token::StreamConnection(id) | Token::StreamGuest(id) => self.stream_ready(id, event),
        }
    }

    fn is_connected(&self, id: u64) -> bool {
        self.connections.contains_key(&id)
    }

    fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn accept(&mut self) {
        loop {
            let socket = match sys::accept(self.listener.as_fd()) {
                Ok(Some(socket)) => socket,
                Ok(None) => return self.listen_again(),
                Err(error) => return self.stop_listening(&error),
            };
            if let Err(error) = self.add_connection(socket, Role::Unknown) {
                log::warn(format_args!("cannot watch a connection of the host: {error}"));
            }
        }
    }

    /// A connection that cannot be accepted would wake the loop again and again. It waits
    /// until something else has happened, which may have freed a descriptor.
    fn stop_listening(&mut self, cause: &std::io::Error) {
        if self.listening {
            log::warn(format_args!("cannot accept a connection of the host: {cause}"));
            self.listening = self.poller.forget(&self.listener).is_err();
        }
    }

    fn listen_again(&mut self) {
        if !self.listening {
            self.listening = self.poller.watch_input(&self.listener, Token::Listener).is_ok();
        }
    }

    fn add_connection(&mut self, socket: OwnedFd, role: Role) -> Result<(), Errno> {
        let id = self.new_id();
        self.poller.watch_changes(&socket, Token::Connection(id))?;
        self.connections.insert(id, Connection::new(socket, role));
        Ok(())
    }

    fn connection_ready(&mut self, id: u64) {
        let Err(error) = self.serve_connection(id) else { return };
        if self.connections.remove(&id).is_none() {
            return;
        }
        if !matches!(error, ConnectionError::Closed) {
            log::warn(format_args!("a connection of the host ends: {error}"));
        }
        self.kill_execs_of(id);
    }

    /// Reads and handles everything that has come.
    fn serve_connection(&mut self, id: u64) -> Result<(), ConnectionError> {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.flush()?;
        }
        // A request can end its own connection, and a hello turns it into a stream.
        while let Some(connection) = self.connections.get_mut(&id) {
            if connection.role == Role::Unknown {
                match connection.next_message()? {
                    Some(Hello::Control { version }) => {
                        log::info(format_args!(
                            "the host (contract version {version}) has opened a control connection"
                        ));
                        connection.role = Role::Control;
                        self.deliver_kept_events();
                        continue;
                    }
                    Some(Hello::Stream(stream)) => {
                        self.become_stream(id, stream);
                        return Ok(());
                    }
                    Some(Hello::Names { container }) => {
                        self.become_names(id, &container);
                        return Ok(());
                    }
                    Some(Hello::Sockets { container }) => {
                        self.become_sockets(id, &container);
                        return Ok(());
                    }
                    Some(Hello::Socket { container, id: call }) => {
                        self.become_socket(id, &container, call);
                        return Ok(());
                    }
                    None => {}
                }
            } else if let Some(envelope) = connection.next_message::<Envelope>()? {
                let reply_to = ReplyTo { connection: id, seq: envelope.seq };
                self.handle(envelope.request, reply_to);
                continue;
            }
            if !connection.receive()? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A connection that will be watched by others.
    fn take_connection(&mut self, id: u64) -> Option<Connection> {
        let connection = self.connections.remove(&id)?;
        if let Err(error) = self.poller.forget(connection.descriptor()) {
            log::warn(format_args!("cannot move a connection of the host: {error}"));
        }
        Some(connection)
    }

    fn become_stream(&mut self, id: u64, stream: Stream) {
        let Some(connection) = self.take_connection(id) else { return };
        let (socket, first) = connection.into_stream();
        self.stream_connected(stream, socket, first);
    }

    fn reply(&mut self, to: ReplyTo, reply: Reply) {
        if let Reply::Error(error) = &reply {
            log::warn(format_args!("request {} failed: {}", to.seq, error.message));
        }
        self.send(to.connection, &Message::Reply { seq: to.seq, reply });
    }

    fn reply_error(&mut self, to: ReplyTo, error: ErrorReply) {
        self.reply(to, Reply::Error(error));
    }

    fn send(&mut self, id: u64, message: &Message) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if let Err(error) = connection.send(message) {
            log::warn(format_args!("a control connection ends: {error}"));
            self.connections.remove(&id);
            self.kill_execs_of(id);
        }
    }

    /// Sends an event to every control connection, or keeps it for the next one.
    fn tell(&mut self, event: Event) {
        let message = Message::Event(event);
        let control: Vec<u64> = self.control_connections();
        if control.is_empty() {
            self.undelivered.push(message);
            return;
        }
        for id in control {
            self.send(id, &message);
        }
    }

    fn deliver_kept_events(&mut self) {
        let kept = std::mem::take(&mut self.undelivered);
        for id in self.control_connections() {
            for message in &kept {
                self.send(id, message);
            }
        }
    }

    fn control_connections(&self) -> Vec<u64> {
        let control = self.connections.iter().filter(|(_, connection)| connection.role == Role::Control);
        control.map(|(id, _)| *id).collect()
    }

    fn process_id(&self, reference: &ProcessRef) -> Option<u64> {
        let mut found = self.processes.iter().filter(|(_, process)| process.reference == *reference);
        found.next().map(|(id, _)| *id)
    }
}

fn nanoseconds_since_boot() -> u64 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_BOOTTIME) else { return 0 };
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec()), u64::try_from(now.tv_nsec()));
    seconds.unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(nanoseconds.unwrap_or(0))
}
