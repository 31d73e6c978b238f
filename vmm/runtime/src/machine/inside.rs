//! The machine's process: it builds the machine with all rights of the monitor, gives them up, and only then lets
//! the guest run.
//!
//! ```text
//!   forked ─▶ own session, no streams, no other descriptors ─▶ machine built ─▶ root, capabilities gone
//!          ─▶ vCPUs' threads, held ─▶ filter of the first thread ─▶ guest runs ─▶ orders until the end
//! ```

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::MsgFlags;
use rustix::process::{DumpableBehavior, set_dumpable_behavior, setsid};
use rustix::thread::set_name;
use vmrun_machine::{
    BootError, BootImages, Built, ConfineError, MachineEnd, MachineError, Running, Snapshot, ThreadFailure,
    confine_process, confine_this_thread,
};
use vmrun_spec::{HostPort, Image, MachineSpec};

use super::limits;
use super::message::{Ending, Fault, Report, VERSION, last_ones, short};
use super::orders::{Answer, Orders, Recorder};
use super::socket::{self, SocketError};
use super::{Begin, Saved};
use crate::assets::{self, AssetError, Embedded};
use crate::error::{chain, general_step};
use crate::fds;
use crate::pages;
use crate::templates::checkpoint;

/// What `ps` calls it.
pub(super) const NAME: &std::ffi::CStr = c"vmrun-machine";

/// How many of the console's last lines go with its end.
const TAIL_LINES: usize = 20;

