//! `vmrun exec`: one more process in a container, and the relay that stands for it.
//!
//! ```text
//!   vmrun exec             is the relay itself
//!   vmrun exec --detach    starts it (`vmrun __exec`), and leaves it to the nearest reaper
//! ```
//!
//! A relay has connections of its own to the agent, through the monitor's vsock
//! device: one for control, one for each stream. It lives as long as its
//! process and ends with its code. The agent kills the process when the control
//! connection is gone, so neither outlives the other, however it ends.

mod detached;
mod relay;

use std::io;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use oci_spec::runtime::Process;
use serde::{Deserialize, Serialize};
use vmrun_plan::ProcessChanges;
use vmrun_proto::{ProcessIo, ProcessRef};

pub use self::detached::exec_main;
use crate::control::{self, ControlRequest};
use crate::error::Error;
use crate::launch::pid_file::PidFile;
use crate::launch::{LaunchError, facts, pidfd_socket};
use crate::monitor::ConsoleMode;
use crate::signals::Signals;
use crate::status::{Act, Status};
use crate::stdio::{self, RawMode};
use crate::step;
use crate::store::{Entry, ExecBase, State, Store};

/// The stage until the process runs.
pub(crate) const STARTING: &str = "starting the process";

/// What `vmrun exec` was asked for.
#[derive(Clone, Debug)]
pub struct ExecOptions {
    /// Container id, as typed.
    pub id: String,
    /// The process.
    pub process: ProcessSource,
    /// On a terminal, whatever the process says.
    pub terminal: bool,
    /// Return once it runs.
    pub detach: bool,
    /// Where the relay's pid goes.
    pub pid_file: Option<PathBuf>,
    /// Where the terminal's master end goes.
    pub console_socket: Option<PathBuf>,
    /// Where a descriptor of the relay goes.
    pub pidfd_socket: Option<PathBuf>,
    /// In a paused container, run it when that goes on.
    pub ignore_paused: bool,
    /// A cgroup below the container's, without `..`.
    pub cgroup: Option<PathBuf>,
}

/// Where the description of the process comes from.
#[derive(Clone, Debug)]
pub enum ProcessSource {
    /// A file with the JSON of a process.
    File(PathBuf),
    /// The container's own process, changed.
    Changes(Box<ProcessChanges>),
}

/// What a relay does.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order {
    /// The container's directory in the store.
    directory: PathBuf,
    process: ProcessRef,
    spec: Box<Process>,
    io: ProcessIo,
    cgroup: Option<PathBuf>,
    console: ConsoleMode,
    detached: bool,
}

/// Runs one more process. The answer is its exit code, or 0 once a detached one runs.
///
/// # Errors
/// It could not be started.
pub fn exec(store: &Store, options: &ExecOptions) -> Result<u8, Error> {
    let (_, entry, state) = crate::verbs::find_with_state(store, &options.id)?;
    await_turn(&entry, &state, options)?;
    let base = ExecBase::read(entry.directory())?;
    let mut process = match &options.process {
        ProcessSource::File(path) => {
            let mut process = vmrun_plan::load_process(path)?;
            vmrun_plan::inherit(&mut process, &base.process, &facts::rlimits()?);
            process
        }
        ProcessSource::Changes(changes) => vmrun_plan::changed(&base.process, changes)?,
    };
    if options.terminal {
        process.set_terminal(Some(true));
    }
    let size = stdio::size(io::stdin()).or_else(|| stdio::size(io::stdout()));
    let (spec, io) = vmrun_plan::exec(process, base.vcpus, size)?;
    let order = Order {
        directory: entry.directory().to_owned(),
        process: ProcessRef { container: state.id.clone(), exec: Some(new_exec_id()) },
        spec: Box::new(spec),
        console: console(io.terminal, options)?,
        io,
        cgroup: options.cgroup.clone(),
        detached: options.detach,
    };
    step!("process {:?} in {}", order.process.exec, entry.directory().display());
    if options.detach { detached::start(&order, options) } else { foreground(&order, options) }
}

/// Whether it may run now. In a paused container nothing does: runc's process is frozen as soon as it
/// is there, so whoever insists on one waits with it until the container goes on.
fn await_turn(entry: &Entry, state: &State, options: &ExecOptions) -> Result<(), Error> {
    match state.status_now() {
        Status::Paused if options.ignore_paused => {
            match control::ask(entry, state, &ControlRequest::AwaitResume) {
                Err(Error::WrongState { status, .. }) => Err(Error::WrongState { act: Act::Exec, status }),
                told => told.map(drop),
            }
        }
        status if status.allows(Act::Exec) => Ok(()),
        status => Err(Error::WrongState { act: Act::Exec, status }),
    }
}

/// Whose terminal it is, by runc's rules.
fn console(terminal: bool, options: &ExecOptions) -> Result<ConsoleMode, LaunchError> {
    match (terminal, options.detach, &options.console_socket) {
        (true, true, Some(path)) => {
            let path = std::path::absolute(path).map_err(LaunchError::io("resolve --console-socket"))?;
            Ok(ConsoleMode::Socket(path))
        }
        (true, true, None) => {
            Err(LaunchError::Console("a process with a terminal in the background needs --console-socket"))
        }
        (_, _, Some(_)) => {
            Err(LaunchError::Console("--console-socket is for a process with a terminal and --detach"))
        }
        (_, _, None) => Ok(ConsoleMode::Inherited),
    }
}

/// No other exec has it: a pid comes again, but not at the same time.
fn new_exec_id() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}", std::process::id(), now.as_nanos())
}

/// Tells those who want to know of the relay, now that its process runs.
fn announce(options: &ExecOptions, pid: i32) -> Result<(), LaunchError> {
    step!("the process runs; process {pid} stands for it");
    if let Some(socket) = &options.pidfd_socket {
        pidfd_socket::send(socket, pid)?;
    }
    options.pid_file.as_ref().map_or(Ok(()), |path| PidFile::write(path, pid).map(PidFile::keep))
}

fn foreground(order: &Order, options: &ExecOptions) -> Result<u8, Error> {
    let signals = Signals::take().map_err(LaunchError::io("take signals"))?;
    let raw = if order.io.terminal {
        RawMode::enter(io::stdin()).map_err(LaunchError::io("set up the terminal"))?
    } else {
        None
    };
    let result = relay::relay(order, &signals, || {
        announce(options, i32::try_from(std::process::id()).unwrap_or_default())
    });
    drop(raw);
    result
}
