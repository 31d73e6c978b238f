//! What somebody finds who enters the monitor's mount namespace.
//!
//! The monitor is the container's process to an engine, and some engines reach a container's
//! files by entering the mount namespace of that process: `podman cp` does. Without more they
//! would find the host's files there. So the container's root is mounted over the namespace's
//! own, with the volumes in their places: `setns(2)` lands on what is on top, while the monitor
//! keeps its root below, which is the host's. Where the caller is in a chroot, the namespace's root is
//! out of reach and stays what it was.
//!
//! What is mounted in the guest alone, like a tmpfs, is not on the host. Its place is an empty
//! directory that cannot be written to, so that a copy into it fails instead of going astray.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsmount,
    fsopen, move_mount, open_tree,
};
use vmrun_proto::{ROOTFS_DIR, VOLUMES_DIR};
use vmrun_spec::{View, ViewMount};

use crate::mount_attributes;

/// Why the container's files cannot be shown.
#[derive(Debug, thiserror::Error)]
#[error("cannot show {} to those who enter the monitor's mount namespace", .path.display())]
pub(crate) struct ViewError {
    path: PathBuf,
    source: io::Error,
}

/// Builds the view from the shared tree at `share`. The guest has made the mount points.
pub(crate) fn build(share: &Path, view: &View) -> Result<(), ViewError> {
    let root = show_root(&share.join(ROOTFS_DIR))
        .map_err(|source| ViewError { path: PathBuf::from("/"), source })?;
    for mount in &view.mounts {
        show(&root, share, mount).map_err(|source| ViewError { path: mount.destination.clone(), source })?;
    }
    Ok(())
}

fn show_root(rootfs: &Path) -> io::Result<OwnedFd> {
    let root = apart(rootfs)?;
    move_mount(&root, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(root)
}

/// Another mount of what is at `path`. Where hooks were shown the container's files that has peers,
/// which the guest is served from: what is mounted in this one must not appear there.
fn apart(path: &Path) -> io::Result<OwnedFd> {
    let copy = copy_of(path)?;
    mount_attributes::keep_from_peers(&copy)?;
    Ok(copy)
}

fn show(root: &OwnedFd, share: &Path, mount: &ViewMount) -> io::Result<()> {
    let Some(place) = find(root, &mount.destination)? else { return Ok(()) };
    let shown = match mount.volume {
        Some(number) => apart(&share.join(VOLUMES_DIR).join(number.to_string()))?,
        None if is_directory(&place)? => nothing()?,
        None => return Ok(()),
    };
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(&shown, c"", &place, c"", flags)?)
}

/// The place of a mount; none where it is in something that the guest alone has.
fn find(root: &OwnedFd, destination: &Path) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match openat2(root, destination, flags, Mode::empty(), resolve) {
        Ok(place) => Ok(Some(place)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

pub(super) fn is_directory(place: &OwnedFd) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(fstat(place)?.st_mode) == FileType::Directory)
}

/// Another mount of what is mounted at `path`, and of all below it.
pub(super) fn copy_of(path: &Path) -> Result<OwnedFd, Errno> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, path, flags)
}

/// An empty directory that cannot be written to.
pub(super) fn nothing() -> Result<OwnedFd, Errno> {
    const TMPFS: &CStr = c"tmpfs";
    let configuration = fsopen(TMPFS, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(configuration.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(configuration.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}
