//! Messages of the control connection.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxResources, Process};
use serde::{Deserialize, Serialize};

use crate::figures::{ContainerFigures, ProcessInfo};
use crate::network::Network;
use crate::plan::{ConsoleSize, ContainerPlan, ProcessIo};

/// First frame of a connection that the host opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hello {
    /// Requests and replies follow.
    Control {
        /// The host's [`VERSION`](crate::VERSION).
        version: u32,
    },
    /// The raw bytes of one stdio stream follow.
    Stream(Stream),
    /// The agent's [`Question`](crate::Question)s follow, and the host's [`Answer`](crate::Answer)s.
    Names {
        /// Whose questions.
        container: String,
    },
    /// The agent's [`SocketCall`](crate::SocketCall)s follow, and the host's [`SocketRefusal`](crate::SocketRefusal)s.
    Sockets {
        /// Whose connections.
        container: String,
    },
    /// The raw bytes of a connection follow, both ways.
    Socket {
        /// Whose.
        container: String,
        /// That of its [`SocketCall`](crate::SocketCall).
        id: u64,
    },
}

/// Names one stdio stream of one process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stream {
    /// Whose.
    pub process: ProcessRef,
    /// Which.
    pub kind: StreamKind,
}

/// A process that the host asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessRef {
    /// Container id.
    pub container: String,
    /// Exec id; `None` is the container's init process.
    #[serde(default)]
    pub exec: Option<String>,
}

/// The four kinds of stdio stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamKind {
    /// Host to guest.
    Stdin,
    /// Guest to host.
    Stdout,
    /// Guest to host.
    Stderr,
    /// Both ways: the controlling side of the process's pseudo-terminal.
    Terminal,
}

/// A request with the number that its reply will carry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// Chosen by the host, unique on the connection.
    pub seq: u64,
    /// What is asked.
    pub request: Request,
}

/// What the host asks of the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Make the container; its init process waits for [`Request::Start`]. The
    /// host opens the streams of `plan.io` at once, before or after the reply.
    Create {
        /// Container id.
        container: String,
        /// What to make.
        plan: Box<ContainerPlan>,
    },
    /// Let the container's init process run its program.
    Start {
        /// Container id.
        container: String,
    },
    /// Start one more process in a running container. It is killed when the
    /// connection that this came over is closed.
    Exec {
        /// Container and exec id.
        process: ProcessRef,
        /// The process as the OCI configuration describes one.
        spec: Box<Process>,
        /// Its stdio.
        io: ProcessIo,
        /// A cgroup below the container's, without `..`, that is there and takes it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cgroup: Option<PathBuf>,
    },
    /// Send a signal.
    Signal {
        /// To whom.
        process: ProcessRef,
        /// Linux signal number.
        signal: i32,
        /// To every process of the container.
        #[serde(default)]
        all: bool,
    },
    /// Set the size of a terminal.
    Resize {
        /// Whose.
        process: ProcessRef,
        /// The new size.
        size: ConsoleSize,
    },
    /// Kill what is left of the container and remove it.
    Delete {
        /// Container id.
        container: String,
    },
    /// Stop every process of the container where it is.
    Freeze {
        /// Container id.
        container: String,
    },
    /// Let them go on.
    Thaw {
        /// Container id.
        container: String,
    },
    /// Change the limits of the container's cgroup: those that are given, no others.
    Update {
        /// Container id.
        container: String,
        /// The limits.
        resources: Box<LinuxResources>,
    },
    /// List the container's processes.
    Processes {
        /// Container id.
        container: String,
    },
    /// Tell the container's figures.
    Figures {
        /// Container id.
        container: String,
    },
    /// Change the container's network: that of its plan, or of the call before.
    Network {
        /// Container id.
        container: String,
        /// What it is to be, all of it.
        network: Box<Network>,
    },
    /// The VM is about to end: kill whatever still runs, and then write every dirty page back to the host.
    Sync,
    /// Correct the wall clock, if this is not zero, and tell what it shows: a small difference is made up
    /// in a while, a large one at once.
    Clock {
        /// How far it is behind.
        adjust_ns: i64,
    },
    /// The machine has been restored, maybe not for the first time: become another guest than those, with
    /// other random numbers and at this time. It comes before all others.
    NewGeneration {
        /// Random bytes, at least 32.
        entropy: Vec<u8>,
        /// Since 1970.
        realtime_ns: i64,
    },
    /// The machine has a balloon now, by which the guest's kernel gives back what it has free: have it look for that.
    Balloon {
        /// The name of its platform device.
        device: String,
        /// What the driver of its window is told: size, address, interrupt, number.
        announcement: String,
    },
}

