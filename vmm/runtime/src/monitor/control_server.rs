//! The monitor's control socket.

use std::cell::Cell;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use vmrun_proto::FrameError;

use crate::control::{ControlReply, ControlRequest, Greeting, Opening};
use crate::status::Status;
use crate::step;
use crate::store::CONTROL_SOCKET;

/// How long a verb may take to say what it wants; only the store's owner can connect.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// How long callers are left waiting when there is no descriptor for one: they keep the
/// socket readable, and a descriptor comes free only by what happens elsewhere.
const REST: Duration = Duration::from_millis(100);

/// For the thread that turns callers away: it reads one request at a time.
const STACK_BYTES: usize = 128 << 10;

#[derive(Debug)]
pub(crate) struct ControlServer {
    listener: UnixListener,
    rests_until: Cell<Option<Instant>>,
}

/// A verb that waits for its answer.
#[derive(Debug)]
pub(crate) struct Caller {
    connection: UnixStream,
    /// Whether it has greeted, and is to be greeted before it is told anything.
    waits_for_greeting: Cell<bool>,
}

impl ControlServer {
    /// Listens in the working directory, which is the container's.
    pub(crate) fn bind() -> io::Result<Self> {
        let listener = UnixListener::bind(CONTROL_SOCKET)?;
        listener.set_nonblocking(true)?;
        Ok(Self::on(listener))
    }

    fn on(listener: UnixListener) -> Self {
        Self { listener, rests_until: Cell::new(None) }
    }

    /// For how long nobody is to be accepted.
    pub(crate) fn rest(&self) -> Option<Duration> {
        let left = self.rests_until.get()?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// The next request; `None` when there is none, or its caller broke off.
    pub(crate) fn accept(&self) -> Option<(ControlRequest, Caller)> {
        let connection = match self.listener.accept() {
            Ok((connection, _)) => connection,
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    self.rests_until.set(Some(Instant::now() + REST));
                }
                return None;
            }
        };
        connection.set_nonblocking(false).ok()?;
        connection.set_read_timeout(Some(READ_LIMIT)).ok()?;
        connection.set_write_timeout(Some(READ_LIMIT)).ok()?;
        match vmrun_proto::read_frame(&connection).ok()? {
            Opening::Request(request) => Some((*request, Caller::new(connection, false))),
            Opening::Greeting(verb) => {
                let request = vmrun_proto::read_frame(&connection);
                let caller = Caller::new(connection, true);
                match request {
                    Ok(request) => Some((request, caller)),
                    Err(FrameError::Decode(_)) => {
                        step!("{verb} asks for what is not known here");
                        caller.answer(&ControlReply::Unknown);
                        None
                    }
                    Err(_) => None,
                }
            }
        }
    }

    /// From the program's end to the process's, which may be long: output is waited for that
    /// nobody reads. A thread tells callers that the container has stopped.
    pub(crate) fn turn_away(self) -> io::Result<()> {
        // The thread waits for callers.
        self.listener.set_nonblocking(false)?;
        let thread = thread::Builder::new().name("control-end".to_owned()).stack_size(STACK_BYTES);
        thread.spawn(move || {
            loop {
                if let Some((_, caller)) = self.accept() {
                    caller.answer(&ControlReply::WrongState(Status::Stopped));
                }
                thread::sleep(self.rest().unwrap_or_default());
            }
        })?;
        Ok(())
    }
}

impl Caller {
    fn new(connection: UnixStream, greets: bool) -> Self {
        Self { connection, waits_for_greeting: Cell::new(greets) }
    }

    /// Whether it could be told something before its answer.
    pub(crate) fn tell(&self, reply: &ControlReply) -> bool {
        self.say(reply).is_ok()
    }

    pub(crate) fn answer(self, reply: &ControlReply) {
        // A caller that has gone wants no answer.
        let _ = self.say(reply);
    }

