//! The monitor: the long-lived process of one sandbox. It owns the VM, the
//! devices and the stdio relays, and its exit code is the container's.
//!
//! ```text
//!   request ─▶ namespace, shared tree ─▶ Machine ─▶ agent ready ─▶ Create ─▶ Start ─▶ events ─▶ exit
//!                                          │                          └─ waits for `vmrun start` after `vmrun create`
//!                                          └─ consoles, hooks, control socket: while the guest boots
//! ```
//!
//! It has one thread of its own, which polls; the machine and the relays bring theirs. Another one
//! answers the verbs that come between the program's end and its own.

mod balloon;
mod boot;
mod callers_ids;
mod clock;
mod control_server;
mod disks;
pub(crate) mod failure;
mod file_figures;
mod hook_mounts;
mod id_map;
mod kernels;
mod launcher;
mod live;
mod mount_table;
mod network;
mod notifier;
mod out_of_memory;
mod proc_view;
mod session;
mod sockets;
pub(crate) mod streams;
mod tree;
mod view;
mod warm;

use std::io;
use std::os::fd::{AsFd, RawFd};
use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use vmrun_plan::SandboxPlan;
use vmrun_spec::MonitorMessage;

use crate::assets::Embedded;
use crate::error::chain;
use crate::fds;
use crate::host_cgroup::{self, Origin};
use crate::log::{self, Log};
use crate::oom_score;
use crate::process::ProcessIdentity;
use crate::processors;
use crate::signals::Signals;
use crate::status::Status;
use crate::step;
use crate::store::{Entry, StateSource, Store, StoreError};
use crate::templates::TemplatePlace;
use crate::timeline::{self, Point, mark};
use failure::{Broken, MonitorError};
use launcher::Launcher;
use network::Alone;
pub(crate) use network::sweep as sweep_network;
use session::Ended;
use warm::Warm;

/// The verb by which the launcher starts the monitor; nobody types it.
pub(crate) const HIDDEN_VERB: &str = "__monitor";

/// What the launcher hands to the monitor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MonitorRequest {
    /// The store.
    pub(crate) root: PathBuf,
    /// The container's directory in it.
    pub(crate) directory: PathBuf,
    pub(crate) state: StateSource,
    pub(crate) plan: SandboxPlan,
    pub(crate) console: ConsoleMode,
    /// The descriptor of the socket on which the caller wants to hear how the program is.
    pub(crate) notify: Option<RawFd>,
    /// The descriptor of the memory file with the start's timeline.
    pub(crate) timeline: Option<RawFd>,
    /// The program waits for `vmrun start`.
    pub(crate) start_later: bool,
    /// The launcher does not wait for the end.
    pub(crate) detached: bool,
    /// The container stays in the store when it has ended.
    pub(crate) keep: bool,
    /// Where it tells its steps, and a detached one a failure.
    pub(crate) log: Log,
    /// Where templates are, if the start may use one, or make one.
    pub(crate) templates: Option<TemplatePlace>,
    /// The launcher's cgroup.
    pub(crate) origin: Option<Origin>,
}

/// Where the streams go on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ConsoleMode {
    /// To the descriptors that the monitor was started with.
    Inherited,
    /// To a terminal whose master end goes through this socket.
    Socket(PathBuf),
}

/// The descriptors that the monitor is started with.
#[derive(Clone, Copy, Debug)]
pub struct MonitorFds {
    /// A memory file with the request.
    pub request: RawFd,
    /// The socket to the launcher.
    pub launcher: RawFd,
}

/// Runs the monitor and gives its exit code.
pub fn monitor_main(fds: MonitorFds, embedded: Embedded) -> u8 {
    let begun = Instant::now();
    let opened = open(fds, begun);
    let (request, launcher) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            // Without the socket there is only standard error.
            eprintln!("vmrun: error: monitor: {}", chain(&error));
            return 1;
        }
    };
    if request.log.debug {
        // A log that cannot be opened was told by the launcher, which has opened it before.
        let _ = request.log.open("monitor");
    }
    step!("process {} takes the request over", std::process::id());
    // From now on it is this directory that is meant, whatever its name leads to later.
    let entry = entry(&request);
    let mut warm = Warm::Not;
    let result = match &entry {
        Some(entry) => serve(&request, entry, &launcher, embedded, &mut warm),
        None => Err(MonitorError::from(StoreError::NotFound { root: request.root.clone() }).into()),
    };
    let code = end(&request, entry.as_ref(), &launcher, result);
    warm.finish();
    code
}

fn entry(request: &MonitorRequest) -> Option<Entry> {
    let id = request.state.id.parse().ok()?;
    Store::new(Some(&request.root)).open(&id).ok()
}

fn open(fds: MonitorFds, begun: Instant) -> Result<(MonitorRequest, Launcher), MonitorError> {
    let failed = |act| move |source: io::Error| MonitorError::Io { act, source };
    let launcher = fds::inherited(fds.launcher).map_err(failed("take over the launcher's socket"))?;
    let file = fds::inherited(fds.request).map_err(failed("take over the request"))?;
    let request: MonitorRequest =
        vmrun_proto::read_frame(std::fs::File::from(file)).map_err(MonitorError::Request)?;
    let keep: Vec<RawFd> = [fds.launcher].into_iter().chain(request.notify).chain(request.timeline).collect();
    fds::close_all_but(&keep).map_err(failed("close what the caller left open"))?;
    if let Some(shared) = request.timeline {
        timeline::go_on(fds::inherited(shared).map_err(failed("take over the timeline"))?, begun);
    }
    let manager = request.notify.map(fds::inherited).transpose();
    let manager = manager.map_err(failed("take over the socket of NOTIFY_SOCKET"))?.map(Into::into);
    let last = if request.start_later { MonitorMessage::Created } else { MonitorMessage::Started };
    Ok((request, Launcher::new(launcher.into(), last, manager)))
}