/// What the process has from the monitor.
pub(super) struct Inherited<'m> {
    pub(super) spec: &'m MachineSpec,
    pub(super) embedded: Embedded,
    /// The directory that the guest gets, and that becomes the process's root.
    pub(super) share: &'m Path,
    pub(super) begin: Begin,
    pub(super) host_port: Option<HostPort>,
    pub(super) socket: OwnedFd,
}

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
enum InsideError {
    #[error("cannot {act}")]
    Io { act: &'static str, source: io::Error },
    #[error(transparent)]
    Assets(#[from] AssetError),
    #[error("guest kernel {}", .path.display())]
    Kernel { path: PathBuf, source: MachineError },
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("cannot give up the rights of the machine's process")]
    Confine(#[from] ConfineError),
}

impl InsideError {
    fn io<E: Into<io::Error>>(act: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { act, source: source.into() }
    }

    /// As it is told to the monitor, with what helps: its causes do not cross a socket.
    fn report(&self) -> Report {
        let fault = match self {
            Self::Machine(MachineError::Snapshot(_)) => Fault::Template,
            _ => Fault::Other,
        };
        let mut cause = chain(self);
        if fault == Fault::Other && !cause.contains("; ") {
            cause = format!("{cause}; {}", general_step(self));
        }
        Report::NotStarted { cause: short(cause), fault }
    }
}

/// The whole life of the process; gives its exit code.
pub(super) fn live(inherited: Inherited<'_>) -> i32 {
    let Inherited { spec, embedded, share, begin, host_port, socket } = inherited;
    let has_started = Cell::new(false);
    let lives = || {
        let born = settle(&socket, host_port.as_ref(), &begin)
            .and_then(|()| tell(&socket, &Report::Hello { version: VERSION }))
            .and_then(|()| build(spec, embedded, begin, host_port))
            .and_then(|(built, orders)| confine(built, orders, share));
        born.map_err(|error| {
            // A monitor that is gone needs no reason.
            let _ = tell(&socket, &error.report());
        })
        .map_or(1, |(running, orders)| {
            has_started.set(true);
            if tell(&socket, &Report::Started).is_ok() {
                running.release();
                serve(&socket, running, orders);
            }
            0
        })
    };
    catch_unwind(AssertUnwindSafe(lives)).unwrap_or_else(|panic| {
        let failure = ThreadFailure::panicked(&*panic);
        let report = if has_started.get() {
            Report::Ended { how: Ending::Failed(short(failure.to_string())), console: Vec::new() }
        } else {
            let cause = format!("the machine's process failed: {failure}; {}", general_step(&failure));
            Report::NotStarted { cause: short(cause), fault: Fault::Other }
        };
        let _ = tell(&socket, &report);
        101
    })
}

fn tell(socket: &OwnedFd, report: &Report) -> Result<(), InsideError> {
    socket::tell(socket, 0, report, None, MsgFlags::empty())
        .map_err(|error| InsideError::io("tell the monitor")(io::Error::other(error)))
}

/// Leaves behind what is the monitor's: terminal, streams, and every descriptor that has no use here.
fn settle(socket: &OwnedFd, host_port: Option<&HostPort>, begin: &Begin) -> Result<(), InsideError> {
    let _ = set_name(NAME);
    // Fails for who leads one already.
    let _ = setsid();
    fds::empty_standard_streams().map_err(InsideError::io("release the standard streams"))?;
    let mut kept = vec![socket.as_raw_fd()];
    kept.extend(host_port.map(|port| port.stream.as_raw_fd()));
    kept.extend(begin.descriptors().iter().map(AsRawFd::as_raw_fd));
    fds::close_all_but(&kept).map_err(InsideError::io("close what is the monitor's"))?;
    fds::make_room().map_err(InsideError::io("make room for descriptors"))?;
    limits::set().map_err(InsideError::io("set the limits of the machine's process"))
}

/// Builds the machine, with all rights.
fn build(
    spec: &MachineSpec,
    embedded: Embedded,
    begin: Begin,
    host_port: Option<HostPort>,
) -> Result<(Built, Orders), InsideError> {
    let kernel_pages = checkpoint::kernel_pages(spec, embedded);
    // Opened before other processes are kept out, and so a user who is not root.
    let pagemap = begin.needs_pagemap().then(checkpoint::open_pagemap);
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(InsideError::io("keep other processes out"))?;
    let saved = match begin {
        Begin::Restore(template) => {
            let is_recorded = matches!(pagemap, Some(Ok(_)));
            // What is done ahead would be recorded with what the start touches.
            let working_set = if is_recorded { &[][..] } else { &template.working_set.runs };
            let snapshot = Snapshot {
                state: &template.state,
                pages: &template.memory,
                kernel: kernel_pages,
                working_set,
                is_recorded,
            };
            let built = Built::restored(spec, snapshot, host_port)?;
            // Without it this start records nothing.
            let pagemap = pagemap.and_then(Result::ok);
            let recorder = pagemap.map(|pagemap| Recorder { pagemap, saved: snapshot.ranges() });
            return Ok((built, Orders::of_recorder(recorder)));
        }
        Begin::Boot(saved) => saved,
    };
    let kernel = assets::load(assets::KERNEL, &spec.kernel, embedded.kernel)?;
    let initramfs = assets::load(assets::INITRAMFS, &spec.initramfs, embedded.initramfs)?;
    let images = BootImages { kernel: &kernel, kernel_pages, initramfs: &initramfs };
    let stopping = saved.as_ref().map(|_| checkpoint::stopping(spec));
    let built = Built::new(stopping.as_ref().unwrap_or(spec), images, host_port);
    let mut built = built.map_err(|error| about_kernel(spec, error))?;
    pages::release(embedded.kernel);
    pages::release(embedded.initramfs);
    let orders = match (saved, pagemap) {
        (Some(Saved { memory, state }), Some(pagemap)) => {
            let stopped = pagemap.and_then(|pagemap| checkpoint::stop(&mut built).map(|()| pagemap));
            Orders::of_saver(memory, state, kernel_pages, stopped.map_err(|error| chain(&error)))
        }
        _ => Orders::default(),
    };
    Ok((built, orders))
}

/// Says which file it is that is no kernel.
fn about_kernel(spec: &MachineSpec, error: MachineError) -> InsideError {
    use BootError::{Kernel, No64BitEntry, NotAKernel};
    match (&spec.kernel, error) {
        (Image::File(path), source @ MachineError::Boot(NotAKernel | Kernel(_) | No64BitEntry)) => {
            InsideError::Kernel { path: path.clone(), source }
        }
        (_, error) => error.into(),
    }
}

/// Gives the rights up. The guest does not run before this is done.
fn confine(built: Built, orders: Orders, share: &Path) -> Result<(Running, Orders), InsideError> {
    let share: OwnedFd = File::open(share).map_err(InsideError::io("open the shared tree"))?.into();
    confine_process(&share)?;
    drop(share);
    let running = built.hold()?;
    confine_this_thread(orders.class())?;
    Ok((running, orders))
}

/// What has something to say.
struct Ready {
    monitor: bool,
    machine: bool,
    checkpoint: bool,
}

/// Obeys until the machine has ended, or the monitor. The machine ends with the process: a thread that waits for a file
/// system of the host's is not waited for.
fn serve(socket: &OwnedFd, running: Running, mut orders: Orders) {
    let mut running = ManuallyDrop::new(running);
    loop {
        let Ok(ready) = wait(socket, &running, &orders) else { return };
        if ready.machine {
            let end = running.end().unwrap_or(MachineEnd::Reset);
            let console = last_ones(running.console().tail(TAIL_LINES));
            // Nobody may be left to hear it.
            let _ = tell(socket, &Report::Ended { how: ending(end), console });
            return;
        }
        let mut answers: Vec<Answer> = Vec::new();
        if ready.checkpoint {
            answers.extend(orders.checkpoint(&mut running));
        }
        if ready.monitor {
            match socket::hear_with(socket) {
                Ok(Some((order, beside))) => answers.extend(orders.obey(&mut running, order, beside)),
                Ok(None) => {}
                Err(SocketError::Closed) => return,
                Err(error) => {
                    running.failing()(format!("its process cannot take orders: {error}"));
                    continue;
                }
            }
        }
        for (number, report) in answers {
            if socket::tell(socket, number, &report, None, MsgFlags::empty()).is_err() {
                return;
            }
        }
    }
}

fn wait(socket: &OwnedFd, running: &Running, orders: &Orders) -> Result<Ready, Errno> {
    let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
    let checkpoint: Option<BorrowedFd<'_>> = running.checkpoint_fd().filter(|_| orders.awaits_checkpoint());
    let mut polled = vec![readable(socket.as_fd()), readable(running.ended_fd())];
    polled.extend(checkpoint.map(readable));
    match poll(&mut polled, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno),
    }
    let is_ready = |at: usize| polled.get(at).and_then(PollFd::any).unwrap_or(false);
    Ok(Ready { monitor: is_ready(0), machine: is_ready(1), checkpoint: is_ready(2) })
}

fn ending(end: MachineEnd) -> Ending {
    match end {
        MachineEnd::Reset => Ending::Reset,
        MachineEnd::Panicked => Ending::Panicked,
        MachineEnd::Device(why) => Ending::Device(short(why)),
        MachineEnd::Failed(why) => Ending::Failed(short(why)),
    }
}
