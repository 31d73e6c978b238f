//! A child that begins in its cgroup.
//!
//! To move a process the kernel waits until all processors have been seen (an RCU grace period,
//! tens of milliseconds); who begins there need not be moved: `CLONE_INTO_CGROUP` of `clone3(2)`.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use rustix::process::{Pid, kill_process};

use crate::{process, step};

/// This program.
const PROGRAM: &CStr = c"/proc/self/exe";

/// Of `linux/sched.h`; in libc's type it is 0.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// The code of a process whose program could not be started, as with shells.
const NOT_STARTED: i32 = 127;

/// A child that has not been reaped, so that its pid is its own.
#[derive(Debug)]
pub(crate) struct ChildProcess {
    pid: Pid,
}

impl ChildProcess {
    /// Starts this program with these arguments, in the cgroup if the kernel starts it there; else in ours.
    ///
    /// To be called while no other thread does anything.
    pub(crate) fn start(arguments: &[&str], cgroup: Option<&Path>) -> io::Result<Self> {
        let Some(cgroup) = cgroup else { return spawn(arguments) };
        let started = File::open(cgroup).and_then(|cgroup| clone_into(cgroup.as_fd(), arguments));
        started.map(|pid| Self { pid }).or_else(|error| {
            step!("the monitor has to enter its cgroup: it cannot be started there: {error}");
            spawn(arguments)
        })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Waits for its end, not without limit.
    pub(crate) fn reap(self) -> io::Result<ExitStatus> {
        process::reap(self.pid)
    }

    /// Ends it.
    pub(crate) fn kill(self) {
        // It may be gone already; reaping it is what matters.
        let _ = kill_process(self.pid, rustix::process::Signal::KILL);
        let _ = process::wait(self.pid);
    }
}

fn spawn(arguments: &[&str]) -> io::Result<ChildProcess> {
    let mut command = Command::new(PROGRAM.to_str().map_err(io::Error::other)?);
    let child = command.arg0("vmrun").args(arguments).spawn()?;
    Ok(ChildProcess { pid: Pid::from_child(&child) })
}

fn clone_into(cgroup: BorrowedFd<'_>, arguments: &[&str]) -> io::Result<Pid> {
    let words = ["vmrun"].iter().chain(arguments).map(|word| CString::new(*word));
    let words: Vec<CString> = words.collect::<Result<_, _>>()?;
    let mut pointers: Vec<*const c_char> = words.iter().map(|word| word.as_ptr()).collect();
    pointers.push(std::ptr::null());
    // SAFETY: all zeros is a value of this plain structure.
    let mut how: libc::clone_args = unsafe { std::mem::zeroed() };
    how.flags = CLONE_INTO_CGROUP;
    how.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    how.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    // SAFETY: as by fork(2): the child has a copy of this memory, with this thread alone in it, so
    // that no lock is held by one that it lacks.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const how, size_of::<libc::clone_args>()) };
    // Nor is -1 a pid.
    match i32::try_from(pid).ok().filter(|pid| *pid > 0).and_then(Pid::from_raw) {
        None if pid == 0 => become_program(&pointers),
        None => Err(io::Error::last_os_error()),
        Some(pid) => Ok(pid),
    }
}

/// The child: the program, begun as the standard library begins one.
fn become_program(arguments: &[*const c_char]) -> ! {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs nothing of ours.
    let _ = unsafe { sigaction(Signal::SIGPIPE, &default) };
    let _ = SigSet::empty().thread_set_mask();
    // SAFETY: both lists end with a null pointer; nobody changes the environment meanwhile.
    unsafe { libc::execve(PROGRAM.as_ptr(), arguments.as_ptr(), libc::environ.cast()) };
    let error = io::Error::last_os_error();
    // The launcher tells the code alone.
    eprintln!("vmrun: error: cannot start the monitor: {error}");
    // SAFETY: it only ends the process, at once.
    unsafe { libc::_exit(NOT_STARTED) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_does_not_start_in_a_cgroup_is_started_nevertheless() {
        // No cgroup.
        let place = tempfile::tempdir().unwrap();
        let child = ChildProcess::start(&["--list"], Some(place.path())).unwrap();
        assert!(child.reap().unwrap().success());
    }
}
