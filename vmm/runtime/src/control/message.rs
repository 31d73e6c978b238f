//! Messages on the monitor's control socket. One request a connection, one
//! reply, in the frames of the guest protocol. A new one raises [`VERSION`](super::VERSION).

use std::path::PathBuf;
use std::time::Duration;

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};
use vmrun_proto::ProcessInfo;
use vmrun_spec::FailureReport;

use super::Greeting;
use crate::figures::Figures;
use crate::status::{Act, Status};

/// What a verb asks of the monitor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ControlRequest {
    /// Let the created container's program run.
    Start,
    /// The same, and from now on tell this socket how the program is. Only of a container whose
    /// state says that it does.
    StartNotifying(PathBuf),
    /// Tell what the program says of itself until it says that it is ready: the asker is the process that
    /// a service manager has started. Likewise.
    AwaitReady,
    /// Send a signal to the container's init process.
    Signal {
        /// Linux signal number, or 0 to see whether that process is alive.
        signal: i32,
        /// To every process of the container.
        all: bool,
    },
    /// Freeze the container and hold the machine's CPUs.
    Pause,
    /// Let both go on.
    Resume,
    /// Change the container's limits.
    Update(Box<LinuxResources>),
    /// List its processes.
    Processes,
    /// Tell its figures.
    Figures,
    /// Tell each time that it runs out of memory, until it ends.
    Watch,
    /// Say when a paused container goes on.
    AwaitResume,
}

impl ControlRequest {
    /// What it does to the container: whether it may is decided by that.
    pub(crate) fn act(&self) -> Act {
        match self {
            Self::Start | Self::StartNotifying(_) => Act::Start,
            Self::Signal { .. } => Act::Signal,
            Self::Pause => Act::Pause,
            Self::Resume => Act::Resume,
            Self::Update(_) => Act::Update,
            Self::Processes | Self::Figures | Self::AwaitReady | Self::AwaitResume | Self::Watch => Act::Look,
        }
    }

    /// What the monitor is waited for to do.
    pub(crate) fn what(&self) -> &'static str {
        match self {
            Self::Start | Self::StartNotifying(_) => "start the program",
            Self::AwaitReady => "hear that the program is ready",
            Self::Signal { .. } => "send the signal",
            Self::Pause => "pause the container",
            Self::Resume => "let the container go on",
            Self::Update(_) => "change the limits",
            Self::Processes => "list the processes",
            Self::Figures => "tell the figures",
            Self::Watch => "tell when memory runs out",
            Self::AwaitResume => "say when the container goes on",
        }
    }

    /// How long it may take for that: longer than its own waits for the guest, so
    /// that it is the monitor who says that the guest does not answer. A pause has no limit, nor
    /// has what the program does.
    pub(crate) fn limit(&self) -> Option<Duration> {
        match self {
            Self::AwaitResume | Self::AwaitReady => None,
            Self::Start | Self::StartNotifying(_) | Self::Pause | Self::Resume => {
                Some(Duration::from_secs(70))
            }
            _ => Some(Duration::from_secs(30)),
        }
    }
}

/// The monitor's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ControlReply {
    /// Done.
    Ok,
    /// The processes.
    Processes(Vec<ProcessInfo>),
    /// The figures.
    Figures(Box<Figures>),
    /// What the program says of itself: only to those who wait until it is ready.
    Notified(String),
    /// Memory has run out: only to those who watch.
    OutOfMemory,
    /// Not done.
    Failed(FailureReport),
    /// Not done, since the container is in another state by now.
    WrongState(Status),
    /// Not done, since this monitor does not know the request: only to those who greet.
    Unknown,
}

impl ControlReply {
    /// What it is, without what it holds.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ok => "done",
            Self::Processes(_) => "the processes",
            Self::Figures(_) => "the figures",
            Self::Notified(_) => "what the program says of itself",
            Self::OutOfMemory => "memory has run out",
            Self::Failed(_) => "it failed",
            Self::WrongState(_) => "the container is in another state",
            Self::Unknown => "it does not know the request",
        }
    }
}

/// The first frame of a verb's.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Opening {
    Greeting(Greeting),
    /// Of a verb that does not greet.
    Request(Box<ControlRequest>),
}
