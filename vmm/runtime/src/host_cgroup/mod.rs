//! The container's cgroup on the host: the one that the configuration names.
//!
//! ```text
//!   launcher: make ─▶ is it frozen, is it empty? ─▶ limits ─▶ monitor: enter ─▶ … made ─▶ late limits
//! ```
//!
//! It holds the whole sandbox, guest memory included, so what an engine reads there is what the
//! container costs. Which of the configuration's limits it has, and how, is planned in
//! `vmrun_plan`; they hold before a page of the guest's is charged to it.

mod limits;
mod oom;
mod tree;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use vmrun_spec::HostLimit;

use crate::log;

pub(crate) use self::limits::{current_quota, in_force, limit, limit_late, put_back};
pub(crate) use self::oom::count_kill;
pub use self::oom::oom_main;
use self::tree::{enable_controllers, event, frozen, make_directory, processes, put, remove_below};

/// Where cgroup v2 is mounted on a host that has nothing else.
const HIERARCHY: &str = "/sys/fs/cgroup";

/// A process that has just ended may count a moment longer.
const REMOVAL_TRIES: u32 = 25;
const REMOVAL_PAUSE: Duration = Duration::from_millis(20);

/// Why the cgroup cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostCgroupError {
    /// A step that the kernel refuses.
    #[error("cannot {act} the cgroup {}", .path.display())]
    Io {
        /// What was tried.
        act: &'static str,
        /// With which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing that enters it would run.
    /// In runc's words, which tools look for.
    #[error(
        "container's cgroup unexpectedly frozen: {}, by cgroup.freeze of {}", .path.display(), .by.display()
    )]
    Frozen {
        /// The container's.
        path: PathBuf,
        /// Itself, or one above it.
        by: PathBuf,
    },
    /// A limit that it does not take.
    #[error("{field}: cannot write {value:?} to {}", .file.display())]
    Limit {
        /// The configuration's field.
        field: String,
        /// What was to be written.
        value: String,
        /// Where.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A limit that only the host can hold.
    #[error(
        "{field} needs a cgroup on the host, and the container has none: there is no cgroup v2, or this user may not make one"
    )]
    None {
        /// The configuration's field.
        field: String,
    },
}

/// The cgroup that a process was started in.
#[derive(Debug)]
pub(crate) struct Origin(PathBuf);

/// The caller's cgroup, where there is cgroup v2.
pub(crate) fn current() -> Option<Origin> {
    let table = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = table.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Origin(Path::new(HIERARCHY).join(path)))
}

/// A cgroup for a container to be made. One that was not there before goes with this value.
#[derive(Debug)]
pub(crate) struct NewCgroup {
    /// Below the root of the hierarchy; none where there is no such cgroup to be had.
    below: Option<PathBuf>,
    created: bool,
}

impl NewCgroup {
    fn none(limits: &[HostLimit]) -> Result<Self, HostCgroupError> {
        match limits.iter().find(|limit| limit.host_only) {
            Some(limit) => Err(HostCgroupError::None { field: limit.field.clone() }),
            None => Ok(Self { below: None, created: false }),
        }
    }

    pub(crate) fn path(&self) -> Option<PathBuf> {
        self.below.clone()
    }

    /// Leaves it to whoever removes the container.
    pub(crate) fn keep(mut self) {
        self.created = false;
    }
}

impl Drop for NewCgroup {
    fn drop(&mut self) {
        if let (true, Some(below)) = (self.created, &self.below) {
            // A destructor has nobody to tell, and an empty cgroup costs nothing.
            let _ = std::fs::remove_dir(Path::new(HIERARCHY).join(below));
        }
    }
}

/// Makes the cgroup and limits it.
///
/// Where the host has no cgroup v2, or the caller may not use it, there is none, and the monitor
/// stays where it is started: the limits hold in the guest, those excepted that only the host can hold.
pub(crate) fn make(below: Option<&Path>, limits: &[HostLimit]) -> Result<NewCgroup, HostCgroupError> {
    let Some(below) = below else { return NewCgroup::none(limits) };
    let Some(path) = on_this_host(below) else { return NewCgroup::none(limits) };
    let failed = |act| {
        let path = path.clone();
        move |source| HostCgroupError::Io { act, path, source }
    };
    let created = match make_directory(&path) {
        Err(error) if is_forbidden(&error) => return NewCgroup::none(limits),
        made => made.map_err(failed("make"))?,
    };
    let new = NewCgroup { below: Some(below.to_owned()), created };
    enable_controllers(Path::new(HIERARCHY), below);
    let events = tree::read(&path, "cgroup.events").map_err(failed("look at"))?;
    if event(&events, "frozen") {
        let by = frozen(Path::new(HIERARCHY), below).unwrap_or_else(|| path.clone());
        return Err(HostCgroupError::Frozen { path, by });
    }
    if event(&events, "populated") {
        let count = processes(&path).len();
        log::warn(&format!(
            "the container's cgroup is not empty: {count} process(es) found in {}; its limits apply to them, too",
            path.display()
        ));
    }
    limit(&path, limits)?;
    Ok(new)
}

