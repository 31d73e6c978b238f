//! Looking into a network namespace.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns};

/// Names of the interfaces in the namespace at `path`.
pub(super) fn interfaces(path: &Path) -> io::Result<Vec<String>> {
    let namespace = File::open(path)?;
    // A thread enters it, and takes the namespace with it when it ends.
    let looker = thread::Builder::new().name("netns".to_owned()).spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        fs::read_to_string("/proc/thread-self/net/dev")
    })?;
    let table = looker.join().map_err(|_| io::Error::from(io::ErrorKind::Other))??;
    Ok(names(&table))
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
