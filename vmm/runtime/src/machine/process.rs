//! A child that goes on in this program, and ends with its parent.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::{ForkResult, fork};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, getppid, kill_process, pidfd_open,
    pidfd_send_signal, set_parent_process_death_signal, waitid, waitpid,
};

use crate::process::ends_within;

/// The code of a child that has no parent to work for.
const ORPHAN: i32 = 1;

/// A child. Dropped, it is killed and reaped.
#[derive(Debug)]
pub(super) struct Child {
    pidfd: OwnedFd,
    /// Once it is reaped.
    status: Mutex<Option<Status>>,
}

/// How a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Signal(i32),
    Code(i32),
    /// Somebody else has reaped it.
    Unknown,
}

impl Child {
    /// Starts it with `life`, whose result is its exit code.
    ///
    /// The calling process has this thread alone: others, with what they have locked, would be missing in the child.
    pub(super) fn start(life: impl FnOnce() -> i32) -> io::Result<Self> {
        let parent = getpid();
        // SAFETY: there is no other thread, so that the child has all of this process: no lock is held by one that it
        // lacks. It leaves this function by ending, so that nothing of the parent's is dropped twice.
        match unsafe { fork() }? {
            ForkResult::Child => {
                let code = catch_unwind(AssertUnwindSafe(|| live(parent, life)));
                // SAFETY: it ends this process at once, without running anything that is registered for the end.
                unsafe { libc::_exit(code.unwrap_or(101)) }
            }
            ForkResult::Parent { child } => {
                let pid = Pid::from_raw(child.as_raw()).ok_or(io::ErrorKind::InvalidData)?;
                // Not reaped yet, so the pid is still its.
                let pidfd = pidfd_open(pid, PidfdFlags::empty()).inspect_err(|_| {
                    let _ = kill_process(pid, Signal::KILL);
                    let _ = waitpid(Some(pid), WaitOptions::empty());
                })?;
                Ok(Self { pidfd, status: Mutex::default() })
            }
        }
    }

    /// Kills it; it may be gone already.
    pub(super) fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Whether it has ended when this time is over.
    pub(super) fn ends_within(&self, limit: Duration) -> bool {
        ends_within(self.as_fd(), limit).unwrap_or(true)
    }

    /// How it ended; nothing while it has not.
    pub(super) fn status(&self) -> Option<Status> {
        let mut known = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            *known = match waitid(WaitId::PidFd(self.pidfd.as_fd()), ended) {
                Ok(None) | Err(Errno::INTR) => None,
                Ok(Some(status)) => Some(match (status.terminating_signal(), status.exit_status()) {
                    (Some(signal), _) => Status::Signal(signal),
                    (None, code) => Status::Code(code.unwrap_or_default()),
                }),
                Err(_) => Some(Status::Unknown),
            };
        }
        *known
    }
}

/// Readable once it has ended.
impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        if self.status().is_none() && self.ends_within(crate::process::END_LIMIT) {
            self.status();
        }
    }
}

fn live(parent: Pid, life: impl FnOnce() -> i32) -> i32 {
    let bound = set_parent_process_death_signal(Some(Signal::KILL));
    // Before that, the parent's end went unnoticed.
    if bound.is_err() || getppid() != Some(parent) {
        return ORPHAN;
    }
    life()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_of_a_child_is_known_and_one_that_is_dropped_is_gone() {
        let child = Child::start(|| 7).unwrap();
        assert!(child.ends_within(Duration::from_secs(60)));
        assert_eq!(child.status(), Some(Status::Code(7)));
        assert_eq!(child.status(), Some(Status::Code(7)));
        let wait = || {
            std::thread::park();
            0
        };
        let child = Child::start(wait).unwrap();
        assert_eq!(child.status(), None);
        child.kill();
        assert!(child.ends_within(Duration::from_secs(60)));
        assert_eq!(child.status(), Some(Status::Signal(libc::SIGKILL)));
        let child = Child::start(wait).unwrap();
        let pidfd = child.pidfd.try_clone().unwrap();
        drop(child);
        assert_eq!(pidfd_send_signal(&pidfd, Signal::KILL), Err(Errno::SRCH));
    }
}
