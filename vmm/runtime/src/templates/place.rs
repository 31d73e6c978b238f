//! Where templates are, and whether nobody else has a hand in them.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use serde::{Deserialize, Serialize};

use super::TemplateError;
use crate::user_namespace::user_outside;

const OF_ROOT: &str = "/var/cache/vmrun/templates";

/// `S_IWGRP | S_IWOTH`
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// A directory for templates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplatePlace {
    /// Where.
    pub path: PathBuf,
    /// Somebody has named it: that it is of no use is worth a warning.
    pub named: bool,
}

/// Where the templates of this user are: `/var/cache/vmrun/templates` for root, below `XDG_CACHE_HOME` or `~/.cache` for
/// others; nothing where there is neither.
#[must_use]
pub fn default_directory() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let map = || fs::read_to_string("/proc/self/uid_map").ok();
    let is_root = geteuid().is_root() && map().and_then(|map| user_outside(&map)).is_none();
    if is_root {
        return Some(PathBuf::from(OF_ROOT));
    }
    let cache = variable("XDG_CACHE_HOME").filter(|cache| is_ours(cache));
    let home = || variable("HOME").filter(|home| is_ours(home)).map(|home| home.join(".cache"));
    cache.or_else(home).map(|cache| cache.join("vmrun/templates"))
}

/// A home that is somebody else's comes from a `sudo` or a service that left it as it was.
fn is_ours(directory: &Path) -> bool {
    fs::metadata(directory).is_ok_and(|seen| seen.uid() == geteuid().as_raw())
}

/// Makes it, and what is missing above it.
pub(super) fn make(path: &Path) -> Result<(), TemplateError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| TemplateError::Io {
        act: "make the directory of templates",
        path: path.to_owned(),
        source,
    })
}

/// Opens it.
pub(super) fn open(path: &Path) -> Result<OwnedFd, TemplateError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(CWD, path, flags, Mode::empty());
    let opened = opened.map_err(|errno| match io::Error::from(errno) {
        error if error.raw_os_error() == Some(libc::ELOOP) => {
            TemplateError::Untrusted { path: path.to_owned(), problem: "is a link" }
        }
        source => TemplateError::Io { act: "open the directory of templates", path: path.to_owned(), source },
    })?;
    only_ours(&opened, FileType::Directory, path)?;
    Ok(opened)
}

/// Whether nobody but this user, and root, can have written what is there.
pub(super) fn only_ours(file: impl AsFd, kind: FileType, path: &Path) -> Result<(), TemplateError> {
    let untrusted = |problem| Err(TemplateError::Untrusted { path: path.to_owned(), problem });
    let seen = fstat(file).map_err(TemplateError::io("look at", path))?;
    if FileType::from_raw_mode(seen.st_mode) != kind {
        return untrusted("is not what it is called");
    }
    if seen.st_uid != geteuid().as_raw() {
        return untrusted("belongs to another user");
    }
    if seen.st_mode & WRITABLE_BY_OTHERS != 0 {
        return untrusted("can be written to by others");
    }
    Ok(())
}
