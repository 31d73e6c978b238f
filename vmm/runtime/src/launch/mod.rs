//! `vmrun run` and `vmrun create`: from a bundle to a monitor, and for `run` to its end.
//!
//! The launcher owns what has to be put back whatever happens: the directory
//! in the store, the terminal's mode, the pid file. The monitor is its child
//! and owns the rest: when it dies, by whatever cause, mounts, sockets' peers
//! and the guest are gone with it.

mod alone;
mod awaited;
pub(crate) mod channel;
mod child;
pub(crate) mod facts;
pub(crate) mod network;
pub(crate) mod pid_file;
pub(crate) mod pidfd_socket;
pub(crate) mod service;
mod spawn;
mod supervise;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vmrun_plan::{Bundle, NetworkChoice, Options, SandboxPlan};
use vmrun_proto::ConsoleSize;
use vmrun_spec::{MonitorMessage, NetworkNamespace, PublishedPort};

use crate::assets::{self, AssetOptions, Embedded};
use crate::error::Error;
use crate::host_cgroup::{self, NewCgroup};
use crate::id::ContainerId;
use crate::log::{self, Log};
use crate::monitor::{ConsoleMode, MonitorRequest};
use crate::store::{StateSource, Store};
use crate::templates::TemplatePlace;
use crate::timeline::Writing;
use crate::{policy, stdio, step, timestamp};
use alone::Alone;

pub use self::service::refuse_sockets;

/// Which verb, and how long it stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaunchMode {
    /// `vmrun run`: until the end.
    Run,
    /// `vmrun run --detach`: until the program runs.
    RunDetached,
    /// `vmrun create`: until the program waits for `vmrun start`.
    Create,
}

impl LaunchMode {
    /// Whether the monitor outlives the verb.
    pub(crate) fn is_detached(self) -> bool {
        self != Self::Run
    }

    /// The monitor's word after which the verb is done.
    /// Where somebody wants to hear that the program is ready, that is as runc does it waited for.
    pub(crate) fn is_over_at(self, message: &MonitorMessage, notifies: bool) -> bool {
        match self {
            Self::Run => false,
            Self::RunDetached if notifies => *message == MonitorMessage::Ready,
            Self::RunDetached => *message == MonitorMessage::Started,
            Self::Create => *message == MonitorMessage::Created,
        }
    }
}

/// What `vmrun run` or `vmrun create` was asked for.
#[derive(Clone, Debug)]
pub struct LaunchOptions {
    /// Which of them.
    pub mode: LaunchMode,
    /// Container id, as typed.
    pub id: String,
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// Where the monitor's pid goes.
    pub pid_file: Option<PathBuf>,
    /// Leave the container in the store when it has ended.
    pub keep: bool,
    /// Where the terminal's master end goes.
    pub console_socket: Option<PathBuf>,
    /// Where a descriptor of the monitor goes.
    pub pidfd_socket: Option<PathBuf>,
    /// Where the monitor tells its steps, and that of a detached container a failure.
    pub log: Log,
    /// The configuration's cgroup path has systemd's form.
    pub systemd_cgroup: bool,
    /// Size of the machine in vCPUs.
    pub vcpus: Option<u32>,
    /// Size of the machine in MiB.
    pub memory_mib: Option<u32>,
    /// Kernel and boot image.
    pub assets: AssetOptions,
    /// Extra kernel parameters.
    pub kernel_params: Vec<String>,
    /// The host's policy, if it is not where it usually is.
    pub policy: Option<PathBuf>,
    /// Where it is written what the start's time was spent on; for [`LaunchMode::Run`].
    pub timeline: Option<PathBuf>,
    /// When this process began.
    pub began: Instant,
    /// Where templates are, if the start may use one, or make one.
    pub templates: Option<TemplatePlace>,
    /// The network of a sandbox that stands alone.
    pub network: Option<NetworkChoice>,
    /// Ports of the host that lead into it.
    pub ports: Vec<PublishedPort>,
}

/// Where the container's terminal is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Console {
    /// There is none.
    None,
    /// On ours.
    Ours,
    /// On the one that the engine gets through this socket.
    Socket(PathBuf),
}

