//! What a verb can fail with.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;

use vmrun_plan::{BundleError, PlanError};
use vmrun_spec::FailureReport;

use crate::assets::AssetError;
use crate::control::ControlError;
use crate::hooks::HookError;
use crate::host_cgroup::HostCgroupError;
use crate::id::IdError;
use crate::launch::LaunchError;
use crate::machine::StartError;
use crate::policy::PolicyError;
use crate::status::{Act, Status};
use crate::store::StoreError;
use crate::templates::TemplateError;
use crate::verbs::{LimitsError, SignalError, SpecError};

/// Why a verb failed: object and cause; the command line adds the act.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The id.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Its configuration.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The host's policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The boot images.
    #[error(transparent)]
    Assets(#[from] AssetError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Starting the monitor.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A hook.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The monitor's cgroup.
    #[error(transparent)]
    Cgroup(#[from] HostCgroupError),
    /// Talking to the monitor.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// An option that has no meaning here.
    #[error("{option} is not supported: {why}")]
    Option {
        /// The flag.
        option: &'static str,
        /// Why.
        why: &'static str,
    },
    /// A cgroup for a process that is not the container's. In runc's words, which tools look for.
    #[error("bad sub cgroup path: {path} is not a sub cgroup path")]
    SubCgroup {
        /// As typed.
        path: String,
    },
    /// An option of ps that has no meaning for a guest.
    #[error("option {option:?} of ps: {why}")]
    PsOption {
        /// The option, or the part of it.
        option: String,
        /// Why.
        why: &'static str,
    },
    /// `vmrun spec`.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// New limits.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// A verb that there is not yet.
    #[error("{verb} is not supported yet: {why}")]
    Verb {
        /// The verb.
        verb: &'static str,
        /// Why.
        why: &'static str,
    },
    /// `--timeline`.
    #[error("cannot {act} the timeline {}", .path.display())]
    Timeline {
        /// What was tried.
        act: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Templates.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// There is no directory for templates.
    #[error("there is no place for templates: neither XDG_CACHE_HOME nor HOME names a directory")]
    NoTemplates,
    /// There is no such template.
    #[error("there is no template {0}")]
    NoTemplate(String),
    /// A signal's name.
    #[error(transparent)]
    Signal(#[from] SignalError),
    /// The monitor's or the agent's own report.
    #[error("{}", .0.message)]
    Reported(FailureReport),
    /// One of several containers.
    #[error("container {id:?}")]
    Container {
        /// Which.
        id: String,
        /// Why.
        source: Box<Self>,
    },
    /// A command that goes on until ctrl-C.
    #[error("cannot take the signal of ctrl-C")]
    Interruption(#[source] io::Error),
    /// It was waited for while it was made, and was not.
    #[error("its creation failed; the command that was to create it says why")]
    NotCreated,
    /// The verb does not fit the container's state.
    #[error("{}", wrong_state(*.act, *.status))]
    WrongState {
        /// What was to be done.
        act: Act,
        /// Its state.
        status: Status,
    },
}

/// By this signal the kernel ends a process for a call that a seccomp filter forbids.
const FILTERED: i32 = nix::libc::SIGSYS;

impl Error {
    /// The exit code of `vmrun` for this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Reported(report) => report.exit_code,
            Self::Launch(error) => error.exit_code(),
            Self::Container { source, .. } => source.exit_code(),
            _ => 1,
        }
    }

    /// The exit code of `vmrun exec` for this error: runc's 255 for all that is not the program's.
    pub fn exec_exit_code(&self) -> u8 {
        match self.exit_code() {
            1 => 255,
            code => code,
        }
    }

    /// Whether it says that the container has ended.
    pub fn is_about_the_end(&self) -> bool {
        match self {
            Self::WrongState { status, .. } => *status == Status::Stopped,
            Self::Store(StoreError::NotFound { .. }) => true,
            // The monitor ends as this moment asks it.
            Self::Control(error) => error.is_hang_up(),
            Self::Container { source, .. } => source.is_about_the_end(),
            _ => false,
        }
    }

    /// What the user can do about it, where that is known.
    pub fn next_step(&self) -> Option<&'static str> {
        match self {
            Self::Bundle(BundleError::Directory { .. } | BundleError::NotADirectory { .. }) => {
                Some("name the bundle's directory with --bundle")
            }
            Self::Bundle(BundleError::ReadConfig { .. }) => {
                Some("a bundle is a directory with config.json and a root file system")
            }
            Self::Bundle(BundleError::Rootfs { .. } | BundleError::RootfsNotADirectory { .. }) => {
                Some("unpack the root file system there, or correct root.path in config.json")
            }
            Self::Bundle(BundleError::ParseConfig { .. } | BundleError::NoRoot { .. }) => {
                Some("correct config.json")
            }
            Self::Plan(PlanError::Invalid { .. }) => Some("correct config.json"),
            Self::Container { source, .. } => source.next_step(),
            Self::Store(error) => error.next_step().or_else(|| Some(general_step(error))),
            Self::WrongState { act, status } => Some(act.next_step(*status)),
            Self::Id(IdError::Reserved | IdError::TooLong) => Some("choose another id"),
            Self::Assets(AssetError::Read { .. }) => {
                Some("name a file that can be read with --kernel or --initramfs")
            }
            Self::Launch(LaunchError::NewNetworkNamespace(source))
                if source.kind() == io::ErrorKind::StorageFull =>
            {
                Some("see whether sysctl user.max_net_namespaces leaves room for one")
            }
            Self::Launch(LaunchError::Processors(_)) => Some(ALLOWED_PROCESSORS),
            Self::Limits(LimitsError::Refused(PlanError::Invalid { .. })) => Some("correct the limits"),
            // It ends with its next step.
            Self::Limits(LimitsError::Refused(_)) => None,
            Self::Launch(LaunchError::NetworkNamespace { source, .. })
                if source.raw_os_error() == Some(nix::libc::EINVAL) =>
            {
                Some("it is not a network namespace: name a file such as /run/netns/NAME or /proc/PID/ns/net")
            }
            Self::Launch(LaunchError::NetworkNamespace { source, .. })
                if source.raw_os_error() == Some(nix::libc::EPERM) =>
            {
                Some(
                    "it takes CAP_SYS_ADMIN in the user namespace that owns it and in the caller's: run it as root, or enter that user namespace first",
                )
            }
            Self::Launch(LaunchError::Late { .. }) => {
                Some("it was ended; see who has stopped it or keeps the host busy, and run it again")
            }
            Self::Launch(LaunchError::Killed { signal, .. }) => Some(killed_step(*signal)),
            Self::Control(ControlError::Silent { .. }) => Some(
                "if it was stopped by a signal let it go on with SIGCONT, else end it with `vmrun delete --force`",
            ),
            Self::Control(ControlError::Older { .. } | ControlError::Newer { .. }) => Some(
                "use the vmrun that has started the container, or delete that and run it anew with this one",
            ),
            Self::Cgroup(HostCgroupError::Frozen { .. }) => {
                Some("write 0 to its cgroup.freeze, or name another cgroup in linux.cgroupsPath")
            }
            Self::Cgroup(HostCgroupError::Systemd { .. }) => {
                Some("see what `systemctl status` says, or leave --systemd-cgroup out")
            }
            Self::Cgroup(HostCgroupError::Limit { .. } | HostCgroupError::None { .. }) => {
                Some("correct the limit, or leave it out")
            }
            Self::NoTemplates => Some("name a directory with --templates"),
            Self::NoTemplate(_) => Some("see `vmrun template list`"),
            Self::Template(TemplateError::Untrusted { .. }) => {
                Some("make it yours alone (chmod go-w), or name another directory with --templates")
            }
            Self::Template(TemplateError::NoRoom { .. }) => {
                Some("make room there, or name another directory with --templates")
            }
            Self::Template(TemplateError::Busy(_)) => {
                Some("try it again; if it stays so, see which vmrun is stopped")
            }
            Self::Template(TemplateError::TooLarge(_)) => Some("ask for less memory"),
            Self::Template(TemplateError::Damaged { .. }) => Some("remove it with `vmrun template remove`"),
            // It ends with its next step.
            Self::Template(TemplateError::Machine(StartError::Refused(_))) => None,
            Self::Template(
                TemplateError::Machine(_) | TemplateError::Stop(_) | TemplateError::NoCheckpoint(_),
            ) => Some("run `vmrun check`"),
            Self::SubCgroup { .. } => Some("name a cgroup below the container's"),
            Self::Hook(_) => Some("correct the hook, or take it out of config.json"),
            Self::Spec(SpecError::Exists { .. }) => {
                Some("remove it first, or name another directory with --bundle")
            }
            Self::Verb { .. } => Some("delete the container and run it anew"),
            Self::Option { .. } | Self::PsOption { .. } => Some("leave the option out"),
            // These messages end with their next step.
            Self::Policy(PolicyError::Parse { .. } | PolicyError::Forbidden { .. }) => None,
            Self::Id(_) | Self::Plan(_) | Self::Assets(_) | Self::Reported(_) => None,
            other => Some(general_step(other)),
        }
    }

    /// The last lines of the guest's console, where they may explain the error.
    pub fn console(&self) -> &[String] {
        match self {
            Self::Reported(report) => &report.console,
            Self::Container { source, .. } => source.console(),
            _ => &[],
        }
    }
}

/// In runc's words, where it has some: engines and scripts look for them.
fn wrong_state(act: Act, status: Status) -> String {
    match (act, status) {
        (Act::Signal | Act::Look | Act::Pause, _) => format!("container not running: it is {status}"),
        (Act::Resume, _) => format!("container not paused: it is {status}"),
        (Act::Exec, Status::Paused) => {
            "cannot exec in a paused container (use --ignore-paused to override)".to_owned()
        }
        (Act::Exec, Status::Stopped) => "cannot exec in a stopped container".to_owned(),
        (Act::Start, Status::Stopped) => "cannot start a container that has stopped".to_owned(),
        (Act::Start, Status::Running) => "cannot start an already running container".to_owned(),
        (Act::Delete, _) => format!("the container is not stopped: it is {status}"),
        _ => format!("the container is {status}"),
    }
}

/// What helps where the kernel does not take a list of processors.
pub(crate) const ALLOWED_PROCESSORS: &str =
    "name processors that this process's cgroup may use: see cpuset.cpus.effective there";

/// What helps against an error of which nothing more is known than the system's own.
pub(crate) fn general_step(error: &(dyn StdError + 'static)) -> &'static str {
    let mut cause = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::StorageFull) => return "free some space there",
            Some(io::ErrorKind::PermissionDenied) => return "run it as a user who may",
            Some(io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists) => {
                return "check the path";
            }
            _ => cause = error.source(),
        }
    }
    "run it with --debug to see every cause"
}

