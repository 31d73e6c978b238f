//! This process's directory of descriptors, `/proc/self/fd`, by which a file is opened once more.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

const DESCRIPTORS: &str = "/proc/self/fd";

/// As a mount of its own, of which `..` leads nowhere: by the host's own `/proc`, who holds the directory would get to all of the host's
/// files, of which neither a root directory elsewhere nor Landlock keeps the attributes. Nothing without the right to mount, as in tests.
pub(super) fn alone() -> io::Result<Option<OwnedFd>> {
    match open_tree(CWD, DESCRIPTORS, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC) {
        Err(Errno::PERM) => Ok(None),
        opened => Ok(opened.map(Some)?),
    }
}

/// The same, or without that right as it is.
pub(super) fn open() -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    alone()?.map_or_else(|| Ok(openat(CWD, DESCRIPTORS, flags, Mode::empty())?), Ok)
}
