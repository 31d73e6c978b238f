//! A bind mount that shows other owners than its file system stores.
//!
//! ```text
//!   source ──open_tree──▶ copy, mounted nowhere ──mount_setattr──▶ mapped ──move_mount──▶ target
//!                                                     ▲
//!   child ──unshare──▶ user namespace with the mapping ┘
//! ```
//!
//! The kernel wants the mapping as a user namespace. A child enters a new one, which
//! lives on in the mount when the child is gone. The monitor cannot do it itself: there is
//! no way back out.
#![allow(unsafe_code)]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};
use vmrun_spec::{IdMap, IdRange};

use crate::mount_attributes;

/// Why the owners cannot be mapped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdMapError {
    #[error("cannot make a user namespace for the mapping")]
    Namespace(#[source] io::Error),
    #[error("the kernel refuses the mapping")]
    Mapping(#[source] io::Error),
    /// It has its own cause: the kernel's is "invalid argument".
    #[error("this host's kernel cannot do that for its file system, or for one mounted below it")]
    FileSystem,
    #[error("cannot map the owners")]
    Apply(#[source] io::Error),
}

/// Shows the owners of `copy`, a mount that nothing is mounted in yet, as `map` says.
pub(super) fn apply(copy: &OwnedFd, map: &IdMap) -> Result<(), IdMapError> {
    let namespace = user_namespace(map)?;
    mount_attributes::map_owners(copy, namespace.as_fd(), map.recursive).map_err(|error| {
        match error.raw_os_error() {
            Some(libc::EINVAL) => IdMapError::FileSystem,
            _ => IdMapError::Apply(error),
        }
    })
}

/// A user namespace with this mapping, which nobody is in.
fn user_namespace(map: &IdMap) -> Result<File, IdMapError> {
    let child = Child::start().map_err(IdMapError::Namespace)?;
    let pid = child.pid();
    fs::write(format!("/proc/{pid}/uid_map"), lines(&map.uids)).map_err(IdMapError::Mapping)?;
    fs::write(format!("/proc/{pid}/gid_map"), lines(&map.gids)).map_err(IdMapError::Mapping)?;
    child.namespace().map_err(IdMapError::Namespace)
}

/// As `user_namespaces(7)` has it: the number in the namespace is the one that is stored.
fn lines(ranges: &[IdRange]) -> String {
    ranges.iter().fold(String::new(), |mut text, range| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{} {} {}", range.stored, range.seen, range.count);
        text
    })
}

/// A process in a user namespace of its own, which ends when this is dropped.
pub(super) struct Child {
    pid: Pid,
}

impl Child {
    /// Forks; the child is in its namespace when this returns.
    pub(super) fn start() -> io::Result<Self> {
        let (mut ours, theirs) = UnixStream::pair()?;
        // SAFETY: until it ends the child makes system calls only, on a value that it has
        // already: it takes no lock that a thread of the parent's may hold, and allocates nothing.
        let child = match unsafe { fork() }? {
            ForkResult::Child => wait_in_namespace(ours, theirs),
            ForkResult::Parent { child } => Self { pid: child },
        };
        drop(theirs);
        let mut error = [0; 4];
        ours.read_exact(&mut error)?;
        match i32::from_ne_bytes(error) {
            0 => Ok(child),
            number => Err(io::Error::from_raw_os_error(number)),
        }
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    pub(super) fn namespace(&self) -> io::Result<File> {
        File::open(format!("/proc/{}/ns/user", self.pid))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Our child is not reaped yet, so the pid is still its.
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

/// The child's life: it tells what came of it, and stays until it is killed or its parent is gone.
fn wait_in_namespace(ours: UnixStream, mut theirs: UnixStream) -> ! {
    drop(ours);
    let error = unshare(CloneFlags::CLONE_NEWUSER).err().map_or(0, |errno| errno as i32);
    if theirs.write_all(&error.to_ne_bytes()).is_ok() {
        let _ = theirs.read(&mut [0]);
    }
    // SAFETY: it ends this process at once, without running anything that is registered for the end.
    unsafe { libc::_exit(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_has_the_stored_ids_first() {
        let ranges = [
            IdRange { stored: 0, seen: 1000, count: 1 },
            IdRange { stored: 1, seen: 200_000, count: 65_535 },
        ];
        assert_eq!(lines(&ranges), "0 1000 1\n1 200000 65535\n");
    }
}
