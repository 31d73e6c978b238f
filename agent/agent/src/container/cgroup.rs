//! The cgroup of a container.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::chown;
use std::path::{Component, Path, PathBuf};

use libcgroups::common::{CgroupManager, ControllerOpt};
use libcgroups::v2::manager::{Manager, V2ManagerError};
use nix::errno::Errno;
use oci_spec::runtime::LinuxResources;

use super::huge_pages;
use super::program::chain;
use super::swap::Swap;

/// Mount point of the guest's cgroup v2 hierarchy.
pub(crate) const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// The file that lists a cgroup's processes.
const PROCESSES: &str = "cgroup.procs";

/// The files of a cgroup that whoever it is delegated to gets with it.
const DELEGATED: &str = "/sys/kernel/cgroup/delegate";
const DELEGATED_ALWAYS: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";

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

    pub(crate) fn exists(&self) -> bool {
        self.directory.is_dir()
    }

    /// Where one more process goes: here, or where `init` is by now, if the container has turned
    /// on controllers for the cgroups below, so that none may be here, or has removed it.
    pub(crate) fn for_exec(&self, init: i32) -> io::Result<PathBuf> {
        match self.takes_processes() {
            Ok(()) => Ok(self.path()),
            Err(_) => cgroup_of_process(init),
        }
    }

    /// Where one more process goes that is to be in the cgroup at `below`.
    pub(crate) fn below_for_exec(&self, below: &Path) -> Result<PathBuf, String> {
        let normal = below.components().filter(|part| matches!(part, Component::Normal(_)));
        let cgroup = Self { directory: self.directory.join(normal.collect::<PathBuf>()) };
        let list = cgroup.directory.join(PROCESSES);
        let Err(error) = cgroup.takes_processes() else { return Ok(cgroup.path()) };
        let step = match error.kind() {
            io::ErrorKind::ResourceBusy => "name a cgroup below it",
            io::ErrorKind::NotFound => "make the cgroup in the container first",
            _ => "name another cgroup of the container",
        };
        let why = error.raw_os_error().map_or_else(|| error.to_string(), kernels_words);
        // In runc's words, which tools look for.
        let (pid, list) = (std::process::id(), list.display());
        Err(format!("error adding pid {pid} to cgroups: failed to write {pid}: open {list}: {why}; {step}"))
    }

    fn path(&self) -> PathBuf {
        Path::new("/").join(self.directory.strip_prefix(CGROUP_ROOT).unwrap_or(&self.directory))
    }

    /// Whether it does is the kernel's to say while controllers are on for the cgroups below it: some
    /// of them do not mind, and a threaded cgroup minds none. So this process goes there and comes back.
    fn takes_processes(&self) -> io::Result<()> {
        let controllers = fs::read_to_string(self.directory.join("cgroup.subtree_control"))?;
        if controllers.trim().is_empty() {
            return Ok(());
        }
        let home = Self::at(&cgroup_of_process(i32::try_from(std::process::id()).unwrap_or_default())?);
        self.enter()?;
        home.enter()
    }

    fn enter(&self) -> io::Result<()> {
        File::options().write(true).open(self.directory.join(PROCESSES))?.write_all(b"0")
    }

    /// Gives it to a user: the directory, and the files that the kernel says make that useful.
    pub(crate) fn give_to(&self, uid: u32) -> io::Result<()> {
        let listed = fs::read_to_string(DELEGATED).unwrap_or_else(|_| DELEGATED_ALWAYS.to_owned());
        chown(&self.directory, Some(uid), None)?;
        // It lists those of every controller.
        listed.lines().try_for_each(|name| absent_is_fine(chown(self.directory.join(name), Some(uid), None)))
    }

    /// Kills every process in it, forks in progress included.
    pub(crate) fn kill(&self) -> io::Result<()> {
        absent_is_fine(fs::write(self.directory.join("cgroup.kill"), "1"))
    }

    /// Its processes and those of all cgroups below it.
    pub(crate) fn processes(&self) -> io::Result<Vec<i32>> {
        processes(&self.directory)
    }

    /// Stops every process in it, or lets them go on.
    pub(crate) fn freeze(&self, frozen: bool) -> io::Result<()> {
        fs::write(self.directory.join("cgroup.freeze"), if frozen { "1" } else { "0" })
    }

    /// Makes it, with those above it, each with all controllers that there are. One that is there stays.
    pub(crate) fn make(&self) -> io::Result<()> {
        let Err(error) = fs::create_dir(&self.directory) else { return Ok(()) };
        match error.kind() {
            io::ErrorKind::AlreadyExists => return Ok(()),
            io::ErrorKind::NotFound => {}
            _ => return Err(error),
        }
        let Some(above) = self.directory.parent().filter(|above| above.starts_with(CGROUP_ROOT)) else {
            return Err(error);
        };
        let above = Self { directory: above.to_owned() };
        above.make()?;
        above.turn_controllers_on()?;
        fs::create_dir(&self.directory)
    }

    /// Turns on for the cgroups below what the kernel lets it. A controller that stays off shows where a limit needs it.
    pub(crate) fn turn_controllers_on(&self) -> io::Result<()> {
        let controllers = fs::read_to_string(self.directory.join("cgroup.controllers"))?;
        let on: Vec<_> = controllers.split_ascii_whitespace().map(|name| format!("+{name}")).collect();
        let list = self.directory.join("cgroup.subtree_control");
        if !on.is_empty() && fs::write(&list, on.join(" ")).is_err() {
            // One of them is why; the others need not be off for that.
            on.iter().for_each(|controller| drop(fs::write(&list, controller)));
        }
        Ok(())
    }

    /// Its directory, for whoever makes a process in it.
    pub(crate) fn open(&self) -> io::Result<File> {
        File::open(&self.directory)
    }

    /// Sets the limits that are given.
    pub(crate) fn update(&self, resources: &LinuxResources) -> Result<(), String> {
        let (resources, swap) = Swap::take_out(resources);
        self.apply(&resources).map_err(|error| chain(&error))?;
        swap.apply(self)
    }

    /// Sets the limits that are given, but for those of [`Swap`].
    pub(crate) fn apply(&self, resources: &LinuxResources) -> Result<(), V2ManagerError> {
        let below = self.directory.strip_prefix(CGROUP_ROOT).unwrap_or(&self.directory);
        let manager = Manager::new(CGROUP_ROOT.into(), below.to_owned())?;
        let resources = huge_pages::that_can_be_limited(resources, &self.directory);
        manager.apply(&ControllerOpt {
            resources: &resources,
            disable_oom_killer: false,
            oom_score_adj: None,
            freezer_state: None,
        })
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
    let list = match fs::read_to_string(directory.join(PROCESSES)) {
        // A threaded one: its processes are in the list of the cgroup that its threads belong to.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => String::new(),
        read => read?,
    };
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

/// Path of a process's cgroup below the root of the hierarchy.
pub(crate) fn cgroup_of_process(pid: i32) -> io::Result<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    unified(&text).ok_or_else(|| io::Error::other(format!("process {pid} has no cgroup of version 2")))
}

