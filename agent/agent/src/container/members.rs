//! All processes of a container, wherever they are.
//!
//! Most containers stay in their cgroup and below it. One that sees the whole hierarchy, since it
//! has no cgroup namespace or a bind mount of it, may move its processes into cgroups beside its
//! own, and even remove that. What is meant for all of its processes finds them by the cgroup that
//! its init process is in by then, and by its pid namespace, if it has one of its own.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::cgroup::{Cgroup, absent_is_fine, cgroup_of_process};
use crate::sys;

/// A container's cgroup, and its init process while it lives.
#[derive(Clone, Debug)]
pub(crate) struct Members {
    cgroup: Cgroup,
    init: Option<i32>,
}

impl Members {
    pub(crate) fn new(cgroup: &Cgroup, init: Option<i32>) -> Self {
        Self { cgroup: cgroup.clone(), init }
    }

    /// Its init process, while that lives.
    pub(crate) fn init(&self) -> Option<i32> {
        self.init
    }

    /// Where the limits and figures are: the container's cgroup, or what its init process is in
    /// when that is gone.
    pub(crate) fn home(&self) -> Cgroup {
        match self.elsewhere() {
            Some(elsewhere) if !self.cgroup.exists() => elsewhere,
            _ => self.cgroup.clone(),
        }
    }

    /// Kills every process, forks in progress included.
    pub(crate) fn kill(&self) -> io::Result<()> {
        self.cgroups().iter().try_for_each(Cgroup::kill)?;
        for pid in self.of_namespace() {
            absent_is_fine(sys::kill(pid, libc::SIGKILL))?;
        }
        Ok(())
    }

    /// Sends `signal` to every process.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        if signal == libc::SIGKILL {
            return self.kill();
        }
        for pid in self.processes()? {
            absent_is_fine(sys::kill(pid, signal))?;
        }
        Ok(())
    }

    /// Every process.
    pub(crate) fn processes(&self) -> io::Result<Vec<i32>> {
        let mut pids = self.of_namespace();
        for cgroup in self.cgroups() {
            pids.extend(cgroup.processes()?);
        }
        Ok(pids.into_iter().collect())
    }

    /// Stops every process, or lets them go on.
    pub(crate) fn freeze(&self, frozen: bool) -> io::Result<()> {
        self.cgroups().iter().try_for_each(|cgroup| cgroup.freeze(frozen))
    }

    /// The cgroups that hold the container's processes and no others.
    fn cgroups(&self) -> Vec<Cgroup> {
        let own = Some(self.cgroup.clone()).filter(Cgroup::exists);
        own.into_iter().chain(self.elsewhere()).collect()
    }

    /// The cgroup of the init process, if it is neither the container's, nor below it, nor everybody's.
    fn elsewhere(&self) -> Option<Cgroup> {
        let path = cgroup_of_process(self.init?).ok()?;
        let cgroup = Cgroup::at(&path);
        let is_outside = path != Path::new("/") && !cgroup.directory().starts_with(self.cgroup.directory());
        Some(cgroup).filter(|cgroup| is_outside && cgroup.exists())
    }

    /// The processes of the init process's pid namespace, unless that is the agent's.
    fn of_namespace(&self) -> BTreeSet<i32> {
        let own = namespace(Path::new("/proc/self"));
        let its = self.init.and_then(|pid| namespace(&of(pid)));
        if its.is_none() || its == own {
            return BTreeSet::new();
        }
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| namespace(&of(*pid)) == its).collect()
    }
}

fn of(pid: i32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

/// What tells a pid namespace from others.
fn namespace(process: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(process.join("ns/pid")).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_meant_by_a_container_that_has_ended_and_left_nothing() {
        let members = Members::new(&Cgroup::at(Path::new("/vmrun-none")), None);
        members.kill().unwrap();
        members.signal(15).unwrap();
        assert_eq!(members.processes().unwrap(), Vec::<i32>::new());
        assert_eq!(members.home().directory(), Path::new("/sys/fs/cgroup/vmrun-none"));
    }

    #[test]
    fn namespace_of_the_agent_is_not_the_containers() {
        let own = i32::try_from(std::process::id()).unwrap();
        let members = Members::new(&Cgroup::at(Path::new("/vmrun-none")), Some(own));
        assert!(members.of_namespace().is_empty());
    }
}
