//! Files that whoever gets them may use, and not change.
//!
//! A descriptor is good for more than its file was opened for: with the rights for that, the file gets another mode, another owner, other
//! times, other extended attributes. The machine's file server has the rights of all owners. Through a mount that is
//! read-only nothing of it is possible, while a device reads and writes there as anywhere.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::mount_attributes::{self, READONLY};

/// Opens what `path` leads to from `directory` through a mount of its own. Who may not mount has no rights over others' files
/// either, and opens it as it is.
pub(crate) fn open(directory: impl AsFd, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let copy = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let follow = if flags.contains(OFlags::NOFOLLOW) {
        OpenTreeFlags::AT_SYMLINK_NOFOLLOW
    } else {
        OpenTreeFlags::empty()
    };
    let mount = match open_tree(&directory, path, copy | follow) {
        Err(Errno::PERM) => return Ok(openat(directory, path, flags, Mode::empty())?),
        other => other?,
    };
    mount_attributes::change(&mount, READONLY, false)?;
    // The root of the mount is the file itself, so that there is no name to open it by.
    let itself = format!("/proc/self/fd/{}", mount.as_raw_fd());
    Ok(openat(CWD, itself, flags - OFlags::NOFOLLOW, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::fs::symlink;

    use rustix::fs::{Timestamps, fchmod, futimens};
    use rustix::thread::{CapabilitySet, capabilities};

    use super::*;

    fn may_mount() -> bool {
        capabilities(None).unwrap().effective.contains(CapabilitySet::SYS_ADMIN)
    }

    #[test]
    fn device_is_written_and_stays_as_it_is() {
        let null = open(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC).unwrap();
        assert_eq!(File::from(null.try_clone().unwrap()).write(b"x").unwrap(), 1);
        let before = rustix::fs::fstat(&null).unwrap();
        let changed = fchmod(&null, Mode::from_raw_mode(before.st_mode));
        assert_eq!(changed, Err(if may_mount() { Errno::ROFS } else { Errno::PERM }));
    }

    #[test]
    fn file_is_read_and_stays_as_it_is() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("file"), "text").unwrap();
        symlink("file", place.path().join("link")).unwrap();
        let directory = File::open(place.path()).unwrap();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = open(&directory, "file", flags).unwrap();
        let now = Timestamps {
            last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
            last_modification: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        };
        // Who may not mount is its owner here, and may.
        assert_eq!(futimens(&file, &now), if may_mount() { Err(Errno::ROFS) } else { Ok(()) });
        let mut text = String::new();
        File::from(file).read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
        let error = open(&directory, "link", flags).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
        assert_eq!(open(&directory, "none", flags).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