/// From the request to the program's end.
fn serve(
    request: &MonitorRequest,
    entry: &Entry,
    launcher: &Launcher,
    embedded: Embedded,
    warm: &mut Warm,
) -> Result<Ended, Broken> {
    let failed = |act| move |source: io::Error| MonitorError::Io { act, source };
    let signals = Signals::take().map_err(failed("take signals"))?;
    // Before there is a thread or a page of the guest's.
    if let Some(score) = request.plan.host.oom_score_adj {
        oom_score::set(score).map_err(|source| MonitorError::OomScore { score, source })?;
    }
    host_cgroup::enter(request.state.own_cgroup(), &request.plan.host.limits)
        .map_err(MonitorError::Cgroup)?;
    step!("in the cgroup {:?}", request.state.cgroup);
    processors::keep_on(&request.plan.host.cpus).map_err(MonitorError::Processors)?;
    fds::raise_descriptor_limit().map_err(failed("raise the limit of open files"))?;
    // Sockets are named relative to it: see `vmrun_plan::VSOCK_SOCKET`.
    std::env::set_current_dir(&request.directory).map_err(failed("enter the container's directory"))?;
    if request.detached || request.console != ConsoleMode::Inherited {
        nix::unistd::setsid().map_err(io::Error::from).map_err(failed("start a session"))?;
    }
    // While there is one thread, and in the caller's network.
    let alone = request.plan.host.user_network.as_ref().map(Alone::begin).transpose();
    let alone = alone.map_err(MonitorError::from)?;
    let (booting, begun) = boot::boot(request, embedded, &[launcher.as_fd(), signals.ending()])?;
    *warm = begun;
    session::run(request, entry, (booting, warm), alone, launcher, &signals)
}

/// Reports the end, and cleans up when nobody else will.
fn end(
    request: &MonitorRequest,
    entry: Option<&Entry>,
    launcher: &Launcher,
    result: Result<Ended, Broken>,
) -> u8 {
    let (message, code) = match result {
        Ok(Ended { code, warnings }) => (MonitorMessage::Ended { code, warnings }, code),
        Err(error) => {
            let report = error.report();
            let code = report.exit_code;
            (MonitorMessage::Failed(report), code)
        }
    };
    mark(Point::MonitorEnds);
    step!("ends with code {code}: {message:?}");
    let ended = matches!(message, MonitorMessage::Ended { .. });
    let keep = request.keep && (ended || launcher.may_leave());
    if keep {
        mark_stopped(entry, code);
    }
    if launcher.send(&message).is_err() {
        // The launcher is gone, as planned when detached: its duties are ours.
        tell_the_log(&request.log, &message);
        if !keep {
            clean_up(request, entry);
        }
    }
    code
}

/// What the launcher would have told.
fn tell_the_log(log: &Log, message: &MonitorMessage) {
    // There is nobody left to tell when the log is not writable.
    match message {
        MonitorMessage::Failed(report) => {
            let _ = open_log(log).and_then(|()| log::error(&report.message, &report.console));
        }
        MonitorMessage::Ended { warnings, .. } if !warnings.is_empty() && open_log(log).is_ok() => {
            warnings.iter().for_each(|warning| log::warn(warning));
        }
        _ => {}
    }
}

/// Tells of something that changes nothing.
fn warn(log: &Log, message: &str) {
    // There is nobody left to tell when it is not writable.
    if open_log(log).is_ok() {
        log::warn(message);
    }
}

/// The log, unless it has been open from the start.
fn open_log(log: &Log) -> io::Result<()> {
    if log.path.is_none() || log::tells_steps() { Ok(()) } else { log.open("monitor") }
}

fn mark_stopped(entry: Option<&Entry>, code: u8) {
    let Some(entry) = entry else { return };
    // When it cannot be written the dead monitor says the same.
    let _ = entry.update(|state| {
        state.map(|mut state| {
            state.status = Status::Stopped;
            state.exit_code = Some(code);
            state
        })
    });
}

fn clean_up(request: &MonitorRequest, entry: Option<&Entry>) {
    // Else somebody has removed it, and its names may be another container's.
    if entry.is_some_and(|entry| entry.is_current().unwrap_or(false)) {
        host_cgroup::leave(request.state.own_cgroup(), request.origin.as_ref());
    }
    tree::unmount(&request.directory.join(vmrun_plan::SHARE_DIR));
    // `vmrun delete` can still remove what could not be removed here, and runs the hooks then.
    if !entry.is_some_and(|entry| entry.remove().unwrap_or(false)) {
        return;
    }
    let me = i32::try_from(std::process::id()).unwrap_or_default();
    if let Ok(identity) = ProcessIdentity::of(me) {
        let state = request.state.state(Status::Stopped, identity);
        let shown = crate::verbs::OciState::of(&state);
        // Nobody is left to tell of a hook that fails.
        let at = crate::hooks::Surroundings::callers(&request.state.bundle);
        let _ = crate::hooks::run_each(&request.state.poststop, &shown, &at);
    }
}