/// Why the monitor could not be started, or what became of it.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A system call for it failed.
    #[error("cannot {act}")]
    Io {
        /// What was tried.
        act: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The plan has no encoding.
    #[error("cannot talk to the process that was started")]
    Encode(#[source] vmrun_proto::FrameError),
    /// The network namespace of the configuration.
    #[error("cannot use the network namespace {}", .path.display())]
    NetworkNamespace {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no new network namespace to be had.
    #[error("cannot make a network namespace for the container")]
    NewNetworkNamespace(#[source] io::Error),
    /// The kernel does not take the processors.
    #[error("cannot keep the monitor on the processors of linux.resources.cpu.cpus")]
    Processors(#[source] io::Error),
    /// The pid file.
    #[error("cannot write the pid file {}", .path.display())]
    PidFile {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket for a descriptor of the process.
    #[error("cannot send a descriptor of the process to {}", .path.display())]
    PidfdSocket {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The monitor, or the relay of an exec, was killed.
    #[error("the {who} was killed by signal {signal}")]
    Killed {
        /// Which of them.
        who: &'static str,
        /// By which.
        signal: i32,
    },
    /// It does not say what it should.
    #[error("timed out after {} s waiting for the {who}, process {pid}, to {what}", .limit.as_secs())]
    Late {
        /// Which of them.
        who: &'static str,
        /// Its pid.
        pid: i32,
        /// What it should have done.
        what: &'static str,
        /// For how long it was waited.
        limit: Duration,
    },
    /// It ended and said nothing.
    #[error("the {who} ended with code {code} and no report")]
    Silent {
        /// Which of them.
        who: &'static str,
        /// Its code.
        code: i32,
    },
    /// `terminal` and the options contradict each other.
    #[error("{0}")]
    Console(&'static str),
}

impl LaunchError {
    pub(crate) fn io(act: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { act, source }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Killed { signal, .. } => vmrun_proto::ExitStatus::Signal(*signal).code(),
            _ => 1,
        }
    }
}

/// Runs or creates a container. The answer is the exit code: the program's, or 0
/// once a detached one runs or waits for its start.
///
/// # Errors
/// The container could not be made, or its monitor died. Nothing is left behind then.
pub fn launch(store: &Store, options: &LaunchOptions, embedded: Embedded) -> Result<u8, Error> {
    let Some(path) = &options.timeline else { return launch_it(store, options, embedded) };
    let failed = |act| move |source| Error::Timeline { act, path: path.clone(), source };
    let writing = Writing::begin(path, options.began).map_err(failed("make"))?;
    let result = launch_it(store, options, embedded);
    // Why the container failed matters more.
    let written = writing.finish(&options.id).map_err(failed("write"));
    result.and_then(|code| written.map(|()| code))
}

fn launch_it(store: &Store, options: &LaunchOptions, embedded: Embedded) -> Result<u8, Error> {
    let id: ContainerId = options.id.parse()?;
    let mut bundle = Bundle::load(&options.bundle)?;
    step!("bundle {} loaded, root file system {}", bundle.dir.display(), bundle.rootfs.display());
    log::warn_of_capabilities(&bundle.ignored_capabilities);
    let console = console(&bundle, options)?;
    let manager = service::manager();
    let directory = store.directory(&id);
    let network = alone::choose(&mut bundle, options, &directory)?;
    let plan = plan(&directory, &bundle, options, &network, service::is_asked_to_notify(), embedded)?;
    let (machine, host) = (&plan.machine, &plan.host);
    step!(
        "planned: {} vCPUs, {} MiB, kernel {:?}, {} volumes, cgroup {:?}",
        machine.vcpus,
        machine.memory_mib,
        machine.kernel,
        host.volumes.len(),
        host.cgroup
    );
    let new = store.reserve(&id)?;
    step!("{} made in the store", store.directory(&id).display());
    network.write_files()?;
    let cgroup = host_cgroup::make(&host.cgroup, &host.limits)?;
    step!("{cgroup}, with {} limits", host.limits.len());
    let source = state_source(&id, &bundle, &plan, &cgroup);
    let request = MonitorRequest {
        directory: store.directory(&id),
        root: store.root().to_owned(),
        state: source,
        plan,
        notify: None,
        timeline: None,
        console: match &console {
            Console::None | Console::Ours => ConsoleMode::Inherited,
            Console::Socket(path) => ConsoleMode::Socket(path.clone()),
        },
        start_later: options.mode == LaunchMode::Create,
        detached: options.mode.is_detached(),
        keep: options.keep || options.mode.is_detached(),
        log: options.log.clone(),
        templates: options.templates.clone(),
        origin: host_cgroup::current(),
    };
    supervise::supervise(new, cgroup, &request, options, &console, manager.as_ref())
}

fn plan(
    container: &Path,
    bundle: &Bundle,
    options: &LaunchOptions,
    network: &Alone,
    notify: bool,
    embedded: Embedded,
) -> Result<SandboxPlan, Error> {
    let permitted = policy::permit(&vmrun_plan::boot_request(bundle)?, options.policy.as_deref())?;
    // What the command line says comes before what the bundle asks for.
    let assets = AssetOptions {
        kernel: options.assets.kernel.clone().or(permitted.kernel),
        initramfs: options.assets.initramfs.clone().or(permitted.initrd),
        directory: options.assets.directory.clone(),
    };
    let (kernel, initramfs) = assets::choose(&assets, embedded)?;
    let plan_options = Options {
        id: options.id.clone(),
        directory: container.to_owned(),
        vcpus: options.vcpus,
        memory_mib: options.memory_mib,
        kernel,
        initramfs,
        kernel_params: [&permitted.parameters[..], &options.kernel_params].concat(),
        console_size: our_console_size(),
        systemd_cgroup: options.systemd_cgroup,
        notify,
        user_network: network.user.clone(),
        timeline: options.timeline.is_some(),
    };
    let mut facts = facts::facts(bundle)?;
    facts.sources.extend(network.sources());
    Ok(vmrun_plan::plan(bundle, &facts, &plan_options)?)
}

fn our_console_size() -> Option<ConsoleSize> {
    stdio::size(io::stdin()).or_else(|| stdio::size(io::stdout()))
}

/// In runc's words, which tools look for; it speaks of itself in them.
pub(crate) const NO_CONSOLE_SOCKET: &str = "cannot allocate tty if runc will detach without setting console socket: the terminal of a container \
     or process in the background needs --console-socket";
pub(crate) const USELESS_CONSOLE_SOCKET: &str = "cannot use console socket if runc will not detach or allocate tty: --console-socket is for a terminal \
     in the background";

/// Whose terminal it is, by runc's rules.
fn console(bundle: &Bundle, options: &LaunchOptions) -> Result<Console, LaunchError> {
    let process = bundle.spec.process().as_ref();
    let terminal = process.is_some_and(|process| process.terminal() == Some(true));
    match (terminal, options.mode.is_detached(), &options.console_socket) {
        (true, true, Some(path)) => {
            let path = std::path::absolute(path).map_err(LaunchError::io("resolve --console-socket"))?;
            Ok(Console::Socket(path))
        }
        (true, true, None) => Err(LaunchError::Console(NO_CONSOLE_SOCKET)),
        (true, false, None) => Ok(Console::Ours),
        (_, _, Some(_)) => Err(LaunchError::Console(USELESS_CONSOLE_SOCKET)),
        (false, _, None) => Ok(Console::None),
    }
}

fn state_source(id: &ContainerId, bundle: &Bundle, plan: &SandboxPlan, cgroup: &NewCgroup) -> StateSource {
    let annotations = bundle.spec.annotations().iter().flatten();
    StateSource {
        id: id.to_string(),
        oci_version: bundle.spec.version().clone(),
        bundle: bundle.dir.clone(),
        rootfs: bundle.rootfs.clone(),
        annotations: annotations.map(|(key, value)| (key.clone(), value.clone())).collect(),
        created: timestamp::now(),
        cgroup: cgroup.path(),
        scope: cgroup.scope(),
        network: match &plan.host.network {
            NetworkNamespace::Named(path) => Some(path.clone()),
            NetworkNamespace::Callers | NetworkNamespace::New => None,
        },
        poststart: plan.host.hooks.poststart.clone(),
        poststop: plan.host.hooks.poststop.clone(),
        notifies: plan.guest.notify,
    }
}