/// What the agent sends on a control connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The answer to a request.
    Reply {
        /// Number of the request.
        seq: u64,
        /// The answer.
        reply: Reply,
    },
    /// Something happened.
    Event(Event),
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done.
    Ok,
    /// Done; the process has this pid in the guest.
    Started {
        /// Pid in the guest's root pid namespace.
        pid: i32,
    },
    /// The processes, in the order of their pids.
    Processes(Vec<ProcessInfo>),
    /// The figures.
    Figures(Box<ContainerFigures>),
    /// Not done.
    Error(ErrorReply),
    /// The wall clock.
    Clock {
        /// Since 1970.
        realtime_ns: i64,
    },
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// What the host's exit code depends on.
    pub kind: ErrorKind,
    /// How far the agent came.
    pub stage: Stage,
    /// One line that names the act, the object and the cause.
    pub message: String,
}

/// Classes of failure that the host tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The program is not in the container's root file system (exit code 127).
    ProgramNotFound,
    /// The program is there and cannot be executed (exit code 126).
    ProgramNotExecutable,
    /// The configuration cannot be honoured.
    InvalidConfig,
    /// No such container or process.
    NotFound,
    /// The container is not in a state that allows it.
    WrongState,
    /// Anything else.
    Failed,
}

/// Stages of making a container in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Reading the request.
    Request,
    /// Mounting the shared trees.
    Shares,
    /// Making the container: namespaces, mounts, cgroup, …
    Create,
    /// Attaching stdio.
    Io,
    /// Executing the program.
    Exec,
    /// After the start.
    Running,
}

/// What happened in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// First message of the boot connection: the agent takes requests.
    Ready {
        /// The agent's [`VERSION`](crate::VERSION).
        version: u32,
        /// Nanoseconds from the guest kernel's start to now (`CLOCK_BOOTTIME`).
        boot_ns: u64,
    },
    /// A process that the host asked for has ended. Its output may still be on
    /// its way: the streams end with end of file.
    Exited {
        /// Which.
        process: ProcessRef,
        /// How.
        status: ExitStatus,
    },
    /// A program has said how it is on the socket that [`ContainerPlan::notify`] asks for. Only the
    /// connection that made the container hears of it.
    Notified {
        /// Which process's socket it was.
        process: ProcessRef,
        /// What it said: lines of `NAME=value` (`sd_notify(3)`).
        message: String,
    },
    /// The kernel has killed processes of a container for want of memory. One that ended the
    /// container is told before its end.
    OutOfMemory {
        /// Whose.
        container: String,
        /// How many since the container was made.
        kills: u64,
    },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It returned or called `exit`.
    Code(u8),
    /// A signal killed it.
    Signal(i32),
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "ended with code {code}"),
            Self::Signal(signal) => write!(f, "was killed by signal {signal}"),
        }
    }
}

impl ExitStatus {
    /// The exit code that stands for this status: the code, or 128 and the signal's number.
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128u8.saturating_add(u8::try_from(signal).unwrap_or(u8::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_status_of_a_signal_is_128_and_its_number() {
        assert_eq!(ExitStatus::Signal(15).code(), 143);
        assert_eq!(ExitStatus::Code(7).code(), 7);
        assert_eq!(ExitStatus::Signal(-1).code(), 255);
    }
}
