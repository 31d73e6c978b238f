//! passt, which reaches the caller's network for a sandbox that stands alone.
//!
//! ```text
//!   guest ─virtio-net─▶ device ─frames on a socket─▶ passt ─ordinary sockets─▶ the caller's network
//! ```
//!
//! It has the caller's rights to open sockets, shuts itself off from everything else, and needs none to
//! make interfaces. It is on one socket, of which the machine's device has the other end: whoever of the
//! two goes takes the other one along, however it ends.

mod arguments;
mod ports;

use std::fs::File;
use std::io::{self, Read, Seek};
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl::set_child_subreaper;
use nix::unistd::geteuid;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use vmrun_spec::UserNetwork;

pub(super) use arguments::{Families, GATEWAY_V4, GATEWAY_V6, GUEST_V4, GUEST_V6};

use crate::agent_client::{AgentError, Wait, Watch};
use crate::fds;
use crate::process::{ProcessHandle, ProcessIdentity};
use crate::step;

const PROGRAM: &str = "passt";

/// It says that it is ready by going into the background.
const READY: Wait = Wait { what: "passt to connect the network", limit: Duration::from_secs(30) };

/// How long it may take to see that its socket is closed.
const END_LIMIT: Duration = Duration::from_secs(5);

/// What it says at each start as root, and Debian's about a system logger that it has not.
const NOISE: [&str; 2] = ["Don't run as root", "Failed to send"];

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PasstError {
    #[error("--network user needs the program {PROGRAM}, which is not in PATH")]
    Missing,
    #[error("cannot publish a port: {address} is in use ({protocol})")]
    Taken { address: std::net::SocketAddr, protocol: &'static str },
    #[error("cannot {act}")]
    Io { act: &'static str, source: io::Error },
    #[error("{PROGRAM} cannot connect the network: {said}")]
    Refused { said: String },
    #[error("{PROGRAM}, which connected the guest's network, has ended")]
    Ended,
    #[error(transparent)]
    Wait(#[from] AgentError),
}

impl PasstError {
    fn io<E: Into<io::Error>>(act: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { act, source: source.into() }
    }

    /// What helps.
    pub(crate) fn next_step(&self) -> Option<&'static str> {
        match self {
            Self::Missing => Some("install the package passt, or choose --network none"),
            Self::Refused { said } if said.contains("bind") => Some(
                "a port or address of --publish is in use, not this host's, or below 1024 and not yours: choose another",
            ),
            Self::Taken { .. } => Some("choose another port for --publish, or stop the program that uses it"),
            Self::Ended => Some("see who has killed it; the sandbox was ended, since its network is gone"),
            Self::Refused { .. } | Self::Wait(_) => {
                Some("see whether it starts by hand, or choose --network none")
            }
            Self::Io { .. } => None,
        }
    }
}

/// Runs, and will end with the other end of its socket.
#[derive(Debug)]
pub(crate) struct Passt {
    /// What was started. It ends when it has left the network to a process in the background.
    starter: Option<Child>,
    said: File,
    /// What goes on when that has ended.
    background: Option<ProcessHandle>,
    /// Which of the two IP versions lead somewhere.
    pub(crate) families: Families,
}

/// Starts it where this process is, and leaves the caller's network to it. Gives the socket for frames.
///
/// # Errors
/// It is not installed, or there is no network namespace to be had.
pub(crate) fn start(network: &UserNetwork) -> Result<(Passt, OwnedFd), PasstError> {
    // What goes into the background is this process's child then, and can be waited for.
    set_child_subreaper(true).map_err(PasstError::io("take children of children"))?;
    let (ours, theirs) = UnixStream::pair().map_err(PasstError::io("make a socket pair"))?;
    let said =
        memfd_create(c"passt-errors", MFdFlags::MFD_CLOEXEC).map_err(PasstError::io("make a memory file"))?;
    let said = File::from(said);
    let families =
        Families { v4: leads_out("0.0.0.0:0", "192.0.2.1:9"), v6: leads_out("[::]:0", "[2001:db8::1]:9") };
    if let Some((address, protocol)) = ports::first_taken(&network.ports, families) {
        return Err(PasstError::Taken { address, protocol });
    }
    let socket = fds::pass_on(&theirs).map_err(PasstError::io("pass the socket on"))?;
    let arguments = arguments::arguments(network, families, socket);
    step!("{PROGRAM} {}", arguments.join(" "));
    let copy = said.try_clone().map_err(PasstError::io("copy a memory file"))?;
    let starter = Command::new(PROGRAM)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(copy)
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => PasstError::Missing,
            _ => PasstError::io("start passt")(error),
        })?;
    if geteuid().is_root() {
        // For hooks and engines, which take this process for the container's.
        unshare(CloneFlags::CLONE_NEWNET).map_err(PasstError::io("make a network namespace"))?;
    }
    let passt = Passt { starter: Some(starter), said, background: None, families };
    Ok((passt, ours.into()))
}