/// The cgroup's directory, where the host has cgroup v2 and nothing else.
pub(crate) fn on_this_host(below: &Path) -> Option<PathBuf> {
    is_unified().then(|| Path::new(HIERARCHY).join(below))
}

/// Moves this process into the cgroup. Where it may not it stays, and the cgroup goes.
pub(crate) fn enter(cgroup: Option<&Path>, limits: &[HostLimit]) -> Result<(), HostCgroupError> {
    let Some(path) = cgroup.map(|below| Path::new(HIERARCHY).join(below)) else { return Ok(()) };
    let failed = |act| {
        let path = path.clone();
        move |source| HostCgroupError::Io { act, path, source }
    };
    match put(&path, "cgroup.procs", "0") {
        Err(error) if is_forbidden(&error) => {
            // It may be somebody else's, who has made it for this container.
            let _ = tree::remove_below(&path);
            NewCgroup::none(limits).map(drop)
        }
        entered => entered.map_err(failed("enter")),
    }
}

/// Moves this process back to where it came from and removes the cgroup. What fails is left:
/// this is for a monitor that nobody waits for any more.
pub(crate) fn leave(cgroup: Option<&Path>, origin: Option<&Origin>) {
    if let (Some(_), Some(Origin(path))) = (cgroup, origin) {
        let _ = put(path, "cgroup.procs", "0");
        let _ = remove(cgroup);
    }
}

/// A cgroup that others are in.
#[derive(Debug)]
pub(crate) struct InUse {
    path: PathBuf,
    processes: Vec<i32>,
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pids: Vec<_> = self.processes.iter().take(10).map(i32::to_string).collect();
        write!(
            f,
            "the cgroup {} was not removed: {} other process(es) are still in it ({})",
            self.path.display(),
            self.processes.len(),
            pids.join(", ")
        )
    }
}

/// Removes the cgroup of a monitor that has ended, with those below it. The ones above it are left
/// to others, as runc leaves them; so is one that others are in, which is the answer then.
pub(crate) fn remove(cgroup: Option<&Path>) -> Result<Option<InUse>, HostCgroupError> {
    let Some(path) = cgroup.and_then(on_this_host) else { return Ok(None) };
    if let Some(neighbour) = oom::neighbour(&path) {
        // Of a monitor that was killed while it had one.
        let _ = remove_below(&neighbour);
    }
    match remove_directory(&path) {
        Err(error) if is_forbidden(&error) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            let processes = processes(&path);
            if processes.is_empty() {
                return Err(HostCgroupError::Io { act: "remove", path, source: error });
            }
            Ok(Some(InUse { path, processes }))
        }
        other => other.map(|()| None).map_err(|source| HostCgroupError::Io { act: "remove", path, source }),
    }
}

fn is_unified() -> bool {
    statfs(HIERARCHY).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

fn is_forbidden(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

fn remove_directory(path: &Path) -> io::Result<()> {
    for _ in 1..REMOVAL_TRIES {
        match remove_below(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => thread::sleep(REMOVAL_PAUSE),
            other => return other,
        }
    }
    remove_below(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_cgroup_there_is_nothing_to_do() {
        assert_eq!(make(None, &[]).unwrap().path(), None);
        enter(None, &[]).unwrap();
        assert!(remove(None).unwrap().is_none());
    }

    #[test]
    fn limit_of_the_host_alone_needs_a_cgroup() {
        let limit = HostLimit {
            field: "linux.resources.blockIO".to_owned(),
            host_only: true,
            ..HostLimit::default()
        };
        let error = make(None, &[limit]).unwrap_err().to_string();
        assert!(error.starts_with("linux.resources.blockIO needs a cgroup on the host"), "{error}");
    }

    #[test]
    fn cgroup_in_use_names_itself_and_who_is_in_it() {
        let shown = InUse { path: "/c".into(), processes: vec![7, 8] }.to_string();
        assert_eq!(shown, "the cgroup /c was not removed: 2 other process(es) are still in it (7, 8)");
    }
}
