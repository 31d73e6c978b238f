//! The container's cgroup on the host: the one that the configuration names, or one beside the caller's.
//!
//! ```text
//!   launcher: make ─▶ is it frozen, is it empty? ─▶ limits ─▶ monitor: enter ─▶ … made ─▶ late limits
//!             locate, where systemd makes it ───────────────▶ start, limits ──▶ … made ─▶ late limits
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
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use serde::{Deserialize, Serialize};
use vmrun_spec::{HostCgroup, HostLimit};

use crate::error::chain;
use crate::systemd::{self, Scope, SystemdError};
use crate::{log, step};

use self::limits::limit;
pub(crate) use self::limits::{change, cpu_time_in_force, in_force, limit_late, put_back};
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
    /// systemd does not make it, or not change it.
    #[error("cannot have the scope of the container's cgroup {}", .path.display())]
    Systemd {
        /// The cgroup, below the root of the hierarchy.
        path: PathBuf,
        /// Why.
        source: SystemdError,
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
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Origin(PathBuf);

/// The caller's cgroup, where there is cgroup v2.
pub(crate) fn current() -> Option<Origin> {
    ours().map(|below| Origin(Path::new(HIERARCHY).join(below)))
}

fn ours() -> Option<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    table.lines().find_map(|line| line.strip_prefix("0::/")).map(PathBuf::from)
}

/// The cgroup above ours, below the root of the hierarchy: there a new one has no processes above it.
/// None if it cannot be seen from here.
fn parent_of_ours() -> Option<PathBuf> {
    let ours = ours()?;
    // What is outside of a cgroup namespace has a name that begins with `/..`.
    let is_seen = ours.components().all(|part| matches!(part, Component::Normal(_)));
    is_seen.then(|| ours.parent().map(Path::to_owned).unwrap_or_default())
}

/// A container's cgroup.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnCgroup<'a> {
    /// Below the root of the hierarchy.
    below: &'a Path,
    /// What it is to systemd.
    scope: Option<&'a Scope>,
}

impl<'a> OwnCgroup<'a> {
    pub(crate) fn of(below: Option<&'a Path>, scope: Option<&'a Scope>) -> Option<Self> {
        below.map(|below| Self { below, scope })
    }

    fn systemd(self, source: SystemdError) -> HostCgroupError {
        HostCgroupError::Systemd { path: self.below.to_owned(), source }
    }
}

/// A cgroup for a container to be made. One that was not there before goes with this value.
#[derive(Debug)]
pub(crate) struct NewCgroup {
    /// Below the root of the hierarchy; none where there is no such cgroup to be had.
    below: Option<PathBuf>,
    /// What it will be to systemd.
    scope: Option<Scope>,
    created: bool,
}

impl NewCgroup {
    fn none(limits: &[HostLimit]) -> Result<Self, HostCgroupError> {
        match limits.iter().find(|limit| limit.host_only) {
            Some(limit) => Err(HostCgroupError::None { field: limit.field.clone() }),
            None => Ok(Self { below: None, scope: None, created: false }),
        }
    }

    pub(crate) fn path(&self) -> Option<PathBuf> {
        self.below.clone()
    }

    /// Where a process may be started in it.
    pub(crate) fn directory(&self) -> Option<PathBuf> {
        let below = self.below.as_ref().filter(|_| self.scope.is_none())?;
        Some(Path::new(HIERARCHY).join(below))
    }

    pub(crate) fn scope(&self) -> Option<Scope> {
        self.scope.clone()
    }

    /// Leaves it to whoever removes the container.
    pub(crate) fn keep(mut self) {
        self.created = false;
    }
}

impl fmt::Display for NewCgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.below, &self.scope) {
            (None, _) => f.write_str("no cgroup on the host"),
            (Some(below), None) => write!(f, "cgroup /{} made", below.display()),
            (Some(below), Some(_)) => write!(f, "systemd is to make the cgroup /{}", below.display()),
        }
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
pub(crate) fn make(planned: &HostCgroup, limits: &[HostLimit]) -> Result<NewCgroup, HostCgroupError> {
    if !is_unified() {
        return NewCgroup::none(limits);
    }
    match planned {
        HostCgroup::Absolute(below) => make_directories(below, limits),
        HostCgroup::BesideCaller(name) => match parent_of_ours() {
            Some(parent) => make_directories(&parent.join(name), limits),
            None => NewCgroup::none(limits),
        },
        HostCgroup::Scope(plan) => match systemd::locate(plan) {
            Ok(located) if located.scope.is_none() => make_directories(&located.below, limits),
            Ok(located) => Ok(NewCgroup { below: Some(located.below), scope: located.scope, created: false }),
            Err(source) => Err(HostCgroupError::Systemd { path: plan.unit.clone().into(), source }),
        },
    }
}

