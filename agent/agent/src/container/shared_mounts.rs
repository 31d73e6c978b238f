//! Mounts of the shared tree with attributes of their own.
//!
//! Where the host has a mount, virtio-fs makes one in the guest when somebody comes by, with the
//! attributes of the mount above it. So the agent comes by first, before anything is bound from
//! there: what it sets, each bind mount takes along. A file is no such place, nor is a directory
//! that the host bound from the same file system; they are bound to themselves.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use oci_spec::runtime::Spec;
use vmrun_proto::{SHARE_MOUNT, SharedMount, mount_attr};

/// Gives each mount its attributes.
pub(crate) fn apply(mounts: &[SharedMount]) -> Result<(), String> {
    mounts.iter().try_for_each(|mount| {
        give(mount)
            .map_err(|error| format!("cannot set the attributes of the mount at {}: {error}", mount.path))
    })
}

/// Comes by what is bound from the shared tree. Else virtio-fs would make its mounts in the container's
/// namespace alone, and with that the kernel's note that something could not be written back is gone.
pub(crate) fn come_by(spec: &Spec) {
    let sources = spec.mounts().iter().flatten().filter_map(|mount| mount.source().as_ref());
    for source in sources.filter(|source| source.starts_with(SHARE_MOUNT)) {
        // What cannot be reached, whoever binds it will find out, and tell.
        let _ = source.to_str().map(find);
    }
}

fn give(mount: &SharedMount) -> io::Result<()> {
    // What the host has taken away, or keeps even from its root, the container cannot reach either.
    let Ok(place) = find(&mount.path) else { return Ok(()) };
    match set_attributes(&place, mount.attributes) {
        // Not the root of a mount.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let copy = copy_of(&place)?;
            set_attributes(&copy, mount.attributes)?;
            put_on(&copy, &place)
        }
        other => other,
    }
}

fn find(path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    // That a directory is wanted lets virtio-fs make its mount.
    open(path, flags | OFlag::O_DIRECTORY, Mode::empty()).or_else(|errno| match errno {
        Errno::ENOTDIR => open(path, flags, Mode::empty()),
        other => Err(other),
    })
}

/// Every attribute of the mount is as `attributes` says.
fn set_attributes(mount: &OwnedFd, attributes: u64) -> io::Result<()> {
    change_attributes(mount, attributes & mount_attr::ALL, mount_attr::ALL)
}

/// Sets some attributes of a mount, after clearing some.
fn change_attributes(mount: &OwnedFd, set: u64, clear: u64) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is a string with its end, the structure is read for the size that is
    // given, and both outlive the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of_val(&attributes),
        )
    })
    .map(drop)
}

/// Another mount of what is at `place`, mounted nowhere yet.
fn copy_of(place: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as libc::c_uint;
    // SAFETY: the path is a string with its end.
    let number =
        check(unsafe { libc::syscall(libc::SYS_open_tree, place.as_raw_fd(), c"".as_ptr(), flags) })?;
    let number = RawFd::try_from(number).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn put_on(copy: &OwnedFd, place: &OwnedFd) -> io::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    let (from, to) = (copy.as_raw_fd(), place.as_raw_fd());
    // SAFETY: both paths are strings with their ends.
    check(unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), to, c"".as_ptr(), flags) })
        .map(drop)
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
