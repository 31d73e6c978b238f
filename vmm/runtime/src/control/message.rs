//! Messages on the monitor's control socket. One request a connection, one
//! reply, in the frames of the guest protocol.

use serde::{Deserialize, Serialize};
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
}

impl ControlRequest {
    /// What it does to the container: whether it may is decided by that.
    pub(crate) fn act(&self) -> Act {
        match self {
            Self::Start => Act::Start,
            Self::Signal { .. } => Act::Signal,
        }
    }
}

/// The monitor's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ControlReply {
    /// Done.
    Ok,
    /// Not done.
    Failed(FailureReport),
    /// Not done, since the container is in another state by now.
    WrongState(Status),
}
