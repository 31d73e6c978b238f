//! virtiofsd's file system for one directory.

use std::fs::File;
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use virtiofsd::passthrough::{CachePolicy, Config, PassthroughFs};

use super::descriptors;

/// How long the guest may trust names and attributes that it has seen. Others on
/// the host may change the tree, so this bounds how stale the guest's view gets.
pub(super) const CACHE_TIMEOUT: Duration = Duration::from_secs(1);

/// At its root node, which the guest's `FUSE_INIT` opens again: whoever serves it has `directory` as working
/// directory. Only regular files and directories below `directory` can be reached from the
/// descriptors that it keeps, but for this process's own directory of descriptors.
pub(super) fn pass_through(directory: &Path, guest_fd_limit: u64) -> io::Result<PassthroughFs> {
    // It keeps the working directory, as that to which it returns, and sets the umask.
    thread::scope(|scope| scope.spawn(|| open(directory, guest_fd_limit)).join())
        .unwrap_or_else(|_| Err(io::Error::other("virtiofsd panicked")))
}

fn open(directory: &Path, guest_fd_limit: u64) -> io::Result<PassthroughFs> {
    unshare(CloneFlags::CLONE_FS)?;
    std::env::set_current_dir(directory)?;
    let config = Config {
        // Not by its path: the thread that serves it has another root directory by then.
        root_dir: ".".to_owned(),
        entry_timeout: CACHE_TIMEOUT,
        attr_timeout: CACHE_TIMEOUT,
        cache_policy: CachePolicy::Auto,
        xattr: true,
        // Each bind mount in the tree gets a device number of its own in the
        // guest, so that (st_dev, st_ino) names a file there as it does here.
        announce_submounts: true,
        readdirplus: true,
        // A write clears set-user-id bits, as it does on a local file system.
        killpriv_v2: true,
        // The guest's kernel has looked whose file it is.
        clean_noatime: false,
        allow_direct_io: true,
        allow_mmap: true,
        guest_fd_limit,
        proc_sfd_rawfd: descriptors::alone()?.map(File::from),
        ..Config::default()
    };
    let fs = PassthroughFs::new(config)?;
    fs.open_root_node()?;
    Ok(fs)
}

/// Lets the calling thread, a test's, serve `directory`.
#[cfg(any(test, feature = "fuzzing"))]
#[allow(clippy::unwrap_used)] // Clippy knows tests by `cfg(test)` alone.
pub(super) fn serve_here(directory: &Path) {
    unshare(CloneFlags::CLONE_FS).unwrap();
    std::env::set_current_dir(directory).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn umask_and_directory() -> (String, std::path::PathBuf) {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let umask = status.lines().find(|line| line.starts_with("Umask:")).unwrap();
        (umask.to_owned(), std::env::current_dir().unwrap())
    }

    #[test]
    fn who_opens_it_keeps_umask_and_working_directory() {
        let directory = tempfile::tempdir().unwrap();
        let before = umask_and_directory();
        assert_ne!(before.0, "Umask:\t0000");
        pass_through(directory.path(), 1000).unwrap();
        assert_eq!(umask_and_directory(), before);
    }
}
