//! Messages between the launching verb and the monitor that it started, over
//! the socket pair that the monitor inherits.

use serde::{Deserialize, Serialize};

/// What the monitor reports to the verb that started it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MonitorMessage {
    /// The container's namespaces on the host are there for hooks, for which the monitor waits.
    Prepared,
    /// The last of the hooks before the creation have run.
    Hooked,
    /// The guest has booted.
    Booted,
    /// The container exists; its program waits for the start.
    Created,
    /// The program runs.
    Started,
    /// What the program says of itself, for the service manager that the caller named.
    Notified(String),
    /// The program has said that it is ready, to whom the caller wants it said.
    Ready,
    /// It ended with this code; cleaning up is the launcher's now.
    Ended {
        /// The monitor's exit code too.
        code: u8,
        /// What went wrong afterwards and changes nothing about that.
        #[serde(default)]
        warnings: Vec<String>,
    },
    /// The sandbox could not be made, or broke; cleaning up is the launcher's now.
    Failed(FailureReport),
}

/// What the launching verb tells the monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LauncherMessage {
    /// The hooks before the creation that run in the caller's namespaces have run.
    HooksDone,
}

/// A failure, ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailureReport {
    /// One line: object and cause.
    pub message: String,
    /// The exit code that stands for it.
    pub exit_code: u8,
    /// The last lines of the guest's console, where they may explain it.
    #[serde(default)]
    pub console: Vec<String>,
}
