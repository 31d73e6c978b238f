//! The monitor's cgroup on the host: the one that the configuration names.
//!
//! It holds the whole sandbox, guest memory included, so what an engine reads there is what the
//! container costs. The configuration's limits are not set on it: they are for the container and
//! hold in the guest, and the machine around it needs more than they leave.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// Where cgroup v2 is mounted on a host that has nothing else.
const HIERARCHY: &str = "/sys/fs/cgroup";

/// What engines read of a container.
const CONTROLLERS: &[&str] = &["cpu", "io", "memory", "pids"];

/// A process that has just ended may count a moment longer.
const REMOVAL_TRIES: u32 = 50;
const REMOVAL_PAUSE: Duration = Duration::from_millis(20);

/// Why the cgroup cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {act} the cgroup {}", .path.display())]
pub struct HostCgroupError {
    act: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The cgroup that a process was started in.
#[derive(Debug)]
pub(crate) struct Origin(PathBuf);

/// The caller's cgroup, where there is cgroup v2.
pub(crate) fn current() -> Option<Origin> {
    let table = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = table.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Origin(Path::new(HIERARCHY).join(path)))
}

/// Moves this process into the cgroup, which is made.
///
/// Where the host has no cgroup v2, or the caller may not use it, it stays where it is: nothing
/// but the accounting depends on it.
pub(crate) fn enter(cgroup: Option<&Path>) -> Result<(), HostCgroupError> {
    let Some(path) = cgroup.filter(|_| is_unified()).map(|below| Path::new(HIERARCHY).join(below)) else {
        return Ok(());
    };
    let failed = |act: &'static str| {
        let path = path.clone();
        move |source| HostCgroupError { act, path, source }
    };
    match make(&path) {
        Err(error) if is_forbidden(&error) => return Ok(()),
        other => other.map_err(failed("make"))?,
    }
    match fs::write(path.join("cgroup.procs"), "0") {
        Err(error) if is_forbidden(&error) => remove_directory(&path).map_err(failed("remove")),
        other => other.map_err(failed("enter")),
    }
}

/// Moves this process back to where it came from and removes the cgroup. What fails is left:
/// this is for a monitor that nobody waits for any more.
pub(crate) fn leave(cgroup: Option<&Path>, origin: Option<&Origin>) {
    if let (Some(_), Some(Origin(path))) = (cgroup, origin) {
        let _ = fs::write(path.join("cgroup.procs"), "0");
        let _ = remove(cgroup);
    }
}

/// Removes the cgroup of a monitor that has ended. Those above it are left to others, as
/// runc leaves them.
pub(crate) fn remove(cgroup: Option<&Path>) -> Result<(), HostCgroupError> {
    let Some(path) = cgroup.filter(|_| is_unified()).map(|below| Path::new(HIERARCHY).join(below)) else {
        return Ok(());
    };
    match remove_directory(&path) {
        Err(error) if is_forbidden(&error) => Ok(()),
        other => other.map_err(|source| HostCgroupError { act: "remove", path, source }),
    }
}

fn is_unified() -> bool {
    statfs(HIERARCHY).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

fn is_forbidden(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// Makes the cgroup and those above it, and lets each be accounted for.
fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent() {
        make(above)?;
        for controller in CONTROLLERS {
            // A controller that is missing, or cannot be had here, costs its figures only.
            let _ = fs::write(above.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
    match fs::create_dir(path) {
        // Another container of the same parent was quicker.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn remove_directory(path: &Path) -> io::Result<()> {
    for _ in 1..REMOVAL_TRIES {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => thread::sleep(REMOVAL_PAUSE),
            other => return other,
        }
    }
    fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_made_with_those_above_and_removed_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("above/own");
        make(&path).unwrap();
        make(&path).unwrap();
        assert!(path.is_dir());
        remove_directory(&path).unwrap();
        remove_directory(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn without_a_cgroup_there_is_nothing_to_do() {
        enter(None).unwrap();
        remove(None).unwrap();
    }
}