/// `0::PATH`, on a line of its own.
fn unified(text: &str) -> Option<PathBuf> {
    text.lines().find_map(|line| line.strip_prefix("0::")).map(PathBuf::from)
}

/// As runc, which is written in Go, has them: in small letters and without the number.
fn kernels_words(number: i32) -> String {
    Errno::from_raw(number).desc().to_lowercase()
}

/// For what may end, or be removed, at any moment.
pub(crate) fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    const ABSENT: [i32; 3] = [libc::ENOENT, libc::ENODEV, libc::ESRCH];
    match result {
        Err(error) if error.raw_os_error().is_some_and(|number| ABSENT.contains(&number)) => Ok(()),
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
    fn one_more_process_goes_where_processes_may_be() {
        let root = tempfile::tempdir().unwrap();
        let cgroup = Cgroup { directory: root.path().join("container") };
        fs::create_dir_all(cgroup.directory.join("below")).unwrap();
        let turn_on = |controllers: &str| {
            fs::write(cgroup.directory.join("cgroup.subtree_control"), controllers).unwrap();
        };
        turn_on("\n");
        assert_eq!(cgroup.for_exec(1).unwrap(), cgroup.directory);
        assert_eq!(cgroup.below_for_exec(Path::new("/")).unwrap(), cgroup.directory);
        // No kernel answers here, so it is not one that takes processes.
        turn_on("cpu memory\n");
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(cgroup.for_exec(own).unwrap(), cgroup_of_process(own).unwrap());
        let missing = cgroup.below_for_exec(Path::new("below")).unwrap_err();
        assert!(missing.starts_with("error adding pid "), "{missing}");
        assert!(missing.contains("/below/cgroup.procs: no such file or directory; "), "{missing}");
        assert_eq!(kernels_words(libc::EBUSY), "device or resource busy");
    }

    #[test]
    fn cgroup_of_a_process_is_read_from_its_line() {
        assert_eq!(unified("12:cpu:/x\n0::/a/b\n").unwrap(), Path::new("/a/b"));
        assert_eq!(unified("1:name=x:/y\n"), None);
    }

    #[test]
    fn path_is_taken_below_the_hierarchy() {
        assert_eq!(Cgroup::at(Path::new("/a/b")).directory(), Path::new("/sys/fs/cgroup/a/b"));
    }
}
