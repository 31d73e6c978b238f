//! Attributes of mounts, by `mount_setattr(2)`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use vmrun_proto::mount_attr;
use vmrun_spec::MountChange;

/// Nothing is changed through it.
pub(crate) const READONLY: MountChange = MountChange { set: mount_attr::RDONLY, clear: 0 };

/// Changes the attributes of the mount whose root `mount` is, and of those below it if `recursive`.
pub(crate) fn change(mount: impl AsFd, change: MountChange, recursive: bool) -> io::Result<()> {
    if change == MountChange::default() {
        return Ok(());
    }
    let attributes =
        libc::mount_attr { attr_set: change.set, attr_clr: change.clear, propagation: 0, userns_fd: 0 };
    set(mount.as_fd(), &attributes, recursive)
}

/// Maps its owners as the user namespace says.
pub(crate) fn map_owners(mount: impl AsFd, namespace: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?,
    };
    set(mount.as_fd(), &attributes, recursive)
}

/// What is mounted in them from now on reaches no peer of theirs: the mount whose root `mount` is, and
/// those below it. Before Linux 5.12 there is no such call, and no mount here has peers either.
pub(crate) fn keep_from_peers(mount: impl AsFd) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: 0, attr_clr: 0, propagation: libc::MS_SLAVE, userns_fd: 0 };
    match set(mount.as_fd(), &attributes, true) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        other => other,
    }
}

fn set(mount: BorrowedFd<'_>, attributes: &libc::mount_attr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a string with its end, the structure is read for the size that is
    // given, and both outlive the call. A descriptor in it is one that the caller holds.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of_val(attributes),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
