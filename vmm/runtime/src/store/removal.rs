//! Removing a container's directory.
//!
//! Each name in it is removed by itself, relative to the directory's descriptor, and nothing is
//! ever descended into: whatever is mounted at one of them stops the removal instead of being
//! emptied. The state goes last, so that what could not be removed can be tried again.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use super::{STATE_FILE, StoreError};

/// Removes all that `directory` holds, which is at `path`, and then itself, which is `name` in
/// `root`. What is gone already is no error.
pub(super) fn remove(directory: &File, path: &Path, root: &File, name: &Path) -> Result<(), StoreError> {
    let (last, others): (Vec<_>, Vec<_>) =
        names(directory, path)?.into_iter().partition(|(name, _)| name.to_bytes() == STATE_FILE.as_bytes());
    for (name, kind) in others.iter().chain(&last) {
        remove_name(directory, name, *kind).map_err(|errno| failed(path_of(path, name), errno))?;
    }
    gone(unlinkat(root, name, AtFlags::REMOVEDIR)).map_err(|errno| failed(path.to_owned(), errno))
}

fn names(directory: &File, path: &Path) -> Result<Vec<(CString, FileType)>, StoreError> {
    let read = || -> Result<Vec<_>, Errno> {
        // One of its own: where it was read to is a property of the descriptor.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let entries = Dir::new(openat(directory, c".", flags, Mode::empty())?)?;
        let named = entries.map(|entry| entry.map(|entry| (entry.file_name().to_owned(), entry.file_type())));
        named.collect()
    };
    let mut names = read().map_err(|errno| StoreError::io("read", path)(errno.into()))?;
    names.retain(|(name, _)| !matches!(name.to_bytes(), b"." | b".."));
    Ok(names)
}

fn remove_name(directory: impl AsFd, name: &CStr, kind: FileType) -> Result<(), Errno> {
    let flags = if kind == FileType::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    match unlinkat(&directory, name, flags) {
        // Not every file system tells kinds in its listing.
        Err(Errno::ISDIR | Errno::PERM) if kind == FileType::Unknown => {
            gone(unlinkat(directory, name, AtFlags::REMOVEDIR))
        }
        other => gone(other),
    }
}

fn gone(removed: Result<(), Errno>) -> Result<(), Errno> {
    if removed == Err(Errno::NOENT) { Ok(()) } else { removed }
}

fn path_of(directory: &Path, name: &CStr) -> PathBuf {
    directory.join(name.to_string_lossy().as_ref())
}

fn failed(path: PathBuf, errno: Errno) -> StoreError {
    StoreError::Io { act: "remove", path, source: errno.into() }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn names_are_removed_and_nothing_is_descended_into() {
        let root = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("file"), "kept").unwrap();
        let path = root.path().join("x");
        fs::create_dir(&path).unwrap();
        fs::write(path.join(STATE_FILE), "{}").unwrap();
        fs::create_dir(path.join("share")).unwrap();
        fs::write(path.join("share/file"), "kept").unwrap();
        symlink(elsewhere.path(), path.join("link")).unwrap();
        let _socket = UnixListener::bind(path.join("control.sock")).unwrap();
        let [directory, above] = [&path, root.path()].map(|path: &Path| File::open(path).unwrap());
        let remove = || super::remove(&directory, &path, &above, Path::new("x"));
        let error = remove().unwrap_err();
        let StoreError::Io { path: named, .. } = &error else { panic!("{error:?}") };
        assert_eq!(*named, path.join("share"));
        assert!(path.join("share/file").exists() && path.join(STATE_FILE).exists());
        fs::remove_file(path.join("share/file")).unwrap();
        remove().unwrap();
        assert!(!path.exists() && elsewhere.path().join("file").exists());
        remove().unwrap();
    }
}
