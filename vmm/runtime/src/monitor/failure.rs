//! What can go wrong in the monitor, and how it is told.

use std::io;
use std::path::PathBuf;

use vmrun_proto::{ErrorKind, ExitStatus, FrameError};
use vmrun_spec::FailureReport;

use super::disks::DiskError;
use super::hook_mounts::HookMountsError;
use super::network::{ConnectError, Lost, NetworkError, PasstError};
use super::tree::TreeError;
use super::view::ViewError;
use crate::agent_client::AgentError;
use crate::error::{ALLOWED_PROCESSORS, chain, general_step, killed_step};
use crate::hooks::HookError;
use crate::host_cgroup::HostCgroupError;
use crate::machine::{End, Named, StartError};
use crate::stdio::ConsoleError;
use crate::store::StoreError;

/// Why the monitor gave up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MonitorError {
    #[error("cannot read the launcher's request")]
    Request(#[source] FrameError),
    #[error("cannot {act}")]
    Io { act: &'static str, source: io::Error },
    #[error("cannot keep the monitor on the processors of linux.resources.cpu.cpus")]
    Processors(#[source] io::Error),
    #[error("process.oomScoreAdj: cannot set it to {score}")]
    OomScore { score: i32, source: io::Error },
    #[error(transparent)]
    Cgroup(#[from] HostCgroupError),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    HookMounts(#[from] HookMountsError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("cannot follow the container's network: {0}")]
    Follow(String),
    #[error(transparent)]
    View(#[from] ViewError),
    #[error(transparent)]
    Machine(#[from] StartError),
    #[error(transparent)]
    Console(#[from] ConsoleError),
    #[error(transparent)]
    Passt(#[from] PasstError),
    #[error(transparent)]
    NetworkLost(#[from] Lost),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{stage}")]
    Agent { stage: &'static str, source: AgentError },
    #[error("{BOOTING} with the boot image {}", .path.display())]
    NotOurAgent { path: PathBuf, source: AgentError },
    #[error("{stage}: the guest kernel panicked")]
    GuestPanicked { stage: &'static str },
    #[error("{stage}: the guest switched itself off")]
    GuestStopped { stage: &'static str },
    #[error("{stage}: a device of the virtual machine failed: {cause}")]
    DeviceFailed { stage: &'static str, cause: String },
    #[error("{stage}: the virtual machine failed: {cause}")]
    MachineFailed { stage: &'static str, cause: String },
    #[error("{stage}: the machine's process was killed by {}", Named(*.signal))]
    MachineKilled { stage: &'static str, signal: i32 },
    #[error("{stage}: interrupted by signal {signal}")]
    Signal { stage: &'static str, signal: i32 },
    #[error("{stage}: the launching command went away")]
    LauncherGone { stage: &'static str },
}

/// The stage from the machine's start to the agent's greeting.
pub(crate) const BOOTING: &str = "booting the guest";

/// How many of the console's last lines go into a report.
pub(crate) const TAIL_LINES: u8 = 20;

/// An error and the console's last lines at that moment, where they may tell more.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) error: MonitorError,
    pub(crate) console: Vec<String>,
}

impl From<MonitorError> for Broken {
    fn from(error: MonitorError) -> Self {
        Self { error, console: Vec::new() }
    }
}

impl From<ConnectError> for MonitorError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Passt(error) => error.into(),
            ConnectError::Network(error) => error.into(),
        }
    }
}

impl Broken {
    /// The failure as the user will see it.
    pub(crate) fn report(&self) -> FailureReport {
        // What the agent refuses is a whole sentence; our stage adds nothing.
        let message = match &self.error {
            MonitorError::Agent { source: AgentError::Refused(reply), .. } => single_line(&reply.message),
            other => chain(other),
        };
        let message = match self.error.next_step() {
            Some(step) if !message.contains("; ") => format!("{message}; {step}"),
            _ => message,
        };
        let console = self.console.iter().map(|line| single_line(line.trim_end())).collect();
        FailureReport { message, exit_code: self.error.exit_code(), console }
    }
}

/// What helps where the guest does not make one more process.
const EXEC: &str = "see what the container allows: correct the options of exec, or its --process file";

impl MonitorError {
    pub(crate) fn machine_end(stage: &'static str, end: Option<End>) -> Self {
        match end {
            Some(End::Device(cause)) => Self::DeviceFailed { stage, cause },
            Some(End::Failed(cause)) => Self::MachineFailed { stage, cause },
            Some(End::Killed(signal)) => Self::MachineKilled { stage, signal },
            Some(End::Panicked) => Self::GuestPanicked { stage },
            Some(End::Reset) | None => Self::GuestStopped { stage },
        }
    }

    /// What the user can do, for messages that do not say it themselves.
    fn next_step(&self) -> Option<&'static str> {
        Some(match self {
            Self::Signal { .. } | Self::LauncherGone { .. } | Self::Hook(_) => return None,
            Self::GuestPanicked { .. } | Self::GuestStopped { .. } => "the last lines of its console say why",
            Self::DeviceFailed { .. } => {
                "the guest's kernel, or a program with its rights, has broken the rules of the device"
            }
            Self::MachineFailed { .. } => "run `vmrun check`",
            Self::MachineKilled { signal, .. } | Self::Machine(StartError::Killed(signal)) => {
                killed_step(*signal)
            }
            Self::Agent { stage, source: AgentError::Refused(reply) } => match reply.kind {
                ErrorKind::ProgramNotFound => "name a program that is in the container's root file system",
                ErrorKind::ProgramNotExecutable => {
                    "make it executable for the container's user, or name another program"
                }
                _ if *stage == crate::exec::STARTING => EXEC,
                ErrorKind::InvalidConfig => "correct config.json",
                _ => "the guest refuses the configuration: correct config.json or the root file system",
            },
            Self::NotOurAgent { .. } => "its /init must be the vmrun-agent of this vmrun's build",
            Self::Agent { stage, .. } if *stage == crate::exec::STARTING => {
                "`vmrun logs` shows the guest's console; `vmrun delete --force` ends a sandbox that hangs"
            }
            Self::Agent { .. } => "try it with --kernel-param loglevel=8 and look at the console",
            Self::Tree(TreeError::Map { .. }) => {
                "take a source on another file system, such as ext4 or XFS, or leave the mapping out"
            }
            Self::Network(error) => return error.next_step().or_else(|| Some(general_step(error))),
            Self::Passt(error) | Self::NetworkLost(Lost::Passt(error)) => {
                return error.next_step().or_else(|| Some(general_step(error)));
            }
            Self::Processors(_) => ALLOWED_PROCESSORS,
            Self::OomScore { .. } => {
                "only with CAP_SYS_RESOURCE may it be less than the caller's: raise it or leave it out"
            }
            other => general_step(other),
        })
    }

    /// Whether the guest's console may tell more: also to who has no patience any more with a guest that does not report.
    pub(crate) fn console_may_tell(&self) -> bool {
        self.is_the_guests() || matches!(self, Self::Signal { stage: BOOTING, .. })
    }

    /// Whether it is the guest, or its machine, that has not done what it should.
    fn is_the_guests(&self) -> bool {
        match self {
            Self::GuestStopped { .. } | Self::GuestPanicked { .. } => true,
            Self::DeviceFailed { .. } | Self::MachineFailed { .. } | Self::MachineKilled { .. } => true,
            Self::NotOurAgent { .. } => true,
            Self::Agent { source, .. } => !matches!(source, AgentError::Refused(_)),
            _ => false,
        }
    }

    /// Whether another start of the kind may fail likewise.
    pub(crate) fn is_likely_again(&self) -> bool {
        self.is_the_guests() && !matches!(self, Self::MachineKilled { signal: libc::SIGKILL, .. })
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Signal { signal, .. }
            | Self::MachineKilled { signal, .. }
            | Self::Machine(StartError::Killed(signal)) => ExitStatus::Signal(*signal).code(),
            Self::Agent { source: AgentError::Refused(reply), .. } => match reply.kind {
                ErrorKind::ProgramNotFound => 127,
                ErrorKind::ProgramNotExecutable => 126,
                _ => 1,
            },
            _ => 1,
        }
    }
}

/// The guest wrote it: nothing in it may move the reader's cursor.
fn single_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_of_the_agent_decides_the_exit_code_and_is_shown_alone() {
        let reply = |kind| {
            let message = "exec: \"x\": not\nfound".to_owned();
            let reply = vmrun_proto::ErrorReply { kind, stage: vmrun_proto::Stage::Exec, message };
            MonitorError::Agent { stage: "starting", source: AgentError::Refused(reply) }
        };
        let console = vec!["line\x1b[1m\r".to_owned()];
        let report = Broken { error: reply(ErrorKind::ProgramNotFound), console }.report();
        assert_eq!(report.console, ["line [1m"]);
        assert_eq!(
            (report.exit_code, report.message.as_str()),
            (127, "exec: \"x\": not found; name a program that is in the container's root file system")
        );
        assert_eq!(reply(ErrorKind::Failed).next_step().map(|step| step.contains("config.json")), Some(true));
        let MonitorError::Agent { source, .. } = reply(ErrorKind::Failed) else { panic!() };
        let exec = MonitorError::Agent { stage: crate::exec::STARTING, source };
        assert_eq!(exec.next_step(), Some(EXEC));
        assert_eq!(reply(ErrorKind::ProgramNotExecutable).exit_code(), 126);
        assert_eq!(reply(ErrorKind::InvalidConfig).exit_code(), 1);
        assert_eq!(MonitorError::Signal { stage: "booting", signal: 15 }.exit_code(), 143);
    }
}
