//! The client of the agent in the guest.
//!
//! One thread, no locks: a call writes a request and polls until its reply is
//! there. Every wait has a limit, ends at once when one of the watched
//! descriptors becomes readable (the machine's end, a signal, …), and says
//! what it was waiting for. The guest is not trusted: frames and what is kept
//! of them are capped, an agent that talks all the time puts no limit off, and
//! what is out of order is an error.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};
use vmrun_proto::{
    AGENT_PORT, Envelope, ErrorReply, Event, FrameError, FrameReader, Hello, Message, Reply, Request, Stream,
};

use crate::step;

/// Why the agent did not answer as it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    #[error("timed out after {} s waiting for {what}", .limit.as_secs())]
    TimedOut { what: &'static str, limit: Duration },
    /// A watched descriptor became readable: whoever watches it knows why.
    #[error("interrupted while waiting for {what}")]
    Interrupted { what: &'static str },
    #[error("the agent's connection broke while waiting for {what}")]
    Frame { what: &'static str, source: FrameError },
    #[error("cannot {act}")]
    Io { act: &'static str, source: io::Error },
    #[error("the guest refused a connection to its port {AGENT_PORT}: {answer:?}")]
    Handshake { answer: String },
    #[error("the agent spoke out of turn while waiting for {what}")]
    Unexpected { what: &'static str },
    #[error("the agent sent more events than are kept while waiting for {what}")]
    Flooded { what: &'static str },
    #[error("the agent speaks version {version} of the protocol, this vmrun {}", vmrun_proto::VERSION)]
    Version { version: u32 },
    #[error("{}", .0.message)]
    Refused(ErrorReply),
}

impl AgentError {
    /// Whether nobody is at the other end any more.
    pub(crate) fn is_hang_up(&self) -> bool {
        matches!(self, Self::Frame { source: FrameError::Closed | FrameError::Io(_), .. } | Self::Io { .. })
    }
}

/// How long one kind of wait may last, and what it is called when it fails.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait {
    pub(crate) what: &'static str,
    pub(crate) limit: Duration,
}

/// Descriptors whose readability ends a wait.
pub(crate) type Watch<'w> = &'w [BorrowedFd<'w>];

impl Wait {
    /// Waits until `fd` is readable. Whoever keeps it so gets neither past the deadline nor
    /// past a watched descriptor.
    pub(crate) fn readable(
        self,
        fd: BorrowedFd<'_>,
        deadline: Instant,
        watch: Watch<'_>,
    ) -> Result<(), AgentError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout =
                PollTimeout::try_from(left.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX);
            let mut fds: Vec<_> =
                [fd].iter().chain(watch).map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
            match poll(&mut fds, timeout) {
                Err(nix::errno::Errno::EINTR) => continue,
                Err(errno) => return Err(AgentError::Io { act: "poll", source: errno.into() }),
                Ok(_) => {}
            }
            let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
            if fds.iter().skip(1).any(ready) {
                return Err(AgentError::Interrupted { what: self.what });
            }
            if left.is_zero() {
                return Err(AgentError::TimedOut { what: self.what, limit: self.limit });
            }
            if fds.first().is_some_and(ready) {
                return Ok(());
            }
        }
    }

    pub(crate) fn deadline(self) -> Instant {
        Instant::now() + self.limit
    }
}

/// A control connection to the agent.
#[derive(Debug)]
pub(crate) struct AgentClient {
    stream: UnixStream,
    /// Of the protocol, as the agent speaks it.
    version: u32,
    reader: FrameReader,
    next_seq: u64,
    /// Requests whose reply has not come: each may still come once, wanted or not.
    owed: BTreeSet<u64>,
    events: Kept,
}

/// Events that came while a reply was awaited.
#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Event>,
    bytes: usize,
}

impl Kept {
    /// More than a busy container's processes end during one call.
    const MOST_EVENTS: usize = 4096;
    const MOST_BYTES: usize = 1 << 20;

    fn push(&mut self, event: Event, what: &'static str) -> Result<(), AgentError> {
        let bytes = self.bytes.saturating_add(text_bytes(&event));
        if self.events.len() >= Self::MOST_EVENTS || bytes > Self::MOST_BYTES {
            return Err(AgentError::Flooded { what });
        }
        self.bytes = bytes;
        self.events.push_back(event);
        Ok(())
    }

    fn pop(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        self.bytes = self.bytes.saturating_sub(text_bytes(&event));
        Some(event)
    }
}

/// What an event holds besides its own fixed size.
fn text_bytes(event: &Event) -> usize {
    match event {
        Event::Exited { process, .. } => {
            process.container.capacity() + process.exec.as_ref().map_or(0, String::capacity)
        }
        Event::Notified { process, message } => process.container.capacity() + message.capacity(),
        Event::OutOfMemory { container, .. } => container.capacity(),
        Event::Ready { .. } => 0,
    }
}

/// How long the guest may refuse to take bytes of a request.
const WRITE_LIMIT: Duration = Duration::from_secs(30);

/// How many waits a reply may take that gets on: half an hour where each has a minute.
const MOST_WAITS: u32 = 30;

/// How long the handshake of a connection may take.
const HANDSHAKE: Wait = Wait { what: "the agent to take a connection", limit: Duration::from_secs(30) };

impl AgentClient {
    /// Reads the greeting from the connection that the agent opens when the guest has booted; of `wait`, so much is over.
    pub(crate) fn greeted(
        stream: UnixStream,
        wait: Wait,
        waited: Duration,
        watch: Watch<'_>,
    ) -> Result<Self, AgentError> {
        let mut client = Self::new(stream)?;
        let deadline = Instant::now() + wait.limit.saturating_sub(waited);
        match client.next_message(wait, deadline, watch)? {
            Message::Event(Event::Ready { version, boot_ns }) if version >= 1 => {
                step!(
                    "the agent speaks version {version}, {} ms after its kernel's start",
                    boot_ns / 1_000_000
                );
                client.version = version;
                Ok(client)
            }
            Message::Event(Event::Ready { version, .. }) => Err(AgentError::Version { version }),
            _ => Err(AgentError::Unexpected { what: wait.what }),
        }
    }

    /// Opens a control connection through the vsock device's socket.
    pub(crate) fn connect(socket: &Path, watch: Watch<'_>) -> Result<Self, AgentError> {
        let connection = ask_for_connection(socket)?;
        read_answer(&connection, HANDSHAKE.deadline(), watch)?;
        let hello = Hello::Control { version: vmrun_proto::VERSION };
        vmrun_proto::write_frame(&connection, &hello)
            .map_err(|source| AgentError::Frame { what: HANDSHAKE.what, source })?;
        Self::new(connection)
    }

    pub(crate) fn new(stream: UnixStream) -> Result<Self, AgentError> {
        stream
            .set_write_timeout(Some(WRITE_LIMIT))
            .map_err(|source| AgentError::Io { act: "limit writing to the agent", source })?;
        Ok(Self {
            stream,
            version: vmrun_proto::VERSION,
            reader: FrameReader::default(),
            next_seq: 1,
            owed: BTreeSet::new(),
            events: Kept::default(),
        })
    }

    /// Whether the agent knows what came with this version of the protocol.
    pub(crate) fn speaks(&self, version: u32) -> bool {
        self.version >= version
    }

    /// Sends a request without waiting; the number is for [`AgentClient::reply`].
    pub(crate) fn send(&mut self, request: Request) -> Result<u64, AgentError> {
        let seq = self.next_seq;
        self.next_seq += 1;
        vmrun_proto::write_frame(&self.stream, &Envelope { seq, request })
            .map_err(|source| AgentError::Frame { what: "the agent to take a request", source })?;
        self.owed.insert(seq);
        Ok(seq)
    }

    /// Waits for the reply to the request with this number. Events that come
    /// before it are kept.
    pub(crate) fn reply(&mut self, seq: u64, wait: Wait, watch: Watch<'_>) -> Result<Reply, AgentError> {
        let deadline = wait.deadline();
        loop {
            match self.next_message(wait, deadline, watch)? {
                Message::Reply { seq: of, .. } if !self.owed.remove(&of) => {
                    return Err(AgentError::Unexpected { what: wait.what });
                }
                Message::Reply { seq: of, reply: Reply::Error(error) } if of == seq => {
                    return Err(AgentError::Refused(error));
                }
                Message::Reply { seq: of, reply } if of == seq => return Ok(reply),
                // Of a call that was given up.
                Message::Reply { .. } => {}
                Message::Event(event) => self.events.push(event, wait.what)?,
            }
        }
    }

    /// Waits for the reply for as long as `progress` is another one after each `wait`, [`MOST_WAITS`] times at most: what takes its
    /// time is not lost for that, and who only pretends to get on comes to an end. After the first one `impatient` ends it, too.
    pub(crate) fn reply_during<P: PartialEq>(
        &mut self,
        seq: u64,
        wait: Wait,
        watch: Watch<'_>,
        impatient: BorrowedFd<'_>,
        mut progress: impl FnMut() -> P,
    ) -> Result<Reply, AgentError> {
        let mut before = progress();
        let mut watched = watch.to_vec();
        for waits in 1..=MOST_WAITS {
            match self.reply(seq, wait, &watched) {
                Err(AgentError::TimedOut { what, limit }) => {
                    let now = progress();
                    if now == before || waits == MOST_WAITS {
                        return Err(AgentError::TimedOut { what, limit: limit * waits });
                    }
                    before = now;
                }
                other => return other,
            }
            watched.truncate(watch.len());
            watched.push(impatient);
        }
        Err(AgentError::TimedOut { what: wait.what, limit: wait.limit * MOST_WAITS })
    }

    /// Sends a request and waits for its reply.
    pub(crate) fn call(
        &mut self,
        request: Request,
        wait: Wait,
        watch: Watch<'_>,
    ) -> Result<Reply, AgentError> {
        let seq = self.send(request)?;
        self.reply(seq, wait, watch)
    }

    /// An event that is here already: kept from before, or in the buffer.
    pub(crate) fn kept_event(&mut self) -> Result<Option<Event>, AgentError> {
        let what = "an event";
        if let Some(event) = self.events.pop() {
            return Ok(Some(event));
        }
        loop {
            match self.reader.next_frame().map_err(|source| AgentError::Frame { what, source })? {
                None => return Ok(None),
                Some(Message::Event(event)) => return Ok(Some(event)),
                // Of a call that was given up.
                Some(Message::Reply { seq, .. }) if self.owed.remove(&seq) => {}
                Some(Message::Reply { .. }) => return Err(AgentError::Unexpected { what }),
            }
        }
    }

    /// Takes in what a readable connection has.
    pub(crate) fn receive(&mut self) -> Result<(), AgentError> {
        let what = "the agent's next message";
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(AgentError::Frame { what, source: FrameError::Closed }),
                Ok(count) => {
                    self.reader.push(buffer.get(..count).unwrap_or_default());
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(AgentError::Frame { what, source: error.into() }),
            }
        }
    }

    fn next_message(
        &mut self,
        wait: Wait,
        deadline: Instant,
        watch: Watch<'_>,
    ) -> Result<Message, AgentError> {
        loop {
            let next = self.reader.next_frame();
            if let Some(message) = next.map_err(|source| AgentError::Frame { what: wait.what, source })? {
                return Ok(message);
            }
            wait.readable(self.stream.as_fd(), deadline, watch)?;
            self.receive().map_err(|error| match error {
                AgentError::Frame { source, .. } => AgentError::Frame { what: wait.what, source },
                other => other,
            })?;
        }
    }
}

impl AsFd for AgentClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Opens stream connections: all are asked for before the first answer is
/// awaited, so that several cost one round trip.
pub(crate) fn open_streams(
    socket: &Path,
    streams: &[Stream],
    watch: Watch<'_>,
) -> Result<Vec<OwnedFd>, AgentError> {
    let hellos: Vec<_> = streams.iter().cloned().map(Hello::Stream).collect();
    open_connections(socket, &hellos, watch)
}

/// Opens connections that begin with these words.
pub(crate) fn open_connections(
    socket: &Path,
    hellos: &[Hello],
    watch: Watch<'_>,
) -> Result<Vec<OwnedFd>, AgentError> {
    let mut connections = Vec::with_capacity(hellos.len());
    for _ in hellos {
        connections.push(ask_for_connection(socket)?);
    }
    let deadline = HANDSHAKE.deadline();
    for (connection, hello) in connections.iter().zip(hellos) {
        read_answer(connection, deadline, watch)?;
        vmrun_proto::write_frame(connection, hello)
            .map_err(|source| AgentError::Frame { what: "the agent to take a stream", source })?;
    }
    Ok(connections.into_iter().map(OwnedFd::from).collect())
}

fn ask_for_connection(socket: &Path) -> Result<UnixStream, AgentError> {
    let mut connection = UnixStream::connect(socket)
        .map_err(|source| AgentError::Io { act: "connect to the guest's vsock socket", source })?;
    connection
        .write_all(format!("CONNECT {AGENT_PORT}\n").as_bytes())
        .map_err(|source| AgentError::Io { act: "ask for a connection to the agent", source })?;
    Ok(connection)
}

/// Reads `OK <port>\n` and not one byte more: what follows is the guest's.
fn read_answer(connection: &UnixStream, deadline: Instant, watch: Watch<'_>) -> Result<(), AgentError> {
    /// `OK `, the ten digits of a `u32`, a newline.
    const LONGEST: usize = 14;
    let mut answer = Vec::with_capacity(LONGEST);
    while answer.last() != Some(&b'\n') {
        HANDSHAKE.readable(connection.as_fd(), deadline, watch)?;
        let mut bytes = [0; LONGEST];
        let rest = &mut bytes[answer.len()..];
        let taken = take_of_line(connection, rest)
            .map_err(|source| AgentError::Io { act: "read the answer to CONNECT", source })?;
        if taken == 0 {
            return Err(AgentError::Handshake { answer: String::from_utf8_lossy(&answer).into_owned() });
        }
        answer.extend_from_slice(&rest[..taken]);
    }
    let text = String::from_utf8_lossy(&answer);
    let port = text.strip_prefix("OK ").and_then(|rest| rest.strip_suffix('\n'));
    match port.map(str::parse::<u32>) {
        Some(Ok(_)) => Ok(()),
        _ => Err(AgentError::Handshake { answer: text.into_owned() }),
    }
}

/// Takes what has come of a line, with its end, and has room. None where there is no room or will be nothing.
fn take_of_line(mut connection: &UnixStream, room: &mut [u8]) -> io::Result<usize> {
    let come = recv(connection.as_raw_fd(), room, MsgFlags::MSG_PEEK)?;
    let end = room[..come].iter().position(|byte| *byte == b'\n').map_or(come, |newline| newline + 1);
    connection.read(&mut room[..end])
}

#[cfg(test)]
mod tests;
