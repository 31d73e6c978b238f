//! The monitor's network namespace.
//!
//! The guest's network is its own, but to hooks and engines the monitor is the container's process:
//! what they set up in its namespace must not become the host's.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::geteuid;
use vmrun_spec::NetworkNamespace;

use super::LaunchError;

/// This thread's own. The table is that of the namespace in which the process is.
const OURS: &str = "/proc/thread-self/ns/net";
const OUR_TABLE: &str = "/proc/thread-self/net/dev";

/// Names of the interfaces that a container with this namespace begins with.
pub(super) fn interfaces(namespace: &NetworkNamespace) -> Result<Vec<String>, LaunchError> {
    match namespace {
        NetworkNamespace::New => Ok(Vec::new()),
        NetworkNamespace::Callers => {
            read_table(Path::new(OUR_TABLE)).map_err(LaunchError::io("look at the network"))
        }
        NetworkNamespace::Named(path) => look_into(path).map_err(broken(path)),
    }
}

fn broken(path: &Path) -> impl FnOnce(io::Error) -> LaunchError {
    let path = path.to_owned();
    move |source| LaunchError::NetworkNamespace { path, source }
}

fn look_into(path: &Path) -> io::Result<Vec<String>> {
    let namespace = File::open(path)?;
    // A thread enters it, and takes the namespace with it when it ends.
    let looker = thread::Builder::new().name("netns".to_owned()).spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        read_table(Path::new(OUR_TABLE))
    })?;
    looker.join().map_err(|_| io::Error::from(io::ErrorKind::Other))?
}

/// Does something in the namespace, in which it stays: a process that it starts is in it, this
/// one is not.
pub(super) fn within<T>(
    namespace: &NetworkNamespace,
    act: impl FnOnce() -> Result<T, LaunchError>,
) -> Result<T, LaunchError> {
    // Without root there is no right to it, and hooks have none to change the host's.
    if *namespace == NetworkNamespace::Callers || !geteuid().is_root() {
        return act();
    }
    let ours = File::open(OURS).map_err(LaunchError::io("remember the network namespace"))?;
    match namespace {
        NetworkNamespace::Named(path) => enter(path).map_err(broken(path))?,
        _ => unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|errno| LaunchError::NewNetworkNamespace(errno.into()))?,
    }
    let result = act();
    setns(ours, CloneFlags::CLONE_NEWNET)
        .map_err(|errno| LaunchError::io("leave the container's network namespace")(errno.into()))?;
    result
}

fn enter(path: &Path) -> io::Result<()> {
    Ok(setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?)
}

/// Refuses what hooks or the engine have put into the monitor's namespace since it was made.
///
/// # Errors
/// There are interfaces, which the guest would not have.
pub(crate) fn still_empty(monitor: i32) -> Result<(), LaunchError> {
    let theirs = PathBuf::from(format!("/proc/{monitor}/ns/net"));
    // It is gone, which others tell; or it is the caller's, which was looked at.
    let Ok(namespace) = fs::read_link(&theirs) else { return Ok(()) };
    if fs::read_link(OURS).is_ok_and(|ours| ours == namespace) {
        return Ok(());
    }
    let Ok(found) = read_table(&PathBuf::from(format!("/proc/{monitor}/net/dev"))) else { return Ok(()) };
    match vmrun_plan::foreign_interfaces(&found)[..] {
        [] => Ok(()),
        ref names => Err(LaunchError::Interfaces { names: names.join(", ") }),
    }
}

fn read_table(path: &Path) -> io::Result<Vec<String>> {
    fs::read_to_string(path).map(|table| names(&table))
}

/// The table of `proc_net_dev(5)`: two lines of headings, then `name: figures`.
fn names(table: &str) -> Vec<String> {
    let rows = table.lines().skip(2).filter_map(|line| line.split_once(':'));
    rows.map(|(name, _)| name.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_read_from_the_table() {
        let table = "Inter-|   Receive\n face |bytes\n    lo:       0       0\n  eth0: 12 0\n";
        assert_eq!(super::names(table), ["lo", "eth0"]);
    }
}
