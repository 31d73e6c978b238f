//! What is in `/dev`: device nodes and links.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Uid, chownat, makedev, mknodat, symlinkat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::umask;

use super::place::Root;
use super::{mounts, words};

/// Those that every container has, with their numbers.
const DEFAULT: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("tty", 5, 0), ("urandom", 1, 9), ("random", 1, 8)];

const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

const KERNEL_MEMORY: &str = "/proc/kcore";

/// How nodes come to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Nodes {
    /// They are made.
    Made,
    /// The guest's own are mounted: nobody can make any in a user namespace.
    Bound,
}

/// Makes all of it, in what is mounted at `/dev`. What is there already is left alone.
pub(super) fn furnish(root: &Root, spec: &Spec, nodes: Nodes) -> Result<(), String> {
    let dev =
        root.directory("/dev".as_ref()).map_err(|error| format!("cannot open /dev: {}", words(error)))?;
    let linked = links(&dev);
    linked.map_err(|error| format!("cannot make the links of /dev: {}", words(error)))?;
    let given = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    let mask = umask(Mode::empty());
    given.iter().try_for_each(|device| node(root, device, nodes))?;
    let missing = DEFAULT.iter().filter(|(name, ..)| {
        let path = Path::new("/dev").join(name);
        !given.iter().any(|device| *device.path() == path)
    });
    for (name, major, minor) in missing {
        let made = default(root, &dev, name, (*major, *minor), nodes);
        made.map_err(|error| format!("linux.devices /dev/{name}: cannot make one: {}", words(error)))?;
    }
    umask(mask);
    Ok(())
}

fn links(dev: &OwnedFd) -> io::Result<()> {
    for (name, target) in LINKS {
        link(dev, name, target)?;
    }
    if Path::new(KERNEL_MEMORY).exists() {
        link(dev, "kcore", KERNEL_MEMORY)?;
    }
    // The container's own terminals, not the guest's.
    match unlinkat(dev, "ptmx", AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    link(dev, "ptmx", "pts/ptmx")
}

fn link(dev: &OwnedFd, name: &str, target: &str) -> io::Result<()> {
    match symlinkat(target, dev, name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn default(
    root: &Root,
    dev: &OwnedFd,
    name: &str,
    (major, minor): (u32, u32),
    nodes: Nodes,
) -> io::Result<()> {
    if nodes == Nodes::Bound {
        let path = Path::new("/dev").join(name);
        return bind(root, &path);
    }
    make(dev, Path::new(name), FileType::CharacterDevice, 0o666, makedev(major, minor))
}

fn node(root: &Root, device: &LinuxDevice, nodes: Nodes) -> Result<(), String> {
    let path = device.path();
    let about = |act: &str, error: io::Error| {
        format!("linux.devices {}: cannot {act}: {}", path.display(), words(error))
    };
    if nodes == Nodes::Bound {
        return bind(root, path).map_err(|error| about("mount one", error));
    }
    let made = || {
        let (above, name) = path.parent().zip(path.file_name()).ok_or(Errno::INVAL)?;
        let above = root.directory(above)?;
        let mode = device.file_mode().unwrap_or(0o666);
        make(&above, Path::new(name), kind(device.typ()), mode, number(device)?)?;
        Ok((above, name))
    };
    let (above, name) = made().map_err(|error| about("make one", error))?;
    let (user, group) = (device.uid().map(Uid::from_raw), device.gid().map(Gid::from_raw));
    if user.is_none() && group.is_none() {
        return Ok(());
    }
    chownat(above, name, user, group, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| about("give one its owner", error.into()))
}

fn make(above: &OwnedFd, name: &Path, kind: FileType, mode: u32, number: u64) -> io::Result<()> {
    match mknodat(above, name, kind, Mode::from_raw_mode(mode), number) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn bind(root: &Root, path: &Path) -> io::Result<()> {
    let tree = open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    mounts::put(&tree, &root.file(path)?)
}

fn kind(kind: LinuxDeviceType) -> FileType {
    match kind {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::C | LinuxDeviceType::U | LinuxDeviceType::A => FileType::CharacterDevice,
    }
}

fn number(device: &LinuxDevice) -> io::Result<u64> {
    let part = |number: i64| u32::try_from(number).map_err(|_| io::Error::from(Errno::INVAL));
    Ok(makedev(part(device.major())?, part(device.minor())?))
}