/// What helps where a process of a sandbox was killed by this signal.
pub(crate) fn killed_step(signal: i32) -> &'static str {
    if signal == FILTERED {
        "a thread of it made a system call that its seccomp filter forbids: do not trust this guest; the host's audit or kernel log may name the call"
    } else {
        "the host's kernel log may tell who killed it"
    }
}

/// An error and its causes on one line.
pub fn chain(error: &dyn StdError) -> String {
    let mut text = without_number(&error.to_string());
    let mut source = error.source();
    while let Some(cause) = source {
        let shown = without_number(&cause.to_string());
        // A transparent wrapper shows its cause already.
        if !text.ends_with(&shown) {
            text.push_str(": ");
            text.push_str(&shown);
        }
        source = cause.source();
    }
    text.replace('\n', " ")
}

/// The standard library writes `No such file or directory (os error 2)`: the words are enough.
fn without_number(text: &str) -> String {
    match text.rsplit_once(" (os error ") {
        Some((words, number)) if number.strip_suffix(')').is_some_and(|n| n.parse::<i32>().is_ok()) => {
            words.to_owned()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_has_every_cause_once_and_no_numbers() {
        let source = std::io::Error::from_raw_os_error(2);
        let error = Error::from(BundleError::Directory { dir: "/x".into(), source });
        assert_eq!(chain(&error), "bundle /x: No such file or directory");
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn monitor_that_its_filter_killed_is_not_like_any_other() {
        let step = |signal| Error::from(LaunchError::Killed { who: "monitor", signal }).next_step().unwrap();
        assert!(step(31).contains("seccomp filter"));
        assert!(!step(9).contains("seccomp filter"));
    }

    #[test]
    fn reported_failure_keeps_its_code_and_console() {
        let report = FailureReport { message: "m".to_owned(), exit_code: 127, console: vec!["c".to_owned()] };
        let error = Error::Reported(report);
        assert_eq!((chain(&error).as_str(), error.exit_code(), error.console().len()), ("m", 127, 1));
    }
}
