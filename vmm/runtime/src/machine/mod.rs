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
mod limits;
mod message;
mod orders;
mod process;
mod socket;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use vmrun_spec::{HostPort, MachineSpec};

use crate::assets::Embedded;
use crate::process::{END_LIMIT, ProcessHandle};
use crate::templates::Template;
pub(crate) use handle::{Machine, Named, OrderError, SaveError};
pub(crate) use message::{Counted, Stamped};

/// What is told of one that a hanging file system of the host's keeps from ending.
pub(crate) const STILL_THERE: &str = "the machine's process was killed and has not ended: it waits for a file system of the host's, and may write there; see the host's kernel log";

/// Waits for the end of the machine whose root directory is `share`, when its monitor is gone: the kernel ends it, and it
/// has interfaces and files open until then. False if it has not ended when the time is over.
pub(crate) fn await_end(share: &Path) -> bool {
    let Ok(entries) = fs::read_dir("/proc") else { return true };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // One that cannot be waited for is not this user's.
    let machines =
        pids.filter(|pid| is_one(*pid)).filter_map(|pid| Some((pid, ProcessHandle::pin(pid).ok()??)));
    let mut its = machines.filter(|(pid, _)| match fs::read_link(format!("/proc/{pid}/root")) {
        Ok(root) => root == share,
        // One that ends has lost it, and may be this one.
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    });
    its.all(|(_, machine)| machine.ends_within(END_LIMIT).unwrap_or(true))
}

/// Whether this process is a machine's, by its name.
fn is_one(pid: i32) -> bool {
    let name = fs::read(format!("/proc/{pid}/comm"));
    name.is_ok_and(|name| name.strip_suffix(b"\n") == Some(inside::NAME.to_bytes()))
}

/// What its guest begins with.
#[derive(Debug)]
pub(crate) enum Begin {
    /// Its kernel; where it is to be saved, it stops at the checkpoint.
    Boot(Option<Saved>),
    /// What was saved.
    Restore(Box<Template>),
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

    /// Whether the process is to tell which of its pages there are.
    fn needs_pagemap(&self) -> bool {
        match self {
            Self::Boot(saved) => saved.is_some(),
            Self::Restore(template) => template.working_set.is_to_be_recorded(),
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
    let inherited = inside::Inherited { spec, embedded, share, begin, host_port, socket: theirs };
    let child = process::Child::start(move || inside::live(inherited));
    let child = child.map_err(|source| StartError::Process { act: "start", source })?;
    // Other processes of this user have no business here from now on: what is below its directory in `/proc` is root's.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|errno| StartError::Process { act: "keep other processes out of", source: errno.into() })?;
    Machine::started(child, ours, &spec.console_log)
}
