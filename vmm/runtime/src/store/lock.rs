//! The lock of a directory: `flock(2)`, for a limited time.
//!
//! Whoever has it keeps it for a moment only. Somebody who is stopped with it must not keep the
//! others for ever, so it is asked for again and again instead of waited for.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{major, minor};

use super::StoreError;

/// How long it is waited for: shorter than a verb waits for the monitor, which locks, too.
pub(super) const LOCK_LIMIT: Duration = Duration::from_secs(20);

/// The first pause between two attempts, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(16));

/// Locks a directory.
pub(super) fn lock(path: &Path, limit: Duration) -> Result<Flock<File>, StoreError> {
    let mut directory = File::open(path).map_err(StoreError::io("open", path))?;
    let deadline = Instant::now() + limit;
    let mut pause = PAUSES.0;
    loop {
        directory = match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EINTR)) => back,
            Err((back, Errno::EWOULDBLOCK)) => {
                if Instant::now() >= deadline {
                    return Err(StoreError::Locked { path: path.to_owned(), holder: holder(&back), limit });
                }
                thread::sleep(pause);
                pause = PAUSES.1.min(pause * 2);
                back
            }
            Err((_, errno)) => return Err(StoreError::io("lock", path)(errno.into())),
        };
    }
}

/// Pid of whoever has locked it, where the kernel tells.
fn holder(directory: &File) -> Option<i32> {
    let metadata = directory.metadata().ok()?;
    let file = format!("{:02x}:{:02x}:{}", major(metadata.dev()), minor(metadata.dev()), metadata.ino());
    holder_in(&fs::read_to_string("/proc/locks").ok()?, &file)
}

/// A row of `proc_locks(5)`: `NUMBER: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE START END`. One
/// who waits has an arrow behind the number.
fn holder_in(table: &str, file: &str) -> Option<i32> {
    table.lines().find_map(|line| {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        match words[..] {
            [_, "FLOCK", _, _, pid, of, ..] if of == file => pid.parse().ok(),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_that_is_held_is_given_up_and_its_holder_named() {
        let directory = tempfile::tempdir().unwrap();
        let first = lock(directory.path(), LOCK_LIMIT).unwrap();
        let error = lock(directory.path(), Duration::from_millis(30)).unwrap_err();
        let StoreError::Locked { holder, .. } = &error else { panic!("{error:?}") };
        assert_eq!(*holder, i32::try_from(std::process::id()).ok());
        let text = error.to_string();
        assert!(text.contains(directory.path().to_str().unwrap()) && text.contains("process"), "{text}");
        drop(first);
        lock(directory.path(), Duration::ZERO).unwrap();
    }

    #[test]
    fn holder_is_found_in_the_table() {
        let table = "1: POSIX  ADVISORY  WRITE 7 00:1a:5 0 EOF\n\
            2: FLOCK  ADVISORY  WRITE 811 00:1a:5 0 EOF\n\
            2: -> FLOCK  ADVISORY  WRITE 9 00:1a:6 0 EOF\n";
        assert_eq!(holder_in(table, "00:1a:5"), Some(811));
        assert_eq!(holder_in(table, "00:1a:6"), None);
    }
}