    /// With the first word goes the greeting, so that it is woken once.
    fn say(&self, reply: &ControlReply) -> Result<(), FrameError> {
        let mut words = Vec::new();
        if self.waits_for_greeting.take() {
            words = vmrun_proto::encode(&Greeting::ours())?;
        }
        words.extend(vmrun_proto::encode(reply)?);
        Ok((&self.connection).write_all(&words)?)
    }
}

/// A verb that is told what happens until it goes or the container ends.
#[derive(Debug)]
pub(super) struct Watcher(UnixStream);

impl Caller {
    /// Answers it, and keeps it.
    pub(super) fn watch(self) -> io::Result<Watcher> {
        self.say(&ControlReply::Ok).map_err(io::Error::other)?;
        // One that does not read must not hold the monitor.
        self.connection.set_nonblocking(true)?;
        Ok(Watcher(self.connection))
    }
}

impl Watcher {
    /// Whether it is still there and listens.
    pub(super) fn tell(&self, reply: &ControlReply) -> bool {
        vmrun_proto::write_frame(&self.0, reply).is_ok()
    }
}

impl AsFd for ControlServer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn listener_that_fails_is_left_alone_for_a_moment() {
        let (stream, _other) = UnixStream::pair().unwrap();
        // It was never told to listen.
        let server = ControlServer::on(OwnedFd::from(stream).into());
        assert_eq!(server.rest(), None);
        assert!(server.accept().is_none());
        assert!(server.rest().unwrap() <= REST);
        thread::sleep(REST);
        assert_eq!(server.rest(), None);
    }

    #[test]
    fn callers_after_the_end_are_told_that_it_has_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let ask = || {
            let caller = UnixStream::connect(&path).unwrap();
            vmrun_proto::write_frame(&caller, &ControlRequest::Signal { signal: 15, all: false }).unwrap();
            caller
        };
        // One came before the end.
        let first = ask();
        ControlServer::on(listener).turn_away().unwrap();
        drop(UnixStream::connect(&path).unwrap());
        for caller in [first, ask()] {
            let reply: ControlReply = vmrun_proto::read_frame(&caller).unwrap();
            assert_eq!(reply, ControlReply::WrongState(Status::Stopped));
        }
    }

    #[test]
    fn caller_of_a_newer_vmrun_is_told_that_its_request_is_unknown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let server = ControlServer::on(UnixListener::bind(&path).unwrap());
        let newer = UnixStream::connect(&path).unwrap();
        let greeting = serde_json::json!({ "hello": { "version": 99, "program": "9.9", "more": [1] } });
        vmrun_proto::write_frame(&newer, &greeting).unwrap();
        vmrun_proto::write_frame(&newer, &serde_json::json!({ "shine": { "brightly": true } })).unwrap();
        assert!(server.accept().is_none());
        assert_eq!(vmrun_proto::read_frame::<Greeting>(&newer).unwrap(), Greeting::ours());
        assert_eq!(vmrun_proto::read_frame::<ControlReply>(&newer).unwrap(), ControlReply::Unknown);
        // It knows this one; a verb of before greetings asks next to it.
        let (newer, older) = (UnixStream::connect(&path).unwrap(), UnixStream::connect(&path).unwrap());
        vmrun_proto::write_frame(&newer, &greeting).unwrap();
        for caller in [&newer, &older] {
            vmrun_proto::write_frame(caller, &ControlRequest::Pause).unwrap();
            let (request, caller) = server.accept().unwrap();
            assert_eq!(request, ControlRequest::Pause);
            assert!(caller.tell(&ControlReply::OutOfMemory));
            caller.answer(&ControlReply::Ok);
        }
        assert_eq!(vmrun_proto::read_frame::<Greeting>(&newer).unwrap(), Greeting::ours());
        for caller in [&newer, &older] {
            assert_eq!(vmrun_proto::read_frame::<ControlReply>(caller).unwrap(), ControlReply::OutOfMemory);
            assert_eq!(vmrun_proto::read_frame::<ControlReply>(caller).unwrap(), ControlReply::Ok);
        }
    }

    #[test]
    fn listener_without_callers_needs_no_rest() {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let server = ControlServer::on(listener);
        assert!(server.accept().is_none() && server.rest().is_none());
    }
}
