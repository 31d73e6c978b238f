//! The mounts of the configuration, each in one go: made where nobody sees it, given its attributes, and put in
//! its place.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use oci_spec::runtime::{Mount, Spec};
use rustix::fs::{CWD, FileType, fstat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::options::{self, Change, Options};
use super::place::Root;
use super::words;
use crate::container::destinations::is_bind;
use crate::container::dev;
use crate::sys;

/// Below `/proc` nothing may be mounted but what shows some of its files otherwise, as runc has it.
const IN_PROC: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// Mounts all of them; `given` is the configuration whose fields failures name, `cgroup` the process's.
pub(super) fn mount_all(root: &Root, spec: &Spec, given: &Spec, cgroup: &Path) -> Result<(), String> {
    spec.mounts().iter().flatten().try_for_each(|mount| {
        mount_one(root, mount, cgroup).map_err(|cause| format!("{}: {cause}", describe(mount, given)))
    })
}

/// `mounts[7]: cannot mount tmpfs at /o with the options size=1`
pub(in crate::container) fn describe(mount: &Mount, given: &Spec) -> String {
    let destination = dev::destination(mount.destination());
    let mounts = given.mounts().as_deref().unwrap_or_default();
    let index = mounts.iter().position(|known| *known.destination() == destination);
    let field = index.map_or_else(|| "mounts".to_owned(), |index| format!("mounts[{index}]"));
    let options =
        index.and_then(|index| mounts.get(index)?.options().clone()).filter(|options| !options.is_empty());
    let options =
        options.map_or_else(String::new, |options| format!(" with the options {}", options.join(",")));
    let typ = mount.typ().as_deref().unwrap_or("bind");
    format!("{field}: cannot mount {typ} at {}{options}", destination.display())
}

/// Whether things are made in it before it becomes read-only, if it is to.
pub(super) fn is_open_at_first(mount: &Mount) -> bool {
    mount.destination() == Path::new("/dev") || mount.typ().as_deref() == Some("tmpfs")
}

fn mount_one(root: &Root, mount: &Mount, cgroup: &Path) -> Result<(), String> {
    let mut options = options::of(mount);
    if is_open_at_first(mount) {
        options.own.set.remove(MountAttrFlags::MOUNT_ATTR_RDONLY);
    }
    let place = mount.destination();
    match mount.typ().as_deref() {
        Some("cgroup") => hierarchy(root, place, &options, cgroup),
        Some(typ @ ("proc" | "sysfs")) => {
            may_be_in_proc(typ, place)?;
            new(root, mount, &options).map_err(words)
        }
        _ if is_bind(mount) => bind(root, mount, &options).map_err(words),
        _ => new(root, mount, &options).map_err(words),
    }
}

fn may_be_in_proc(typ: &str, place: &Path) -> Result<(), String> {
    let is_itself = typ == "proc" && place == Path::new("/proc");
    let known = IN_PROC.iter().any(|path| place == Path::new(path));
    if !place.starts_with("/proc") || is_itself || known {
        return Ok(());
    }
    Err("nothing but proc is mounted there; choose another destination".to_owned())
}

fn bind(root: &Root, mount: &Mount, options: &Options<'_>) -> io::Result<()> {
    let source = mount.source().as_deref().ok_or(Errno::NOENT)?;
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, options.whole_tree);
    let tree = open_tree(CWD, source, flags)?;
    let is_directory = FileType::from_raw_mode(fstat(&tree)?.st_mode) == FileType::Directory;
    let place = mount.destination();
    let place = if is_directory { root.directory(place)? } else { root.file(place)? };
    change(&tree, options.own, false)?;
    change(&tree, options.recursive, true)?;
    put(&tree, &place)
}

fn new(root: &Root, mount: &Mount, options: &Options<'_>) -> io::Result<()> {
    let source = mount.source().as_deref().ok_or(Errno::NOENT)?;
    let typ = mount.typ().as_deref().unwrap_or("none");
    new_at(root, mount.destination(), (typ, source), options)
}

fn new_at(root: &Root, place: &Path, (typ, source): (&str, &Path), options: &Options<'_>) -> io::Result<()> {
    let place = root.directory(place)?;
    let context = fsopen(typ, FsOpenFlags::FSOPEN_CLOEXEC)?;
    configure(&context, source, options.data.iter().copied())?;
    // Relative times are what a mount that is not told any has, as with mount(2).
    let made = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, options.own.set)?;
    change(&made, options.recursive, true)?;
    put(&made, &place)
}

/// Makes the file system of `source` that `context` is for.
pub(in crate::container) fn configure<'o>(
    context: &OwnedFd,
    source: &Path,
    data: impl Iterator<Item = &'o str>,
) -> io::Result<()> {
    fsconfig_set_string(context, "source", source)?;
    // As mount(2) takes them, one of them may be several.
    for option in data.flat_map(|option| option.split(',')) {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(context, key, value)?,
            None => fsconfig_set_flag(context, option)?,
        }
    }
    Ok(fsconfig_create(context)?)
}

/// cgroup v2. Who may not mount it, as in a user namespace without a cgroup namespace, gets `own`, the process's part.
fn hierarchy(root: &Root, place: &Path, options: &Options<'_>, own: &Path) -> Result<(), String> {
    let Err(cause) = new_at(root, place, ("cgroup2", Path::new("cgroup")), options) else { return Ok(()) };
    if cause.kind() != io::ErrorKind::PermissionDenied {
        return Err(words(cause));
    }
    let own = || {
        let tree = open_tree(CWD, own, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
        change(&tree, options.own, false)?;
        put(&tree, &root.directory(place)?)
    };
    own().map_err(|_: io::Error| words(cause))
}

fn change(mount: &OwnedFd, change: Change, recursive: bool) -> io::Result<()> {
    if change.is_none() {
        return Ok(());
    }
    sys::change_mount(mount, change.set.bits().into(), change.clear.bits().into(), recursive)
}

/// Puts a mount that is nowhere yet in its place.
pub(super) fn put(mount: &OwnedFd, place: &OwnedFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", place, "", flags)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn mount_is_named_by_its_field_as_it_was_given() {
        let mounts = json!([
            { "destination": "/proc", "type": "proc" },
            { "destination": "/o", "type": "tmpfs", "options": ["size=banana"] },
            { "destination": "/dev/shm", "type": "tmpfs" },
        ]);
        let given: Spec = serde_json::from_value(json!({ "ociVersion": "1.0.2", "mounts": mounts })).unwrap();
        let told = |destination: &str| {
            let mount = json!({ "destination": destination, "type": "tmpfs", "options": ["mode=1"] });
            describe(&serde_json::from_value(mount).unwrap(), &given)
        };
        assert_eq!(told("/o"), "mounts[1]: cannot mount tmpfs at /o with the options size=banana");
        assert_eq!(told("/dev/.vmrun/shm"), "mounts[2]: cannot mount tmpfs at /dev/shm");
        assert_eq!(told("/other"), "mounts: cannot mount tmpfs at /other");
    }

    #[test]
    fn proc_is_where_it_belongs() {
        let may = |typ, place: &str| may_be_in_proc(typ, place.as_ref()).is_ok();
        assert!(may("proc", "/proc") && may("proc", "/other") && may("sysfs", "/sys"));
        assert!(!may("sysfs", "/proc") && !may("proc", "/proc/bus"));
    }
}
