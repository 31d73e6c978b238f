//! Places in the container's root file system. Whatever its links say, none is outside.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, open, openat2};
use rustix::io::Errno;

/// A lookup is told to try again when something was renamed or mounted meanwhile.
const MOST_TRIES: usize = 128;

/// The root directory.
pub(in crate::container) struct Root(pub(super) OwnedFd);

impl Root {
    pub(in crate::container) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// A directory that is there; it is made, with those above it, if it is missing.
    pub(in crate::container) fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.look_up(path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {}
            found => return Ok(found?),
        }
        let (above, name) = above(path)?;
        let above = self.directory(above)?;
        match mkdirat(&above, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat2(above, name, flags, Mode::empty(), ResolveFlags::BENEATH)?)
    }

    /// A file that is there, or is made.
    pub(super) fn file(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.look_up(path, OFlags::PATH) {
            Err(Errno::NOENT) => {}
            found => return Ok(found?),
        }
        let (above, name) = above(path)?;
        let above = self.directory(above)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat2(above, name, flags, Mode::from_raw_mode(0o644), ResolveFlags::BENEATH) {
            // Another container of the same root file system was first.
            Err(Errno::EXIST) => Ok(self.look_up(path, OFlags::PATH)?),
            made => Ok(made?),
        }
    }

    fn look_up(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        loop {
            match openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN) if tries < MOST_TRIES => tries += 1,
                other => return other,
            }
        }
    }
}

fn above(path: &Path) -> io::Result<(&Path, &std::ffi::OsStr)> {
    path.parent().zip(path.file_name()).ok_or_else(|| io::Error::from(Errno::NOENT))
}

/// A path of the guest.
pub(super) fn find_outside(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_missing_is_made_and_links_lead_nowhere_else() {
        let outside = tempfile::tempdir().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("there")).unwrap();
        symlink(outside.path(), at("out")).unwrap();
        symlink("/there", at("in")).unwrap();
        let root = Root::open(directory.path()).unwrap();
        root.directory("/a/b/c".as_ref()).unwrap();
        assert!(at("a/b/c").is_dir());
        root.file("/in/file".as_ref()).unwrap();
        assert!(at("there/file").is_file());
        root.file("/there/file".as_ref()).unwrap();
        // A link without a target, in this root.
        assert!(root.directory("/out/x".as_ref()).is_err() && root.file("/out".as_ref()).is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        assert!(root.directory("/there/file".as_ref()).is_err());
        assert!(root.directory("/a/../..".as_ref()).is_ok());
    }
}
