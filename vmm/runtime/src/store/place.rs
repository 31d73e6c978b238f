//! The user's default store: where it is, and whether it is the user's.
//!
//! ```text
//!   root                                   /run/vmrun
//!   root of a user namespace               what that user has outside, unless /run is the namespace's own
//!   others  $XDG_RUNTIME_DIR/vmrun, else   /run/user/UID/vmrun, else   /tmp/vmrun-UID
//! ```
//!
//! The last name can be guessed: whoever makes the directory first could leave containers with
//! hooks in it. So a default store is used only if nobody else can write to it, and, by way of the
//! directory above, nobody else can put another in its place.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access, geteuid};
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, openat};

use super::StoreError;
use crate::user_namespace::{is_user_namespace, user_outside};

const OF_ROOT: &str = "/run/vmrun";

/// `S_IWGRP | S_IWOTH`, `S_ISVTX`
const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// What decides where the store is.
#[derive(Debug)]
struct Caller {
    /// As this process sees it.
    uid: u32,
    /// The user outside, if this is a user namespace.
    outside: Option<u32>,
    /// `XDG_RUNTIME_DIR`
    runtime_directory: Option<PathBuf>,
    /// `USER` says that it is meant to be root: runc's rule for whose runtime directory it is.
    is_called_root: bool,
}

impl Caller {
    fn this() -> Self {
        let uid = geteuid().as_raw();
        let map = if uid == 0 { fs::read_to_string("/proc/self/uid_map").ok() } else { None };
        Self {
            uid,
            outside: map.and_then(|map| user_outside(&map)),
            runtime_directory: std::env::var_os("XDG_RUNTIME_DIR")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            is_called_root: std::env::var_os("USER").is_some_and(|name| name == "root"),
        }
    }

    /// In the order in which they are tried.
    fn candidates(&self) -> Vec<Candidate> {
        let last = |uid: u32| {
            [
                Candidate::IfThere(PathBuf::from(format!("/run/user/{uid}")), "vmrun"),
                Candidate::Always(std::env::temp_dir().join(format!("vmrun-{uid}"))),
            ]
        };
        let given = self.runtime_directory.iter().map(|path| Candidate::Always(path.join("vmrun")));
        match (self.uid, self.outside) {
            (0, None) => vec![Candidate::Always(PathBuf::from(OF_ROOT))],
            (0, Some(outside)) => {
                let given = given.filter(|_| !self.is_called_root);
                let own = Candidate::IfThere(PathBuf::from("/run"), "vmrun");
                given.chain([own]).chain(last(outside)).collect()
            }
            (uid, _) => given.chain(last(uid)).collect(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Candidate {
    Always(PathBuf),
    /// This name in a directory that must exist and be writable.
    IfThere(PathBuf, &'static str),
}

pub(super) fn default_root() -> PathBuf {
    let candidates = Caller::this().candidates();
    let chosen = candidates.into_iter().find_map(|candidate| match candidate {
        Candidate::Always(path) => Some(path),
        Candidate::IfThere(directory, name) => {
            let path = directory.join(name);
            let writable = |at: &Path| access(at, AccessFlags::W_OK | AccessFlags::X_OK).is_ok();
            (writable(&path) || !path.exists() && writable(&directory)).then_some(path)
        }
    });
    chosen.unwrap_or_else(|| PathBuf::from(OF_ROOT))
}

/// Refuses a store that another user could write to or exchange. One that is missing is fine.
pub(super) fn check(root: &Path) -> Result<(), StoreError> {
    let refused = |path: &Path, problem| Err(StoreError::Untrusted { path: path.to_owned(), problem });
    let above = root.parent().unwrap_or(Path::new("/"));
    let parent = match open(CWD, above, OFlags::empty()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(StoreError::io("open", above))?,
    };
    let me = geteuid().as_raw();
    let seen = fstat(&parent).map_err(|errno| StoreError::io("look at", above)(errno.into()))?;
    if let Some(problem) = exchangeable(&seen, me) {
        return refused(above, problem);
    }
    // From here on nobody but us and root can make the name mean something else.
    let name = root.file_name().map(Path::new).unwrap_or(Path::new("."));
    let store = match open(&parent, name, OFlags::NOFOLLOW) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // Anything but a directory has been put there by somebody: a link, for one.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)) => {
            return refused(root, "is not a directory");
        }
        other => other.map_err(StoreError::io("open", root))?,
    };
    let seen = fstat(&store).map_err(|errno| StoreError::io("look at", root)(errno.into()))?;
    match writable_by_others(&seen, me) {
        Some(problem) => refused(root, problem),
        None => Ok(()),
    }
}

fn open(at: impl std::os::fd::AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(at, path, flags, Mode::empty())?)
}

/// What lets others rename what lies in a directory.
fn exchangeable(directory: &Stat, me: u32) -> Option<&'static str> {
    let open = directory.st_mode & WRITABLE_BY_OTHERS != 0 && directory.st_mode & STICKY == 0;
    // Root of another user namespace is nobody here, and may do as it likes with what is its.
    let trusted = [me, 0].contains(&directory.st_uid) || directory.st_uid == NOBODY && is_user_namespace();
    (open || !trusted).then_some("is writable by others, who could replace the store")
}

/// The user that stands for all who are not mapped into a user namespace: `/tmp` and `/run/user` are root's.
const NOBODY: u32 = 65534;

fn writable_by_others(store: &Stat, me: u32) -> Option<&'static str> {
    if FileType::from_raw_mode(store.st_mode) != FileType::Directory {
        return Some("is not a directory");
    }
    if store.st_uid != me {
        return Some("belongs to another user");
    }
    (store.st_mode & WRITABLE_BY_OTHERS != 0).then_some("can be written to by others")
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn caller(uid: u32, outside: Option<u32>, runtime_directory: Option<&str>) -> Caller {
        Caller {
            uid,
            outside,
            runtime_directory: runtime_directory.map(PathBuf::from),
            is_called_root: false,
        }
    }