/// Whether the caller's network has a route to addresses that are nobody's. Nothing is sent.
fn leads_out(from: &str, to: &str) -> bool {
    UdpSocket::bind(from).and_then(|socket| socket.connect(to)).is_ok()
}

impl Passt {
    /// Waits until the network is connected.
    pub(crate) fn ready(&mut self, watch: Watch<'_>) -> Result<(), PasstError> {
        let Some(mut starter) = self.starter.take() else { return Ok(()) };
        let ended = pidfd_open(Pid::from_child(&starter), PidfdFlags::empty())
            .map_err(PasstError::io("watch passt"))?;
        let waited = READY.readable(ended.as_fd(), READY.deadline(), watch);
        if waited.is_err() {
            // It may have ended just now; reaping it is what matters.
            let _ = starter.kill();
        }
        let status = starter.wait().map_err(PasstError::io("wait for passt"))?;
        waited?;
        if !status.success() {
            return Err(PasstError::Refused { said: self.cause(status) });
        }
        self.background = background().map_err(PasstError::io("look for passt"))?;
        match self.background {
            Some(_) => Ok(()),
            None => Err(PasstError::Refused { said: self.cause(status) }),
        }
    }

    /// Waits for its end, now that the socket is closed; one that stays is killed.
    pub(super) fn end(&self) -> io::Result<()> {
        let Some(process) = &self.background else { return Ok(()) };
        if !process.ends_within(END_LIMIT)? {
            process.kill()?;
            process.ends_within(END_LIMIT)?;
        }
        Ok(())
    }

    /// Its last word.
    fn cause(&mut self, status: ExitStatus) -> String {
        let mut text = String::new();
        let read = self.said.rewind().and_then(|()| (&mut self.said).take(1 << 16).read_to_string(&mut text));
        let mut lines = text.lines().map(str::trim);
        let last = lines.rfind(|line| !line.is_empty() && !NOISE.iter().any(|noise| line.starts_with(noise)));
        match (read, last) {
            (Ok(_), Some(line)) => line.to_owned(),
            _ => format!("it ended with {status}"),
        }
    }
}

/// Readable once it has ended; before it is ready, once somebody speaks out of turn, which nobody does.
impl AsFd for Passt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.background.as_ref().map_or_else(|| self.said.as_fd(), AsFd::as_fd)
    }
}

/// The child that was left to this process.
fn background() -> io::Result<Option<ProcessHandle>> {
    let me = std::process::id();
    let children = std::fs::read_to_string(format!("/proc/{me}/task/{me}/children"))?;
    let named = |pid: &i32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with(PROGRAM))
    };
    let found = children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).find(named);
    found.map_or(Ok(None), |pid| ProcessHandle::open(ProcessIdentity::of(pid)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passt(said: &str) -> Passt {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, said.as_bytes()).unwrap();
        Passt { starter: None, said: file, background: None, families: Families { v4: true, v6: true } }
    }

    #[test]
    fn last_word_is_the_cause_and_noise_is_none() {
        let said = "Don't run as root. Changing to nobody...\nFailed to bind any port for '-t 80:80', exiting\n\
                    Failed to send 50 bytes to syslog\n";
        let cause = passt(said).cause(ExitStatus::default());
        assert_eq!(cause, "Failed to bind any port for '-t 80:80', exiting");
        assert!(PasstError::Refused { said: cause }.next_step().unwrap().contains("--publish"));
        assert!(passt("").cause(ExitStatus::default()).contains("ended with"));
    }
}
