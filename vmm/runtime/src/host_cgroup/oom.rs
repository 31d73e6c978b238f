//! A kill by the guest's OOM killer, told to those who watch the container's cgroup on the host.
//!
//! Engines learn that a container ran out of memory from `oom_kill` in `memory.events` of its cgroup,
//! which the host's kernel counts and nobody can write. The guest's kernel kills in a machine of its
//! own, so that nothing is counted. For each time that it tells of, the host's kernel is brought to
//! kill one process in that cgroup, too:
//!
//! ```text
//!   container's cgroup           its neighbour, memory.max 0
//!     monitor
//!     victim ── clone(CLONE_VM) ──▶ charger: makes pipes until the kernel has no memory for them
//! ```
//!
//! The kernel finds the charger alone in the cgroup that is out of memory, kills it with all that
//! share its memory, and counts that where the owner of the memory is, which is the victim. The container's
//! cgroup is never short of memory: no limit of it is touched, nothing is reclaimed, and the
//! monitor is not a candidate.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libc::{SIGKILL, c_int, c_void};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::tree::put;
use super::{on_this_host, remove_directory};
use crate::oom_score;

/// The verb by which the monitor starts the victim; nobody types it.
const HIDDEN_VERB: &str = "__oom";

/// More than enough for a cgroup that may have nothing.
const PIPES: usize = 64;

const STACK_BYTES: usize = 64 << 10;

/// The neighbour of the container's cgroup.
pub(super) fn neighbour(cgroup: &Path) -> Option<PathBuf> {
    let name = cgroup.file_name()?.to_str()?;
    // A name that no engine gives, so that it is no other container's.
    Some(cgroup.with_file_name(format!(".{name}.vmrun-oom")))
}

/// Has the host's kernel count one kill in the container's cgroup.
pub(crate) fn count_kill(below: &Path) -> io::Result<()> {
    let cgroup = on_this_host(below).and_then(|cgroup| neighbour(&cgroup));
    let cgroup = cgroup.ok_or(io::ErrorKind::Unsupported)?;
    match std::fs::create_dir(&cgroup) {
        // One that a killed monitor has left. It cannot be removed while somebody is in it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::remove_dir(&cgroup)?;
            std::fs::create_dir(&cgroup)?;
        }
        made => made?,
    }
    let counted = put(&cgroup, "memory.max", "0").and_then(|()| sacrifice(&cgroup));
    let removed = remove_directory(&cgroup);
    counted.and(removed)
}

fn sacrifice(cgroup: &Path) -> io::Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("vmrun").arg(HIDDEN_VERB).arg(cgroup);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if status.signal() == Some(SIGKILL) {
        return Ok(());
    }
    Err(io::Error::other(format!("the kernel does not kill for want of kernel memory: {status}")))
}

/// Is killed, if the kernel counts its own memory; a code that says no otherwise.
pub fn oom_main(cgroup: &Path) -> u8 {
    // The name is what the kernel's log shows. Neither matters enough to fail.
    let _ = nix::sys::prctl::set_name(c"vmrun-oom");
    let _ = oom_score::set(1000);
    let mut cgroup = cgroup.to_owned();
    // Its parts are as aligned as a stack must be.
    let mut stack = vec![0u128; STACK_BYTES / size_of::<u128>()];
    let top = stack.as_mut_ptr_range().end.cast();
    let argument = (&raw mut cgroup).cast();
    // SAFETY: the child uses the memory of this process while this one only waits for it. Its stack
    // and its argument stay until it has ended, and the two are never in the allocator together.
    let child = unsafe { libc::clone(charger, top, libc::CLONE_VM | libc::SIGCHLD, argument) };
    if child > 0 {
        let _ = waitpid(Pid::from_raw(child), None);
    }
    1
}

extern "C" fn charger(cgroup: *mut c_void) -> c_int {
    // SAFETY: `oom_main` passes a path that outlives this process.
    charge(unsafe { &*cgroup.cast::<PathBuf>() })
}

fn charge(cgroup: &Path) -> c_int {
    if put(cgroup, "cgroup.procs", "0").is_err() {
        return 1;
    }
    let mut kept = Vec::with_capacity(PIPES);
    for _ in 0..PIPES {
        let Ok((read, write)) = nix::unistd::pipe() else { return 1 };
        if nix::unistd::write(&write, &[0; 4096]).is_err() {
            return 1;
        }
        kept.push((read, write));
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbour_has_the_name_in_its_own() {
        assert_eq!(neighbour(Path::new("/c/web")), Some("/c/.web.vmrun-oom".into()));
        assert_eq!(neighbour(Path::new("/")), None);
    }

    #[test]
    fn victim_without_its_cgroup_says_no() {
        assert_eq!(charge(Path::new("/nowhere")), 1);
    }
}
