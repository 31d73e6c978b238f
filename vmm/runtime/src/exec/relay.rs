//! The relay: from the request to the process's exit code.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmrun_plan::VSOCK_SOCKET;
use vmrun_proto::{ConsoleSize, Event, ExitStatus, ProcessIo, Request};

use super::{Order, STARTING};
use crate::agent_client::{AgentClient, AgentError, Wait};
use crate::error::Error;
use crate::launch::LaunchError;
use crate::monitor::ConsoleMode;
use crate::monitor::failure::{Broken, MonitorError};
use crate::monitor::streams::{self, HostStreams};
use crate::signals::{self, Signals};
use crate::stdio::{self, Drained, Home, Patience};

const EXEC: Wait = Wait { what: "the agent to start the process", limit: Duration::from_secs(60) };
const SIGNAL: Wait = Wait { what: "the agent to send a signal", limit: Duration::from_secs(10) };
const RESIZE: Wait = Wait { what: "the agent to resize the terminal", limit: Duration::from_secs(10) };

/// Milliseconds that an engine may take to set the terminal's size. Some do it once the process runs, or never.
const SIZE_LIMIT: u8 = 100;

const RUNNING: &str = "running the process";

/// The streams after the process's end. All that the process wrote is on its way by then; what its
/// children write later nobody waits for.
const OUTPUT: Patience =
    Patience { silence: Duration::from_secs(1), total: Duration::from_secs(10), bytes: 64 << 20 };

/// Runs the process to its end; `started` is called once it runs.
pub(super) fn relay(
    order: &Order,
    signals: &Signals,
    started: impl FnOnce() -> Result<(), LaunchError>,
) -> Result<u8, Error> {
    let failed = |error: MonitorError| Error::Reported(Broken::from(error).report());
    let streams = HostStreams::open(&order.io, &order.console, order.detached).map_err(failed)?;
    let (stdio, terminal) = streams.split();
    let io = ProcessIo {
        console_size: order.io.console_size.or_else(|| first_size(order, terminal.as_ref()?, signals)),
        ..order.io
    };
    let directory =
        File::open(&order.directory).map_err(LaunchError::io("open the container's directory"))?;
    // A socket's path has at most 107 bytes, so it goes through the open directory.
    let socket = PathBuf::from(format!("/proc/self/fd/{}/{VSOCK_SOCKET}", directory.as_raw_fd()));
    let watch = [signals.ending()];
    let explain = |error| failed(explain(signals, error));

    let mut agent = AgentClient::connect(&socket, &watch).map_err(explain)?;
    let request = Request::Exec {
        process: order.process.clone(),
        spec: order.spec.clone(),
        io,
        cgroup: order.cgroup.clone(),
    };
    let seq = agent.send(request).map_err(explain)?;
    // While the agent waits for them.
    let connected = streams::connect(&socket, &order.process, io, stdio, Home::Own, &watch);
    agent.reply(seq, EXEC, &watch).map_err(explain)?;
    let mut relays = connected.map_err(|error| failed(error.at(|error| at(STARTING, error))))?;
    started()?;
    let code = Attendance { order, signals, terminal, agent }.until_the_end().map_err(failed)?;
    match relays.drain(OUTPUT) {
        // A child of the process holds the stream; its output goes where the stream goes.
        Drained::Fully | Drained::GaveUp => {}
    }
    Ok(code)
}

/// The size of a terminal of ours, which the engine is about to set: the program begins with it, as
/// it would have if making it took as long as it takes others.
fn first_size(order: &Order, terminal: &OwnedFd, signals: &Signals) -> Option<ConsoleSize> {
    if stdio::size(terminal).is_none() && order.console != ConsoleMode::Inherited {
        // Setting it raises SIGWINCH. Signals are attended to later; this takes none away.
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, SIZE_LIMIT).ok()?;
    }
    stdio::size(terminal)
}

fn at(stage: &'static str, source: AgentError) -> MonitorError {
    MonitorError::Agent { stage, source }
}

/// Says why the start was interrupted.
fn explain(signals: &Signals, error: AgentError) -> MonitorError {
    if matches!(error, AgentError::Interrupted { .. }) {
        while let Ok(Some(arrived)) = signals.next() {
            if signals::ends_a_process(arrived.number) {
                return MonitorError::Signal { stage: STARTING, signal: arrived.number };
            }
        }
    }
    at(STARTING, error)
}

/// The process while it runs.
struct Attendance<'o> {
    order: &'o Order,
    signals: &'o Signals,
    /// The terminal whose size the process's follows.
    terminal: Option<OwnedFd>,
    agent: AgentClient,
}

impl Attendance<'_> {
    fn until_the_end(&mut self) -> Result<u8, MonitorError> {
        loop {
            while let Some(event) = self.agent.kept_event().map_err(|error| at(RUNNING, error))? {
                match event {
                    Event::Exited { process, status } if process == self.order.process => {
                        return Ok(status.code());
                    }
                    Event::Exited { .. }
                    | Event::Notified { .. }
                    | Event::OutOfMemory { .. }
                    | Event::Ready { .. } => {}
                }
            }
            let (agent, signals) = self.poll()?;
            if signals && !self.forward_signals()? {
                return Ok(killed());
            }
            if agent && self.agent.receive().is_err() {
                return Ok(killed());
            }
        }
    }

    fn poll(&self) -> Result<(bool, bool), MonitorError> {
        let mut fds = [self.agent.as_fd(), self.signals.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(MonitorError::Io { act: "poll", source: errno.into() }),
        }
        let [agent, signals] = fds.map(|fd| fd.any().unwrap_or(false));
        Ok((agent, signals))
    }

    /// False when the guest is gone.
    fn forward_signals(&mut self) -> Result<bool, MonitorError> {
        let failed = |source| MonitorError::Io { act: "read a signal", source };
        while let Some(arrived) = self.signals.next().map_err(failed)? {
            let process = self.order.process.clone();
            let size =
                self.terminal.as_ref().filter(|_| arrived.number == libc::SIGWINCH).and_then(stdio::size);
            let done = match size {
                Some(size) => self.agent.call(Request::Resize { process, size }, RESIZE, &[]),
                None if signals::is_forwarded(arrived.number) => {
                    let signal = arrived.number;
                    self.agent.call(Request::Signal { process, signal, all: false }, SIGNAL, &[])
                }
                None => continue,
            };
            // A refusal: the process has just ended. A timeout: the guest is busy or held.
            if !matches!(done, Ok(_) | Err(AgentError::Refused(_) | AgentError::TimedOut { .. })) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The container has ended, and with it each of its processes.
fn killed() -> u8 {
    ExitStatus::Signal(libc::SIGKILL).code()
}