    #[test]
    fn root_of_a_user_namespace_has_the_store_of_the_user_outside() {
        let always = |path: &str| Candidate::Always(PathBuf::from(path));
        assert_eq!(caller(0, None, Some("/x")).candidates(), [always(OF_ROOT)]);
        assert_eq!(caller(7, None, Some("/x")).candidates()[0], always("/x/vmrun"));
        assert_eq!(caller(0, Some(7), Some("/x")).candidates()[0], always("/x/vmrun"));
        let there = |path: &str| Candidate::IfThere(PathBuf::from(path), "vmrun");
        assert_eq!(caller(7, None, None).candidates()[0], there("/run/user/7"));
        let as_root = Caller { is_called_root: true, ..caller(0, Some(7), Some("/x")) };
        assert_eq!(as_root.candidates()[..2], [there("/run"), there("/run/user/7")]);
    }

    #[test]
    fn first_user_namespace_is_told_from_others() {
        assert_eq!(user_outside("         0          0 4294967295\n"), None);
        assert_eq!(user_outside("         0       1000          1\n"), Some(1000));
        assert_eq!(user_outside("0 1000 1\n1 100000 65536\n"), Some(1000));
        assert_eq!(user_outside("0 0 1\n"), Some(0));
    }

    #[test]
    fn store_that_others_can_write_to_is_refused() {
        let above = tempfile::tempdir().unwrap();
        let root = above.path().join("store");
        let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        let refused = |path: &Path| match check(&root) {
            Err(StoreError::Untrusted { path: named, .. }) => named == path,
            other => panic!("{other:?}"),
        };
        check(&root).unwrap();
        fs::create_dir(&root).unwrap();
        set(&root, 0o755);
        check(&root).unwrap();
        set(&root, 0o775);
        assert!(refused(&root));
        set(&root, 0o700);
        set(above.path(), 0o777);
        assert!(refused(above.path()));
        set(above.path(), 0o1777);
        check(&root).unwrap();
        fs::remove_dir(&root).unwrap();
        symlink("/", &root).unwrap();
        assert!(refused(&root));
        fs::remove_file(&root).unwrap();
        fs::write(&root, "").unwrap();
        assert!(refused(&root));
    }

    #[test]
    fn store_of_another_user_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let seen = fstat(fs::File::open(directory.path()).unwrap()).unwrap();
        assert_eq!(writable_by_others(&seen, seen.st_uid), None);
        assert_eq!(writable_by_others(&seen, seen.st_uid + 1), Some("belongs to another user"));
        assert!(exchangeable(&seen, seen.st_uid + 1).is_none() == (seen.st_uid == 0));
    }
}
