//! What the agent knows of containers and processes.
//!
//! ```text
//!   exec:  AwaitingStreams --> Making --> Starting --> Running --> (gone)
//!   init:                      Making --> Created --> Starting --> Running --> Ended
//!                                            \--> StartAwaitsStreams --/
//! ```

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Instant;

use oci_spec::runtime::Process;
use vmrun_proto::{ContainerPlan, ErrorReply, ProcessIo, ProcessRef, StreamKind};

use super::ReplyTo;
use crate::container::{Cgroup, MemoryEvents};
use crate::host_sockets::HostSockets;
use crate::name_service::NameService;
use crate::stdio::{Endpoints, kinds};

/// A container.
#[derive(Debug)]
pub(crate) struct ContainerEntry {
    pub(crate) plan: Box<ContainerPlan>,
    pub(crate) cgroup: Cgroup,
    /// Its init process.
    pub(crate) init: u64,
    /// Who was killed in it for want of memory; none while it is made, or where nobody counts.
    pub(crate) memory: Option<MemoryEvents>,
    /// Who stands for its name servers; none where it has none.
    pub(crate) names: Option<NameService>,
    /// What stands for the host's sockets; none where it has none.
    pub(crate) sockets: Option<HostSockets>,
    /// Who waits for it to be gone.
    pub(crate) removal: Option<ReplyTo>,
}

impl ContainerEntry {
    /// One that is to be made.
    pub(crate) fn new(plan: Box<ContainerPlan>, cgroup: Cgroup, init: u64) -> Self {
        Self { plan, cgroup, init, memory: None, names: None, sockets: None, removal: None }
    }
}

/// What one more process is to be.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) spec: Box<Process>,
    /// A cgroup below the container's.
    pub(crate) cgroup: Option<PathBuf>,
}

/// A process that the host asked for.
#[derive(Debug)]
pub(crate) struct ManagedProcess {
    pub(crate) reference: ProcessRef,
    pub(crate) io: ProcessIo,
    /// Streams that the host has connected.
    pub(crate) connected: HashSet<StreamKind>,
    /// Ends of streams that are not attached yet.
    pub(crate) endpoints: Endpoints,
    /// The process's side of its terminal, until the process has ended: without a user at
    /// that side a terminal is over for good, and a program may close its last descriptor
    /// and open the terminal again.
    pub(crate) terminal: Option<OwnedFd>,
    /// The socket on which its program says how it is, if the host wants to hear it.
    pub(crate) notify: Option<UnixDatagram>,
    /// Its directory under the agent's state.
    pub(crate) directory: PathBuf,
    /// Open until the program runs, or the process cannot be made.
    pub(crate) report: Option<OwnedFd>,
    /// First failure that was reported.
    pub(crate) failure: Option<ErrorReply>,
    pub(crate) pid: Option<i32>,
    pub(crate) state: State,
    /// The connection that asked for it. An exec does not outlive it.
    pub(crate) owner: u64,
}

/// How far a process is.
#[derive(Debug)]
pub(crate) enum State {
    /// An exec whose streams are not all there.
    AwaitingStreams { deadline: Instant, reply: ReplyTo, exec: Exec },
    /// The maker is at work.
    Making { reply: ReplyTo },
    /// An init that waits for its start.
    Created,
    /// An init whose start waits for streams.
    StartAwaitsStreams { deadline: Instant, reply: ReplyTo },
    /// On its way to `execve`.
    Starting { reply: ReplyTo },
    /// The program runs.
    Running,
    /// The program could not be executed; the host knows, and the process is about to end.
    StartFailed,
    /// An init that has ended.
    Ended,
}

impl State {
    /// A name for messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::AwaitingStreams { .. } | Self::Making { .. } => "being made",
            Self::Created => "created",
            Self::StartAwaitsStreams { .. } | Self::Starting { .. } => "being started",
            Self::Running => "running",
            Self::StartFailed | Self::Ended => "stopped",
        }
    }

    /// When it must have its streams.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::AwaitingStreams { deadline, .. } | Self::StartAwaitsStreams { deadline, .. } => {
                Some(*deadline)
            }
            _ => None,
        }
    }
}

impl ManagedProcess {
    pub(crate) fn new(
        reference: ProcessRef,
        io: ProcessIo,
        directory: PathBuf,
        state: State,
        owner: u64,
    ) -> Self {
        Self {
            reference,
            io,
            connected: HashSet::new(),
            endpoints: Endpoints::new(),
            terminal: None,
            notify: None,
            directory,
            report: None,
            failure: None,
            pid: None,
            state,
            owner,
        }
    }

    pub(crate) fn is_init(&self) -> bool {
        self.reference.exec.is_none()
    }

    /// The streams that the host has announced and not connected.
    pub(crate) fn missing_streams(&self) -> Vec<StreamKind> {
        kinds(&self.io).into_iter().filter(|kind| !self.connected.contains(kind)).collect()
    }
}
