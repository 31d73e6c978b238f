//! The monitor's control socket, seen from a verb.

mod greeting;
mod message;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmrun_proto::FrameError;

pub(crate) use self::greeting::{BEFORE_GREETINGS, Greeting, VERSION};
pub(crate) use self::message::{ControlReply, ControlRequest, Opening};
use crate::error::Error;
use crate::process::ProcessHandle;
use crate::status::Status;
use crate::step;
use crate::store::{Entry, State};

/// Why a verb could not talk to the monitor.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("cannot reach the monitor")]
    Connect(#[source] io::Error),
    /// The conversation broke.
    #[error("the monitor broke off")]
    Talk(#[source] FrameError),
    /// It was started by a `vmrun` that did not have this.
    #[error("the monitor, {monitor}, does not know how to {what}")]
    Older {
        /// Who it says it is.
        monitor: String,
        /// What it was asked to do.
        what: &'static str,
    },
    /// It was started by a `vmrun` that has more than this one.
    #[error("the monitor, {monitor}, answers what vmrun {} does not understand", env!("CARGO_PKG_VERSION"))]
    Newer {
        /// Who it says it is.
        monitor: String,
        /// How it is not understood.
        source: FrameError,
    },
    /// There is no conversation.
    #[error("timed out after {} s waiting for the monitor, process {pid}, to {what}", .limit.as_secs())]
    Silent {
        /// Its pid.
        pid: i32,
        /// What it was asked to do.
        what: &'static str,
        /// For how long it was waited.
        limit: Duration,
    },
}

impl ControlError {
    /// Whether nobody is at the other end, or nobody any more.
    pub(crate) fn is_hang_up(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Talk(FrameError::Closed | FrameError::Io(_)) => true,
            Self::Talk(_) | Self::Older { .. } | Self::Newer { .. } | Self::Silent { .. } => false,
        }
    }
}

/// How long a monitor that hangs up may take to end.
const HANG_UP_LIMIT: Duration = Duration::from_secs(5);

/// Sends one request to a container's monitor. One that ends just then has stopped.
pub(crate) fn ask(entry: &Entry, state: &State, request: &ControlRequest) -> Result<ControlReply, Error> {
    match ask_within(request.limit(), entry, state, request) {
        Err(Error::Control(error)) if error.is_hang_up() && ends(state) => {
            Err(Error::WrongState { act: request.act(), status: Status::Stopped })
        }
        answer => answer,
    }
}

/// Its socket closes a moment before the process is gone.
fn ends(state: &State) -> bool {
    match ProcessHandle::open(state.monitor) {
        Ok(Some(monitor)) => monitor.ends_within(HANG_UP_LIMIT).unwrap_or(false),
        gone => gone.is_ok(),
    }
}

/// The same with another limit.
pub(crate) fn ask_within(
    limit: Option<Duration>,
    entry: &Entry,
    state: &State,
    request: &ControlRequest,
) -> Result<ControlReply, Error> {
    converse(limit, entry.directory(), state, request).map(|(reply, _)| reply)
}

/// Waits until the program has said that it is ready, and tells all that it says until then.
pub(crate) fn await_ready(entry: &Entry, state: &State, tell: impl Fn(&str)) -> Result<(), Error> {
    let request = ControlRequest::AwaitReady;
    let (mut reply, connection) = converse(request.limit(), entry.directory(), state, &request)?;
    while let ControlReply::Notified(text) = reply {
        tell(&text);
        reply = vmrun_proto::read_frame(&connection).map_err(ControlError::Talk)?;
    }
    Ok(())
}

/// What a monitor tells unasked.
#[derive(Debug)]
pub(crate) enum Told {
    OutOfMemory,
    Nothing,
    End,
}

/// A monitor that tells what happens.
#[derive(Debug)]
pub(crate) struct Telling(UnixStream);

/// Asks a container's monitor to tell what happens.
pub(crate) fn watch(entry: &Entry, state: &State) -> Result<Telling, Error> {
    let request = ControlRequest::Watch;
    converse(request.limit(), entry.directory(), state, &request).map(|(_, connection)| Telling(connection))
}

impl Telling {
    /// The next word, if it comes in time.
    pub(crate) fn next(&self, limit: Duration) -> Result<Told, ControlError> {
        let limit = PollTimeout::try_from(limit.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], limit) {
            Ok(0) | Err(Errno::EINTR) => return Ok(Told::Nothing),
            Ok(_) => {}
            Err(errno) => return Err(ControlError::Talk(io::Error::from(errno).into())),
        }
        match vmrun_proto::read_frame(&self.0) {
            Ok(ControlReply::OutOfMemory) => Ok(Told::OutOfMemory),
            Ok(_) => Ok(Told::Nothing),
            // It has ended, whichever way.
            Err(FrameError::Closed | FrameError::Io(_)) => Ok(Told::End),
            Err(error) => Err(ControlError::Talk(error)),
        }
    }
}

fn converse(
    limit: Option<Duration>,
    directory: &Path,
    state: &State,
    request: &ControlRequest,
) -> Result<(ControlReply, UnixStream), Error> {
    let failed = |error| match error {
        FrameError::Io(source) if is_timeout(&source) => {
            let limit = limit.unwrap_or_default();
            ControlError::Silent { pid: state.monitor.pid, what: request.what(), limit }
        }
        error => ControlError::Talk(error),
    };
    step!("asking the monitor, process {}, to {}", state.monitor.pid, request.what());
    let connection = connect(directory, &state.control_socket, limit).map_err(ControlError::Connect)?;
    let monitor = if state.control_version == BEFORE_GREETINGS {
        vmrun_proto::write_frame(&connection, request).map_err(failed)?;
        None
    } else {
        greet(&connection, request).map_err(failed)?;
        Some(vmrun_proto::read_frame::<Greeting>(&connection).map_err(failed)?)
    };
    let reply = vmrun_proto::read_frame(&connection).map_err(|error| match (error, &monitor) {
        (source @ FrameError::Decode(_), Some(monitor)) if monitor.is_newer() => {
            ControlError::Newer { monitor: monitor.to_string(), source }
        }
        (error, _) => failed(error),
    })?;
    step!("the monitor answers: {}", ControlReply::name(&reply));
    match (reply, monitor) {
        (ControlReply::Failed(report), _) => Err(Error::Reported(report)),
        (ControlReply::WrongState(status), _) => Err(Error::WrongState { act: request.act(), status }),
        (ControlReply::Unknown, Some(monitor)) => {
            Err(ControlError::Older { monitor: monitor.to_string(), what: request.what() }.into())
        }
        (done, _) => Ok((done, connection)),
    }
}

/// Greets and asks with one word, so that the monitor is woken once.
fn greet(mut connection: &UnixStream, request: &ControlRequest) -> Result<(), FrameError> {
    let greeting = vmrun_proto::encode(&Greeting::ours())?;
    Ok(connection.write_all(&[greeting, vmrun_proto::encode(request)?].concat())?)
}

/// What a read or write says when the socket's time is over.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// A socket's path has at most 107 bytes, so it goes through the open directory.
fn connect(directory: &Path, socket: &str, limit: Option<Duration>) -> io::Result<UnixStream> {
    let directory = File::open(directory)?;
    let path = format!("/proc/self/fd/{}/{socket}", directory.as_raw_fd());
    let connection = UnixStream::connect(path)?;
    connection.set_read_timeout(limit)?;
    connection.set_write_timeout(limit)?;
    Ok(connection)
}