fn make_directories(below: &Path, limits: &[HostLimit]) -> Result<NewCgroup, HostCgroupError> {
    let path = Path::new(HIERARCHY).join(below);
    let failed = |act| {
        let path = path.clone();
        move |source| HostCgroupError::Io { act, path, source }
    };
    let created = match make_directory(&path) {
        Err(error) if is_forbidden(&error) => return NewCgroup::none(limits),
        made => made.map_err(failed("make"))?,
    };
    let new = NewCgroup { below: Some(below.to_owned()), scope: None, created };
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

/// Moves this process into the cgroup, unless it was started there. Where it may not it stays, and the
/// cgroup goes.
pub(crate) fn enter(cgroup: Option<OwnCgroup<'_>>, limits: &[HostLimit]) -> Result<(), HostCgroupError> {
    let Some(own) = cgroup else { return Ok(()) };
    let path = Path::new(HIERARCHY).join(own.below);
    if let Some(scope) = own.scope {
        match scope.start(limits) {
            Err(error) if scope.is_the_users() => {
                step!("no cgroup: {}", chain(&error));
                return NewCgroup::none(limits).map(drop);
            }
            other => other.map_err(|source| own.systemd(source))?,
        }
        enable_controllers(Path::new(HIERARCHY), own.below);
        return limit(&path, limits);
    }
    if ours().is_some_and(|ours| ours == own.below) {
        return Ok(());
    }
    match put(&path, "cgroup.procs", "0") {
        Err(error) if is_forbidden(&error) => {
            // It may be somebody else's, who has made it for this container.
            let _ = tree::remove_below(&path);
            NewCgroup::none(limits).map(drop)
        }
        entered => entered.map_err(|source| HostCgroupError::Io { act: "enter", path, source }),
    }
}

/// Moves this process back to where it came from and removes the cgroup. What fails is left:
/// this is for a monitor that nobody waits for any more.
pub(crate) fn leave(cgroup: Option<OwnCgroup<'_>>, origin: Option<&Origin>) {
    // A scope ends by itself with its last process.
    let plain = cgroup.filter(|own| own.scope.is_none());
    if let (Some(_), Some(Origin(path))) = (plain, origin) {
        let _ = put(path, "cgroup.procs", "0");
        for thread in own_of_the_kernel(plain) {
            let _ = put(path, "cgroup.procs", &thread.to_string());
        }
        let _ = remove(cgroup);
    }
}

/// Threads that KVM has started for the machine (`kvm_vm_worker_thread`) are where the monitor was then,
/// and stay as long as the machine. The kernel's have no command line.
fn own_of_the_kernel(cgroup: Option<OwnCgroup<'_>>) -> Vec<i32> {
    let path = cgroup.and_then(|own| on_this_host(own.below));
    let mut found = path.map(|path| processes(&path)).unwrap_or_default();
    found.retain(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.is_empty()));
    found
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
pub(crate) fn remove(cgroup: Option<OwnCgroup<'_>>) -> Result<Option<InUse>, HostCgroupError> {
    let Some(own) = cgroup else { return Ok(None) };
    let Some(path) = on_this_host(own.below) else { return Ok(None) };
    if let Some(scope) = own.scope {
        // As with runc, that ends whoever else is in it. One that is empty ends by itself.
        if let Err(error) = scope.stop() {
            step!("scope not stopped: {}", chain(&error));
        }
    }
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
        assert_eq!(NewCgroup::none(&[]).unwrap().path(), None);
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
        let error = NewCgroup::none(&[limit]).unwrap_err().to_string();
        assert!(error.starts_with("linux.resources.blockIO needs a cgroup on the host"), "{error}");
    }

    #[test]
    fn cgroup_in_use_names_itself_and_who_is_in_it() {
        let shown = InUse { path: "/c".into(), processes: vec![7, 8] }.to_string();
        assert_eq!(shown, "the cgroup /c was not removed: 2 other process(es) are still in it (7, 8)");
    }
}
