//! The cgroup of a container, as the agent uses it after libcontainer made it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use libcgroups::common::{CgroupManager, ControllerOpt};
use libcgroups::v2::manager::Manager;
use oci_spec::runtime::LinuxResources;

use super::program::chain;
use crate::sys;

/// Mount point of the guest's cgroup v2 hierarchy.
pub(crate) const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// A container's cgroup with everything below it.
#[derive(Clone, Debug)]
pub(crate) struct Cgroup {
    directory: PathBuf,
}

impl Cgroup {
    /// The cgroup at `path`, which is absolute below the root of the hierarchy.
    pub(crate) fn at(path: &Path) -> Self {
        let below = path.strip_prefix("/").unwrap_or(path);
        Self { directory: Path::new(CGROUP_ROOT).join(below) }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Kills every process in it, forks in progress included.
    pub(crate) fn kill(&self) -> io::Result<()> {
        absent_is_fine(fs::write(self.directory.join("cgroup.kill"), "1"))
    }

    /// Sends `signal` to every process in it.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        if signal == libc::SIGKILL {
            return self.kill();
        }
        for pid in processes(&self.directory)? {
            match sys::kill(pid, signal) {
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Its processes and those of all cgroups below it.
    pub(crate) fn processes(&self) -> io::Result<Vec<i32>> {
        processes(&self.directory)
    }

    /// Stops every process in it, or lets them go on.
    pub(crate) fn freeze(&self, frozen: bool) -> io::Result<()> {
        fs::write(self.directory.join("cgroup.freeze"), if frozen { "1" } else { "0" })
    }

    /// Sets the limits that are given.
    pub(crate) fn update(&self, resources: &LinuxResources) -> Result<(), String> {
        let below = self.directory.strip_prefix(CGROUP_ROOT).unwrap_or(&self.directory);
        let manager = Manager::new(CGROUP_ROOT.into(), below.to_owned()).map_err(|error| chain(&error))?;
        let limits =
            ControllerOpt { resources, disable_oom_killer: false, oom_score_adj: None, freezer_state: None };
        manager.apply(&limits).map_err(|error| chain(&error))?;
        self.forbid_swap(resources).map_err(|error| format!("failed to write 0 to memory.swap.max: {error}"))
    }

    /// A swap limit that equals the memory limit means no swap (the OCI's number is
    /// the sum of both); libcontainer writes no zero.
    pub(crate) fn forbid_swap(&self, resources: &LinuxResources) -> io::Result<()> {
        let memory = resources.memory().as_ref();
        let same = memory.is_some_and(|memory| {
            memory.limit().is_some_and(|limit| limit > 0) && memory.swap() == memory.limit()
        });
        if !same {
            return Ok(());
        }
        match fs::write(self.directory.join("memory.swap.max"), "0") {
            // A guest kernel without swap has no such file, and no swap.
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes it with all cgroups below it; false while processes are in it.
    pub(crate) fn remove(&self) -> io::Result<bool> {
        match remove_tree(&self.directory) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(false),
            other => absent_is_fine(other).map(|()| true),
        }
    }
}

fn processes(directory: &Path) -> io::Result<Vec<i32>> {
    let list = fs::read_to_string(directory.join("cgroup.procs"))?;
    let mut pids: Vec<i32> = list.lines().filter_map(|line| line.parse().ok()).collect();
    for below in directories(directory)? {
        pids.extend(processes(&below)?);
    }
    Ok(pids)
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    for below in directories(directory)? {
        remove_tree(&below)?;
    }
    fs::remove_dir(directory)
}

fn directories(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removal_takes_what_lies_below_and_accepts_absence() {
        let root = tempfile::tempdir().unwrap();
        let cgroup = Cgroup { directory: root.path().join("container") };
        fs::create_dir_all(cgroup.directory.join("a/b")).unwrap();
        assert!(cgroup.remove().unwrap());
        assert!(!cgroup.directory.exists());
        assert!(cgroup.remove().unwrap());
        cgroup.kill().unwrap();
    }

    #[test]
    fn path_is_taken_below_the_hierarchy() {
        assert_eq!(Cgroup::at(Path::new("/a/b")).directory(), Path::new("/sys/fs/cgroup/a/b"));
    }
}
