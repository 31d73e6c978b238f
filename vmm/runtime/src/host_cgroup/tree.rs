//! Directories and control files of cgroup v2.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What a container's cgroup can be limited by and is read for.
const CONTROLLERS: &[&str] = &["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc"];

/// Reads a control file.
pub(super) fn read(cgroup: &Path, file: &str) -> io::Result<String> {
    fs::read_to_string(cgroup.join(file))
}

/// Writes one that is there: none is ever made.
pub(super) fn put(cgroup: &Path, file: &str, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(cgroup.join(file))?.write_all(value.as_bytes())
}

/// Makes the cgroup and those above it. Whether it was not there before.
pub(super) fn make_directory(path: &Path) -> io::Result<bool> {
    match (fs::create_dir(path), path.parent()) {
        (Err(error), Some(above)) if error.kind() == io::ErrorKind::NotFound => {
            make_directory(above)?;
            // Another container of the same parent may have been quicker.
            create(path)
        }
        (Err(error), _) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        (made, _) => made.map(|()| true),
    }
}

fn create(path: &Path) -> io::Result<bool> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        made => made.map(|()| true),
    }
}

/// Turns the controllers on in every cgroup above the one at `below`. One that cannot be had costs
/// its figures, and a limit that is then missing says so itself.
pub(super) fn enable_controllers(root: &Path, below: &Path) {
    let list = |cgroup: &Path| read(cgroup, "cgroup.controllers").unwrap_or_default();
    let has = |list: &str, name: &str| list.split_ascii_whitespace().any(|found| found == name);
    let own = list(&root.join(below));
    let mut missing: Vec<_> = CONTROLLERS.iter().filter(|name| !has(&own, name)).collect();
    if missing.is_empty() {
        return;
    }
    for above in above(root, below) {
        // What it has not got, it cannot give to those below it.
        let available = list(&above);
        missing.retain(|name| has(&available, name));
        if missing.is_empty() {
            return;
        }
        let all: Vec<_> = missing.iter().map(|name| format!("+{name}")).collect();
        if put(&above, "cgroup.subtree_control", &all.join(" ")).is_err() {
            // One that this host withholds must not cost the others.
            for one in &all {
                let _ = put(&above, "cgroup.subtree_control", one);
            }
        }
    }
}

/// The cgroups above the one at `below`, the root first.
fn above(root: &Path, below: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = below.ancestors().skip(1).map(|part| root.join(part)).collect();
    found.reverse();
    found
}

/// Whether `cgroup.events` says so.
pub(super) fn event(events: &str, name: &str) -> bool {
    events.lines().any(|line| line.split_once(' ') == Some((name, "1")))
}

/// The topmost cgroup that somebody has frozen, from the root to the one at `below`.
pub(super) fn frozen(root: &Path, below: &Path) -> Option<PathBuf> {
    let mut candidates = above(root, below);
    candidates.push(root.join(below));
    let is_frozen = |cgroup: &PathBuf| read(cgroup, "cgroup.freeze").is_ok_and(|value| value.trim() == "1");
    candidates.into_iter().find(is_frozen)
}

/// The processes in it and in those below it. What is gone has none.
pub(super) fn processes(cgroup: &Path) -> Vec<i32> {
    let own = read(cgroup, "cgroup.procs").unwrap_or_default();
    let mut found: Vec<i32> = own.lines().filter_map(|line| line.parse().ok()).collect();
    found.extend(directories(cgroup).iter().flat_map(|below| processes(below)));
    found
}

/// Removes it and those below it; one that is gone already is removed.
pub(super) fn remove_below(cgroup: &Path) -> io::Result<()> {
    match fs::remove_dir(cgroup) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            let below = directories(cgroup);
            if below.is_empty() {
                return Err(error);
            }
            below.iter().try_for_each(|below| remove_below(below))?;
            fs::remove_dir(cgroup)
        }
        Ok(()) => Ok(()),
    }
}

fn directories(cgroup: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cgroup as far as plain files can be one.
    fn cgroup(root: &Path, below: &str, files: &[(&str, &str)]) -> PathBuf {
        let path = root.join(below);
        fs::create_dir_all(&path).unwrap();
        for (name, text) in files {
            fs::write(path.join(name), text).unwrap();
        }
        path
    }

    #[test]
    fn cgroups_are_made_with_those_above_and_removed_with_those_below() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("above/own");
        assert!(make_directory(&path).unwrap());
        assert!(!make_directory(&path).unwrap());
        fs::create_dir(path.join("below")).unwrap();
        remove_below(&path).unwrap();
        remove_below(&path).unwrap();
        assert!(!path.exists() && root.path().join("above").exists());
    }

    #[test]
    fn controllers_that_are_missing_are_turned_on_all_the_way_down() {
        let root = tempfile::tempdir().unwrap();
        let control = ("cgroup.subtree_control", "");
        let all = [("cgroup.controllers", "cpu memory dmem\n"), control];
        cgroup(root.path(), "", &all);
        cgroup(root.path(), "above", &all);
        cgroup(root.path(), "above/own", &[("cgroup.controllers", "cpu\n"), control]);
        enable_controllers(root.path(), Path::new("above/own"));
        let written = |below: &str| read(&root.path().join(below), "cgroup.subtree_control").unwrap();
        assert_eq!([written(""), written("above"), written("above/own")], ["+memory", "+memory", ""]);
    }

    #[test]
    fn frozen_one_is_found_from_the_top() {
        let root = tempfile::tempdir().unwrap();
        let freeze = |value| [("cgroup.freeze", value)];
        let above = cgroup(root.path(), "above", &freeze("1\n"));
        let own = cgroup(root.path(), "above/own", &freeze("1\n"));
        assert_eq!(frozen(root.path(), Path::new("above/own")), Some(above.clone()));
        fs::write(above.join("cgroup.freeze"), "0\n").unwrap();
        assert_eq!(frozen(root.path(), Path::new("above/own")), Some(own));
        assert_eq!(frozen(root.path(), Path::new("above")), None);
    }

    #[test]
    fn processes_of_those_below_count_and_events_are_read() {
        let root = tempfile::tempdir().unwrap();
        cgroup(root.path(), "own", &[("cgroup.procs", "7\n8\n")]);
        cgroup(root.path(), "own/below", &[("cgroup.procs", "9\n")]);
        assert_eq!(processes(&root.path().join("own")), [7, 8, 9]);
        assert!(event("populated 1\nfrozen 0\n", "populated"));
        assert!(!event("populated 1\nfrozen 0\n", "frozen"));
    }
}
