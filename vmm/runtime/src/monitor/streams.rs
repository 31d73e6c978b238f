//! Which of our descriptors meets which stream of the guest's.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use vmrun_proto::{ProcessIo, ProcessRef, Stream, StreamKind};

use super::ConsoleMode;
use super::failure::MonitorError;
use crate::agent_client::{AgentError, Watch, open_streams};
use crate::fds;
use crate::stdio::{self, Home, Relays};

/// The host's ends of the container's standard streams. The relays take them, so
/// that closing one in the container closes it for whoever is at the other end.
#[derive(Debug)]
pub(crate) struct Stdio {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// The host's side of the container's streams.
#[derive(Debug)]
pub(crate) struct HostStreams {
    stdio: Stdio,
    /// The terminal whose size the container's follows.
    terminal: Option<OwnedFd>,
}

impl HostStreams {
    /// Takes the inherited descriptors, or makes the terminal that the engine asked for.
    /// Standard error stays ours as well where errors are still to be told.
    pub(crate) fn open(
        io: &ProcessIo,
        console: &ConsoleMode,
        stderr_too: bool,
    ) -> Result<Self, MonitorError> {
        match console {
            ConsoleMode::Socket(socket) => {
                let slave = stdio::open_console(socket, io.console_size)?;
                let copy = || slave.try_clone().map_err(failed("copy the terminal's descriptor"));
                let stdio = Stdio { stdin: copy()?, stdout: copy()?, stderr: copy()? };
                let streams = Self { stdio, terminal: Some(copy()?) };
                fds::release_standard_streams(stderr_too).map_err(failed("release the standard streams"))?;
                Ok(streams)
            }
            ConsoleMode::Inherited => {
                let copy =
                    |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().map_err(failed("copy a standard stream"));
                let terminal = if io.terminal { Some(copy(&io::stdin())?) } else { None };
                let stdio = Stdio {
                    stdin: copy(&io::stdin())?,
                    stdout: copy(&io::stdout())?,
                    stderr: copy(&io::stderr())?,
                };
                let streams = Self { stdio, terminal };
                fds::release_standard_streams(stderr_too).map_err(failed("release the standard streams"))?;
                Ok(streams)
            }
        }
    }

    /// What the relays copy, and the terminal whose size is followed.
    pub(crate) fn split(self) -> (Stdio, Option<OwnedFd>) {
        (self.stdio, self.terminal)
    }
}

fn failed(act: &'static str) -> impl Fn(io::Error) -> MonitorError {
    move |source| MonitorError::Io { act, source }
}

/// The streams that a process with this stdio has.
fn kinds(io: ProcessIo) -> Vec<StreamKind> {
    if io.terminal {
        return vec![StreamKind::Terminal];
    }
    let all =
        [(io.stdin, StreamKind::Stdin), (io.stdout, StreamKind::Stdout), (io.stderr, StreamKind::Stderr)];
    all.into_iter().filter_map(|(wanted, kind)| wanted.then_some(kind)).collect()
}

/// Connects the guest's streams and starts copying.
pub(crate) fn connect(
    socket: &Path,
    process: &ProcessRef,
    io: ProcessIo,
    host: Stdio,
    home: Home,
    watch: Watch<'_>,
) -> Result<Relays, ConnectError> {
    let kinds = kinds(io);
    let streams: Vec<_> = kinds.iter().map(|kind| Stream { process: process.clone(), kind: *kind }).collect();
    let connections = open_streams(socket, &streams, watch)?;
    let mut relays = Relays::new(home);
    let Stdio { stdin, stdout, stderr } = host;
    let (mut stdin, mut stdout, mut stderr) = (Some(stdin), Some(stdout), Some(stderr));
    let once =
        |fd: &mut Option<OwnedFd>| fd.take().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput));
    for (kind, guest) in kinds.into_iter().zip(connections) {
        match kind {
            StreamKind::Stdin => relays.input(kind, once(&mut stdin)?, guest)?,
            StreamKind::Stdout => relays.output(kind, guest, once(&mut stdout)?)?,
            StreamKind::Stderr => relays.output(kind, guest, once(&mut stderr)?)?,
            StreamKind::Terminal => {
                relays.output(kind, guest.try_clone()?, once(&mut stdout)?)?;
                relays.input(kind, once(&mut stdin)?, guest)?;
            }
        }
    }
    Ok(relays)
}

impl ConnectError {
    /// What it means for whoever was at `stage`.
    pub(crate) fn at(self, explain: impl FnOnce(AgentError) -> MonitorError) -> MonitorError {
        match self {
            Self::Agent(error) => explain(error),
            Self::Io(source) => MonitorError::Io { act: "copy the standard streams", source },
        }
    }
}

/// Why the streams could not be connected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error("cannot start copying")]
    Io(#[from] io::Error),
}
