//! Naming a process so that a reused pid is not taken for it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid};
use serde::{Deserialize, Serialize};

/// A pid and the moment it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessIdentity {
    pub(crate) pid: i32,
    /// Clock ticks from the boot to the process's start (`proc(5)`, field 22 of `stat`).
    start_ticks: u64,
}

impl ProcessIdentity {
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        let (_, start_ticks) = stat(pid)?;
        Ok(Self { pid, start_ticks })
    }

    /// Whether it still runs. A zombie does not.
    pub(crate) fn is_alive(self) -> bool {
        match stat(self.pid) {
            Ok((state, start_ticks)) => start_ticks == self.start_ticks && !matches!(state, 'Z' | 'X'),
            Err(_) => false,
        }
    }
}

/// A process that cannot become another one while this is held.
#[derive(Debug)]
pub(crate) struct ProcessHandle {
    pidfd: OwnedFd,
}

impl ProcessHandle {
    /// `None` when the process is gone.
    pub(crate) fn open(process: ProcessIdentity) -> io::Result<Option<Self>> {
        // Only now is the pid pinned, so the identity is checked after.
        Ok(Self::pin(process.pid)?.filter(|_| process.is_alive()))
    }

    /// Whichever process has the pid now, also one of which some threads have ended; `None` when there is none.
    pub(crate) fn pin(pid: i32) -> io::Result<Option<Self>> {
        let Some(pid) = Pid::from_raw(pid) else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Some(Self { pidfd })),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether it has ended when this time is over.
    pub(crate) fn ends_within(&self, limit: Duration) -> io::Result<bool> {
        ends_within(self.as_fd(), limit)
    }

    /// Kills it; it may be gone already.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// How long a process that ends may take to go: a monitor frees the guest's memory.
pub(crate) const END_LIMIT: Duration = Duration::from_secs(30);

/// Reaps a child that is about to end; one that does not is killed.
pub(crate) fn reap(child: Pid) -> io::Result<ExitStatus> {
    // Not reaped yet, so the pid is still its.
    let pidfd = pidfd_open(child, PidfdFlags::empty())?;
    if !ends_within(pidfd.as_fd(), END_LIMIT)? {
        pidfd_send_signal(&pidfd, Signal::KILL)?;
    }
    wait(child)
}

/// Waits for a child's end.
pub(crate) fn wait(child: Pid) -> io::Result<ExitStatus> {
    let ended = retry_on_intr(|| waitpid(Some(child), WaitOptions::empty()))?;
    let (_, status) = ended.ok_or(io::ErrorKind::InvalidData)?;
    Ok(ExitStatus::from_raw(status.as_raw()))
}

pub(crate) fn ends_within(pidfd: BorrowedFd<'_>, limit: Duration) -> io::Result<bool> {
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    loop {
        match poll(&mut [PollFd::new(pidfd, PollFlags::POLLIN)], limit) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(count) => return Ok(count > 0),
        }
    }
}

/// Readable once the process has ended.
impl AsFd for ProcessHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

fn stat(pid: i32) -> io::Result<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&text).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// The name in field 2 may hold anything, parentheses and spaces too.
fn parse_stat(text: &str) -> Option<(char, u64)> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some((state, start_ticks))
}

/// A text that is another one after each boot of the host.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_found_behind_any_name() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(parse_stat(&format!("12 (a) b) c) {rest}")), Some(('S', 4711)));
        assert_eq!(parse_stat("12 (a"), None);
    }

    #[test]
    fn this_process_is_alive_and_another_with_its_pid_is_not() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let mut me = ProcessIdentity::of(pid).unwrap();
        assert!(me.is_alive());
        me.start_ticks += 1;
        assert!(!me.is_alive());
    }

    #[test]
    #[expect(clippy::zombie_processes, reason = "it is reaped by its pid")]
    fn child_that_ends_is_reaped_with_its_code() {
        let child = std::process::Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
        assert_eq!(reap(Pid::from_child(&child)).unwrap().code(), Some(3));
    }
}
