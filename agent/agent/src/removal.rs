//! Removing a directory of the agent's own.
//!
//! Names are removed one by one, relative to the descriptor of the directory that they are in. Neither
//! a link nor a mount is ever followed: whatever is mounted in it stops the removal instead of being
//! emptied.

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, openat2, unlinkat};
use rustix::io::Errno;

/// Removes the directory at `path` with what is in it. What is gone already is no error.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    Ok(remove_name(CWD, &name, ResolveFlags::NO_SYMLINKS)?)
}

fn remove_name(above: impl AsFd, name: &CString, resolve: ResolveFlags) -> Result<(), Errno> {
    match unlinkat(&above, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        other => return gone(other),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match openat2(&above, name, flags, Mode::empty(), resolve) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let entries: Vec<_> = Dir::read_from(&directory)?.collect::<Result<_, _>>()?;
    let names = entries.iter().map(|entry| entry.file_name());
    for name in names.filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
        remove_name(&directory, &name.to_owned(), ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV)?;
    }
    gone(unlinkat(above, name, AtFlags::REMOVEDIR))
}

fn gone(removed: Result<(), Errno>) -> Result<(), Errno> {
    if removed == Err(Errno::NOENT) { Ok(()) } else { removed }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn all_goes_but_what_a_link_leads_to() {
        let root = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("file"), "kept").unwrap();
        let path = root.path().join("x");
        fs::create_dir_all(path.join("below/more")).unwrap();
        fs::write(path.join("below/file"), "").unwrap();
        symlink(elsewhere.path(), path.join("below/link")).unwrap();
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists() && elsewhere.path().join("file").exists());
    }

    #[test]
    fn what_is_on_another_file_system_stays() {
        // Nobody made a mount in a directory of ours, so one of the host's is descended into.
        let (proc, sys) = (CString::new("/proc").unwrap(), ResolveFlags::NO_XDEV);
        assert_eq!(remove_name(CWD, &proc, sys), Err(Errno::XDEV));
    }
}
