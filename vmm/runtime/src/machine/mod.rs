//! The machine in a process of its own, which holds nothing but what its guest may have.
//!
//! ```text
//!   monitor ── Machine ──▶ orders, one reply each ──▶ vmrun-machine: vCPUs, event loop, file server
//!      │                   SOCK_SEQPACKET                  │
//!      └──── pidfd: readable when it has ended ◀───────────┘ killed when the monitor ends
//! ```
//!
//! The process is a fork of its owner's while that has one thread, so that it starts nothing anew. It is the guest's once
//! the guest has broken a device: the owner believes nothing that it says, waits for nothing
//! without a limit, takes no descriptor from it, and ends it when it breaks the rules.

mod console;
mod handle;
mod inside;
mod message;
mod orders;
mod process;
mod socket;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use vmrun_spec::{HostPort, MachineSpec};

use crate::assets::Embedded;
use crate::process::{END_LIMIT, ProcessHandle, ProcessIdentity};
use crate::templates::Template;
pub(crate) use handle::{Machine, Named, SaveError};
pub(crate) use message::Stamped;

/// Whether this process is one, by its name.
pub(crate) fn is_one(pid: i32) -> bool {
    let name = std::fs::read(format!("/proc/{pid}/comm"));
    name.is_ok_and(|name| name.strip_suffix(b"\n") == Some(inside::NAME.to_bytes()))
}

/// Waits for the end of the machine whose root directory is `share`, when its monitor is gone: the kernel ends it, and it
/// has interfaces and files open until then.
pub(crate) fn await_end(share: &Path) {
    let Ok(entries) = std::fs::read_dir("/proc") else { return };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for pid in pids.filter(|pid| is_one(*pid)) {
        let Ok(identity) = ProcessIdentity::of(pid) else { continue };
        let is_its = match std::fs::read_link(format!("/proc/{pid}/root")) {
            Ok(root) => root == share,
            // One that ends has lost it, and may be this one.
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if !is_its {
            continue;
        }
        if let Ok(Some(handle)) = ProcessHandle::open(identity) {
            // Whoever cannot be waited for is a matter of the host's.
            let _ = handle.ends_within(END_LIMIT);
        }
    }
}

/// What its guest begins with.
#[derive(Debug)]
pub(crate) enum Begin {
    /// Its kernel; where it is to be saved, it stops at the checkpoint.
    Boot(Option<Saved>),
    /// What was saved.
    Restore(Template),
}

/// The files that a saved machine goes to.
#[derive(Debug)]
pub(crate) struct Saved {
    /// The pages.
    pub(crate) memory: File,
    /// The rest.
    pub(crate) state: File,
}

impl Begin {
    /// What the process needs besides.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Boot(None) => Vec::new(),
            Self::Boot(Some(Saved { memory, state })) => vec![memory.as_fd(), state.as_fd()],
            Self::Restore(template) => vec![template.memory.as_fd()],
        }
    }
}

/// How a machine has ended, as far as its owner knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The guest asked for a reset: an orderly end if the agent had said so before.
    Reset,
    /// The guest kernel panicked; the console says why.
    Panicked,
    /// A device cannot go on, as a rule since the guest broke its rules; one line.
    Device(String),
    /// Anything else; one line.
    Failed(String),
    /// Its process was killed by this signal.
    Killed(i32),
}

/// Why a machine has not been started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no process for it.
    #[error("cannot {act} the machine's process")]
    Process {
        /// What was tried.
        act: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// It says why itself, and what helps.
    #[error("{0}")]
    Refused(String),
    /// What it was to go on from is no good.
    #[error("{0}")]
    Template(String),
    /// It has said nothing.
    #[error("{0}")]
    Ended(String),
    /// Its process was killed by this signal.
    #[error("the machine's process was killed by {} before its guest ran", Named(*.0))]
    Killed(i32),
}

/// Starts a machine of `spec`, whose guest gets `share` and reaches `host_port`. The caller has one thread.
pub(crate) fn start(
    spec: &MachineSpec,
    embedded: Embedded,
    share: &Path,
    begin: Begin,
    host_port: Option<HostPort>,
) -> Result<Machine, StartError> {
    // Threads of the owner's are confined, too.
    vmrun_machine::one_heap_for_all_threads();
    let failed = |source| StartError::Process { act: "talk to", source };
    let (ours, theirs) = socket::pair().map_err(failed)?;
    let legacy = inside::Legacy { spec, embedded, share, begin, host_port, socket: theirs };
    let child = process::Child::start(move || inside::live(legacy));
    let child = child.map_err(|source| StartError::Process { act: "start", source })?;
    // Other processes of this user have no business here from now on: what is below its directory in `/proc` is root's.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|errno| StartError::Process { act: "keep other processes out of", source: errno.into() })?;
    Machine::started(child, ours, &spec.console_log)
}
