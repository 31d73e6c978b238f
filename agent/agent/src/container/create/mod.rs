//! Making a process: from the configuration to a process that waits to become its program.
//!
//! ```text
//!   maker ──clone3, in its cgroup──▶ the process: namespaces, mounts, user, capabilities ─▶ waits
//!     └── in a user namespace: clone3 ─▶ go-between, which joins that, then clone3 ─▶ the process
//! ```
//!
//! Both clone siblings of the maker, so that what they make is the agent's child. The go-between exists
//! because who joins a user namespace has no rights outside any more, and the maker has things to do there.

mod attributes;
mod capabilities;
mod console;
mod init;
pub(super) mod mounts;
mod namespaces;
mod nodes;
pub(super) mod options;
mod paths;
mod place;
mod root;
mod user;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, setresgid, setresuid};
use oci_spec::runtime::Spec;
use vmrun_proto::{ErrorKind, Stage};

use super::cgroup::Cgroup;
use super::inside::Tasks;
use super::program::Program;
use crate::{report, sys};
use init::Init;
use namespaces::Namespaces;

pub(super) use capabilities::keep_only as keep_only_capabilities;
pub(super) use place::Root;

/// What is made.
pub(super) struct Creation<'a> {
    /// The configuration as it was given; failures name its fields.
    pub(super) given: &'a Spec,
    /// The configuration that is applied.
    pub(super) spec: &'a Spec,
    /// The container's root file system.
    pub(super) rootfs: &'a Path,
    /// What the process becomes.
    pub(super) program: Program,
    /// What is done in the container's own mounts.
    pub(super) tasks: Tasks,
    /// The cgroup that the process is in.
    pub(super) cgroup: &'a Cgroup,
    /// Where the controlling side of its terminal goes, if it has one.
    pub(super) console: Option<OwnedFd>,
    /// One more process of a container, not its first.
    pub(super) joins: bool,
}

/// A process that is there.
pub(super) struct Made {
    pub(super) pid: i32,
    link: UnixStream,
}

impl Made {
    /// Lets one that has joined a container run its program.
    pub(super) fn go_on(mut self) -> Result<(), String> {
        self.link.write_all(&[1]).map_err(|_| ended(None))
    }
}

/// An error in the system's words, without its number.
pub(super) fn words(error: impl Into<io::Error>) -> String {
    let error = error.into();
    error.raw_os_error().map_or_else(|| error.to_string(), |number| Errno::from_raw(number).desc().to_owned())
}

/// Makes the process and returns when it has only to become its program. `None` when it could not be made and has said
/// why itself.
pub(super) fn create(creation: Creation<'_>) -> Result<Option<Made>, String> {
    let (ours, theirs) = pair()?;
    let namespaces = Namespaces::open(creation.spec)?;
    let cgroup =
        creation.cgroup.open().map_err(|error| format!("cannot open the cgroup: {}", words(error)))?;
    let memory_limit = memory_limit(creation.given);
    if creation.joins {
        attributes::affinity_before_the_cgroup(creation.spec)?;
    }
    let pid = if namespaces.have_user() {
        let (pid_ours, pid_theirs) = pair()?;
        if clone(Some(&cgroup))?.is_none() {
            // Open until the program runs, the directory would be a way out of the container's root.
            drop((ours, pid_ours, cgroup));
            go_between(creation, namespaces, theirs, pid_theirs);
        }
        drop((theirs, pid_theirs));
        read_pid(pid_ours)
    } else {
        namespaces.enter_for_children(creation.spec, None)?;
        let pid = clone(Some(&cgroup))?;
        if pid.is_none() {
            drop((ours, cgroup));
            Init { creation, namespaces, link: file(theirs) }.run();
        }
        drop(theirs);
        pid
    };
    let Some(pid) = pid else { return Ok(not_made(memory_limit)) };
    let mut link = ours;
    Ok(if link.read_exact(&mut [0]).is_ok() { Some(Made { pid, link }) } else { not_made(memory_limit) })
}

fn pair() -> Result<(UnixStream, UnixStream), String> {
    UnixStream::pair().map_err(|error| format!("cannot make a pair of sockets: {}", words(error)))
}

fn file(link: UnixStream) -> File {
    File::from(OwnedFd::from(link))
}

fn clone(cgroup: Option<&File>) -> Result<Option<i32>, String> {
    sys::clone_sibling(cgroup.map(AsFd::as_fd))
        .map_err(|error| format!("cannot make a process: {}", words(error)))
}

fn read_pid(mut link: UnixStream) -> Option<i32> {
    let mut bytes = [0; 4];
    link.read_exact(&mut bytes).ok().map(|()| i32::from_ne_bytes(bytes))
}

/// A process that has said why counts first; that it is gone is all that is known of one that has not.
fn not_made(memory_limit: Option<i64>) -> Option<Made> {
    report::send_failure(ErrorKind::Failed, Stage::Create, &ended(memory_limit));
    None
}

/// Joins the user namespace, clones the process and says its pid.
fn go_between(
    creation: Creation<'_>,
    namespaces: Namespaces,
    link: UnixStream,
    mut for_pid: UnixStream,
) -> ! {
    let cloned = join_user(&namespaces, creation.spec).and_then(|()| clone(None));
    match cloned {
        Ok(None) => {
            drop(for_pid);
            Init { creation, namespaces, link: file(link) }.run()
        }
        // Whom nobody listens to any more, has nothing to say.
        Ok(Some(pid)) => drop(for_pid.write_all(&pid.to_ne_bytes())),
        Err(message) => report::send_failure(ErrorKind::Failed, Stage::Create, &message),
    }
    sys::exit_now(0)
}

fn join_user(namespaces: &Namespaces, spec: &Spec) -> Result<(), String> {
    // Who is in the namespace may not open it.
    let offsets = namespaces.open_offsets(spec)?;
    namespaces.join_user()?;
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    // Its root, whoever that is outside.
    setresgid(group, group, group).and_then(|()| setresuid(user, user, user)).map_err(|error| {
        format!("linux.uidMappings: cannot become the root of the user namespace: {}", words(error))
    })?;
    namespaces.enter_for_children(spec, offsets)
}

fn memory_limit(spec: &Spec) -> Option<i64> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    resources.and_then(|resources| resources.memory().as_ref()?.limit()).filter(|limit| *limit > 0)
}

/// The process is gone, and nothing says why.
fn ended(memory_limit: Option<i64>) -> String {
    match memory_limit {
        Some(limit) => format!(
            "the process was killed while it was made: linux.resources.memory.limit {limit} may be too low; raise it"
        ),
        None => "the process ended while it was made; the last lines of the guest's console may say why"
            .to_owned(),
    }
}
