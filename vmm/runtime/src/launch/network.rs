//! The monitor's network namespace.
//!
//! The guest's network is its own, but to hooks and engines the monitor is the container's process:
//! what they set up in its namespace must not become the host's.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::geteuid;
use vmrun_spec::NetworkNamespace;

use super::LaunchError;

/// This thread's own. The table is that of the namespace in which the process is.
const OURS: &str = "/proc/thread-self/ns/net";
const OUR_TABLE: &str = "/proc/thread-self/net/dev";
/// The first process's.
const THE_HOSTS: &str = "/proc/1/ns/net";
const HOSTS_TABLE: &str = "/proc/1/net/dev";

/// Names of the interfaces of the host's network, or the caller's, where that is to be the container's.
pub(super) fn interfaces(namespace: &NetworkNamespace) -> Result<Vec<String>, LaunchError> {
    let table = match namespace {
        NetworkNamespace::New => None,
        NetworkNamespace::Callers => Some(OUR_TABLE),
        NetworkNamespace::Named(path) => {
            let named = fs::metadata(path).map_err(broken(path))?;
            let is = |other: &str| {
                fs::metadata(other)
                    .is_ok_and(|other| (other.dev(), other.ino()) == (named.dev(), named.ino()))
            };
            // Engines have a name for the host's, too.
            [(OURS, OUR_TABLE), (THE_HOSTS, HOSTS_TABLE)]
                .into_iter()
                .find(|(at, _)| is(at))
                .map(|(_, table)| table)
        }
    };
    table.map_or(Ok(Vec::new()), |table| {
        read_table(Path::new(table)).map_err(LaunchError::io("look at the network"))
    })
}

fn broken(path: &Path) -> impl FnOnce(io::Error) -> LaunchError {
    let path = path.to_owned();
    move |source| LaunchError::NetworkNamespace { path, source }
}

/// Whether a monitor is in another namespace than its caller's. Without root there is no right to a
/// new one, and hooks have none to change the host's.
pub(crate) fn is_own(namespace: &NetworkNamespace) -> bool {
    match namespace {
        NetworkNamespace::Callers => false,
        NetworkNamespace::New => geteuid().is_root(),
        NetworkNamespace::Named(_) => true,
    }
}

/// Whether this thread is in the first process's namespace: its interfaces are nobody else's.
pub(crate) fn is_in_the_hosts() -> bool {
    let [ours, hosts] = [OURS, THE_HOSTS].map(fs::read_link);
    ours.is_ok_and(|ours| hosts.is_ok_and(|hosts| ours == hosts))
}

/// Does something in the namespace, by a thread of its own, which ends there: a process that it starts is in
/// the namespace, this one is not. To leave it again takes a right to the caller's network, which root of a
/// user namespace has not.
pub(super) fn within<T: Send>(
    namespace: &NetworkNamespace,
    act: impl FnOnce() -> Result<T, LaunchError> + Send,
) -> Result<T, LaunchError> {
    if !is_own(namespace) {
        return act();
    }
    let inside = || {
        match namespace {
            NetworkNamespace::Named(path) => enter(path).map_err(broken(path))?,
            _ => unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|errno| LaunchError::NewNetworkNamespace(errno.into()))?,
        }
        act()
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, inside);
        let thread =
            thread.map_err(LaunchError::io("start a thread for the container's network namespace"))?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

fn enter(path: &Path) -> io::Result<()> {
    Ok(setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?)
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
