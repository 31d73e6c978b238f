//! Messages on the monitor's control socket. One request a connection, one
//! reply, in the frames of the guest protocol.

use serde::{Deserialize, Serialize};

/// What a verb asks of the monitor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ControlRequest {
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

/// The monitor's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ControlReply {
    /// Done.
    Ok,
    /// Not done.
    Failed(super::FailureReport),
}
