//! Messages on the monitor's control socket. One request a connection, one
//! reply, in the frames of the guest protocol.

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};
use vmrun_proto::{ContainerFigures, ProcessInfo};
use vmrun_spec::FailureReport;

use crate::status::{Act, Status};

/// What a verb asks of the monitor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ControlRequest {
    /// Let the created container's program run.
    Start,
    /// Send a signal to the container's init process.
    Signal {
        /// Linux signal number.
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
}

impl ControlRequest {
    /// What it does to the container: whether it may is decided by that.
    pub(crate) fn act(&self) -> Act {
        match self {
            Self::Start => Act::Start,
            Self::Signal { .. } => Act::Signal,
            Self::Pause => Act::Pause,
            Self::Resume => Act::Resume,
            Self::Update(_) => Act::Update,
            Self::Processes | Self::Figures => Act::Look,
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
    Figures(Box<ContainerFigures>),
    /// Not done.
    Failed(FailureReport),
    /// Not done, since the container is in another state by now.
    WrongState(Status),
}
